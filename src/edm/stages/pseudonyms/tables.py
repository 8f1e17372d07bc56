"""The two tables of a pseudonym cache: hashing, probing, eviction, growth.

Open addressing with linear probing, one table for addresses of 4 bytes, one for those of 16. Each has a power
of two of slots and a ``uint8`` mark per slot (0: free). A slot of the small table is one word, the address in
its upper and the pseudonym in its lower half; a slot of the large one is four words, two for the address and
two for the pseudonym. An IPv4-mapped address is a key of 16 bytes. A pseudonym in the large table that is to
be given out as 4 bytes stands there in mapped form: ``0``, ``0x0000FFFFaabbccdd``.

The helpers serve both tables. Which one is meant follows from the dimensions of its slots, which Numba knows when it
compiles: what belongs to the other table is not in the compiled code.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from edm.kernel.columns import I64, U64, Flag, I64Array, U8Array, U64Array
from edm.kernel.jit import force_inlined, inlined, kernel

Slots: TypeAlias = U64Array
"""``uint64[slots]`` of the small, ``uint64[slots, 4]`` of the large table."""
SlotMarks: TypeAlias = U8Array
"""``uint8[slots]``: bits of ``OCCUPIED``, ``REFERENCED``, ``UNRESOLVED``; 0 for a free slot."""
HashKey: TypeAlias = U64Array
"""``uint64[3]``: the secret key of a cache's hash; the upper halves of the first two words are odd."""
CacheState: TypeAlias = I64Array
"""``int64[N_STATE]``: counts and limits of a cache."""

SMALL_SLOT_BYTES = 9
LARGE_SLOT_BYTES = 33
"""Bytes that a slot of each table takes, its mark included."""

OCCUPIED = 1
REFERENCED = 2
UNRESOLVED = 4  # the slot holds a number in the list of fresh addresses instead of a pseudonym

# ``state``: words that there are one of for each table, for the small one first.
COUNT = 0  # addresses in the table
HAND = 2  # where the search for one to evict goes on
LIMIT = 4  # addresses at which the table is to be grown
MOST = 6  # addresses at which one of the table's own has to leave it, since it may not grow
# The others.
BOUND = 8  # of both counts together
HITS = 9  # from here on: of the current batch
EVICTIONS = 10
ODD_LENGTHS = 11
FRESH = 12
FRESH_IPV4 = 13
FRESH_IPV6 = 14
WAITING = 15
LOADED = 16
N_STATE = 17

_1 = np.uint64(1)
_U32 = np.uint64(32)
_LOW32 = np.uint64(0xFFFFFFFF)
_MIX = np.uint64(0xFF51AFD7ED558CCD)


class Table(NamedTuple):
    """One of the two tables.

    Attributes
    ----------
    slots : uint64[slots] or uint64[slots, 4]
    marks : uint8[slots]
    """

    slots: Slots
    marks: SlotMarks


class Tables(NamedTuple):
    """All that a pseudonym cache holds.

    Attributes
    ----------
    small, large : Table
        Addresses of 4 and of 16 bytes.
    key : uint64[3]
        Key of the hash.
    state : int64[N_STATE]
    """

    small: Table
    large: Table
    key: HashKey
    state: CacheState


TableArrays: TypeAlias = tuple[Slots, SlotMarks]
"""What a :class:`Table` is made of."""
TablesArrays: TypeAlias = tuple[TableArrays, TableArrays, HashKey, CacheState]
"""What :class:`Tables` are made of; Python hands them over so, see :mod:`edm.kernel.jit`."""


@force_inlined
def named_tables(arrays: TablesArrays) -> Tables:
    """Return the tables that are made of ``arrays``."""
    small, large, key, state = arrays
    return Tables(Table(*small), Table(*large), key, state)


@inlined
def number_of(slots: Slots) -> I64:
    """Return 0 for the small table, 1 for the large one."""
    if slots.ndim == 1:
        return 0
    return 1


@inlined
def home(high: U64, low: U64, slots: Slots, key: HashKey) -> U64:
    """Hash an address as domain tables hash names: NH (UMAC, 1999) over its words, then mixed.

    It is keyed: addresses of which more collide than chance allows cannot be chosen without the key. SipHash would
    promise more and takes 20 ns a frame more, half of what the whole lookup takes.
    """
    total = ((low + key[0]) & _LOW32) * (((low >> _U32) + (key[0] >> _U32)) & _LOW32)
    if slots.ndim != 1:
        total += ((high + key[1]) & _LOW32) * (((high >> _U32) + (key[1] >> _U32)) & _LOW32)
    total ^= key[2]
    total = (total ^ (total >> _U32)) * _MIX
    return total ^ (total >> _U32)


@inlined
def holds(slots: Slots, slot: U64, high: U64, low: U64) -> Flag:
    """Tell whether an occupied slot is that of this address; ``high`` of one of 4 bytes is 0."""
    if slots.ndim == 1:
        return slots[slot] >> _U32 == low
    return slots[slot, 0] == high and slots[slot, 1] == low


@inlined
def pseudonym_at(slots: Slots, slot: U64) -> tuple[U64, U64]:
    """Return the pseudonym in a slot, high and low half; or, in the low one, the number of a fresh address."""
    if slots.ndim == 1:
        return np.uint64(0), slots[slot] & _LOW32
    return slots[slot, 2], slots[slot, 3]


@inlined
def put_number(slots: Slots, slot: U64, high: U64, low: U64, number: U64) -> None:
    """Put an address into a slot, with its number in the list of fresh addresses."""
    if slots.ndim == 1:
        slots[slot] = (low << _U32) | number
    else:
        slots[slot, 0] = high
        slots[slot, 1] = low
        slots[slot, 3] = number


@inlined
def put_pseudonym(slots: Slots, slot: U64, high: U64, low: U64) -> None:
    """Put the pseudonym of the address in a slot beside it."""
    if slots.ndim == 1:
        slots[slot] = (slots[slot] & ~_LOW32) | (low & _LOW32)
    else:
        slots[slot, 2] = high
        slots[slot, 3] = low


@inlined
def find(high: U64, low: U64, table: Table, key: HashKey) -> U64:
    """Return the slot of an address, or the free slot where it belongs."""
    mask = np.uint64(table.marks.shape[0] - 1)
    slot = home(high, low, table.slots, key) & mask
    while table.marks[slot] != 0 and not holds(table.slots, slot, high, low):
        slot = (slot + _1) & mask
    return slot


@inlined
def home_of(slot: U64, slots: Slots, key: HashKey) -> U64:
    """Return the hash of the address in an occupied slot."""
    if slots.ndim == 1:
        return home(np.uint64(0), slots[slot] >> _U32, slots, key)
    return home(slots[slot, 0], slots[slot, 1], slots, key)


@inlined
def _copy_slot(slots: Slots, slot: U64, to_slots: Slots, to: U64) -> None:
    if slots.ndim == 1:
        to_slots[to] = slots[slot]
    else:
        for word in range(4):
            to_slots[to, word] = slots[slot, word]


@kernel
def evict(table: Table, key: HashKey, hand: I64) -> I64:
    """Take one address out of a table by second chance; return where the hand stopped.

    Addresses after the freed slot move up to it (Knuth, volume 3, 6.4, algorithm R), so that no probe
    sequence is cut and no tombstones pile up.

    Parameters
    ----------
    table : Table
        It holds at least one address.
    key : uint64[3]
        Key of the hash.
    hand : int
        What the last call returned; 0 at first.
    """
    slots, marks = table
    mask = np.uint64(marks.shape[0] - 1)
    free = np.uint64(hand) & mask
    while marks[free] == 0 or marks[free] & REFERENCED != 0:
        marks[free] &= np.uint8(OCCUPIED | UNRESOLVED)
        free = (free + _1) & mask
    stopped = np.int64(free)
    slot = free
    while True:
        slot = (slot + _1) & mask
        if marks[slot] == 0:
            break
        # An address may move only to a slot that is not before its home, counted along the ring.
        if (slot - home_of(slot, slots, key)) & mask >= (slot - free) & mask:
            _copy_slot(slots, slot, slots, free)
            marks[free] = marks[slot]
            free = slot
    marks[free] = 0
    return stopped


@kernel
def rehash(table: Table, key: HashKey, wide: Table) -> None:
    """Copy a table into ``wide``, an empty one of more slots; ``key`` (uint64[3]) is that of both.

    The mask takes low bits of the hash, so the copy walks through the new table in two ascending streams.
    """
    mask = np.uint64(wide.marks.shape[0] - 1)
    for old in range(np.uint64(table.marks.shape[0])):
        if table.marks[old] != 0:
            slot = home_of(old, table.slots, key) & mask
            while wide.marks[slot] != 0:
                slot = (slot + _1) & mask
            _copy_slot(table.slots, old, wide.slots, slot)
            wide.marks[slot] = table.marks[old]


@inlined
def _evict_from(table: Table, tables: Tables, number: I64) -> None:
    state = tables.state
    state[HAND + number] = evict(table, tables.key, state[HAND + number])
    state[COUNT + number] -= 1
    state[EVICTIONS] += 1


@inlined
def make_room(table: Table, tables: Tables) -> Flag:
    """Evict an address if there are as many as there may be before one is added; tell whether that was so.

    It is one of ``table`` if this is full and may not grow, else one of the fuller table.
    """
    state = tables.state
    number = number_of(table.slots)
    if state[COUNT + number] >= state[MOST + number]:
        _evict_from(table, tables, number)
        return True
    if state[COUNT] + state[COUNT + 1] < state[BOUND]:
        return False
    if state[COUNT] > state[COUNT + 1]:
        _evict_from(tables.small, tables, 0)
    else:
        _evict_from(tables.large, tables, 1)
    return True


__all__ = [
    "BOUND",
    "COUNT",
    "EVICTIONS",
    "FRESH",
    "FRESH_IPV4",
    "FRESH_IPV6",
    "HAND",
    "HITS",
    "LARGE_SLOT_BYTES",
    "LIMIT",
    "LOADED",
    "MOST",
    "N_STATE",
    "OCCUPIED",
    "ODD_LENGTHS",
    "REFERENCED",
    "SMALL_SLOT_BYTES",
    "UNRESOLVED",
    "WAITING",
    "CacheState",
    "HashKey",
    "SlotMarks",
    "Slots",
    "Table",
    "TableArrays",
    "Tables",
    "TablesArrays",
    "evict",
    "find",
    "holds",
    "home",
    "make_room",
    "named_tables",
    "number_of",
    "pseudonym_at",
    "put_number",
    "put_pseudonym",
    "rehash",
]
