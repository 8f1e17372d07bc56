"""Parameters of the DAWG kernels: named array types, and tuples of arrays that always go together."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from edm.kernel.columns import U64, I64Array, U8Array, U32Array, U64Array

FileBytes: TypeAlias = U8Array
"""``uint8[size + PADDING]``: a DAWG file and zeros."""
NodeStarts: TypeAlias = U64Array
"""``uint64[size // 8 + 2]``: bit ``p % 64`` of element ``p // 64`` is set if a node starts at bit ``p`` of the file."""
Ranks: TypeAlias = U32Array
"""``uint32[size // 8 + 2]``: nodes that start before bit ``64 * i``."""
Heights: TypeAlias = npt.NDArray[np.uint16]
"""``uint16[nodes]``: characters of the longest word reachable from each node."""
Stack: TypeAlias = U64Array
"""``uint64[depth, STACK_FIELDS]``: the nodes on the way to the current one, see ``S_*``."""
Ends: TypeAlias = I64Array
"""``int64[words]``: where each of some words ends in their text, which stands one behind the other."""
CodePoints: TypeAlias = U32Array
"""``uint32[characters]``: the code points of some words, one behind the other."""
Meta: TypeAlias = I64Array
"""``int64[N_META]``: the counters of a construction, ``M_*``."""
Path: TypeAlias = U32Array
"""``uint32[longest word + 2, 3]``: the open nodes, columns ``P_*``."""
Edges: TypeAlias = U32Array
"""``uint32[edges, 2]``: character and child of each edge."""
Nodes: TypeAlias = U32Array
"""``uint32[nodes, 4]``: the finished nodes, columns ``N_*``."""
NodeSlots: TypeAlias = U32Array
"""``uint32[power of two]``: hash table of node numbers, ``NO_NODE`` where empty."""
NodeNumbers: TypeAlias = U32Array
"""``uint32[nodes]``: a node, or the number of one, for each."""
Positions: TypeAlias = U64Array
"""``uint64[nodes]``: bit position of each node, by number."""


class DawgBits(NamedTuple):
    """A DAWG file, and where its fields are.

    Attributes
    ----------
    buf : uint8[size + PADDING]
    first, end : uint64, bit
        Where the first node stands, and the end of the file.
    cbits, abits, wbits, skip_field : uint64, bit
        Widths of a character, an address, the word count, and the field that holds a skip width.
    """

    buf: FileBytes
    first: U64
    end: U64
    cbits: U64
    abits: U64
    wbits: U64
    skip_field: U64


class Reach(NamedTuple):
    """What each node of a file reaches.

    Attributes
    ----------
    words, trie : uint32[nodes]
        Words, and edges of the unfolded trie, reachable from each node; zeros at first.
    heights : uint16[nodes]
        Characters of the longest word reachable from each node.
    """

    words: U32Array
    trie: U32Array
    heights: Heights


class Automaton(NamedTuple):
    """A minimal automaton under construction.

    Attributes
    ----------
    meta : int64[N_META]
    path : uint32[longest word + 2, 3]
    pend : uint32[edges, 2]
        Edges of the open nodes that are finished.
    node : uint32[nodes, 4]
    edge : uint32[edges, 2]
    slots : uint32[power of two]
    """

    meta: Meta
    path: Path
    pend: Edges
    node: Nodes
    edge: Edges
    slots: NodeSlots


class Graph(NamedTuple):
    """A finished automaton and the order in which it is written.

    Attributes
    ----------
    node : uint32[nodes, 4]
    edge : uint32[edges, 2]
    number : uint32[nodes]
        Number of each node.
    order : uint32[nodes]
        Node of each number.
    """

    node: Nodes
    edge: Edges
    number: NodeNumbers
    order: NodeNumbers


class Widths(NamedTuple):
    """Widths of the fields of a file to be written, in bits, all ``int64`` or all ``uint64``.

    Attributes
    ----------
    cbits, abits, skip_field
        Of a character, an address, and the field that holds a skip width.
    """

    cbits: U64
    abits: U64
    skip_field: U64
