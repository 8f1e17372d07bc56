"""Kernels that fill a plain table and give its words back.

The layout is described in :mod:`edm.stages.domains.table.plain`.
"""

from __future__ import annotations

import numpy as np

from edm.kernel.columns import I64, U64, Bytes, Flag
from edm.kernel.jit import force_inlined, kernel
from edm.stages.domains.dawg.bits import U0, U1, U8
from edm.stages.domains.table.arrays import Ends, FillMeta, HashKey, Indexes, Layout, OddWords, PlainTable
from edm.stages.domains.table.hashing import EXACT, SUFFIX, hash_wire
from edm.stages.names import ESCAPE_WIDTH, LOWER, put_name

EMPTY = np.uint32(0xFFFFFFFF)
"""A slot that holds no entry."""

NOT_A_NAME = 255
"""Size byte of a word that no name can match; its text is kept apart."""

MAX_ARENA_BYTES = (1 << 32) - 1
"""Largest arena of either kind of table: where a name stands in it is a number of 32 bits."""

ARENA_ROOM = 320
"""Bytes that must be free behind the arena's last entry before another is added."""

TEXT_ROOM = 4 * 255 + 8
"""Bytes that must be free in the output before the text of an entry is written."""

# ``layout``, uint64[N_LAYOUT]: the scalars of a table.
L_CAPACITY = 0  # slots
L_INDEX_BITS = 1  # of a slot that hold the index; the others hold bits of the hash
L_SUFFIX_START = 2  # the suffix entries are these indexes, because words are sorted and they begin with a dot
L_SUFFIX_STOP = 3
L_SUFFIX_LABELS = 4  # labels of the suffix entry with most of them; 0 if there is none
# Filters: word of ``filters`` where the one for suffix entries begins, and by how many bits a hash is shifted to give
# the word of a filter, less one.
L_SUFFIX_FILTER = 5
L_EXACT_SHIFT = 6
L_SUFFIX_SHIFT = 7
N_LAYOUT = 8

# ``meta``, int64[N_META]: how far filling has come.
F_WORDS = 0
F_ARENA = 1
F_ODD = 2
F_ODD_TEXT = 3
F_ENTRIES = 4
N_META = 5

_NOT_A_NAME = np.uint64(NOT_A_NAME)
_TAG_BITS = np.uint64(0xFFFFFF00)
_U14 = np.uint64(14)
_U32 = np.uint64(32)
_U63 = np.uint64(63)


@force_inlined
def home_slot(h: U64, layout: Layout) -> U64:
    """Return the slot where the search for a hash begins."""
    return ((h >> _U32) * layout[L_CAPACITY]) >> _U32


@force_inlined
def hash_tag(h: U64, layout: Layout) -> U64:
    """Return the bits of a hash that a slot holds above the index; the low byte, which is none, left out."""
    return (h & _TAG_BITS) >> layout[L_INDEX_BITS]


@force_inlined
def filter_word(h: U64, shift: U64) -> U64:
    """Return the word of a filter that holds the bits of a hash."""
    return (h >> U1) >> shift


@force_inlined
def filter_bits(h: U64) -> U64:
    """Return the bits of that word that are set if the hash is one of those entered."""
    return (U1 << ((h >> U8) & _U63)) | (U1 << ((h >> _U14) & _U63))


@force_inlined
def _digit(c: I64) -> Flag:
    return 0x30 <= c <= 0x39


@force_inlined
def text_to_wire(text: Bytes, start: I64, end: I64, out: Bytes, at: I64) -> I64:
    """Write the name with the presentation form ``text[start:end]`` in wire form, without its root byte.

    Returns its size, or -1 if the text is not exactly the presentation form of a lower-case name other than the
    root. ``out`` must have room for 256 bytes at ``at``.
    """
    label = at
    o = at + 1
    pos = start
    while pos < end:
        c = np.int64(text[pos])
        if c == 0x2E:
            size = o - label - 1
            if size == 0 or size > 63:
                return -1
            out[label] = size
            label = o
            o += 1
            pos += 1
            continue
        if c == 0x5C:
            if pos + 1 >= end:
                return -1
            c = np.int64(text[pos + 1])
            if _digit(c):
                if pos + 3 >= end or not _digit(text[pos + 2]) or not _digit(text[pos + 3]):
                    return -1
                c = (c - 0x30) * 100 + (np.int64(text[pos + 2]) - 0x30) * 10 + np.int64(text[pos + 3]) - 0x30
                if c > 255 or ESCAPE_WIDTH[c] != 4:
                    return -1
                pos += 4
            else:
                if ESCAPE_WIDTH[c] != 2:
                    return -1
                pos += 2
        else:
            if ESCAPE_WIDTH[c] != 1 or LOWER[c] != c:
                return -1
            pos += 1
        if o - at > 254:
            return -1
        out[o] = c
        o += 1
    size = label - at
    if size == 0 or o != label + 1 or size > 254:
        return -1
    return size


@kernel
def append_words(
    text: Bytes, ends: Ends, begin: I64, table: PlainTable, odd_words: OddWords, meta: FillMeta
) -> I64:
    """Append a batch of words to a table, in index order, from word ``begin`` of the batch on.

    Parameters
    ----------
    text : uint8[...], ends : int64[words]
        The batch: words in UTF-8, and where each ends.
    table : PlainTable
        Out: all but slots and filters, which may be empty yet.
    odd_words : OddWords
        Out: the words that match nothing.
    meta : int64[N_META]

    Returns
    -------
    int
        The number of the first word for which an array has no room; ``len(ends)`` if all are in.
    """
    arena, labels, layout = table.arena, table.labels, table.layout
    odd_index, odd_ends, odd_text = odd_words
    for i in range(begin, ends.size):
        start = ends[i - 1] if i > 0 else 0
        end = ends[i]
        index = np.uint64(meta[F_WORDS])
        pos = meta[F_ARENA]
        if pos + ARENA_ROOM > arena.size:
            return i
        suffix = end - start > 1 and text[start] == 0x2E
        if end - start == 1 and text[start] == 0x2E:
            size = np.int64(0)
        elif suffix:
            size = text_to_wire(text, start + 1, end, arena, pos + 1)
        else:
            size = text_to_wire(text, start, end, arena, pos + 1)
        if size < 0:
            odd, used = meta[F_ODD], meta[F_ODD_TEXT]
            if odd >= odd_index.size or used + end - start > odd_text.size:
                return i
            odd_index[odd] = index
            for k in range(start, end):
                odd_text[used + k - start] = text[k]
            odd_ends[odd] = used + end - start
            meta[F_ODD] = odd + 1
            meta[F_ODD_TEXT] = used + end - start
            arena[pos] = NOT_A_NAME
            meta[F_ARENA] = pos + 1
        else:
            arena[pos] = size
            meta[F_ARENA] = pos + 1 + size
            meta[F_ENTRIES] += 1
        if suffix:
            if layout[L_SUFFIX_STOP] == U0:
                layout[L_SUFFIX_START] = index
            layout[L_SUFFIX_STOP] = index + U1
            if size > 0:
                count = 0
                at = pos + 1
                while at < pos + 1 + size:
                    at += 1 + np.int64(arena[at])
                    count += 1
                labels[count] = 1
                layout[L_SUFFIX_LABELS] = max(layout[L_SUFFIX_LABELS], np.uint64(count))
        table.offsets[index] = pos
        meta[F_WORDS] += 1
    return ends.size


@kernel
def index_words(words: I64, key: HashKey, table: PlainTable) -> None:
    """Enter the hashes of all ``words`` words of the arena into slots and filters.

    ``key`` is uint64[KEY_WORDS]. The table has more slots than there are words.
    """
    arena, slots, filters, layout = table.arena, table.slots, table.filters, table.layout
    pos = U0
    for k in range(words):
        index = np.uint64(k)
        size = np.uint64(arena[pos])
        pos += U1
        if size == _NOT_A_NAME:
            continue
        suffix = layout[L_SUFFIX_START] <= index < layout[L_SUFFIX_STOP]
        h = hash_wire(arena, pos, size, key, SUFFIX if suffix else EXACT)
        pos += size
        slot = home_slot(h, layout)
        while slots[slot] != EMPTY:
            slot += U1
            if slot == layout[L_CAPACITY]:
                slot = U0
        slots[slot] = (hash_tag(h, layout) << layout[L_INDEX_BITS]) | index
        if suffix:
            word = layout[L_SUFFIX_FILTER] + filter_word(h, layout[L_SUFFIX_SHIFT])
        else:
            word = filter_word(h, layout[L_EXACT_SHIFT])
        filters[word] |= filter_bits(h)


@kernel
def put_texts(
    indexes: Indexes, begin: I64, table: PlainTable, odd_words: OddWords, out: Bytes, ends: Ends
) -> I64:
    """Write the words with these indexes one behind the other, from ``indexes[begin]`` on.

    Parameters
    ----------
    indexes : int64[n]
        Each less than the number of words.
    table : PlainTable
    odd_words : OddWords
        The words that match nothing.
    out : uint8[...]
        Out: the words in UTF-8.
    ends : int64[n + 1]
        Out: where each word begins, and at last the end; ``ends[begin]`` is given.

    Returns
    -------
    int
        The first element for which ``out`` has no room; ``len(indexes)`` if all are written.
    """
    arena, layout = table.arena, table.layout
    odd_index, odd_ends, odd_text = odd_words
    at = ends[begin]
    for i in range(begin, indexes.size):
        index = np.uint64(indexes[i])
        pos = np.int64(table.offsets[index])
        size = np.int64(arena[pos])
        if size == NOT_A_NAME:
            odd, high = 0, odd_index.size
            while odd < high:
                middle = (odd + high) >> 1
                if np.uint64(odd_index[middle]) < index:
                    odd = middle + 1
                else:
                    high = middle
            start = odd_ends[odd - 1] if odd > 0 else 0
            if at + odd_ends[odd] - start > out.size:
                return i
            for k in range(start, odd_ends[odd]):
                out[at] = odd_text[k]
                at += 1
        else:
            if at + TEXT_ROOM > out.size:
                return i
            if layout[L_SUFFIX_START] <= index < layout[L_SUFFIX_STOP]:
                out[at] = 0x2E
                at += 1
            at = put_name(arena, pos + 1, size + 1, out, at)
        ends[i + 1] = at
    return indexes.size


__all__ = [
    "ARENA_ROOM",
    "EMPTY",
    "L_CAPACITY",
    "L_EXACT_SHIFT",
    "L_INDEX_BITS",
    "L_SUFFIX_FILTER",
    "L_SUFFIX_LABELS",
    "L_SUFFIX_SHIFT",
    "L_SUFFIX_START",
    "L_SUFFIX_STOP",
    "MAX_ARENA_BYTES",
    "N_LAYOUT",
    "N_META",
    "TEXT_ROOM",
    "append_words",
    "filter_bits",
    "filter_word",
    "hash_tag",
    "home_slot",
    "index_words",
    "put_texts",
    "text_to_wire",
]
