"""Kernels of the lookup: find the hashed question names of a batch in a plain table, mark the matches.

A name matches the exact entry with the same name; else the longest suffix entry that is its parent domain, or
its parent's, and so on, the root excluded. Dots within a label are escaped in the words of a list, so these parent
domains are just what stands behind each label in wire form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from edm.kernel.columns import (
    DOMAIN_INDEX,
    DOMAIN_MATCH,
    FOUND_INDEX,
    FOUND_POS,
    FOUND_ROW,
    I64,
    LEFT_ROW,
    NO_DOMAIN,
    PENDING,
    QNAME_HASH,
    QNAME_LABELS,
    QNAME_LEN,
    QNAME_OFF,
    SUFFIX_DEPTH,
    SUFFIX_HASH_1,
    U64,
    Bytes,
    Fates,
    Flag,
    U32Columns,
    U64Columns,
)
from edm.kernel.jit import force_inlined, kernel
from edm.stages.domains.dawg.bits import U0, U1
from edm.stages.domains.table.arrays import (
    Filters,
    HashKey,
    Labels,
    Layout,
    PackedTable,
    PlainArrays,
    PlainTable,
    Slots,
)
from edm.stages.domains.table.hashing import SUFFIX, hash_wire, same_name
from edm.stages.domains.table.kernels import (
    EMPTY,
    L_CAPACITY,
    L_EXACT_SHIFT,
    L_INDEX_BITS,
    L_SUFFIX_FILTER,
    L_SUFFIX_LABELS,
    L_SUFFIX_SHIFT,
    L_SUFFIX_START,
    L_SUFFIX_STOP,
    filter_bits,
    filter_word,
    hash_tag,
    home_slot,
)
from edm.stages.domains.table.name_hashing import list_pending

Search: TypeAlias = Callable[..., U64]
"""A helper that finds a name in a table by its hash: ``(buf, off, size, hash, suffix, table)`` to its index."""

NO_MATCH = 0
EXACT_MATCH = 1
SUFFIX_MATCH = 2

_NONE = np.uint64(NO_DOMAIN)
_EMPTY = np.uint64(EMPTY)
_U255 = np.uint64(255)
_DEPTH = np.uint64(SUFFIX_DEPTH)
_BEFORE_SUFFIX_HASH = np.uint64(SUFFIX_HASH_1 - 1)


@force_inlined
def _candidate(slot: U64, tag: U64, slots: Slots, layout: Layout) -> U64:
    """Return the first slot from ``slot`` on that holds the tag, or ``_NONE``."""
    while True:
        value = np.uint64(slots[slot])
        if value == _EMPTY:
            return _NONE
        if value >> layout[L_INDEX_BITS] == tag:
            return slot
        slot += U1
        if slot == layout[L_CAPACITY]:
            slot = U0


@force_inlined
def _index_at(slots: Slots, slot: U64, layout: Layout) -> U64:
    return np.uint64(slots[slot]) & ((U1 << layout[L_INDEX_BITS]) - U1)


@force_inlined
def _is_entry(buf: Bytes, off: U64, size: U64, suffix: Flag, table: PlainTable, pos: U64, index: U64) -> Flag:
    """Tell whether the entry ``index``, at ``pos`` in the arena, is this name: its kind, size and every byte."""
    arena, layout = table.arena, table.layout
    # The root, of size 0, stands just before the suffix entries and is an exact one.
    is_suffix = layout[L_SUFFIX_START] <= index < layout[L_SUFFIX_STOP]
    return (
        np.uint64(arena[pos]) == size and is_suffix == suffix and same_name(arena, pos + U1, buf, off, size)
    )


@force_inlined
def _search(buf: Bytes, off: U64, size: U64, h: U64, suffix: Flag, table: PlainTable) -> U64:
    """Return the index of the entry that is this name, or ``_NONE``."""
    slots, layout = table.slots, table.layout
    slot = home_slot(h, layout)
    while True:
        slot = _candidate(slot, hash_tag(h, layout), slots, layout)
        if slot == _NONE:
            return _NONE
        index = _index_at(slots, slot, layout)
        pos = np.uint64(table.offsets[index])
        if _is_entry(buf, off, size, suffix, table, pos, index):
            return index
        slot += U1
        if slot == layout[L_CAPACITY]:
            slot = U0


@force_inlined
def _pass_exact(u32: U32Columns, u64: U64Columns, left: U64, filters: Filters, layout: Layout) -> U64:
    """List in ``FOUND_ROW`` the rows that pass the filter for exact entries; return how many there are.

    All rows of ``LEFT_ROW`` begin without a match.
    """
    found = U0
    for j in range(left):
        i = np.uint64(u32[LEFT_ROW, j])
        u32[DOMAIN_INDEX, i] = NO_DOMAIN
        u32[DOMAIN_MATCH, i] = NO_MATCH
        h = u64[QNAME_HASH, i]
        bits = filter_bits(h)
        passes = (filters[filter_word(h, layout[L_EXACT_SHIFT])] & bits) == bits
        u32[FOUND_ROW, found] = i
        found += U1 if passes else U0
    return found


@force_inlined
def _pass_suffix(
    u32: U32Columns, u64: U64Columns, left: U64, column: U64, count: U64, filters: Filters, layout: Layout
) -> tuple[U64, U64]:
    """List in ``FOUND_ROW`` the rows with a parent domain of ``count`` labels that passes the suffix filter.

    Returns how many rows are still without a match, which alone stay in ``LEFT_ROW``, and how many were found.
    """
    kept = U0
    found = U0
    for j in range(left):
        i = np.uint64(u32[LEFT_ROW, j])
        is_left = u32[DOMAIN_MATCH, i] == NO_MATCH
        u32[LEFT_ROW, kept] = i
        kept += U1 if is_left else U0
        h = u64[column, i]
        bits = filter_bits(h)
        word = filters[layout[L_SUFFIX_FILTER] + filter_word(h, layout[L_SUFFIX_SHIFT])]
        passes = is_left & (u32[QNAME_LABELS, i] > count) & ((word & bits) == bits)
        u32[FOUND_ROW, found] = i
        found += U1 if passes else U0
    return kept, found


@force_inlined
def _list_candidates(
    u32: U32Columns, u64: U64Columns, found: U64, column: U64, slots: Slots, layout: Layout
) -> U64:
    """Keep in ``FOUND_ROW`` the rows whose hash is in a slot, with the slot's index; return their number."""
    kept = U0
    for j in range(found):
        i = np.uint64(u32[FOUND_ROW, j])
        h = u64[column, i]
        slot = _candidate(home_slot(h, layout), hash_tag(h, layout), slots, layout)
        if slot != _NONE:
            u32[FOUND_ROW, kept] = i
            u32[FOUND_INDEX, kept] = _index_at(slots, slot, layout)
            kept += U1
    return kept


@force_inlined
def _settle(
    buf: Bytes, u32: U32Columns, u64: U64Columns, found: U64, column: U64, suffix: Flag, table: PlainTable
) -> None:
    """Compare the names in ``FOUND_ROW`` with their entries and write the matches."""
    for j in range(found):
        u32[FOUND_POS, j] = table.offsets[np.uint64(u32[FOUND_INDEX, j])]
    for j in range(found):
        i = np.uint64(u32[FOUND_ROW, j])
        h = u64[column, i]
        start = (h & _U255) if suffix else U0
        off = np.uint64(u32[QNAME_OFF, i]) + start
        size = np.uint64(u32[QNAME_LEN, i]) - U1 - start
        index = np.uint64(u32[FOUND_INDEX, j])
        if not _is_entry(buf, off, size, suffix, table, np.uint64(u32[FOUND_POS, j]), index):
            index = _search(buf, off, size, h, suffix, table)
        if index != _NONE:
            u32[DOMAIN_INDEX, i] = index
            u32[DOMAIN_MATCH, i] = SUFFIX_MATCH if suffix else EXACT_MATCH


@kernel
def lookup_domains(
    buf: Bytes, u32: U32Columns, u64: U64Columns, fate: Fates, n: I64, arrays: PlainArrays
) -> None:
    """Write ``DOMAIN_INDEX`` and ``DOMAIN_MATCH`` of the pending rows.

    :func:`~edm.stages.domains.table.name_hashing.hash_names` has hashed them with the table's key.

    Parameters
    ----------
    buf, u32, u64, fate, n
        The block and the columns of a batch, see :mod:`edm.kernel.columns`.
    arrays : PlainArrays
        The table.
    """
    # Exact entries first, then suffix entries of 8 labels, of 7, and so on: each time a few passes over the rows
    # that are left. Within a pass the memory accesses of a row do not depend on another row's or on a branch that is
    # hard to predict, so that many cache misses are under way at once.
    table = PlainTable(*arrays)
    slots, filters, layout = table.slots, table.filters, table.layout
    left = list_pending(u32, fate, n)
    deepest = min(layout[L_SUFFIX_LABELS], _DEPTH)
    for step in range(deepest + U1):
        suffix = step > U0
        column = np.uint64(QNAME_HASH)
        if suffix:
            count = deepest + U1 - step
            if table.labels[count] == 0:
                continue
            column = _BEFORE_SUFFIX_HASH + count
            left, found = _pass_suffix(u32, u64, left, column, count, filters, layout)
        else:
            found = _pass_exact(u32, u64, left, filters, layout)
        found = _list_candidates(u32, u64, found, column, slots, layout)
        _settle(buf, u32, u64, found, column, suffix, table)


@force_inlined
def next_deep(buf: Bytes, off: U64, left: U64, labels: Labels, most: U64) -> tuple[U64, U64]:
    """Step from the domain of ``left`` labels at ``off`` to the next parent whose size a deep suffix entry has.

    Returns where it begins and its labels (all uint64); 0 labels if there is none. ``labels`` is uint8[256], for each
    number of labels up to ``most`` whether there are suffix entries with so many.
    """
    while left > _DEPTH + U1:
        off += U1 + np.uint64(buf[off])
        left -= U1
        if left <= most and labels[left & _U255] != 0:
            return off, left
    return off, U0


@force_inlined
def look_deep(
    buf: Bytes,
    u32: U32Columns,
    fate: Fates,
    n: I64,
    key: HashKey,
    table: PlainTable | PackedTable,
    most: U64,
    search: Search,
) -> None:
    """Do what :func:`lookup_deep` tells, in a table of either kind.

    ``most`` is the number of labels of the suffix entry with most of them, ``search`` the function that finds a name
    by its hash in such a table.
    """
    for i in range(n):
        if fate[i] != PENDING or u32[DOMAIN_MATCH, i] == EXACT_MATCH:
            continue
        left = np.uint64(u32[QNAME_LABELS, i])
        off = np.uint64(u32[QNAME_OFF, i])
        end = off + np.uint64(u32[QNAME_LEN, i]) - U1
        off, left = next_deep(buf, off, left, table.labels, most)
        while left != U0:
            h = hash_wire(buf, off, end - off, key, SUFFIX)
            index = search(buf, off, end - off, h, True, table)
            if index != _NONE:
                u32[DOMAIN_INDEX, i] = index
                u32[DOMAIN_MATCH, i] = SUFFIX_MATCH
                break
            off, left = next_deep(buf, off, left, table.labels, most)


@kernel
def lookup_deep(buf: Bytes, u32: U32Columns, fate: Fates, n: I64, key: HashKey, arrays: PlainArrays) -> None:
    """Look for parent domains of more than ``SUFFIX_DEPTH`` labels, whose hash is in no column.

    It comes behind :func:`lookup_domains`; what it finds takes the place of a shorter suffix entry. Few lists need
    it, so it is no part of that kernel, which must always be compiled. The parameters are those of
    :func:`lookup_domains`, ``arrays`` too, and ``key`` is the uint64[KEY_WORDS] that the table was built with.
    """
    table = PlainTable(*arrays)
    look_deep(buf, u32, fate, n, key, table, table.layout[L_SUFFIX_LABELS], _search)


@kernel
def mark_matches(u32: U32Columns, fate: Fates, n: I64, new_fate: I64) -> None:
    """Give the pending rows that matched an entry the fate ``new_fate``."""
    for i in range(n):
        if fate[i] == PENDING and u32[DOMAIN_MATCH, i] != NO_MATCH:
            fate[i] = new_fate


__all__ = [
    "EXACT_MATCH",
    "NO_MATCH",
    "SUFFIX_MATCH",
    "look_deep",
    "lookup_deep",
    "lookup_domains",
    "mark_matches",
    "next_deep",
]
