"""Counts frames by message type and by identity; warns when one sender's answers are counted twice."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

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
    """The totals of all workers, as metrics. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_identity: dict[bytes | None, I64Array] = {None: np.zeros(len(MESSAGE_TYPES), np.int64)}
        self._warned: set[bytes] = set()
        self.warn = True  # whether what is doubtful is logged

    def add(self, counts: Iterable[tuple[bytes | None, I64Array]], wanted: U8Array) -> None:
        """Add a batch: identity (None: unknown) and ``int64[15]`` frames by type; ``wanted`` are the types in use."""
        for identity, frames in counts:
            with self._lock:
                if identity not in self._by_identity and len(self._by_identity) > IDENTITIES:
                    identity = None
                total = self._by_identity.setdefault(identity, np.zeros(len(MESSAGE_TYPES), np.int64))
                total += frames
                doubtful = (
                    identity is not None and identity not in self._warned and self._twice(total, wanted)
                )
                if doubtful and identity is not None:
                    self._warned.add(identity)
                kinds = [MESSAGE_TYPES[i] for i in _TO_CLIENTS + _FROM_SERVERS if total[i] and wanted[i]]
            if doubtful and self.warn:
                structlog.get_logger().warning(
                    "one sender sends two kinds of answers for the same traffic, which counts twice",
                    identity=_label(identity),
                    kinds=", ".join(kinds),
                    hint="let the server send one kind only (unbound: dnstap-log-...-response-messages, BIND: "
                    "dnstap { client response; }), or set input-message-types",
                )

    def by_type(self) -> dict[str, int]:
        """Return the frames of each message type that has come."""
        with self._lock:
            counts = sum(self._by_identity.values())
        return {name: int(n) for name, n in zip(MESSAGE_TYPES, counts, strict=True) if n}  # type: ignore[arg-type]

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
            counts = {identity: total.copy() for identity, total in self._by_identity.items()}
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
