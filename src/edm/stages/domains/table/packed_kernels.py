"""Kernels that fill a packed table and give its words back.

The layout is described in :mod:`edm.stages.domains.table.packed`.
"""

from __future__ import annotations

import numpy as np

from edm.kernel.columns import I64, U64, Bytes, Flag, U64Array
from edm.kernel.jit import force_inlined, kernel, prefetch
from edm.stages.domains.dawg.bits import U0, U1, U2, U3, U7, U8
from edm.stages.domains.table.arrays import (
    Arena,
    Counts,
    Directory,
    EncodedWords,
    Ends,
    Hashes,
    HashKey,
    Indexes,
    Labels,
    Layout,
    PackedTable,
)
from edm.stages.domains.table.hashing import EXACT, SUFFIX, hash_wire
from edm.stages.domains.table.kernels import TEXT_ROOM, text_to_wire
from edm.stages.domains.table.symbols import Symbols, decode_name, encode_name
from edm.stages.names import put_name

WIRE_ROOM = 272
"""Bytes of scratch that hold one name and what may be read behind it."""

# ``layout``, uint64[N_LAYOUT]: the scalars of a table.
L_BUCKETS = 0
L_ENTRIES = 1
L_SUFFIX_LABELS = 2  # labels of the suffix entry with most of them; 0 if there is none
L_WIDE = 3  # names of a block from which on it is expected to take more than a line
N_LAYOUT = 4

LINE = 64
"""Bytes of a cache line. A block that fits into one does not cross to another."""

MAX_SPARES = 256
"""Lines with the same room left that are remembered at most while blocks get their places."""

# A record of ``directory``: in its first word the block's offset, the index of its first name, and how many names it
# has, if these are less than MANY; in its second word the tags of the first eight names.
COUNT_SHIFT = np.uint64(60)
MANY = np.uint64(15)
_LOW32 = np.uint64(0xFFFFFFFF)
_INDEX_BITS = np.uint64(0x0FFFFFFF)
_U32 = np.uint64(32)
_LINE = np.uint64(LINE)
_MAX_SPARES = np.uint64(MAX_SPARES)
_SEVEN_BITS = np.uint64(0x7F)
_LOW_BYTE = np.uint64(0xFF)
_HASH_BITS = np.uint64(0xFFFFFFFFFFFFFF00)

_FAR = 32
_NEAR = 16


@force_inlined
def record_of(h: U64, layout: Layout) -> U64:
    """Return the element of ``directory`` where the record of a hash's bucket begins."""
    return (((h >> _U32) * layout[L_BUCKETS]) >> _U32) << U1


@force_inlined
def tag_of(h: U64, suffix: Flag) -> U64:
    """Return the tag (1 to 255) of an entry: bits of its hash, and in the lowest whether it is a suffix entry."""
    tag = ((h >> U7) & ~U1 & _LOW_BYTE) | (U1 if suffix else U0)
    return tag if tag != U0 else U2


@force_inlined
def block_offset(directory: Directory, record: U64) -> U64:
    """Return where the block of a record begins in the arena."""
    return directory[record] & _LOW32


@force_inlined
def first_index(directory: Directory, record: U64) -> U64:
    """Return the index of the first name of a record's block."""
    return (directory[record] >> _U32) & _INDEX_BITS


@force_inlined
def names_in(directory: Directory, record: U64) -> U64:
    """Return how many names the block of a record has."""
    count = directory[record] >> COUNT_SHIFT
    if count == MANY:
        count = first_index(directory, record + U2) - first_index(directory, record)
    return count


@force_inlined
def late_tags(count: U64) -> U64:
    """Return how many tags of a block of ``count`` names stand in the block itself."""
    return count - U8 if count > U8 else U0


@force_inlined
def tag_at(arena: Arena, directory: Directory, record: U64, count: U64, k: U64) -> U64:
    """Return the tag of the ``k``-th of the ``count`` names of a block."""
    if k < U8:
        return (directory[record + U1] >> (k << U3)) & _LOW_BYTE
    return np.uint64(arena[block_offset(directory, record) + count + k - U8])


@kernel
def encode_words(
    text: Bytes,
    ends: Ends,
    key: HashKey,
    symbols: Symbols,
    wire: Bytes,
    encoded: EncodedWords,
    begin: U64,
    labels: Labels,
    layout: Layout,
) -> U64:
    """Write hash and codes of each entry of a batch of words; a word that is no entry has no codes.

    Parameters
    ----------
    text : uint8[...], ends : int64[words]
        The batch: words in UTF-8, and where each ends.
    key : uint64[KEY_WORDS]
    symbols : Symbols
    wire : uint8[WIRE_ROOM]
        Scratch.
    encoded : EncodedWords
        Out: hashes and counts of the words, from the first element on, and their codes, from ``begin`` (uint64) on;
        there is room for ``ends[-1] + words`` of these.
    labels : uint8[256]
        Out: 1 for each number of labels that a suffix entry has.
    layout : uint64[N_LAYOUT]
        ``L_SUFFIX_LABELS`` is kept up.

    Returns
    -------
    int
        Where the codes end.
    """
    hashes, counts, codes = encoded
    used = begin
    for i in range(ends.size):
        start = ends[i - 1] if i > 0 else 0
        end = ends[i]
        root = end - start == 1 and text[start] == 0x2E
        suffix = end - start > 1 and text[start] == 0x2E
        size = np.int64(0) if root else text_to_wire(text, start + 1 if suffix else start, end, wire, 0)
        counts[i] = 0
        if size >= 0:
            h = hash_wire(wire, U0, np.uint64(size), key, SUFFIX if suffix else EXACT)
            hashes[i] = (h & _HASH_BITS) | (U1 if suffix else U0)
            stop = encode_name(wire, U0, np.uint64(size), symbols, codes, used)
            counts[i] = stop - used
            used = stop
            if suffix:
                count = 0
                at = U0
                while at < np.uint64(size):
                    at += U1 + np.uint64(wire[at])
                    count += 1
                labels[count] = 1
                layout[L_SUFFIX_LABELS] = max(layout[L_SUFFIX_LABELS], np.uint64(count))
    return used


@kernel
def count_names(hashes: Hashes, counts: Counts, directory: Directory, layout: Layout) -> None:
    """Add the entries up for each bucket: bytes of codes in the low half of a record, names in the high half.

    Parameters
    ----------
    hashes : uint64[words], counts : uint8[words]
        From :func:`encode_words`.
    directory : uint64[2 * (buckets + 1)]
        Out; zeros at first.
    layout : uint64[N_LAYOUT]
    """
    last = counts.size - 1
    for i in range(counts.size):
        prefetch(directory, record_of(hashes[min(i + _FAR, last)], layout))
        if counts[i] != 0:
            directory[record_of(hashes[i], layout)] += (U1 << _U32) | np.uint64(counts[i])


@force_inlined
def _take_room(size: U64, end: U64, spares: U64Array, depths: U64Array) -> tuple[U64, U64]:
    """Return where a block of this size is put, and where the arena then ends."""
    room = size
    while room <= _LINE and depths[room] == U0:
        room += U1
    if room <= _LINE:
        depths[room] -= U1
        offset = spares[room, depths[room]]
    else:
        offset = end
        room = (size + _LINE - U1) & ~(_LINE - U1)
        end += room
    room -= size
    if room != U0 and depths[room] < _MAX_SPARES:
        spares[room, depths[room]] = offset + size
        depths[room] += U1
    return offset, end


@kernel
def lay_out(directory: Directory, limit: U64, spares: U64Array, depths: U64Array) -> U64:
    """Make of the sums of :func:`count_names` where each block begins and what index its first name has.

    A block goes where the least room is left of those lines into which it fits. The first line stays empty, because
    eight bytes before a name are read.

    Parameters
    ----------
    directory : uint64[2 * (buckets + 1)]
        Changed in place.
    limit : uint64
        Most bytes that the arena may have.
    spares : uint64[LINE + 1, MAX_SPARES], depths : uint64[LINE + 1], zeroed
        Scratch: for each number of bytes where so many are left at the end of a line, and how many such places there
        are.

    Returns
    -------
    int
        Bytes that the arena needs; 0 if more than ``limit``.
    """
    end = _LINE
    index = U0
    for bucket in range(directory.size >> 1):
        record = np.uint64(bucket) << U1
        count = directory[record] >> _U32
        size = count + late_tags(count) + (directory[record] & _LOW32)
        offset = U0
        if size != U0:
            offset, end = _take_room(size, end, spares, depths)
        directory[record] = offset | (index << _U32) | (min(count, MANY) << COUNT_SHIFT)
        index += count
        if end > limit:
            return U0
    return end


@kernel
def place_names(encoded: EncodedWords, directory: Directory, arena: Arena, layout: Layout) -> None:
    """Put the entries into their blocks, each behind those that are there.

    Parameters
    ----------
    encoded : EncodedWords
        From :func:`encode_words`.
    directory : uint64[2 * (buckets + 1)]
        From :func:`lay_out`; the tags are entered.
    arena : uint8[...]
        Out; zeros at first. A name has at least one code, so a count of 0 is that of a place still free.
    layout : uint64[N_LAYOUT]
    """
    hashes, counts, codes = encoded
    last = counts.size - 1
    start = U0
    for i in range(counts.size):
        prefetch(directory, record_of(hashes[min(i + _FAR, last)], layout))
        prefetch(arena, block_offset(directory, record_of(hashes[min(i + _NEAR, last)], layout)))
        if counts[i] == 0:
            continue
        h = hashes[i]
        record = record_of(h, layout)
        offset = block_offset(directory, record)
        names = names_in(directory, record)
        tag = tag_of(h, h & U1 != U0)
        k = U0
        pos = offset + names + late_tags(names)
        while arena[offset + k] != 0:
            pos += np.uint64(arena[offset + k])
            k += U1
        arena[offset + k] = counts[i]
        if k < U8:
            directory[record + U1] |= tag << (k << U3)
        else:
            arena[offset + names + k - U8] = tag
        end = start + np.uint64(counts[i])
        for p in range(start, end):
            arena[pos] = codes[p]
            pos += U1
        start = end


@force_inlined
def _record_with(directory: Directory, index: U64, layout: Layout) -> U64:
    """Return the record of the block that holds the name with this index."""
    low = U0
    high = layout[L_BUCKETS]
    while high - low > U1:
        middle = (low + high) >> U1
        if first_index(directory, middle << U1) <= index:
            low = middle
        else:
            high = middle
    return low << U1


@kernel
def put_packed_texts(
    indexes: Indexes,
    begin: I64,
    table: PackedTable,
    odd_ends: Ends,
    odd_text: Bytes,
    wire: Bytes,
    out: Bytes,
    ends: Ends,
) -> I64:
    """Write the words with these indexes one behind the other, from ``indexes[begin]`` on.

    Parameters
    ----------
    indexes : int64[n]
        Each less than the number of words.
    begin : int
    table : PackedTable
    odd_ends : int64[words that match nothing], odd_text : uint8[...]
        Where each of them ends in their text, and that.
    wire : uint8[WIRE_ROOM]
        Scratch.
    out : uint8[...]
        Out: the words in UTF-8.
    ends : int64[n + 1]
        Out: where each word begins, and at last the end; ``ends[begin]`` is given.

    Returns
    -------
    int
        The first element for which ``out`` has no room; ``len(indexes)`` if all are written.
    """
    arena, directory, layout = table.arena, table.directory, table.layout
    at = ends[begin]
    for i in range(begin, indexes.size):
        index = np.uint64(indexes[i])
        if index >= layout[L_ENTRIES]:
            odd = index - layout[L_ENTRIES]
            start = odd_ends[odd - U1] if odd > U0 else 0
            if at + odd_ends[odd] - start > out.size:
                return i
            for k in range(start, odd_ends[odd]):
                out[at] = odd_text[k]
                at += 1
        else:
            if at + TEXT_ROOM > out.size:
                return i
            record = _record_with(directory, index, layout)
            offset = block_offset(directory, record)
            count = names_in(directory, record)
            place = index - first_index(directory, record)
            pos = offset + count + late_tags(count)
            for k in range(place):
                pos += np.uint64(arena[offset + k])
            size = decode_name(arena, pos, np.uint64(arena[offset + place]), table.book, wire)
            if tag_at(arena, directory, record, count, place) & U1 != U0:
                out[at] = 0x2E
                at += 1
            at = put_name(wire, 0, np.int64(size) + 1, out, at)
        ends[i + 1] = at
    return indexes.size


__all__ = [
    "COUNT_SHIFT",
    "L_BUCKETS",
    "L_ENTRIES",
    "L_SUFFIX_LABELS",
    "MANY",
    "N_LAYOUT",
    "WIRE_ROOM",
    "block_offset",
    "count_names",
    "encode_words",
    "first_index",
    "late_tags",
    "lay_out",
    "names_in",
    "place_names",
    "put_packed_texts",
    "record_of",
    "tag_at",
    "tag_of",
]
