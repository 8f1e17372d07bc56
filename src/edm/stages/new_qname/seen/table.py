"""Tables of fingerprints in memory that grow in place, and asking those in use."""

from __future__ import annotations

import mmap
import platform
from typing import NamedTuple

import numpy as np

from edm.kernel.columns import I64Array, U8Array, U64Array
from edm.stages.new_qname.seen.growing import fill, move
from edm.stages.new_qname.seen.probing import (
    BEFORE,
    BOUNDARY,
    CARRIED,
    COUNT,
    LINE,
    LINES,
    N_STATE,
    PROBE_LIMIT,
    drop_seen,
    mark_seen,
)

MIN_SLOTS = 64
_HUGE_PAGE = 2 << 20
_MEMORY_STEP = 16 << 20
_FILL_STEP = 1 << 15
_MOVE_STEP = 512  # lines
_MOST_LINES = (1 << 32) - 1  # a home is computed from 32 bits

# Memory that is not used yet must not count as used on systems that limit how much a process may ask for.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if platform.machine() in ("x86_64", "aarch64") else 0)


class Table:
    """Lines of fingerprints with their counts.

    Address space for the largest size is taken at once, memory only as the table grows. It goes with the last
    reference to :attr:`array`, so a thread that still reads a retired table does so safely.

    Parameters
    ----------
    slots : int
        Slots to begin with. These and all other numbers of slots are rounded up to whole lines.
    largest : int
        Slots up to which it may be wanted to grow. If there is no address space for so many, half of it is tried,
        and so on.

    Attributes
    ----------
    array : uint64[largest + 8 * PROBE_LIMIT]
        Fingerprints; 0 is an empty slot.
    state : int64[N_STATE]
        See :mod:`edm.stages.new_qname.seen.probing`.
    largest : int
        Slots up to which it can grow.

    Raises
    ------
    OSError
        There is no memory for so many slots.
    """

    __slots__ = ("_map", "array", "largest", "state")

    def __init__(self, slots: int, largest: int) -> None:
        lines = min(lines_of(slots), _MOST_LINES)
        # Pages come zeroed from the kernel at their first use.
        self._map = _take_space(lines, max(lines, min(lines_of(largest), _MOST_LINES)))
        # Huge pages: with small ones every probe of a large table misses the TLB as well as the cache.
        if len(self._map) >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self.array: U64Array = np.frombuffer(self._map, np.uint64)
        self.largest = len(self.array) - LINE * PROBE_LIMIT
        self.state: I64Array = np.zeros(N_STATE, np.int64)
        self.state[LINES] = self.state[BEFORE] = lines

    @property
    def slots(self) -> int:
        """Slots in use."""
        return LINE * int(self.state[LINES])

    @property
    def count(self) -> int:
        """Fingerprints in the table."""
        return int(self.state[COUNT])

    @property
    def carried(self) -> int:
        """Fingerprints in the table that the previous generation holds as well."""
        return int(self.state[CARRIED])

    @property
    def to_move(self) -> int:
        """Slots that are still laid out as before the table grew."""
        return LINE * int(self.state[BOUNDARY])

    def fill(self, fingerprints: U64Array) -> None:
        """Store fingerprints (0 stands for none)."""
        for begin in range(0, fingerprints.size, _FILL_STEP):
            part = fingerprints[begin : begin + _FILL_STEP]
            fill(self.array, self.state, part, part.size)

    def grow(self, slots: int) -> None:
        """Use so many slots from now on, at most :attr:`largest`; nothing may be left to move.

        :meth:`move` is to be called until nothing is.
        """
        # In this order: another thread that looks something up meanwhile may miss it, but stays within the table.
        self.state[BOUNDARY] = self.state[LINES] + PROBE_LIMIT
        self.state[LINES] = lines_of(slots)

    def move(self, slots: int) -> None:
        """Move the fingerprints of the next ``slots`` slots, or some more, to where they belong now."""
        scratch: U64Array = np.empty(LINE * (_MOVE_STEP + PROBE_LIMIT), np.uint64)
        until = max(0, int(self.state[BOUNDARY]) - lines_of(slots))
        while (left := int(self.state[BOUNDARY])) > until:
            move(self.array, self.state, min(_MOVE_STEP, left - until), scratch)

    def release(self) -> None:
        """Give the memory of a retired table back, in small steps: Python unmaps with the GIL held.

        A thread that still reads it finds empty slots.
        """
        for offset in range(0, len(self._map), _MEMORY_STEP):
            self._map.madvise(mmap.MADV_DONTNEED, offset, min(_MEMORY_STEP, len(self._map) - offset))


def _take_space(lines: int, largest: int) -> mmap.mmap:
    while True:
        try:
            return mmap.mmap(
                -1,
                8 * LINE * (largest + PROBE_LIMIT),
                flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE,
            )
        except OSError:
            if largest == lines:
                raise
            largest = max(lines, largest // 2)


class Tables(NamedTuple):
    """The tables of the two generations."""

    current: Table
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
        if n:
            n = drop_seen(self.current.array, self.current.state, hashes, rows, seen, n)
        if self.previous is not None and n:
            mark_seen(self.previous.array, self.previous.state, hashes, seen, n)
        return n


def lines_of(slots: int) -> int:
    """Return the number of lines that so many slots take."""
    return -(-slots // LINE)


def slots_for(entries: int, load: float) -> int:
    """Return a number of slots, in whole lines, of which ``entries`` are no larger a share than ``load``."""
    return max(MIN_SLOTS, LINE * lines_of(int(entries / load) + 1))


__all__ = ["MIN_SLOTS", "Table", "Tables", "lines_of", "slots_for"]
