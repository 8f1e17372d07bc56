"""The domain table: read-only, from domain names in wire form to the words of a list, and back.

Layout (no Python object per word; 10 million names take about 23 bytes each):

- ``arena``: for each word in index order one size byte and the lower-case name in wire form without its root
  byte; the size byte 255 alone stands for a word that no name can match.
- ``offsets``: where the words stand in the arena; in large tables only every eighth word's, and the search steps
  over the size bytes from there.
- ``filters``: one after the other, for exact and for suffix entries, a filter (Bloom: Space/time trade-offs in hash
  coding with allowable errors, 1970) of 64-bit words: an entry's hash has two bits set in one of them. Nearly all
  names that are not in the table cost no more than a look at that word. Large tables have none for exact entries.
- ``slots``: open-addressing hash table with linear probing. A slot holds the index and, in the bits that
  leaves free, bits of the hash, so that a name that is not in the table rarely costs a look into the arena. A
  hit counts only after all bytes of the name were compared.

A word is an entry if it is exactly the presentation form of a lower-case domain name (an exact entry), or a dot and
such a form (a suffix entry); all others keep their index but never match. The root ``.`` is an exact entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from edm.columns import (
    DOMAIN_INDEX,
    DOMAIN_MATCH,
    NAME_MAX,
    QNAME_LEN,
    QNAME_OFF,
    SUFFIX_DEPTH,
    Columns,
    I64Array,
    U8Array,
    U32Array,
    U64Array,
)
from edm.domains import lookup as lk
from edm.domains import table_kernels as tk
from edm.domains.dawg import Dawg, bit_length
from edm.domains.hashing import HASH_KEY
from edm.domains.text import parse_name
from edm.errors import ListFileError

MAX_WORDS = (1 << 28) - 1
"""Most words in a table: a slot keeps at least four bits of the hash."""

MAX_ARENA_BYTES = (1 << 32) - 1

_LARGE = 1 << 18
"""Words from which on a table is packed more tightly, because memory weighs more than a few cycles."""

_LARGE_GROUP_BITS = 3


_MAX_FILTER_WIDTH = 18
"""Logarithm of the words of the largest filter: 2 MiB; with more than 1.4 million entries it lets more pass."""

_FILTER_BITS = 12
"""Least bits in a filter per entry: it then lets less than one in forty hashes pass that were not entered."""

ALL_BITS = np.uint64(0xFFFFFFFFFFFFFFFF)


def _filter_width(entries: int) -> int:
    return min(bit_length(_FILTER_BITS * entries // 64), _MAX_FILTER_WIDTH)


class DomainTable:
    """A table built from a DAWG; it does not depend on the file any more.

    All methods but :meth:`close` may be called from several threads at once.

    Attributes
    ----------
    words : int
        Words of the list.
    entries : int
        Those that a name can match.
    digest : bytes
        Digest of the DAWG file: tables with the same digest are the same.
    """

    __slots__ = (
        "_arena",
        "_closed",
        "_filters",
        "_is_deep",
        "_key",
        "_labels",
        "_layout",
        "_odd_ends",
        "_odd_index",
        "_odd_text",
        "_offsets",
        "_slots",
        "digest",
        "entries",
        "words",
    )

    def __init__(self, dawg: Dawg, key: U64Array = HASH_KEY) -> None:
        words = dawg.words
        if words > MAX_WORDS:
            raise ListFileError(f"{dawg.name}: {words:,} words are more than the {MAX_WORDS:,} supported")
        large = words >= _LARGE
        group_bits = _LARGE_GROUP_BITS if large else 0
        capacity = words * 5 // 3 + 2 if large else words * 3 + 2
        self.words = words
        self.digest = dawg.digest()
        self._closed = False
        self._key = key
        self._slots: U32Array = np.full(capacity, tk.EMPTY, np.uint32)
        self._filters: U64Array = np.empty(0, np.uint64)
        self._offsets: U32Array = np.empty((words + (1 << group_bits) - 1) >> group_bits, np.uint32)
        self._labels: U8Array = np.zeros(256, np.uint8)
        self._layout: U64Array = np.zeros(tk.N_LAYOUT, np.uint64)
        self._layout[tk.L_CAPACITY] = capacity
        self._layout[tk.L_INDEX_BITS] = bit_length(words)
        self._layout[tk.L_GROUP_BITS] = group_bits
        self._arena: U8Array = np.empty(min(18 * words, dawg.edges) + tk.ARENA_ROOM, np.uint8)
        self._odd_index: U32Array = np.empty(0, np.uint32)
        self._odd_ends: I64Array = np.empty(0, np.int64)
        self._odd_text: U8Array = np.empty(0, np.uint8)
        self._fill(dawg)

    @classmethod
    def build(cls, dawg: Dawg, key: U64Array = HASH_KEY) -> DomainTable:
        """Build the table of a DAWG.

        Parameters
        ----------
        dawg : Dawg
        key : uint64[34]
            Key of the hash; names are looked up by hashes made with the same key.

        Raises
        ------
        ListFileError
            If it has more words or longer names than a table can hold (2^28 - 1 words, 4 GiB of names).
        """
        return cls(dawg, key)

    @classmethod
    def open(cls, path: Path | str) -> DomainTable:
        """Read and check a DAWG file and build its table.

        Raises
        ------
        ListFileError
            If the file cannot be read or is not a valid DAWG.
        """
        return cls(Dawg.open(path))

    def _fill(self, dawg: Dawg) -> None:
        meta = np.zeros(tk.N_META, np.int64)
        for text, ends in dawg.batches():
            done = 0
            while True:
                done = tk.append_words(
                    text,
                    ends,
                    done,
                    self._arena,
                    self._offsets,
                    self._labels,
                    self._layout,
                    self._odd_index,
                    self._odd_ends,
                    self._odd_text,
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
        tk.index_words(self.words, self._key, self._arena, self._slots, self._filters, self._layout)
        self._is_deep = bool(self._layout[tk.L_SUFFIX_LABELS] > SUFFIX_DEPTH)
        if self._is_deep:
            # So that the kernel is not compiled while frames wait.
            columns = Columns(1)
            self._lookup_deep(self._arena, columns.u32, columns.fate, 0)

    def _make_filters(self) -> None:
        suffixes = int(self._layout[tk.L_SUFFIX_STOP] - self._layout[tk.L_SUFFIX_START])
        # The slots of a large list are not in the cache, but neither would be a filter.
        exact_bits = 0 if self.words >= _LARGE else _filter_width(self.words - suffixes)
        suffix_bits = _filter_width(suffixes)
        self._layout[tk.L_EXACT_SHIFT] = 63 - exact_bits
        self._layout[tk.L_SUFFIX_SHIFT] = 63 - suffix_bits
        self._layout[tk.L_SUFFIX_FILTER] = 1 << exact_bits
        self._filters = np.zeros((1 << exact_bits) + (1 << suffix_bits), np.uint64)
        if self.words >= _LARGE:
            self._filters[0] = ALL_BITS

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

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the domain table is closed")

    def __len__(self) -> int:
        return self.words

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the table takes."""
        return sum(
            array.nbytes
            for array in (
                self._arena,
                self._offsets,
                self._slots,
                self._filters,
                self._labels,
                self._layout,
                self._odd_index,
                self._odd_ends,
                self._odd_text,
            )
        )

    def lookup(self, buf: U8Array, u32: U32Array, u64: U64Array, fate: U8Array, n: int) -> None:
        """Write ``DOMAIN_INDEX`` and ``DOMAIN_MATCH`` of the pending rows of a batch.

        ``QNAME_HASH`` must hold the hash made with the table's key (:func:`edm.domains.lookup.hash_names`).
        """
        self._check_open()
        lk.lookup_domains(
            buf,
            u32,
            u64,
            fate,
            n,
            self._arena,
            self._offsets,
            self._slots,
            self._filters,
            self._labels,
            self._layout,
        )
        if self._is_deep:
            self._lookup_deep(buf, u32, fate, n)

    def _lookup_deep(self, buf: U8Array, u32: U32Array, fate: U8Array, n: int) -> None:
        lk.lookup_deep(
            buf, u32, fate, n, self._key, self._arena, self._offsets, self._slots, self._labels, self._layout
        )

    def find_names(self, names: U8Array, lengths: U32Array, m: int) -> tuple[U32Array, U32Array]:
        """Look up ``m`` names that are not the first questions of a batch.

        Parameters
        ----------
        names : uint8[>= m, 255], C order
            Uncompressed wire names in any letter case.
        lengths : uint32[>= m]
            Length of each, root byte included.

        Returns
        -------
        index, match : uint32[m]
            What ``DOMAIN_INDEX`` and ``DOMAIN_MATCH`` would hold.
        """
        flat = names.reshape(-1)
        columns = Columns(m)
        columns.u32[QNAME_OFF, :m] = np.arange(m, dtype=np.uint32) * NAME_MAX
        columns.u32[QNAME_LEN, :m] = lengths[:m]
        lk.hash_names(flat, columns.u32, columns.u64, columns.fate, m, self._key)
        self.lookup(flat, columns.u32, columns.u64, columns.fate, m)
        return columns.u32[DOMAIN_INDEX, :m], columns.u32[DOMAIN_MATCH, :m]

    def match_names(self, names: U8Array, lengths: U32Array, m: int) -> npt.NDArray[np.bool_]:
        """Tell which of ``m`` names match an entry; the parameters are those of :meth:`find_names`."""
        matched: npt.NDArray[np.bool_] = self.find_names(names, lengths, m)[1] != lk.NO_MATCH
        return matched

    def match(self, text: str) -> tuple[int, int]:
        """Look up one name given as text, for tools: ``(index, 1 or 2)``, or ``(-1, 0)`` without a match.

        Raises
        ------
        ValueError
            If the text is not a domain name.
        """
        wire = parse_name(text)
        names = np.zeros((1, NAME_MAX), np.uint8)
        names[0, : len(wire)] = np.frombuffer(wire, np.uint8)
        index, match = self.find_names(names, np.array([len(wire)], np.uint32), 1)
        return (int(index[0]), int(match[0])) if match[0] else (-1, 0)

    def texts(self, indexes: npt.NDArray[np.integer] | Sequence[int]) -> pa.Array:
        """Return the words with these indexes as an Arrow array (``string``, or ``large_string`` above 2 GiB).

        Raises
        ------
        IndexError
            If an index is not less than the number of words.
        """
        self._check_open()
        wanted = np.ascontiguousarray(indexes, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.words:
            raise IndexError("no such word in the domain table")
        ends = np.zeros(len(wanted) + 1, np.int64)
        out = np.empty(24 * len(wanted) + tk.TEXT_ROOM, np.uint8)
        done = 0
        while True:
            done = tk.put_texts(
                wanted,
                done,
                self._arena,
                self._offsets,
                self._layout,
                self._odd_index,
                self._odd_ends,
                self._odd_text,
                out,
                ends,
            )
            if done == len(wanted):
                break
            # A word that matches nothing may be longer than any name.
            room = max(len(self._odd_text), tk.TEXT_ROOM) if done == 0 else tk.TEXT_ROOM
            out.resize(len(out) * 3 // 2 + room, refcheck=False)
        size = int(ends[-1])
        data = pa.py_buffer(out[:size])
        if size < 1 << 31:
            return pa.StringArray.from_buffers(len(wanted), pa.py_buffer(ends.astype(np.int32)), data)
        return pa.LargeStringArray.from_buffers(len(wanted), pa.py_buffer(ends), data)

    def word(self, index: int) -> str:
        """Return the word with this index.

        Raises
        ------
        IndexError
            Unless ``0 <= index < words``.
        """
        text: str = self.texts([index])[0].as_py()
        return text

    def close(self) -> None:
        """Give all memory back; nothing may be looked up afterwards."""
        self._closed = True
        for name in ("_arena", "_odd_text", "_labels"):
            setattr(self, name, np.empty(0, np.uint8))
        for name in ("_slots", "_offsets", "_odd_index"):
            setattr(self, name, np.empty(0, np.uint32))
        self._odd_ends = np.empty(0, np.int64)
        self._filters = np.empty(0, np.uint64)


__all__ = ["MAX_WORDS", "DomainTable"]
