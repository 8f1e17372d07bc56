"""Counts frames by message type and by identity; warns when one sender's answers are counted twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import structlog
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from edm.config.message_types import MESSAGE_TYPES
from edm.files.visible import visible
from edm.kernel.columns import I64Array, U8Array

IDENTITIES = 32
"""Most identities with their own time series; all others share one."""

_OTHER = "(other)"
_NONE = "(none)"
_TO_CLIENTS = tuple(map(MESSAGE_TYPES.index, ("CLIENT_RESPONSE", "AUTH_RESPONSE")))
_FROM_SERVERS = tuple(map(MESSAGE_TYPES.index, ("RESOLVER_RESPONSE", "FORWARDER_RESPONSE", "STUB_RESPONSE")))
_TYPES = "edm_frames_by_message_type_total"
_BY_IDENTITY = "edm_frames_by_identity_total"


class Senders(Collector):
    """The counts of all workers, as metrics. Any thread may call it.

    The workers count in arrays of their own, which are read at a scrape: a batch costs nothing here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By the address of its array, what a worker counts, and whose frames its rows are.
        self._parts: dict[int, tuple[I64Array, list[bytes | None]]] = {}
        self._identities: list[bytes | None] = [None]
        self._warned: set[bytes] = set()
        self.warn = True  # whether what is doubtful is logged

    def watch(self, counts: I64Array, identities: Sequence[bytes], wanted: U8Array) -> None:
        """Take up what a worker counts from now on. To be called again whenever one of its counts is no longer 0.

        Parameters
        ----------
        counts : int64[more than identities, 15]
            Frames by identity and type. The last row is for frames of no identity known; the worker adds to it.
        identities : sequence of bytes
            Those of the first rows, in order; nothing is counted yet in rows between them and the last one.
        wanted : uint8[15]
            1 for each type in use.
        """
        with self._lock:
            self._parts[id(counts)] = counts, [self._place(identity) for identity in identities]
            totals = self._totals()
            doubtful = [
                identity
                for identity, total in totals.items()
                if identity is not None and identity not in self._warned and self._twice(total, wanted)
            ]
            self._warned.update(doubtful)
        for identity in doubtful if self.warn else ():
            kinds = [
                MESSAGE_TYPES[i] for i in _TO_CLIENTS + _FROM_SERVERS if totals[identity][i] and wanted[i]
            ]
            structlog.get_logger().warning(
                "one sender sends two kinds of answers for the same traffic, which counts twice",
                identity=_label(identity),
                kinds=", ".join(kinds),
                hint="let the server send one kind only (unbound: dnstap-log-...-response-messages, BIND: "
                "dnstap { client response; }), or set input-message-types",
            )

    def _place(self, identity: bytes) -> bytes | None:
        """Return the identity if it has a series of its own, or else None."""
        if identity not in self._identities:
            if len(self._identities) > IDENTITIES:
                return None
            self._identities.append(identity)
        return identity

    def _totals(self) -> dict[bytes | None, I64Array]:
        totals = {identity: np.zeros(len(MESSAGE_TYPES), np.int64) for identity in self._identities}
        for counts, identities in self._parts.values():
            for identity, row in zip(identities, counts, strict=False):
                totals[identity] += row
            totals[None] += counts[-1]
        return totals

    def by_type(self) -> dict[str, int]:
        """Return the frames of each message type that has come."""
        with self._lock:
            totals = self._totals()
        counts: list[int] = np.sum(list(totals.values()), axis=0).tolist()
        return {name: n for name, n in zip(MESSAGE_TYPES, counts, strict=True) if n}

    def doubled(self) -> list[str]:
        """Return the identities whose answers are logged as two types."""
        with self._lock:
            return sorted(_label(identity) for identity in self._warned)

    @staticmethod
    def _twice(total: I64Array, wanted: U8Array) -> bool:
        return all(any(total[i] and wanted[i] for i in side) for side in (_TO_CLIENTS, _FROM_SERVERS))

    def collect(self) -> Iterator[Metric]:
        """Yield both families; see :class:`prometheus_client.registry.Collector`."""
        with self._lock:
            counts = self._totals()
        types = CounterMetricFamily(_TYPES, "dnstap frames by message type", labels=["type"])
        for name, count in zip(MESSAGE_TYPES, sum(counts.values()).tolist(), strict=True):  # type: ignore[union-attr]
            types.add_metric([name], count)
        yield types
        family = CounterMetricFamily(
            _BY_IDENTITY, "dnstap frames by the sender's identity", labels=["identity"]
        )
        labels: dict[str, int] = {}
        for identity, total in counts.items():  # two identities may give the same label after escaping
            label = _label(identity)
            labels[label] = labels.get(label, 0) + int(total.sum())
        for label, count in labels.items():
            family.add_metric([label], count)
        yield family


def _label(identity: bytes | None) -> str:
    if identity is None:
        return _OTHER
    return visible(identity.decode("utf-8", "backslashreplace")) or _NONE


__all__ = ["IDENTITIES", "Senders"]
