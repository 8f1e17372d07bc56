"""The words of a large list, packed: a name takes little more memory than its share of the DAWG file.

Layout (10 million names take some 13 bytes each):

- Names are distributed to buckets by the high bits of their hash, four to a bucket on average. The names of a bucket
  are a *block* of the ``arena``, and have consecutive indexes, in the order of the buckets. So nothing has to be
  stored to get from a hash to a name, or from a name to its index, but where each block begins.
- ``directory``: a record of 16 bytes for each bucket and one for the end. Its first word holds the offset of the block
  (32 bits), the index of the block's first name (28 bits) and the number of names (4 bits; 15 stands for 15 and more,
  and the number follows from the next record). Its second word holds the tags of the first eight names: seven bits of
  the hash, and whether it is a suffix entry. So a name that is not in the table mostly costs one cache line. A hit
  counts only after all bytes of the name were compared.
- A block: for each name one byte that says how many codes it has (1 to 255), the tags of the ninth name and those
  behind it, and the codes of the names, see :mod:`edm.stages.domains.table.symbols`. Blocks are in no order: each is
  where it fits into the rest of a cache line, so that one of up to 64 bytes costs no second line; that takes half a
  byte a name.
- Words that match nothing have the indexes behind those of the entries, and their text is kept as it is.

The offset of a block is found before its content is needed, and both long before a name is compared: the lookup fetches
them for some dozens of rows before it waits for any.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edm.errors import ListFileError
from edm.kernel.columns import SUFFIX_DEPTH, Columns, I64Array, U8Array, U32Array, U64Array
from edm.stages.domains.dawg.dawg import Dawg
from edm.stages.domains.table import packed_kernels as pk
from edm.stages.domains.table.arrays import EncodedWords, PackedArrays, PackedTable
from edm.stages.domains.table.kernels import MAX_ARENA_BYTES
from edm.stages.domains.table.packed_lookup import lookup_packed, lookup_packed_deep
from edm.stages.domains.table.symbols import Symbols, choose_symbols, make_symbols

NAMES_PER_BUCKET = 4
"""Names of a bucket on average. With more, more buckets have over eight; with fewer, the directory is larger."""

_SAMPLE_WORDS = 8192
_PADDING = 8


class _Codes:
    """The words of a list as hashes and codes, in the list's order."""

    def __init__(self, words: int) -> None:
        self.hashes: U64Array = np.zeros(words, np.uint64)
        self.counts: U8Array = np.zeros(words, np.uint8)
        self.codes: U8Array = np.empty(10 * words, np.uint8)
        self._wire: U8Array = np.zeros(pk.WIRE_ROOM, np.uint8)
        self._words = 0
        self.used = 0

    def add(
        self,
        text: U8Array,
        ends: I64Array,
        key: U64Array,
        symbols: Symbols,
        labels: U8Array,
        layout: U64Array,
    ) -> U8Array:
        """Add a batch of words; return how many codes each has, which is none if no name can match it."""
        if not len(ends):
            return self.counts[:0]
        room = self.used + int(ends[-1]) + len(ends)
        if room > len(self.codes):
            self.codes.resize(room * 5 // 4, refcheck=False)
        counts = self.counts[self._words :][: len(ends)]
        self.used = pk.encode_words(
            text,
            ends,
            key,
            symbols,
            self._wire,
            EncodedWords(self.hashes[self._words :], counts, self.codes),
            np.uint64(self.used),
            labels,
            layout,
        )
        self._words += len(ends)
        return counts


def _symbols_for(dawg: Dawg, key: U64Array) -> Symbols:
    # Without symbols an entry's codes are RAW and then its wire form.
    text, ends = dawg.sample(_SAMPLE_WORDS)
    sample = _Codes(len(ends))
    scratch = np.zeros(256, np.uint8), np.zeros(pk.N_LAYOUT, np.uint64)
    counts = sample.add(text, ends, key, make_symbols([]), *scratch)
    sizes = counts[counts > 0].astype(np.int64)
    wire = np.delete(sample.codes[: sample.used], np.cumsum(sizes) - sizes)
    return choose_symbols(np.append(wire, np.zeros(_PADDING, np.uint8)), np.cumsum(sizes - 1))


class PackedWords:
    """The words of a DAWG file, packed.

    Attributes
    ----------
    entries : int
        Words that a name can match.
    """

    __slots__ = (
        "_arena",
        "_directory",
        "_key",
        "_labels",
        "_layout",
        "_odd_ends",
        "_odd_text",
        "_plain",
        "_symbols",
        "_table",
        "entries",
    )

    def __init__(self, dawg: Dawg, key: U64Array) -> None:
        """Pack the words; those that are names get hashes with ``key`` (uint64[34]).

        Raises
        ------
        ListFileError
            If the names take more than 4 GiB.
        """
        self._key = key
        self._labels: U8Array = np.zeros(256, np.uint8)
        self._layout: U64Array = np.zeros(pk.N_LAYOUT, np.uint64)
        buckets = dawg.words // NAMES_PER_BUCKET + 1
        self._layout[pk.L_BUCKETS] = buckets
        self._directory: U64Array = np.zeros(2 * (buckets + 1), np.uint64)
        self._symbols = _symbols_for(dawg, key)
        self._fill(dawg)
        self._table = PackedTable(
            arena=self._arena,
            directory=self._directory,
            book=self._symbols.book,
            labels=self._labels,
            parents=_next_smaller(self._labels),
            layout=self._layout,
        )
        self._plain: PackedArrays = (*self._table,)
        # So that no kernel is compiled while frames wait.
        columns = Columns(1)
        self.lookup(self._arena, columns.u32, columns.u64, columns.fate, 0)

    def _fill(self, dawg: Dawg) -> None:
        # A block can be placed only when one knows how many names each bucket has. Walking through the list a second
        # time would take longer than anything else here; keeping the codes takes less memory than checking the file.
        odd = _OddWords(dawg.name)
        entries = _Codes(dawg.words)
        for text, ends in dawg.batches():
            counts = entries.add(text, ends, self._key, self._symbols, self._labels, self._layout)
            odd.add(text, ends, counts)
        self._odd_text, self._odd_ends = odd.arrays()
        self.entries = dawg.words - len(self._odd_ends)
        self._layout[pk.L_ENTRIES] = self.entries
        pk.count_names(entries.hashes, entries.counts, self._directory, self._layout)
        size = 0
        if entries.used <= MAX_ARENA_BYTES:
            spares = np.zeros((pk.LINE + 1, pk.MAX_SPARES), np.uint64)
            depths = np.zeros(pk.LINE + 1, np.uint64)
            size = pk.lay_out(self._directory, np.uint64(MAX_ARENA_BYTES), spares, depths)
        if not size:
            raise ListFileError(f"{dawg.name}: its names take more than {MAX_ARENA_BYTES:,} bytes")
        self._layout[pk.L_WIDE] = pk.LINE * self.entries // (entries.used + self.entries + 1) + 1
        self._arena: U8Array = _from_line(size + _PADDING)
        encoded = EncodedWords(entries.hashes, entries.counts, entries.codes)
        pk.place_names(encoded, self._directory, self._arena, self._layout)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the words take."""
        return sum(array.nbytes for array in self._arrays())

    def _arrays(self) -> Iterator[U8Array | U64Array | I64Array]:
        yield from self._symbols
        yield from (self._arena, self._directory, self._labels, self._table.parents, self._layout)
        yield from (self._odd_ends, self._odd_text)

    @property
    def odd_bytes(self) -> int:
        """Bytes of the words that no name can match."""
        return len(self._odd_text)

    def lookup(self, buf: U8Array, u32: U32Array, u64: U64Array, fate: U8Array, n: int) -> None:
        """Write ``DOMAIN_INDEX`` and ``DOMAIN_MATCH`` of the pending rows of a batch."""
        lookup_packed(buf, u32, u64, fate, n, self._plain)
        if self._layout[pk.L_SUFFIX_LABELS] > SUFFIX_DEPTH:
            lookup_packed_deep(buf, u32, fate, n, self._key, self._plain)

    def put_texts(self, indexes: I64Array, begin: int, out: U8Array, ends: I64Array) -> int:
        """Write the words with these indexes; see :func:`edm.stages.domains.table.packed_kernels.put_packed_texts`."""
        wire = np.zeros(pk.WIRE_ROOM, np.uint8)
        done: int = pk.put_packed_texts(
            indexes, begin, self._table, self._odd_ends, self._odd_text, wire, out, ends
        )
        return done


def _next_smaller(labels: U8Array) -> U8Array:
    """Return for each number of labels the next smaller one of those up to ``SUFFIX_DEPTH`` that are marked, or 0."""
    smaller = np.zeros(256, np.uint8)
    for count in np.flatnonzero(labels[: SUFFIX_DEPTH + 1]).tolist():
        smaller[count + 1 :] = count
    return smaller


def _from_line(size: int) -> U8Array:
    """Return zeros that begin where a cache line does."""
    array = np.zeros(size + pk.LINE, np.uint8)
    skip = -array.ctypes.data % pk.LINE
    return array[skip : skip + size]


class _OddWords:
    """Gathers the words that no name can match."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._texts: list[U8Array] = []
        self._sizes: list[I64Array] = []
        self._bytes = 0

    def add(self, text: U8Array, ends: I64Array, counts: U8Array) -> None:
        """Add those of a batch: the words without codes."""
        odd = counts == 0
        if not odd.any():
            return
        sizes = np.diff(ends, prepend=0)
        self._bytes += int(sizes[odd].sum())
        if self._bytes > MAX_ARENA_BYTES:
            raise ListFileError(f"{self._name}: its words take more than {MAX_ARENA_BYTES:,} bytes")
        self._texts.append(text[: ends[-1]][np.repeat(odd, sizes)])
        self._sizes.append(sizes[odd])

    def arrays(self) -> tuple[U8Array, I64Array]:
        """Return the texts, one behind the other, and where each ends."""
        if not self._texts:
            return np.empty(0, np.uint8), np.empty(0, np.int64)
        return np.concatenate(self._texts), np.cumsum(np.concatenate(self._sizes))


__all__ = ["NAMES_PER_BUCKET", "PackedWords"]
