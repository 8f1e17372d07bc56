"""Tables of fingerprints in memory, and asking those in use."""

from __future__ import annotations

import mmap
from typing import NamedTuple

import numpy as np

from edm.columns import I64Array, U8Array, U64Array
from edm.new_qname.probing import CARRIED, COUNT, N_STATE, drop_seen, fill, mark_seen

MIN_SLOTS = 64
_HUGE_PAGE = 2 << 20
_MEMORY_STEP = 16 << 20
_FILL_STEP = 1 << 15


class Table:
    """Slots of fingerprints with their counts.

    The memory goes with the last reference to :attr:`slots`, so a thread that still reads a retired table
    does so safely.

    Attributes
    ----------
    slots : uint64[capacity]
        Fingerprints; 0 is an empty slot.
    state : int64[N_STATE]
        ``COUNT`` and ``CARRIED``.
    capacity, bits : int
        Number of slots, a power of two, and its binary logarithm.

    Raises
    ------
    OSError
        There is no memory for so many slots.
    """

    __slots__ = ("_map", "bits", "capacity", "slots", "state")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.bits = capacity.bit_length() - 1
        # Pages come zeroed from the kernel at their first use, so that even a large table is there at once.
        # Huge pages: with small ones every probe of a large table misses the TLB as well as the cache.
        self._map = mmap.mmap(-1, 8 * capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if 8 * capacity >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self.slots: U64Array = np.frombuffer(self._map, np.uint64, capacity)
        self.state: I64Array = np.zeros(N_STATE, np.int64)

    @classmethod
    def populated(cls, capacity: int) -> Table:
        """Return a new table whose memory has been used once."""
        table = cls(capacity)
        table.populate()
        return table

    @property
    def count(self) -> int:
        """Fingerprints in the table."""
        return int(self.state[COUNT])

    @property
    def carried(self) -> int:
        """Fingerprints in the table that the previous generation holds as well."""
        return int(self.state[CARRIED])

    def fill(self, fingerprints: U64Array) -> int:
        """Store fingerprints (0 stands for none); return how many were given."""
        scratch: U64Array = np.empty(min(_FILL_STEP, fingerprints.size), np.uint64)
        given = 0
        for begin in range(0, fingerprints.size, _FILL_STEP):
            part = fingerprints[begin : begin + _FILL_STEP]
            given += int(fill(self.slots, self.bits, self.state, part, part.size, scratch))
        return given

    def populate(self) -> None:
        """Use all memory of a new table once, with the GIL released.

        Else the first batch of names, spread over the whole table, would wait until every huge page is zeroed:
        seconds, if the table is large.
        """
        for begin in range(0, self.capacity, _MEMORY_STEP // 8):
            self.slots[begin : begin + _MEMORY_STEP // 8].fill(0)

    def release(self) -> None:
        """Give the memory of a retired table back, in small steps: Python unmaps with the GIL held.

        A thread that still reads it finds empty slots.
        """
        for offset in range(0, len(self._map), _MEMORY_STEP):
            self._map.madvise(mmap.MADV_DONTNEED, offset, min(_MEMORY_STEP, len(self._map) - offset))


class Tables(NamedTuple):
    """The tables in use: ``migrating`` holds what has not been moved to ``current`` yet."""

    current: Table
    migrating: Table | None
    previous: Table | None

    def look_up(self, hashes: U64Array, rows: I64Array, seen: U8Array, n: int) -> int:
        """Drop the fingerprints that the current generation holds; return how many are left.

        Parameters
        ----------
        hashes, rows : uint64[>= n], int64[>= n]
            Fingerprints and their rows; packed in place.
        seen : uint8[>= n]
            Packed with them: 1 becomes of those that the previous generation holds. One that was not 0 before
            and is not there any more stays seen: it becomes 2.
        n : int
            How many there are.
        """
        scratch: U64Array = np.empty(n, np.uint64)
        for table in (self.current, self.migrating):
            if table is not None and n:
                n = drop_seen(table.slots, table.bits, hashes, rows, seen, n, scratch)
        if self.previous is not None and n:
            mark_seen(self.previous.slots, self.previous.bits, hashes, seen, n, scratch)
        return n


def capacity_for(entries: int, load: float) -> int:
    """Return the least power of two of which ``entries`` are no larger a share than ``load``."""
    return max(MIN_SLOTS, 1 << int(entries / load).bit_length())


__all__ = ["MIN_SLOTS", "Table", "Tables", "capacity_for"]
