"""Kernels that build a minimal automaton from sorted words and lay it out as a DAWG file.

The automaton is built word by word (Daciuk, Mihov, Watson, Watson: Incremental construction of minimal acyclic
finite-state automata, 2000): only the path of the last word is still open; a node that will get no more edges is
looked up in a hash table of all finished nodes and becomes one of them.
"""

from __future__ import annotations

import numpy as np

from edm.kernel.columns import I64, U64, Bytes, Flag, U32Array
from edm.kernel.jit import force_inlined, kernel
from edm.stages.domains.dawg.arrays import (
    Automaton,
    CodePoints,
    Edges,
    Ends,
    Graph,
    Nodes,
    NodeSlots,
    Positions,
    Widths,
)
from edm.stages.domains.dawg.bits import U0, U1, U2, U3, U7, U8, put_bits

# Counters of the construction: ``meta``, int64[N_META].
M_NODES = 0
M_EDGES = 1
M_OPEN = 2  # edges of the open nodes that are finished, in ``pend``
M_DEPTH = 3  # characters of the last word
M_WORDS = 4
M_TRIE = 5  # edges of the trie of all words
M_LARGEST = 6  # character
N_META = 7

NO_NODE = np.uint32(0xFFFFFFFF)

# Columns of ``node``: first edge, number of edges, words reachable, 1 if final.
N_FIRST, N_EDGES, N_WORDS, N_FINAL = 0, 1, 2, 3
# Columns of ``path``: character that leads on, 1 if final, where the node's edges start in ``pend``.
P_CHAR, P_FINAL, P_START = 0, 1, 2

_MIX = np.uint64(0x9E3779B97F4A7C15)
_U29 = np.uint64(29)
_U32 = np.uint64(32)


@force_inlined
def _mix(h: U64, value: U64) -> U64:
    h = (h ^ np.uint64(value)) * _MIX
    return h ^ (h >> _U29)


@force_inlined
def _edges_hash(edge: Edges, first: I64, count: I64, final: I64) -> U64:
    h = _mix(_mix(U0, final), count)
    for k in range(first, first + count):
        h = _mix(h, (np.uint64(edge[k, 0]) << _U32) | np.uint64(edge[k, 1]))
    return h ^ (h >> _U32)


@force_inlined
def _freeze(automaton: Automaton, depth: I64) -> I64:
    """Finish the open node at ``depth``: return the number of the one node that is like it."""
    meta, path, pend, node, edge, slots = automaton
    start = np.int64(path[depth, P_START])
    count = meta[M_OPEN] - start
    final = path[depth, P_FINAL]
    meta[M_OPEN] = start
    mask = np.int64(slots.size - 1)
    slot = np.int64(_edges_hash(pend, start, count, final) & np.uint64(mask))
    while slots[slot] != NO_NODE:
        known = slots[slot]
        if node[known, N_EDGES] == count and node[known, N_FINAL] == final:
            first = np.int64(node[known, N_FIRST])
            same = True
            for k in range(count):
                if pend[start + k, 0] != edge[first + k, 0] or pend[start + k, 1] != edge[first + k, 1]:
                    same = False
                    break
            if same:
                return np.int64(known)
        slot = (slot + 1) & mask
    new = meta[M_NODES]
    first = meta[M_EDGES]
    words = np.int64(final)
    for k in range(count):
        edge[first + k, 0] = pend[start + k, 0]
        edge[first + k, 1] = pend[start + k, 1]
        words += np.int64(node[pend[start + k, 1], N_WORDS])
    node[new, N_FIRST] = first
    node[new, N_EDGES] = count
    node[new, N_WORDS] = words
    node[new, N_FINAL] = final
    slots[slot] = new
    meta[M_NODES] = new + 1
    meta[M_EDGES] = first + count
    return new


@kernel
def add_words(text: CodePoints, ends: Ends, m: I64, last: I64, automaton: Automaton) -> I64:
    """Add ``m`` words in ascending order; a word equal to the one before it is skipped.

    Every array has room: with ``c`` characters in ``text`` and ``d`` in the last word, ``path`` for the longest
    word and 2 more, ``pend``, ``node`` and ``edge`` for ``c + d + 2`` rows more than they hold, ``slots`` twice
    the rows of ``node``.

    Parameters
    ----------
    text : uint32[...]
        Code points of the words, one behind the other.
    ends : int64[m]
        Where each word ends in ``text``.
    last : int
        1 to finish the automaton behind these words; its first node is then the last one made.
    automaton : Automaton

    Returns
    -------
    int
        ``m``, or the number of the first word that is not in order.
    """
    meta, path, pend = automaton.meta, automaton.path, automaton.pend
    start = 0
    for i in range(m):
        end = ends[i]
        length = end - start
        depth = meta[M_DEPTH]
        common = 0
        while common < length and common < depth and text[start + common] == path[common, P_CHAR]:
            common += 1
        if meta[M_WORDS] > 0 and common == length:
            if length < depth:
                return i
            start = end
            continue
        if common < depth and text[start + common] < path[common, P_CHAR]:
            return i
        while depth > common:
            child = _freeze(automaton, depth)
            depth -= 1
            pend[meta[M_OPEN], 0] = path[depth, P_CHAR]
            pend[meta[M_OPEN], 1] = child
            meta[M_OPEN] += 1
        for k in range(common, length):
            path[k, P_CHAR] = text[start + k]
            path[k + 1, P_FINAL] = 0
            path[k + 1, P_START] = meta[M_OPEN]
            meta[M_LARGEST] = max(meta[M_LARGEST], np.int64(text[start + k]))
        path[length, P_FINAL] = 1
        meta[M_DEPTH] = length
        meta[M_WORDS] += 1
        meta[M_TRIE] += length - common
        start = end
    if last != 0:
        depth = meta[M_DEPTH]
        while depth > 0:
            child = _freeze(automaton, depth)
            depth -= 1
            pend[meta[M_OPEN], 0] = path[depth, P_CHAR]
            pend[meta[M_OPEN], 1] = child
            meta[M_OPEN] += 1
        _freeze(automaton, 0)
    return m


@kernel
def fill_slots(node: Nodes, nodes: I64, edge: Edges, slots: NodeSlots) -> None:
    """Enter all ``nodes`` finished nodes into a new, larger hash table (filled with ``NO_NODE``)."""
    mask = np.int64(slots.size - 1)
    for i in range(nodes):
        h = _edges_hash(edge, np.int64(node[i, N_FIRST]), np.int64(node[i, N_EDGES]), node[i, N_FINAL])
        slot = np.int64(h & np.uint64(mask))
        while slots[slot] != NO_NODE:
            slot = (slot + 1) & mask
        slots[slot] = i


@kernel
def number_nodes(root: I64, graph: Graph, stack: U32Array) -> I64:
    """Number the nodes in depth-first pre-order, edges in character order; return how many there are.

    Parameters
    ----------
    graph : Graph
        ``number``, filled with ``NO_NODE``, and ``order`` are written.
    stack : uint32[longest word + 2, 2]
    """
    node, edge, number, order = graph
    number[root] = 0
    order[0] = root
    stack[0, 0] = root
    stack[0, 1] = 0
    depth = 0
    count = 1
    while depth >= 0:
        at = stack[depth, 0]
        k = np.int64(stack[depth, 1])
        if k == np.int64(node[at, N_EDGES]):
            depth -= 1
            continue
        stack[depth, 1] = k + 1
        child = edge[np.int64(node[at, N_FIRST]) + k, 1]
        if number[child] == NO_NODE:
            number[child] = count
            order[count] = child
            count += 1
            depth += 1
            stack[depth, 0] = child
            stack[depth, 1] = 0
    return count


@force_inlined
def _bit_length(value: I64) -> I64:
    length = 0
    while value > 0:
        value >>= 1
        length += 1
    return length


@force_inlined
def code_groups(value: I64) -> I64:
    """Return the 7-bit groups in which ``value`` is written: its writer leaves the last value of each size out."""
    groups = 1
    while value >= (1 << (7 * groups)) - 1:
        groups += 1
    return groups


@force_inlined
def _falls_through(i: I64, at: I64, graph: Graph) -> Flag:
    node, edge, number = graph.node, graph.edge, graph.number
    return node[at, N_EDGES] == 1 and np.int64(number[edge[node[at, N_FIRST], 1]]) == i + 1


@kernel
def place_nodes(nodes: I64, graph: Graph, first: I64, widths: Widths, position: Positions) -> I64:
    """Give each node its bit position (``position``: uint64[nodes], by number); return the end of the last."""
    cbits, abits, skip_field = widths
    node, order = graph.node, graph.order
    pos = first
    for i in range(nodes):
        position[i] = pos
        at = order[i]
        count = np.int64(node[at, N_EDGES])
        if _falls_through(i, at, graph):
            pos += 2 + cbits
        elif count == 1:
            pos += 3 + cbits + abits
        else:
            pos += 3 + 8 * code_groups(count) + skip_field + count * (cbits + abits)
            if count > 1:
                pos += (count - 1) * _bit_length(np.int64(node[at, N_WORDS]))
    return pos


@kernel
def put_nodes(nodes: I64, graph: Graph, widths: Widths, position: Positions, out: Bytes) -> None:
    """Write all nodes into ``out`` (uint8, zeroed, 8 bytes longer than the file); widths are ``uint64``."""
    cbits, abits, skip_field = widths
    node, edge, number, order = graph
    for i in range(nodes):
        at = order[i]
        pos = position[i]
        count = np.int64(node[at, N_EDGES])
        first = np.int64(node[at, N_FIRST])
        final = np.uint64(node[at, N_FINAL])
        if _falls_through(i, at, graph):
            pos = put_bits(out, pos, (final << U1) | U1, U2)
            put_bits(out, pos, np.uint64(edge[first, 0]), cbits)
            continue
        width = U0
        if count == 1:
            pos = put_bits(out, pos, (final << U2) | U1, U3)
        else:
            pos = put_bits(out, pos, final << U2, U3)
            groups = code_groups(count)
            for k in range(groups - 1, -1, -1):
                group = np.uint64((count >> (7 * k)) & 0x7F) | (U1 << U7 if k > 0 else U0)
                pos = put_bits(out, pos, group, U8)
            width = np.uint64(_bit_length(np.int64(node[at, N_WORDS])))
            pos = put_bits(out, pos, width, skip_field)
        skip = final
        for k in range(count):
            child = edge[first + k, 1]
            pos = put_bits(out, pos, np.uint64(edge[first + k, 0]), cbits)
            if k > 0:
                pos = put_bits(out, pos, skip, width)
            pos = put_bits(out, pos, position[number[child]], abits)
            skip += np.uint64(node[child, N_WORDS])


__all__ = [
    "M_DEPTH",
    "M_EDGES",
    "M_LARGEST",
    "M_NODES",
    "M_OPEN",
    "M_TRIE",
    "M_WORDS",
    "NO_NODE",
    "N_META",
    "add_words",
    "code_groups",
    "fill_slots",
    "number_nodes",
    "place_nodes",
    "put_nodes",
]
