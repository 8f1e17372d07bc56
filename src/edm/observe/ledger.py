"""The ledger: checks for each interval that every received frame got exactly one fate.

Received frames are counted when a block's frames are located, fates at the end of each batch. The two counts are
independent, so a frame that is lost or counted twice in between shows as an imbalance. Each worker writes only
its own row, so no lock is needed. The sums are exact after the interval's grace period.
"""

from __future__ import annotations

import threading

import numpy as np

from edm.kernel.columns import I64, N_FATES, PENDING, Fate, Fates, I64Array, U8Array
from edm.kernel.jit import kernel

METADATA_PREFIX = "edm.ledger."
"""Prefix of the ledger's keys in the metadata of a Parquet footer."""

FATE_NAMES = tuple(fate.name.lower() for fate in Fate)
"""Name of each fate as it appears in metadata and metric labels, by number."""


_0, _1, _3, _7 = (np.uint64(i) for i in (0, 1, 3, 7))
_PENDING = np.uint64(PENDING)
_FATES = np.uint64(N_FATES)
_LANES = 8  # counters in a word, a byte each
_LANE_MAX = 255
_LANE = np.uint64(_LANE_MAX)
assert N_FATES <= 2 * _LANES


@kernel
def count_fates(fate: Fates, n: I64, counts: I64Array) -> None:
    """Add the number of rows of each fate to ``counts``.

    A value that is not a fate counts as ``PENDING``, so that the ledger shows an imbalance.

    Parameters
    ----------
    fate : uint8[stride]
        Fate of each row.
    n : int64
        Rows to count; at most ``stride``.
    counts : int64[N_FATES]
        Added to, not cleared.
    """
    for i in range(n):
        f = np.uint64(fate[i])
        if f >= np.uint64(N_FATES):
            f = np.uint64(PENDING)
        counts[f] += 1


@kernel
def settle_fates(fate: Fates, n: I64, last: I64, counts: I64Array) -> None:
    """Give the rows that are still PENDING the fate ``last``, and count the fates.

    Parameters
    ----------
    fate : uint8[stride]
        Fate of each row; changed in place.
    n : int64
        Rows of the batch; at most ``stride``.
    last : int64
        SESSION or SESSION_OFF.
    counts : int64[N_FATES]
        Set to the number of rows of each fate. A value that is not a fate counts as PENDING, as in :func:`count_fates`.
    """
    for k in range(N_FATES):
        counts[k] = 0
    end = np.uint64(last)
    # No branch on the fate, which cannot be predicted, and no counter in memory that the next row depends on:
    # the counts of 255 rows fit into the bytes of two words.
    for begin in range(0, n, _LANE_MAX):
        low = high = _0
        for i in range(np.uint64(begin), np.uint64(min(begin + _LANE_MAX, n))):
            was = np.uint64(fate[i])
            now = end if was == _PENDING else was
            fate[i] = now
            f = now if now < _FATES else _PENDING
            one = _1 << ((f & _7) << _3)
            low += one if f <= _7 else _0
            high += one if f > _7 else _0
        for k in range(N_FATES):
            counts[k] += np.int64(((low if k < _LANES else high) >> np.uint64(k % _LANES * 8)) & _LANE)


class Ledger:
    """The balance of one interval.

    Parameters
    ----------
    workers : int
        Number of rows: a worker passes its own number ``0 <= worker < workers`` to :meth:`receive` and
        :meth:`settle`.
    """

    def __init__(self, workers: int = 1) -> None:
        self._fates: I64Array = np.zeros((workers, N_FATES), np.int64)
        self._received: I64Array = np.zeros(workers, np.int64)
        self._oversized = 0
        self._lock = threading.Lock()

    def receive(self, worker: int, frames: int) -> None:
        """Count ``frames`` frames located in a block, before they are decoded."""
        self._received[worker] += frames

    def settle(self, worker: int, counts: I64Array) -> None:
        """Add the fates of one batch: ``counts`` is ``int64[N_FATES]`` as :func:`count_fates` makes it."""
        self._fates[worker] += counts

    def settle_rows(self, worker: int, fate: U8Array, n: int) -> None:
        """Add the fates of the rows ``0 <= i < n`` of a batch to the worker's row."""
        count_fates(fate, n, self._fates[worker])

    def skip_oversized(self, frames: int) -> None:
        """Count frames above the size limit, skipped while reading; any thread may call this."""
        with self._lock:
            self._oversized += frames

    @property
    def received(self) -> int:
        """Frames received so far, without oversized ones."""
        return int(self._received.sum())

    @property
    def oversized(self) -> int:
        """Frames skipped before decoding because of their size."""
        return self._oversized

    def fates(self) -> I64Array:
        """Return the sum over all workers, ``int64[N_FATES]``, in a new array."""
        total: I64Array = self._fates.sum(axis=0)
        return total

    def balance(self) -> dict[str, int]:
        """Return the counts by name; ``imbalance`` is the frames received minus the frames with a fate.

        A positive imbalance means frames without a fate (the ``pending`` ones included). A negative imbalance
        means frames counted twice.
        """
        fates = self.fates().tolist()
        received = self.received
        balance = {"frames_received": received, "frames_oversized": self._oversized}
        balance.update((name, fates[number]) for number, name in enumerate(FATE_NAMES) if number != PENDING)
        balance["pending"] = fates[PENDING]
        balance["imbalance"] = received - (sum(fates) - fates[PENDING])
        return balance

    @property
    def closed(self) -> bool:
        """Whether every received frame has exactly one fate; only valid after the grace period."""
        return self.balance()["imbalance"] == 0 and not self.fates()[PENDING]

    def to_metadata(self) -> dict[str, str]:
        """Return the balance as key-value metadata for a Parquet footer.

        Each key is :data:`METADATA_PREFIX` plus a name of :meth:`balance`, each value a decimal number;
        ``edm.ledger.closed`` is ``true`` or ``false``.
        """
        balance = self.balance()
        closed = balance["imbalance"] == 0 and balance["pending"] == 0
        metadata = {METADATA_PREFIX + name: str(value) for name, value in balance.items()}
        metadata[METADATA_PREFIX + "closed"] = "true" if closed else "false"
        return metadata


__all__ = ["FATE_NAMES", "METADATA_PREFIX", "Ledger", "count_fates", "settle_fates"]
