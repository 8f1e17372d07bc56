"""The domain table: read-only, from domain names in wire form to the words of a list, and back.

A word is an entry if it is exactly the presentation form of a lower-case domain name (an exact entry), or a dot and
such a form (a suffix entry); all others have an index too but never match. The root ``.`` is an exact entry.

There is no Python object per word. Small lists are kept for speed (:mod:`edm.stages.domains.table.plain`), lists that
are too large for the caches are packed (:mod:`edm.stages.domains.table.packed`). Each word has an index of its own,
from 0 on; in a packed table that is not its place in the list, and tables made of the same file may count
differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from edm.errors import ListFileError
from edm.kernel.columns import (
    DOMAIN_INDEX,
    DOMAIN_MATCH,
    NAME_MAX,
    QNAME_LEN,
    QNAME_OFF,
    Columns,
    U8Array,
    U32Array,
    U64Array,
)
from edm.stages.domains.dawg.dawg import Dawg
from edm.stages.domains.dawg.text import parse_name
from edm.stages.domains.table import lookup as lk
from edm.stages.domains.table.hashing import HASH_KEY
from edm.stages.domains.table.kernels import TEXT_ROOM
from edm.stages.domains.table.name_hashing import hash_names
from edm.stages.domains.table.packed import PackedWords
from edm.stages.domains.table.plain import PlainWords

MAX_WORDS = (1 << 28) - 1
"""Most words in a table: that leaves four bits of 32 for what else stands beside an index."""

LARGE = 1 << 18
"""Words from which on a list is packed: neither its hash table nor its filters would stay in the caches."""


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

    __slots__ = ("_key", "_store", "digest", "entries", "words")

    def __init__(self, dawg: Dawg, key: U64Array = HASH_KEY, *, large: int | None = None) -> None:
        if dawg.words > MAX_WORDS:
            raise ListFileError(
                f"{dawg.name}: {dawg.words:,} words are more than the {MAX_WORDS:,} supported"
            )
        self.words = dawg.words
        self.digest = dawg.digest()
        self._key = key
        packed = dawg.words >= (LARGE if large is None else large)
        self._store: PlainWords | PackedWords | None = (PackedWords if packed else PlainWords)(dawg, key)
        self.entries = self._store.entries

    @classmethod
    def build(cls, dawg: Dawg, key: U64Array = HASH_KEY, *, large: int | None = None) -> DomainTable:
        """Build the table of a DAWG.

        Parameters
        ----------
        dawg : Dawg
        key : uint64[34]
            Key of the hash; names are looked up by hashes made with the same key.
        large : int, optional
            Words from which on the table is packed, instead of ``LARGE``.

        Raises
        ------
        ListFileError
            If it has more words or longer names than a table can hold (2^28 - 1 words, 4 GiB of names).
        """
        return cls(dawg, key, large=large)

    @classmethod
    def open(cls, path: Path | str) -> DomainTable:
        """Read and check a DAWG file and build its table.

        Raises
        ------
        ListFileError
            If the file cannot be read or is not a valid DAWG.
        """
        return cls(Dawg.open(path))

    def _open(self) -> PlainWords | PackedWords:
        if self._store is None:
            raise ValueError("the domain table is closed")
        return self._store

    def __len__(self) -> int:
        return self.words

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the table takes."""
        return self._store.nbytes if self._store is not None else 0

    def lookup(self, buf: U8Array, u32: U32Array, u64: U64Array, fate: U8Array, n: int) -> None:
        """Write ``DOMAIN_INDEX`` and ``DOMAIN_MATCH`` of the pending rows of a batch.

        ``QNAME_HASH`` must hold the hash made with the table's key
        (:func:`edm.stages.domains.table.name_hashing.hash_names`).
        """
        self._open().lookup(buf, u32, u64, fate, n)

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
        hash_names(flat, columns.u32, columns.u64, columns.fate, m, self._key)
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
        store = self._open()
        wanted = np.ascontiguousarray(indexes, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.words:
            raise IndexError("no such word in the domain table")
        ends = np.zeros(len(wanted) + 1, np.int64)
        out = np.empty(24 * len(wanted) + TEXT_ROOM, np.uint8)
        done = 0
        while True:
            done = store.put_texts(wanted, done, out, ends)
            if done == len(wanted):
                break
            # A word that matches nothing may be longer than any name.
            room = max(store.odd_bytes, TEXT_ROOM) if done == 0 else TEXT_ROOM
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
        self._store = None


__all__ = ["LARGE", "MAX_WORDS", "DomainTable"]
