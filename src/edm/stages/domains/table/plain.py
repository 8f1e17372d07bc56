"""The words of a list in a hash table of their own, for lists of a size that the caches hold.

Layout (36,000 names take about 35 bytes each):

- ``arena``: for each word in index order one size byte and the lower-case name in wire form without its root
  byte; the size byte 255 alone stands for a word that no name can match.
- ``offsets``: where the words stand in the arena.
- ``filters``: one after the other, for exact and for suffix entries, a filter (Bloom: Space/time trade-offs in hash
  coding with allowable errors, 1970) of 64-bit words: an entry's hash has two bits set in one of them. Nearly all
  names that are not in the table cost no more than a look at that word.
- ``slots``: open-addressing hash table with linear probing. A slot holds the index and, in the bits that
  leaves free, bits of the hash, so that a name that is not in the table rarely costs a look into the arena. A
  hit counts only after all bytes of the name were compared.

The index of a word is its place in the list.
"""

from __future__ import annotations

import numpy as np

from edm.errors import ListFileError
from edm.kernel.columns import SUFFIX_DEPTH, Columns, I64Array, U8Array, U32Array, U64Array
from edm.stages.domains.dawg.dawg import Dawg, bit_length
from edm.stages.domains.table import kernels as tk
from edm.stages.domains.table import lookup as lk
from edm.stages.domains.table.arrays import OddWords, PlainArrays, PlainTable
from edm.stages.domains.table.kernels import MAX_ARENA_BYTES

_MAX_FILTER_WIDTH = 18
"""Logarithm of the words of the largest filter: 2 MiB; with more than 1.4 million entries it lets more pass."""

_FILTER_BITS = 12
"""Least bits in a filter per entry: it then lets less than one in forty hashes pass that were not entered."""


def _filter_width(entries: int) -> int:
    return min(bit_length(_FILTER_BITS * entries // 64), _MAX_FILTER_WIDTH)


class PlainWords:
    """The words of a DAWG file, ready to be looked up.

    Attributes
    ----------
    entries : int
        Words that a name can match.
    """

    __slots__ = (
        "_arena",
        "_filters",
        "_is_deep",
        "_key",
        "_labels",
        "_layout",
        "_odd_ends",
        "_odd_index",
        "_odd_text",
        "_offsets",
        "_plain",
        "_slots",
        "_table",
        "_words",
        "entries",
    )

    def __init__(self, dawg: Dawg, key: U64Array) -> None:
        """Enter the words, those that are names by their hashes with ``key`` (uint64[34]).

        Raises
        ------
        ListFileError
            If the names take more than 4 GiB.
        """
        words = dawg.words
        capacity = words * 3 + 2
        self._words = words
        self._key = key
        self._slots: U32Array = np.full(capacity, tk.EMPTY, np.uint32)
        self._filters: U64Array = np.empty(0, np.uint64)
        self._offsets: U32Array = np.empty(words, np.uint32)
        self._labels: U8Array = np.zeros(256, np.uint8)
        self._layout: U64Array = np.zeros(tk.N_LAYOUT, np.uint64)
        self._layout[tk.L_CAPACITY] = capacity
        self._layout[tk.L_INDEX_BITS] = bit_length(words)
        self._arena: U8Array = np.empty(min(18 * words, dawg.edges) + tk.ARENA_ROOM, np.uint8)
        self._odd_index: U32Array = np.empty(0, np.uint32)
        self._odd_ends: I64Array = np.empty(0, np.int64)
        self._odd_text: U8Array = np.empty(0, np.uint8)
        self._fill(dawg)

    def _fill(self, dawg: Dawg) -> None:
        meta = np.zeros(tk.N_META, np.int64)
        # Growing changes the arrays themselves, in place.
        table, odd_words = self._arrays(), self._odd_words()
        for text, ends in dawg.batches():
            done = 0
            while True:
                done = tk.append_words(
                    text,
                    ends,
                    done,
                    table,
                    odd_words,
                    meta,
                )
                if done == len(ends):
                    break
                self._make_room(meta, int(ends[-1]), dawg.name)
        # realloc gives the pages behind the new end back at once.
        self._arena.resize(meta[tk.F_ARENA], refcheck=False)
        self._odd_index.resize(meta[tk.F_ODD], refcheck=False)
        self._odd_ends.resize(meta[tk.F_ODD], refcheck=False)
        self._odd_text.resize(meta[tk.F_ODD_TEXT], refcheck=False)
        self.entries = int(meta[tk.F_ENTRIES])
        self._make_filters()
        self._table = self._arrays()
        self._plain: PlainArrays = (*self._table,)
        tk.index_words(self._words, self._key, self._table)
        self._is_deep = bool(self._layout[tk.L_SUFFIX_LABELS] > SUFFIX_DEPTH)
        if self._is_deep:
            # So that the kernel is not compiled while frames wait.
            columns = Columns(1)
            self._lookup_deep(self._arena, columns.u32, columns.fate, 0)

    def _arrays(self) -> PlainTable:
        return PlainTable(self._arena, self._offsets, self._slots, self._filters, self._labels, self._layout)

    def _odd_words(self) -> OddWords:
        return OddWords(self._odd_index, self._odd_ends, self._odd_text)

    def _make_filters(self) -> None:
        suffixes = int(self._layout[tk.L_SUFFIX_STOP] - self._layout[tk.L_SUFFIX_START])
        exact_bits = _filter_width(self._words - suffixes)
        suffix_bits = _filter_width(suffixes)
        self._layout[tk.L_EXACT_SHIFT] = 63 - exact_bits
        self._layout[tk.L_SUFFIX_SHIFT] = 63 - suffix_bits
        self._layout[tk.L_SUFFIX_FILTER] = 1 << exact_bits
        self._filters = np.zeros((1 << exact_bits) + (1 << suffix_bits), np.uint64)

    def _make_room(self, meta: I64Array, batch_bytes: int, name: str) -> None:
        used = int(meta[tk.F_ARENA])
        if used + tk.ARENA_ROOM > len(self._arena):
            if used + tk.ARENA_ROOM > MAX_ARENA_BYTES:
                raise ListFileError(f"{name}: its names take more than {MAX_ARENA_BYTES:,} bytes")
            size = min(used * 5 // 4 + (1 << 16), MAX_ARENA_BYTES)
            self._arena.resize(size, refcheck=False)
            return
        odd = int(meta[tk.F_ODD])
        if odd == len(self._odd_index):
            self._odd_index.resize(odd * 3 // 2 + 64, refcheck=False)
            self._odd_ends.resize(odd * 3 // 2 + 64, refcheck=False)
            return
        text = int(meta[tk.F_ODD_TEXT])
        if text + batch_bytes > MAX_ARENA_BYTES:
            raise ListFileError(f"{name}: its words take more than {MAX_ARENA_BYTES:,} bytes")
        self._odd_text.resize(text * 3 // 2 + batch_bytes, refcheck=False)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the words take."""
        return sum(array.nbytes for array in (*self._arrays(), *self._odd_words()))

    @property
    def odd_bytes(self) -> int:
        """Bytes of the words that no name can match."""
        return len(self._odd_text)

    def lookup(self, buf: U8Array, u32: U32Array, u64: U64Array, fate: U8Array, n: int) -> None:
        """Write ``DOMAIN_INDEX`` and ``DOMAIN_MATCH`` of the pending rows of a batch."""
        lk.lookup_domains(buf, u32, u64, fate, n, self._plain)
        if self._is_deep:
            self._lookup_deep(buf, u32, fate, n)

    def _lookup_deep(self, buf: U8Array, u32: U32Array, fate: U8Array, n: int) -> None:
        lk.lookup_deep(buf, u32, fate, n, self._key, self._plain)

    def put_texts(self, indexes: I64Array, begin: int, out: U8Array, ends: I64Array) -> int:
        """Write the words with these indexes; see :func:`edm.stages.domains.table.kernels.put_texts`."""
        done: int = tk.put_texts(indexes, begin, self._table, self._odd_words(), out, ends)
        return done


__all__ = ["PlainWords"]
