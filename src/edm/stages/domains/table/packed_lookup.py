"""Kernels of the lookup in packed tables. The layout is described in :mod:`edm.stages.domains.table.packed`."""

from __future__ import annotations

import numpy as np

from edm.kernel.columns import (
    DOMAIN_INDEX,
    DOMAIN_MATCH,
    FOUND_INDEX,
    FOUND_POS,
    FOUND_ROW,
    I64,
    LEFT_ROW,
    NAME_SUM,
    NAME_WORD,
    NO_DOMAIN,
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
from edm.kernel.jit import force_inlined, kernel, le64, prefetch
from edm.stages.domains.dawg.bits import U0, U1, U3, U7, U8
from edm.stages.domains.table.arrays import Directory, HashKey, Layout, PackedArrays, PackedTable
from edm.stages.domains.table.lookup import EXACT_MATCH, NO_MATCH, SUFFIX_MATCH, look_deep
from edm.stages.domains.table.name_hashing import list_pending
from edm.stages.domains.table.packed_kernels import (
    COUNT_SHIFT,
    L_SUFFIX_LABELS,
    L_WIDE,
    LINE,
    MANY,
    block_offset,
    first_index,
    late_tags,
    names_in,
    record_of,
    tag_at,
    tag_of,
)
from edm.stages.domains.table.symbols import same_coded, surely_same_coded

_NONE = np.uint64(NO_DOMAIN)
_DEPTH = np.uint64(SUFFIX_DEPTH)
_BEFORE_SUFFIX_HASH = np.uint64(SUFFIX_HASH_1 - 1)
_CHUNK = np.uint64(32)
_LINE = np.uint64(LINE)
_U32 = np.uint64(32)
_LOW32 = np.uint64(0xFFFFFFFF)
_INDEX_BITS = np.uint64(0x0FFFFFFF)
_U48 = np.uint64(48)
_U255 = np.uint64(255)
_EACH_BYTE = np.uint64(0x0101010101010101)
_LOW_SEVEN = np.uint64(0x7F7F7F7F7F7F7F7F)
_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)
_EACH_PAIR = np.uint64(0x0001000100010001)
_PLACES = np.uint64(0x0001020304050607)


@force_inlined
def _hits(tags: U64, tag: U64) -> U64:
    """Return a word whose bytes are 0x80 where those of ``tags`` are the tag, and otherwise 0."""
    other = tags ^ (tag * _EACH_BYTE)
    return ~(((other & _LOW_SEVEN) + _LOW_SEVEN) | other | _LOW_SEVEN)


@force_inlined
def _lowest(hits: U64) -> U64:
    """Return the number of the lowest byte that is not 0; 0 to 7."""
    return (((hits & (~hits + U1)) >> U7) * _PLACES) >> np.uint64(56)


@force_inlined
def _sum_before(word: U64, k: U64) -> U64:
    """Return the sum of the ``k`` (0 to 7) lowest bytes."""
    word &= (U1 << (k << U3)) - U1
    return (((word & _EVEN_BYTES) + ((word >> U8) & _EVEN_BYTES)) * _EACH_PAIR) >> _U48


@force_inlined
def _search(buf: Bytes, off: U64, size: U64, h: U64, suffix: Flag, table: PackedTable) -> U64:
    """Return the index of the entry that is this name, or ``_NONE``: look at all names of its block."""
    arena, directory = table.arena, table.directory
    record = record_of(h, table.layout)
    tag = tag_of(h, suffix)
    offset = block_offset(directory, record)
    count = names_in(directory, record)
    pos = offset + count + late_tags(count)
    for k in range(count):
        codes = np.uint64(arena[offset + k])
        if tag_at(arena, directory, record, count, np.uint64(k)) == tag and same_coded(
            arena, pos, codes, table.book, buf, off, size
        ):
            return first_index(directory, record) + np.uint64(k)
        pos += codes
    return _NONE


# Two lists of rows stand in columns, from the first element on. A row is in one of them at most, so they are never
# longer than the part of the pending rows that was begun with:
#
# - those that have yet to be looked up as the parent domain of some number of labels: LEFT_ROW and FOUND_INDEX, the
#   labels. Behind them, LEFT_ROW holds the pending rows.
# - those that may be a name of their block: FOUND_ROW; FOUND_POS, where in the name the domain begins, and its labels
#   shifted left by eight bits, which is all 0 for the whole name; NAME_WORD, the first word of the record; NAME_SUM,
#   which of its tags are the domain's.
#
# What a pass will need is prefetched in a loop of its own before. A prefetch whose page is in no TLB holds up the
# processor after the few hundred instructions that it can have under way; with a short loop that is many lines.


@force_inlined
def _ask_exact(
    u32: U32Columns, u64: U64Columns, begin: I64, end: U64, directory: Directory, layout: Layout
) -> None:
    """Prefetch the records of the names in ``LEFT_ROW``."""
    for j in range(begin, end):
        prefetch(directory, record_of(u64[QNAME_HASH, np.uint64(u32[LEFT_ROW, j])], layout))


@force_inlined
def _ask_blocks(u64: U64Columns, begin: U64, end: U64, table: PackedTable) -> None:
    """Prefetch the blocks of the rows in ``FOUND_ROW``."""
    for j in range(begin, end):
        first = u64[NAME_WORD, j]
        offset = first & _LOW32
        prefetch(table.arena, offset)
        prefetch(table.arena, offset + (_LINE if first >> COUNT_SHIFT >= table.layout[L_WIDE] else U0))


@force_inlined
def _ask_parents(u32: U32Columns, u64: U64Columns, begin: U64, end: U64, table: PackedTable) -> U64:
    """Go on to the next parent domain of the rows in ``LEFT_ROW`` and prefetch its record; drop those without one."""
    kept = begin
    for j in range(begin, end):
        i = np.uint64(u32[LEFT_ROW, j])
        count = np.uint64(table.parents[np.uint64(u32[FOUND_INDEX, j])])
        u32[LEFT_ROW, kept] = i
        u32[FOUND_INDEX, kept] = count
        wanted = U1 if count != U0 else U0
        kept += wanted
        prefetch(table.directory, record_of(u64[_BEFORE_SUFFIX_HASH + count, i], table.layout) * wanted)
    return kept


@force_inlined
def _pass_suffixes(u32: U32Columns, u64: U64Columns, left: U64, table: PackedTable) -> tuple[U64, U64]:
    """Move the rows in ``LEFT_ROW`` whose tag is in their record, or may be in the block, to ``FOUND_ROW``.

    Returns how many rows each has then.
    """
    directory, layout = table.directory, table.layout
    kept = U0
    found = U0
    for j in range(left):
        i = np.uint64(u32[LEFT_ROW, j])
        count = np.uint64(u32[FOUND_INDEX, j])
        h = u64[_BEFORE_SUFFIX_HASH + count, i]
        record = record_of(h, layout)
        first = directory[record]
        hits = _hits(directory[record + U1], tag_of(h, True))
        u32[FOUND_ROW, found] = i
        u32[FOUND_POS, found] = (h & _U255) | (count << U8)
        u64[NAME_WORD, found] = first
        u64[NAME_SUM, found] = hits
        u32[LEFT_ROW, kept] = i
        u32[FOUND_INDEX, kept] = count
        maybe = U1 if (hits != U0) | (first >> COUNT_SHIFT > U8) else U0
        found += maybe
        kept += U1 - maybe
    _ask_blocks(u64, U0, found, table)
    return _ask_parents(u32, u64, U0, kept, table), found


@force_inlined
def _pass_exact(
    u32: U32Columns, u64: U64Columns, begin: U64, end: U64, left: U64, found: U64, table: PackedTable
) -> tuple[U64, U64]:
    """Distribute the pending rows from ``begin`` to ``end`` between ``FOUND_ROW`` and ``LEFT_ROW``.

    They are added to what is there; returns how many rows each has then.
    """
    directory, layout = table.directory, table.layout
    first_found = found
    first_left = left
    for j in range(begin, end):
        i = np.uint64(u32[LEFT_ROW, j])
        u32[DOMAIN_INDEX, i] = NO_DOMAIN
        u32[DOMAIN_MATCH, i] = NO_MATCH
        h = u64[QNAME_HASH, i]
        record = record_of(h, layout)
        first = directory[record]
        hits = _hits(directory[record + U1], tag_of(h, False))
        u32[FOUND_ROW, found] = i
        u32[FOUND_POS, found] = 0
        u64[NAME_WORD, found] = first
        u64[NAME_SUM, found] = hits
        u32[LEFT_ROW, left] = i
        u32[FOUND_INDEX, left] = u32[QNAME_LABELS, i]
        maybe = U1 if (hits != U0) | (first >> COUNT_SHIFT > U8) else U0
        found += maybe
        left += U1 - maybe
    _ask_blocks(u64, first_found, found, table)
    return _ask_parents(u32, u64, first_left, left, table), found


@force_inlined
def _settle(
    buf: Bytes, u32: U32Columns, u64: U64Columns, found: U64, begin: U64, end: U64, table: PackedTable
) -> U64:
    """Compare the domains in ``FOUND_ROW`` with the first name of the same tag and write the matches.

    Meanwhile records of the pending rows from ``begin`` on are prefetched, as many as there are matches to look at and
    none behind ``end``. Rows that did not match stay in ``FOUND_ROW``; returns their number.
    """
    arena, directory, book, layout = table.arena, table.directory, table.book, table.layout
    unsure = U0
    for j in range(found):
        ahead = min(begin + j, end)
        prefetch(directory, record_of(u64[QNAME_HASH, np.uint64(u32[LEFT_ROW, ahead])], layout))
        i = np.uint64(u32[FOUND_ROW, j])
        place = np.uint64(u32[FOUND_POS, j])
        first = u64[NAME_WORD, j]
        hits = u64[NAME_SUM, j]
        start = place & _U255
        off = np.uint64(u32[QNAME_OFF, i]) + start
        size = np.uint64(u32[QNAME_LEN, i]) - U1 - start
        offset = first & _LOW32
        count = first >> COUNT_SHIFT
        k = _lowest(hits)
        pos = offset + count + late_tags(count) + _sum_before(le64(arena, offset), k)
        same = surely_same_coded(arena, pos, np.uint64(arena[offset + k]), book, buf, off, size)
        same = same & (hits != U0) & (count != MANY)
        u32[DOMAIN_INDEX, i] = ((first >> _U32) & _INDEX_BITS) + k if same else _NONE
        u32[DOMAIN_MATCH, i] = (SUFFIX_MATCH if place != U0 else EXACT_MATCH) if same else NO_MATCH
        u32[FOUND_ROW, unsure] = i
        u32[FOUND_POS, unsure] = place
        unsure += U0 if same else U1
    return unsure


@force_inlined
def _settle_rest(
    buf: Bytes, u32: U32Columns, u64: U64Columns, left: U64, unsure: U64, table: PackedTable
) -> U64:
    """Look at all names of the blocks of the rows in ``FOUND_ROW``, and add those without a match to ``LEFT_ROW``.

    Returns how many rows that has then.
    """
    first_left = left
    for j in range(unsure):
        i = np.uint64(u32[FOUND_ROW, j])
        count = np.uint64(u32[FOUND_POS, j]) >> U8
        suffix = count != U0
        h = u64[_BEFORE_SUFFIX_HASH + count if suffix else np.uint64(QNAME_HASH), i]
        start = (h & _U255) if suffix else U0
        off = np.uint64(u32[QNAME_OFF, i]) + start
        size = np.uint64(u32[QNAME_LEN, i]) - U1 - start
        index = _search(buf, off, size, h, suffix, table)
        if index != _NONE:
            u32[DOMAIN_INDEX, i] = index
            u32[DOMAIN_MATCH, i] = SUFFIX_MATCH if suffix else EXACT_MATCH
        else:
            u32[LEFT_ROW, left] = i
            u32[FOUND_INDEX, left] = count if suffix else np.uint64(u32[QNAME_LABELS, i])
            left += U1
    return _ask_parents(u32, u64, first_left, left, table)


@kernel
def lookup_packed(
    buf: Bytes, u32: U32Columns, u64: U64Columns, fate: Fates, n: I64, arrays: PackedArrays
) -> None:
    """Write ``DOMAIN_INDEX`` and ``DOMAIN_MATCH`` of the pending rows.

    :func:`~edm.stages.domains.table.name_hashing.hash_names` has hashed them with the table's key. As in
    :func:`~edm.stages.domains.table.lookup.lookup_domains` this goes by passes, but over few rows, and what one pass
    needs is prefetched in another: parent domains are looked up together with the next rows.

    Parameters
    ----------
    buf, u32, u64, fate, n
        The block and the columns of a batch, see :mod:`edm.kernel.columns`.
    arrays : PackedArrays
        The table.
    """
    table = PackedTable(*arrays)
    directory, layout = table.directory, table.layout
    rows = list_pending(u32, fate, n)
    begin = U0
    left = U0
    end = min(_CHUNK, rows)
    _ask_exact(u32, u64, begin, end, directory, layout)
    while begin < rows or left > U0:
        left, found = _pass_suffixes(u32, u64, left, table)
        left, found = _pass_exact(u32, u64, begin, end, left, found, table)
        begin = end
        end = min(begin + _CHUNK, rows)
        unsure = _settle(buf, u32, u64, found, begin, rows - U1, table)
        left = _settle_rest(buf, u32, u64, left, unsure, table)
        _ask_exact(u32, u64, begin + found, end, directory, layout)


@kernel
def lookup_packed_deep(
    buf: Bytes, u32: U32Columns, fate: Fates, n: I64, key: HashKey, arrays: PackedArrays
) -> None:
    """Look for parent domains of more than ``SUFFIX_DEPTH`` labels, whose hash is in no column.

    It comes behind :func:`lookup_packed`, as :func:`~edm.stages.domains.table.lookup.lookup_deep` behind
    ``lookup_domains``; ``key`` is the uint64[KEY_WORDS] of the hash, ``arrays`` are those of the table.
    """
    table = PackedTable(*arrays)
    look_deep(buf, u32, fate, n, key, table, table.layout[L_SUFFIX_LABELS], _search)


__all__ = ["lookup_packed", "lookup_packed_deep"]
