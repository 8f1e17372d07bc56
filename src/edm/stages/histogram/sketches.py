"""Client sketches: functions for kernels over the memory that all sketches of a worker share.

A sketch (HyperLogLog of Aggregate Knowledge's storage specification v1.0.0, log2m 10, regwidth 4) is
explicit, a set of hashes, up to ``threshold`` of them, and from then on 1,024 registers of 4 bits. A row (see
:mod:`edm.stages.histogram.kernels`) says, in two words per address family, of what kind its sketch is and where.

A set takes a block of 2^c cells: up to 32 hashes as a plain list, beyond that as a table with open
addressing, at most three quarters full. Blocks given back are chained in one list per size, through their
first cell. Zero marks an empty place: the hash 0 is never counted.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from edm.kernel.columns import I64, U64, Flag, U8Array, U32Array, U64Array
from edm.kernel.jit import inlined, kernel

# Words of a row that belong to the v4 sketch; those of the v6 sketch are the next ones.
CELL = 2  # first cell
STATE = 14  # size class << 24 | number of hashes

# Words of the heap.
ROWS_USED = np.uint64(0)
CELLS_USED = np.uint64(1)
MULTIPLIER = np.uint64(2)
TOUCHED = np.uint64(3)  # meaningless: keeps loads that only warm the cache from being optimised away
FREE = np.uint64(4)  # by size class: 1 + first cell of the first free block
HEAP_WORDS = 4 + 32

REGISTER_CLASS = np.uint64(31)  # size class in a state word: the sketch is registers
REGISTER_BLOCK = np.uint64(6)  # size class of their block
REGISTER_CELLS = 64
REGISTER_BYTES = 512
LIST_CLASS = np.uint64(5)  # largest block that is a plain list of hashes
CLASS_SHIFT = np.uint64(24)
COUNT_MASK = np.uint64(0xFFFFFF)
INDEX_MASK = np.uint64(1023)

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_8 = np.uint64(8)
_64 = np.uint64(64)
_CELL = np.uint64(CELL)
_STATE = np.uint64(STATE)
_W_BITS = np.uint64(10)
# Bits 14 and up of w are forced to one so that a register never holds more than 15.
_W_LIMIT = np.uint64(0xFFFFFFFFFFFFC000)


class State(NamedTuple):
    """Rows and sketches of a worker in an interval, which always go together.

    Attributes
    ----------
    rows : uint32[:, 16]
        One row per name seen, see :mod:`edm.stages.histogram.kernels`.
    cells : uint64[:]
        Storage of the sketches.
    registers : uint8[:]
        The same memory as ``cells``.
    heap : uint64[HEAP_WORDS]
        How much of ``rows`` and ``cells`` is taken, the free lists, the multiplier.
    """

    rows: U32Array
    cells: U64Array
    registers: U8Array
    heap: U64Array


StateArrays: TypeAlias = tuple[U32Array, U64Array, U8Array, U64Array]
"""What a :class:`State` is made of; Python hands it over so, see :mod:`edm.kernel.jit`."""

_TRAILING_ZEROS = np.array([8] + [(b & -b).bit_length() - 1 for b in range(1, 256)], np.uint8)


@inlined
def take(heap: U64Array, cells: U64Array, size_class: U64) -> U64:
    """Return the first cell of a block of ``2 ** size_class`` cells. There is room for it."""
    head = heap[FREE + size_class]
    if head != _0:
        heap[FREE + size_class] = cells[head - _1]
        return head - _1
    cell = heap[CELLS_USED]
    heap[CELLS_USED] = cell + (_1 << size_class)
    return cell


@inlined
def give_back(heap: U64Array, cells: U64Array, size_class: U64, cell: U64) -> None:
    """Put a block into the free list of its size."""
    cells[cell] = heap[FREE + size_class]
    heap[FREE + size_class] = cell + _1


@inlined
def observe(registers: U8Array, cell: U64, h: U64) -> None:
    """Raise the register of hash ``h`` (HyperLogLog's update) in the sketch at ``cell``."""
    w = h >> _W_BITS
    if w == _0:
        return
    w |= _W_LIMIT
    value = np.int64(1) + np.int64(_TRAILING_ZEROS[w & np.uint64(255)])
    if value == 9:
        value += np.int64(_TRAILING_ZEROS[(w >> _8) & np.uint64(255)])
    register = h & INDEX_MASK
    at = (cell << np.uint64(3)) + (register >> _1)
    shift = np.int64(4) - np.int64((register & _1) << _2)
    both = np.int64(registers[at])
    if both >> shift & 15 < value:
        registers[at] = both & 0xF0 >> shift | value << shift


@inlined
def place(cells: U64Array, cell: U64, size_class: U64, multiplier: U64, h: U64) -> U64:
    """Return where ``h`` is, or the empty place where it belongs, in the table at ``cell``."""
    mask = (_1 << size_class) - _1
    # The hash has no key and a sender may choose it; the multiplier is secret and random, so that no sender can
    # aim many clients at one place.
    at = (h * multiplier) >> (_64 - size_class)
    while cells[cell + at] != _0 and cells[cell + at] != h:
        at = (at + _1) & mask
    return cell + at


@kernel
def promote(state: State, r: U64, family: U64) -> None:
    """Make the explicit sketch of row ``r`` a sketch of registers; ``family`` is 0 for v4, 1 for v6."""
    rows, cells, registers, heap = state
    kind = np.uint64(rows[r, _STATE + family])
    size_class = kind >> CLASS_SHIFT
    count = kind & COUNT_MASK
    old = np.uint64(rows[r, _CELL + family])
    cell = take(heap, cells, REGISTER_BLOCK)
    for k in range(REGISTER_CELLS):
        cells[cell + np.uint64(k)] = _0
    if count != _0:
        places = count if size_class <= LIST_CLASS else _1 << size_class
        for k in range(places):
            h = cells[old + np.uint64(k)]
            if h != _0:
                observe(registers, cell, h)
        give_back(heap, cells, size_class, old)
    rows[r, _CELL + family] = cell
    rows[r, _STATE + family] = REGISTER_CLASS << CLASS_SHIFT


@kernel
def admit(state: State, r: U64, family: U64, threshold: I64, h: U64) -> None:
    """Add ``h``, which is not in it, to an explicit sketch, which holds ``threshold`` hashes at most."""
    rows, cells, registers, heap = state
    kind = np.uint64(rows[r, _STATE + family])
    size_class = kind >> CLASS_SHIFT
    count = kind & COUNT_MASK
    cell = np.uint64(rows[r, _CELL + family])
    if count == np.uint64(threshold):
        promote(state, r, family)
        observe(registers, np.uint64(rows[r, _CELL + family]), h)
        return
    size = _1 << size_class
    if count == _0:
        cell = take(heap, cells, _0)
    elif (size_class <= LIST_CLASS and count == size) or (
        size_class > LIST_CLASS and count + _1 > size - (size >> _2)
    ):
        old = cell
        cell = take(heap, cells, size_class + _1)
        if size_class < LIST_CLASS:
            for k in range(size):
                cells[cell + np.uint64(k)] = cells[old + np.uint64(k)]
        else:
            for k in range(size << _1):
                cells[cell + np.uint64(k)] = _0
            for k in range(size):
                known = cells[old + np.uint64(k)]
                if known != _0:
                    cells[place(cells, cell, size_class + _1, heap[MULTIPLIER], known)] = known
        give_back(heap, cells, size_class, old)
        size_class += _1
    if size_class <= LIST_CLASS:
        cells[cell + count] = h
    else:
        cells[place(cells, cell, size_class, heap[MULTIPLIER], h)] = h
    rows[r, _CELL + family] = cell
    rows[r, _STATE + family] = size_class << CLASS_SHIFT | (count + _1)


@inlined
def in_list(cells: U64Array, cell: U64, count: U64, h: U64) -> Flag:
    """Tell whether ``h`` is among the ``count`` hashes from ``cell`` on."""
    for k in range(count):  # noqa: SIM110 - kernels have no generators
        if cells[cell + np.uint64(k)] == h:
            return True
    return False


@inlined
def add_hash(state: State, r: U64, family: U64, threshold: I64, h: U64) -> None:
    """Add ``h``, not 0, to a sketch of either kind."""
    rows, cells, registers, heap = state
    kind = np.uint64(rows[r, _STATE + family])
    cell = np.uint64(rows[r, _CELL + family])
    size_class = kind >> CLASS_SHIFT
    if size_class == REGISTER_CLASS:
        observe(registers, cell, h)
    elif size_class <= LIST_CLASS:
        if not in_list(cells, cell, kind & COUNT_MASK, h):
            admit(state, r, family, threshold, h)
    elif cells[place(cells, cell, size_class, heap[MULTIPLIER], h)] != h:
        admit(state, r, family, threshold, h)
