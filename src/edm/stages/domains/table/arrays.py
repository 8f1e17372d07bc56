"""Parameters of the domain table kernels: named array types, and tuples of arrays that always go together."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from edm.kernel.columns import I64Array, U8Array, U32Array, U64Array

HashKey: TypeAlias = U64Array
"""``uint64[KEY_WORDS]``: the secret key of the hash of names."""
Arena: TypeAlias = U8Array
"""``uint8[bytes]``: the names of a table, see :mod:`~edm.stages.domains.table.plain` and ``packed``."""
Offsets: TypeAlias = U32Array
"""``uint32[words]``: where each word of a plain table stands in its arena."""
Slots: TypeAlias = U32Array
"""``uint32[capacity]``: the hash table of a plain table: bits of a hash above an index; ``EMPTY``."""
Filters: TypeAlias = U64Array
"""``uint64[words of both filters]``: that for exact entries, then that for suffix entries."""
Labels: TypeAlias = U8Array
"""``uint8[256]``: something about each number of labels."""
Layout: TypeAlias = U64Array
"""``uint64[N_LAYOUT]``: the scalars of a table, ``L_*`` of its kernels."""
Directory: TypeAlias = U64Array
"""``uint64[2 * (buckets + 1)]``: the records of a packed table's buckets, two words each."""
Book: TypeAlias = U64Array
"""``uint64[768]``: what the codes of a packed table stand for, see :mod:`~edm.stages.domains.table.symbols`."""
Starts: TypeAlias = U8Array
"""``uint8[65537]``: codes of the symbols that begin with two bytes, see ``Symbols``."""
Singles: TypeAlias = U8Array
"""``uint8[256]``: the code of each byte by itself, see ``Symbols``."""
Counts: TypeAlias = U8Array
"""``uint8[words]``: how many codes each word of a list has; 0 if no name can match it."""
Hashes: TypeAlias = U64Array
"""``uint64[words]``: the hash of each entry of a list; the lowest byte is 1 for a suffix entry, else 0."""
Ends: TypeAlias = I64Array
"""``int64[words]``: where each of some words ends in their text, which stands one behind the other."""
Indexes: TypeAlias = I64Array
"""``int64[n]``: indexes of words."""
FillMeta: TypeAlias = I64Array
"""``int64[N_META]``: how far the filling of a plain table has come."""


class PlainTable(NamedTuple):
    """The arrays of a plain table, see :mod:`edm.stages.domains.table.plain`.

    Attributes
    ----------
    arena : uint8[bytes]
        Names of the table in wire form.
    offsets : uint32[words]
        Where each word stands in it.
    slots : uint32[capacity]
        The hash table.
    filters : uint64[words of both filters]
        Rejects nearly all names that have no slot before these are looked at.
    labels : uint8[256]
        For each number of labels, whether there are suffix entries with so many.
    layout : uint64[N_LAYOUT]
        Numbers of the table.
    """

    arena: Arena
    offsets: Offsets
    slots: Slots
    filters: Filters
    labels: Labels
    layout: Layout


PlainArrays: TypeAlias = tuple[Arena, Offsets, Slots, Filters, Labels, Layout]
"""What a :class:`PlainTable` is made of; Python hands it over so, see :mod:`edm.kernel.jit`."""


class PackedTable(NamedTuple):
    """The arrays of a packed table, see :mod:`edm.stages.domains.table.packed`.

    Attributes
    ----------
    arena : uint8[bytes]
        Blocks of names, eight bytes more than they take.
    directory : uint64[2 * (buckets + 1)]
        Where each bucket's block stands, and tags of its names.
    book : uint64[768]
        What the codes in the arena stand for.
    labels : uint8[256]
        For each number of labels, whether there are suffix entries with so many.
    parents : uint8[256]
        For each number of labels, the next smaller one that suffix entries have, of up to ``SUFFIX_DEPTH``; or 0.
    layout : uint64[N_LAYOUT]
        Numbers of the table.
    """

    arena: Arena
    directory: Directory
    book: Book
    labels: Labels
    parents: Labels
    layout: Layout


PackedArrays: TypeAlias = tuple[Arena, Directory, Book, Labels, Labels, Layout]
"""What a :class:`PackedTable` is made of, likewise."""


class OddWords(NamedTuple):
    """The words of a plain table that no name can match.

    Attributes
    ----------
    indexes : uint32[words or more]
    ends : int64[words or more]
        Where each ends in ``text``.
    text : uint8[bytes or more]
        In UTF-8, one behind the other.
    """

    indexes: U32Array
    ends: Ends
    text: U8Array


class EncodedWords(NamedTuple):
    """Where words are written as hashes and codes.

    Attributes
    ----------
    hashes : uint64[words or more]
        The lowest byte is 1 for a suffix entry, else 0.
    counts : uint8[words or more]
        How many codes each word has.
    codes : uint8[bytes or more]
        The codes, one name behind the other.
    """

    hashes: Hashes
    counts: Counts
    codes: U8Array
