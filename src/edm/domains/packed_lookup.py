"""Kernels of the lookup in packed tables. The layout stands in :mod:`edm.domains.packed`."""

from __future__ import annotations

from typing import Any

import numpy as np

from edm.columns import (
    DOMAIN_INDEX,
    DOMAIN_MATCH,
    FOUND_INDEX,
    FOUND_POS,
    FOUND_ROW,
    LEFT_ROW,
    NO_DOMAIN,
    PENDING,
    QNAME_HASH,
    QNAME_LABELS,
    QNAME_LEN,
    QNAME_OFF,
    SUFFIX_DEPTH,
    SUFFIX_HASH_1,
)
from edm.domains.bits import U0, U1, U3, U7, U8
from edm.domains.hashing import SUFFIX, hash_wire
from edm.domains.lookup import EXACT_MATCH, NO_MATCH, SUFFIX_MATCH, list_pending, next_deep
from edm.domains.packed_kernels import (
    COUNT_SHIFT,
    L_SUFFIX_LABELS,
    block_offset,
    first_index,
    late_tags,
    names_in,
    record_of,
    tag_at,
    tag_of,
)
from edm.domains.symbols import same_coded
from edm.jit import force_inlined, kernel, le64, prefetch

_NONE = np.uint64(NO_DOMAIN)
_DEPTH = np.uint64(SUFFIX_DEPTH)
_BEFORE_SUFFIX_HASH = np.uint64(SUFFIX_HASH_1 - 1)
_CHUNK = np.uint64(64)
_U48 = np.uint64(48)
_U255 = np.uint64(255)
_EACH_BYTE = np.uint64(0x0101010101010101)
_LOW_SEVEN = np.uint64(0x7F7F7F7F7F7F7F7F)
_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)
_EACH_PAIR = np.uint64(0x0001000100010001)
_PLACES = np.uint64(0x0001020304050607)


@force_inlined
def _hits(tags: Any, tag: Any) -> Any:
    """Return a word whose bytes are 0x80 where those of ``tags`` are the tag, and otherwise 0."""
    other = tags ^ (tag * _EACH_BYTE)
    return ~(((other & _LOW_SEVEN) + _LOW_SEVEN) | other | _LOW_SEVEN)


@force_inlined
def _lowest(hits: Any) -> Any:
    """Return the number of the lowest byte that is not 0; 0 to 7."""
    return (((hits & (~hits + U1)) >> U7) * _PLACES) >> np.uint64(56)


@force_inlined
def _sum_before(word: Any, k: Any) -> Any:
    """Return the sum of the ``k`` (0 to 7) lowest bytes."""
    word &= (U1 << (k << U3)) - U1
    return (((word & _EVEN_BYTES) + ((word >> U8) & _EVEN_BYTES)) * _EACH_PAIR) >> _U48


@force_inlined
def _search(
    buf: Any,
    off: Any,
    size: Any,
    h: Any,
    suffix: Any,
    arena: Any,
    directory: Any,
    book: Any,
    layout: Any,
) -> Any:
    """Return the index of the entry that is this name, or ``_NONE``: look at all names of its block."""
    record = record_of(h, layout)
    tag = tag_of(h, suffix)
    offset = block_offset(directory, record)
    count = names_in(directory, record)
    pos = offset + count + late_tags(count)
    for k in range(count):
        codes = np.uint64(arena[offset + k])
        if tag_at(arena, directory, record, count, np.uint64(k)) == tag and same_coded(
            arena, pos, codes, book, buf, off, size
        ):
            return first_index(directory, record) + np.uint64(k)
        pos += codes
    return _NONE


@force_inlined
def _start(u32: Any, left: Any) -> None:
    """Let all rows of ``LEFT_ROW`` begin without a match, and list them in ``FOUND_ROW``."""
    for j in range(left):
        i = np.uint64(u32[LEFT_ROW, j])
        u32[DOMAIN_INDEX, i] = NO_DOMAIN
        u32[DOMAIN_MATCH, i] = NO_MATCH
        u32[FOUND_ROW, j] = i


@force_inlined
def _pass_suffix(u32: Any, left: Any, count: Any) -> tuple[Any, Any]:
    """List in ``FOUND_ROW`` the rows that are without a match and have a parent domain of ``count`` labels.

    Returns how many rows are without a match, which alone stay in ``LEFT_ROW``, and how many are listed.
    """
    kept = U0
    found = U0
    for j in range(left):
        i = np.uint64(u32[LEFT_ROW, j])
        is_left = u32[DOMAIN_MATCH, i] == NO_MATCH
        u32[LEFT_ROW, kept] = i
        kept += U1 if is_left else U0
        u32[FOUND_ROW, found] = i
        found += U1 if is_left & (u32[QNAME_LABELS, i] > count) else U0
    return kept, found


@force_inlined
def _pass_tags(
    u32: Any,
    u64: Any,
    begin: Any,
    end: Any,
    column: Any,
    suffix: Any,
    arena: Any,
    directory: Any,
    layout: Any,
) -> Any:
    """Keep in ``FOUND_ROW`` the rows whose tag is in their bucket's record, or may be in the block; return how many."""
    for j in range(begin, end):
        prefetch(directory, record_of(u64[column, np.uint64(u32[FOUND_ROW, j])], layout))
    kept = begin
    for j in range(begin, end):
        i = np.uint64(u32[FOUND_ROW, j])
        h = u64[column, i]
        record = record_of(h, layout)
        hits = _hits(directory[record + U1], tag_of(h, suffix))
        count = directory[record] >> COUNT_SHIFT
        u32[FOUND_ROW, kept] = i
        u32[FOUND_POS, kept] = block_offset(directory, record)
        # Where the name will end, about, in case that is in another cache line.
        u32[FOUND_INDEX, kept] = block_offset(directory, record) + count + ((_lowest(hits) + U1) << U3)
        kept += U1 if (hits != U0) | (count > U8) else U0
    for j in range(begin, kept):
        prefetch(arena, np.uint64(u32[FOUND_POS, j]))
        prefetch(arena, np.uint64(u32[FOUND_INDEX, j]))
    return kept


@force_inlined
def _settle(
    buf: Any,
    u32: Any,
    u64: Any,
    begin: Any,
    end: Any,
    column: Any,
    suffix: Any,
    arena: Any,
    directory: Any,
    book: Any,
    layout: Any,
) -> None:
    """Compare the names in ``FOUND_ROW`` with their entries and write the matches."""
    for j in range(begin, end):
        i = np.uint64(u32[FOUND_ROW, j])
        h = u64[column, i]
        start = (h & _U255) if suffix else U0
        off = np.uint64(u32[QNAME_OFF, i]) + start
        size = np.uint64(u32[QNAME_LEN, i]) - U1 - start
        record = record_of(h, layout)
        offset = block_offset(directory, record)
        count = names_in(directory, record)
        hits = _hits(directory[record + U1], tag_of(h, suffix))
        k = _lowest(hits)
        pos = offset + count + late_tags(count) + _sum_before(le64(arena, offset), k)
        index = first_index(directory, record) + k
        if hits == U0 or not same_coded(arena, pos, np.uint64(arena[offset + k]), book, buf, off, size):
            # Another name of the block has the same tag, or it has more names than there are tags in a record.
            index = _NONE
            if count > U8 or hits & (hits - U1) != U0:
                index = _search(buf, off, size, h, suffix, arena, directory, book, layout)
        if index != _NONE:
            u32[DOMAIN_INDEX, i] = index
            u32[DOMAIN_MATCH, i] = SUFFIX_MATCH if suffix else EXACT_MATCH


@kernel
def lookup_packed(
    buf: Any,
    u32: Any,
    u64: Any,
    fate: Any,
    n: Any,
    arena: Any,
    directory: Any,
    book: Any,
    labels: Any,
    layout: Any,
) -> None:
    """Write ``DOMAIN_INDEX`` and ``DOMAIN_MATCH`` of the pending rows.

    :func:`~edm.domains.lookup.hash_names` has hashed them with the table's key. As in
    :func:`~edm.domains.lookup.lookup_domains` this goes by passes, but here the cache lines are asked for in one pass
    and looked at in the next.

    Parameters
    ----------
    buf, u32, u64, fate, n
        The block and the columns of a batch, see :mod:`edm.columns`.
    arena : uint8[:]
        Blocks of names, eight bytes more than they take.
    directory : uint64[2 * (buckets + 1)]
        Where each bucket's block stands, and tags of its names.
    book : uint64[768]
        What the codes in the arena stand for.
    labels : uint8[256]
        For each number of labels, whether there are suffix entries with so many.
    layout : uint64[N_LAYOUT]
        Numbers of the table, ``L_*``.
    """
    left = list_pending(u32, fate, n)
    deepest = min(layout[L_SUFFIX_LABELS], _DEPTH)
    for step in range(deepest + U1):
        suffix = step > U0
        column = np.uint64(QNAME_HASH)
        if suffix:
            count = deepest + U1 - step
            if labels[count] == 0:
                continue
            column = _BEFORE_SUFFIX_HASH + count
            left, found = _pass_suffix(u32, left, count)
        else:
            found = left
            _start(u32, left)
        begin = U0
        while begin < found:
            end = min(begin + _CHUNK, found)
            kept = _pass_tags(u32, u64, begin, end, column, suffix, arena, directory, layout)
            _settle(buf, u32, u64, begin, kept, column, suffix, arena, directory, book, layout)
            begin = end


@kernel
def lookup_packed_deep(
    buf: Any,
    u32: Any,
    fate: Any,
    n: Any,
    key: Any,
    arena: Any,
    directory: Any,
    book: Any,
    labels: Any,
    layout: Any,
) -> None:
    """Look for parent domains of more than ``SUFFIX_DEPTH`` labels, whose hash is in no column.

    It comes behind :func:`lookup_packed`, as :func:`~edm.domains.lookup.lookup_deep` behind ``lookup_domains``; ``key``
    is the uint64[KEY_WORDS] of the hash, and ``arena``, ``directory``, ``book``, ``labels`` and ``layout``
    are the table's.
    """
    for i in range(n):
        if fate[i] != PENDING or u32[DOMAIN_MATCH, i] == EXACT_MATCH:
            continue
        left = np.uint64(u32[QNAME_LABELS, i])
        off = np.uint64(u32[QNAME_OFF, i])
        end = off + np.uint64(u32[QNAME_LEN, i]) - U1
        off, left = next_deep(buf, off, left, labels, layout[L_SUFFIX_LABELS])
        while left != U0:
            h = hash_wire(buf, off, end - off, key, SUFFIX)
            index = _search(buf, off, end - off, h, True, arena, directory, book, layout)
            if index != _NONE:
                u32[DOMAIN_INDEX, i] = index
                u32[DOMAIN_MATCH, i] = SUFFIX_MATCH
                break
            off, left = next_deep(buf, off, left, labels, layout[L_SUFFIX_LABELS])


__all__ = ["lookup_packed", "lookup_packed_deep"]
