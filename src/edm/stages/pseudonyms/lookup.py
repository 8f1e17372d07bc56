"""Kernels that look the addresses of a batch up in a pseudonym cache.

First the addresses are listed by side and length, then each list is processed in a loop of its own. Within a list,
the branch predictor can be wrong only about whether an address is in its first slot.

An address that is not in the cache takes its slot at once, marked ``UNRESOLVED`` and holding its number in
the list of fresh addresses, so that meeting it again in the same batch is a hit.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from edm.kernel import columns as c
from edm.kernel.columns import I64, U64, Bytes, Fates, I64Array, U32Array, U32Columns, U64Array, U64Columns
from edm.kernel.jit import be32, force_inlined, inlined, kernel
from edm.stages.pseudonyms.kernels import (
    KEY_HIGH,
    KEY_LENGTH,
    KEY_LOW,
    SLOT,
    Lists,
    ListsArrays,
    Waiting,
    put_address,
)
from edm.stages.pseudonyms.tables import (
    COUNT,
    FRESH,
    FRESH_IPV4,
    FRESH_IPV6,
    HITS,
    LIMIT,
    LOADED,
    OCCUPIED,
    ODD_LENGTHS,
    REFERENCED,
    UNRESOLVED,
    WAITING,
    CacheState,
    HashKey,
    SlotMarks,
    Slots,
    Table,
    TableArrays,
    Tables,
    TablesArrays,
    find,
    holds,
    home,
    make_room,
    named_tables,
    number_of,
    pseudonym_at,
    put_number,
)

Halves: TypeAlias = tuple[U64, U64]
"""The high and the low 64 bits of an address; the high ones of one of 4 bytes are 0."""

N_LISTS = 4
"""Lists of rows: source addresses of 4 bytes, of 16 bytes, and the same of destination addresses."""

WINDOW = 32
"""Addresses whose slots are loaded together."""

_U32 = np.uint64(32)
_1 = np.uint64(1)
_NOT_FRESH = np.uint64(0xFFFFFFFFFFFFFFFF)
_NEW_MARK = OCCUPIED | REFERENCED | UNRESOLVED


@kernel
def list_addresses(
    u32: U32Columns, u64: U64Columns, fate: Fates, n: I64, rows: U32Array, sizes: I64Array, state: CacheState
) -> None:
    """List the pending rows with addresses of 4 and of 16 bytes; the columns of others get length and value.

    Parameters
    ----------
    u32, u64, fate : see edm.kernel.columns
    n : rows of the batch
    rows : uint32[N_LISTS, n + 1]
    sizes : int64[N_LISTS]
    state : int64[N_STATE], ``ODD_LENGTHS`` is written
    """
    odd: U64 = np.uint64(0)
    left: U64 = np.uint64(0)
    for row in range(np.uint64(n)):
        u32[c.LEFT_ROW, left] = row
        left += np.uint64(fate[row] == c.PENDING)
    for side in range(2):
        ipv4: U64 = np.uint64(0)
        ipv6: U64 = np.uint64(0)
        for j in range(left):
            # No branch on the length, which cannot be predicted.
            i = np.uint64(u32[c.LEFT_ROW, j])
            has = np.uint64((u32[c.PRESENT, i] & (c.HAS_QUERY_ADDRESS << side)) != 0)
            length = np.uint64(u32[c.QUERY_ADDRESS_LEN + 2 * side, i]) * has
            is_ipv4 = np.uint64(length == 4)
            is_ipv6 = np.uint64(length == 16)
            u32[c.SOURCE_LEN + side, i] = length
            u64[c.SOURCE_HIGH + 2 * side, i] = 0
            u64[c.SOURCE_LOW + 2 * side, i] = 0
            rows[2 * side, ipv4] = i
            rows[2 * side + 1, ipv6] = i
            ipv4 += is_ipv4
            ipv6 += is_ipv6
            odd += has & ~(is_ipv4 | is_ipv6)
        sizes[2 * side] = ipv4
        sizes[2 * side + 1] = ipv6
    state[ODD_LENGTHS] += np.int64(odd)


@inlined
def add_fresh(high: U64, low: U64, length: U64, slot: U64, lists: Lists, state: CacheState) -> U64:
    """Append an address to the list of those to be encrypted; return its number there."""
    number = state[FRESH]
    fresh = lists.fresh
    fresh[KEY_HIGH, number] = high
    fresh[KEY_LOW, number] = low
    fresh[KEY_LENGTH, number] = length
    fresh[SLOT, number] = slot
    state[FRESH] = number + 1
    is_ipv4 = length == 4 or (high == 0 and low >> np.uint64(32) == np.uint64(0xFFFF))
    which = FRESH_IPV4 if is_ipv4 else FRESH_IPV6
    lists.orders[which - FRESH_IPV4, state[which]] = number
    state[which] += 1
    return np.uint64(number)


@inlined
def _wait(row: U64, side: I64, number: U64, waiting: Waiting, state: CacheState) -> None:
    """Let a row wait for the pseudonym of a fresh address."""
    waiting[0, state[WAITING]] = row * np.uint64(2) + np.uint64(side)
    waiting[1, state[WAITING]] = number
    state[WAITING] += 1


@inlined
def _address(buf: Bytes, off: U64, slots: Slots) -> tuple[U64, U64]:
    """Return the address at ``off``, high and low half, of the length that the table is for."""
    if slots.ndim == 1:
        return np.uint64(0), np.uint64(be32(buf, off))
    high = (np.uint64(be32(buf, off)) << _U32) | np.uint64(be32(buf, off + np.uint64(4)))
    low = (np.uint64(be32(buf, off + np.uint64(8))) << _U32) | np.uint64(be32(buf, off + np.uint64(12)))
    return high, low


@inlined
def _length(slots: Slots) -> U64:
    if slots.ndim == 1:
        return np.uint64(4)
    return np.uint64(16)


@inlined
def _touch(slots: Slots, marks: SlotMarks, slot: U64) -> U64:
    """Load a slot and its mark; return something made of them."""
    if slots.ndim == 1:
        return slots[slot] ^ np.uint64(marks[slot])
    return slots[slot, 0] ^ np.uint64(marks[slot])


@inlined
def _give(u32: U32Columns, u64: U64Columns, i: U64, side: I64, pseudonym: Halves, slots: Slots) -> None:
    """Write a pseudonym from the cache to the columns of row ``i``, whose length is there already."""
    if slots.ndim == 1:
        u64[c.SOURCE_LOW + 2 * side, i] = pseudonym[1]
    else:
        put_address(u32, u64, i, side, pseudonym[0], pseudonym[1])


@force_inlined
def _load_window(
    buf: Bytes,
    u32: U32Columns,
    rows: U32Array,
    begin: I64,
    stop: I64,
    side: I64,
    table: Table,
    key: HashKey,
    keys: U64Array,
) -> U64:
    """Put the addresses from ``rows[begin]`` on and their home slots into ``keys``; load the slots.

    Returns something made of what was loaded.
    """
    slots, marks = table
    mask = np.uint64(marks.shape[0] - 1)
    loaded = home_slot = np.uint64(0)
    # The loads of a window do not depend on each other, and the branch is nearly always guessed right, so that their
    # cache misses overlap. A server has few addresses of its own: the last is nearly always the next.
    for k in range(np.uint64(min(WINDOW, stop - begin))):
        off = np.uint64(u32[c.QUERY_ADDRESS_OFF + 2 * side, rows[np.uint64(begin) + k]])
        high, low = _address(buf, off, slots)
        if k == 0 or low != keys[0, k - _1] or high != keys[1, k - _1]:
            home_slot = home(high, low, slots, key) & mask
            loaded ^= _touch(slots, marks, home_slot)
        keys[0, k] = low
        keys[1, k] = high
        keys[2, k] = home_slot
    return loaded


@inlined
def _enter(high: U64, low: U64, slot: U64, table: Table, tables: Tables, lists: Lists) -> U64:
    """Enter an address, which belongs into the free slot ``slot``; return its number among the fresh ones."""
    if make_room(table, tables):
        # Others move up to where the evicted address was, so the place may be another now.
        slot = find(high, low, table, tables.key)
    fresh_number = add_fresh(high, low, _length(table.slots), slot, lists, tables.state)
    put_number(table.slots, slot, high, low, fresh_number)
    table.marks[slot] = _NEW_MARK
    tables.state[COUNT + number_of(table.slots)] += 1
    return fresh_number


@kernel
def look_up(
    buf: Bytes,
    u32: U32Columns,
    u64: U64Columns,
    rows: U32Array,
    start: I64,
    stop: I64,
    side: I64,
    own: TableArrays,
    cache: TablesArrays,
    out: ListsArrays,
) -> I64:
    """Look up the addresses of the listed rows; return the place in the list where it stopped.

    Stops early when the table has no room within its limit: grow it and go on from there. Rows whose address is
    known get their columns at once, the others enter the list of those that wait.

    Parameters
    ----------
    buf, u32, u64
        The block and the columns of a batch, see :mod:`edm.kernel.columns`.
    rows : uint32[stop or more]
        The list: rows with addresses of the length that ``table`` is for.
    start, stop : int
        The part of it to work off.
    side : int
        0 source, 1 destination.
    own : TableArrays
        The table of the cache to look in; the kernel is compiled once for each.
    cache : TablesArrays
        The cache.
    out : ListsArrays
        Receives the addresses that were not in the cache, and the rows that wait for them.
    """
    table, tables, lists = Table(*own), named_tables(cache), Lists(*out)
    slots, marks = table
    state, keys = tables.state, lists.keys
    number = number_of(slots)
    loaded = np.uint64(0)
    hits = 0
    mask = np.uint64(marks.shape[0] - 1)
    last_high = last_low = np.uint64(0)
    last_number = _NOT_FRESH
    found = np.uint64(0), np.uint64(0)
    for j in range(start, stop):
        at = np.uint64(j - start) & np.uint64(WINDOW - 1)
        if at == 0:
            loaded ^= _load_window(buf, u32, rows, j, stop, side, table, tables.key, keys)
        if state[COUNT + number] >= state[LIMIT + number]:
            state[HITS] += hits
            return j
        i = np.uint64(rows[np.uint64(j)])
        low = keys[0, at]
        high = keys[1, at]
        if j > start and low == last_low and high == last_high:
            hits += 1
        else:
            slot = keys[2, at]
            while marks[slot] != 0 and not holds(slots, slot, high, low):
                slot = (slot + _1) & mask
            mark = marks[slot]
            last_high = high
            last_low = low
            found = pseudonym_at(slots, slot)
            last_number = _NOT_FRESH
            if mark == 0:
                last_number = _enter(high, low, slot, table, tables, lists)
            else:
                hits += 1
                if mark & REFERENCED == 0:
                    marks[slot] = mark | np.uint8(REFERENCED)
                if mark & UNRESOLVED != 0:
                    last_number = found[1]
        if last_number == _NOT_FRESH:
            _give(u32, u64, i, side, found, slots)
        else:
            _wait(i, side, last_number, lists.waiting, state)
    state[HITS] += hits
    # Makes the loads of the windows count as used.
    state[LOADED] = np.int64(loaded & _1)
    return stop


__all__ = ["N_LISTS", "WINDOW", "list_addresses", "look_up"]
