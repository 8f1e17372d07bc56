"""Kernels over the nodes of a DAWG file: scan, count, walk.

A node (all fields most significant bit first): final (1 bit), fallthrough (1 bit); a fallthrough node has one
edge, its character follows, and the child is the next node. Any other node: single (1 bit); without it the
number of edges (7-bit code) and the width of the skip fields; then the edges in ascending order of their
characters, each with character, skip (absent from the first edge) and the child's bit offset.
Format: github.com/smhanov/dawg.
"""

from __future__ import annotations

import numpy as np

from edm.kernel.columns import I64, U64, Bytes, Flag, U64Array
from edm.kernel.jit import force_inlined, kernel
from edm.stages.domains.dawg.arrays import DawgBits, NodeStarts, Ranks, Reach, Stack
from edm.stages.domains.dawg.bits import MAX_CODE_GROUPS, U0, U1, U2, U3, U4, U6, U7, U8, get_bits

# What a kernel found wrong; the texts are in ``dawg.PROBLEMS``.
OK = 0
TRUNCATED = 1
BAD_CHARACTER = 2
UNORDERED = 3
BAD_SKIP_WIDTH = 4
BAD_EDGE_COUNT = 5
FALLS_OFF = 6
BAD_ADDRESS = 7
LOOP = 8
BAD_SKIP = 9
DEAD_END = 10
WORD_TOO_LONG = 11
TOO_MANY = 12

MAX_WORD_CHARS = 0xFFFE
"""Characters of the longest word accepted; the longest domain name has 1,004 in presentation form."""

MAX_COUNT = 0xFFFFFFFE
"""Most words, and most edges of the unfolded trie, that are accepted."""

_ON_PATH = np.uint32(0xFFFFFFFF)
_MAX_COUNT = np.uint64(MAX_COUNT)
_MAX_HEIGHT = np.uint64(MAX_WORD_CHARS)
_U63 = np.uint64(63)
_U127 = np.uint64(0x7F)
_U128 = np.uint64(0x80)
_HIGH_SURROGATE = np.uint64(0xD800)
_LAST_SURROGATE = np.uint64(0xDFFF)
_MAX_CHARACTER = np.uint64(0x10FFFF)

# A frame of the stacks: where the node's next edge stands, how many edges are left, ...
S_EDGE = 0
S_LEFT = 1
S_WIDTH = 2  # of the skip fields of this node
S_FIRST = 3  # 1 while the next edge is the node's first one
S_FALL = 4  # 1 for a fallthrough node
S_NODE = 5  # number of the node in file order (counting); bytes of the path up to it (walking)
S_WORDS = 6
S_TRIE = 7
S_HEIGHT = 8
STACK_FIELDS = 9


@force_inlined
def get_code(buf: Bytes, pos: U64) -> tuple[U64, U64]:
    """Return ``(number, end)`` of the 7-bit code at ``pos``; ``end`` is 0 if it has too many groups."""
    value = U0
    for _ in range(MAX_CODE_GROUPS):
        group = get_bits(buf, pos, U8)
        pos += U8
        value = (value << U7) | (group & _U127)
        if group & _U128 == U0:
            return value, pos
    return value, U0


@force_inlined
def node_head(buf: Bytes, pos: U64, skip_field: U64) -> tuple[U64, U64, U64, U64, U64]:
    """Return ``(final, fallthrough, edges, skip width, position of the first edge)``; 0 for a bad count."""
    head = get_bits(buf, pos, U3)
    final = head >> U2
    if head & U2 != U0:
        return final, U1, U1, U0, pos + U2
    if head & U1 != U0:
        return final, U0, U1, U0, pos + U3
    edges, pos = get_code(buf, pos + U3)
    if pos == U0:
        return final, U0, U0, U0, U0
    return final, U0, edges, get_bits(buf, pos, skip_field), pos + skip_field


@force_inlined
def _bad_character(character: U64) -> Flag:
    return character > _MAX_CHARACTER or (_HIGH_SURROGATE <= character <= _LAST_SURROGATE)


@kernel
def scan_nodes(dawg: DawgBits, nodes: U64, starts: NodeStarts, report: U64Array) -> I64:
    """Read ``nodes`` nodes one behind the other and check all that can be told without following an address.

    Parameters
    ----------
    dawg : DawgBits
    nodes : uint64
        How many there are.
    starts : uint64[size // 8 + 2]
        Out: bit ``p % 64`` of element ``p // 64`` is set if a node starts at bit ``p``.
    report : uint64[2]
        Out: the bit where the problem is, or where the last node ends.

    Returns
    -------
    int
        ``OK`` or the problem.
    """
    buf, end, cbits, skip_field = dawg.buf, dawg.end, dawg.cbits, dawg.skip_field
    pos = dawg.first
    fall = U0
    for _ in range(nodes):
        report[0] = pos
        if pos + U2 > end:
            return TRUNCATED
        starts[pos >> U6] |= U1 << (pos & _U63)
        _, fall, edges, width, at = node_head(buf, pos, skip_field)
        if at == U0:
            return BAD_EDGE_COUNT
        if at > end:
            return TRUNCATED
        if width > dawg.wbits:
            return BAD_SKIP_WIDTH
        address = dawg.abits if fall == U0 else U0
        # The count is below 2^35 and the widths are below 2^6: nothing overflows.
        size = edges * (cbits + address)
        if edges > U1:
            size += (edges - U1) * width
        if size > end - at:
            return TRUNCATED
        last = U0
        for k in range(edges):
            report[0] = at
            character = get_bits(buf, at, cbits)
            if _bad_character(character):
                return BAD_CHARACTER
            at += cbits + address
            if k > 0:
                if character <= last:
                    return UNORDERED
                at += width
            last = character
        pos = at
    report[0] = pos
    return OK if fall == U0 else FALLS_OFF


@force_inlined
def _ones(word: U64) -> U64:
    word = word - ((word >> U1) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> U2) & np.uint64(0x3333333333333333))
    word = (word + (word >> U4)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@force_inlined
def push_node(dawg: DawgBits, pos: U64, stack: Stack, depth: I64, node: U64) -> U64:
    """Put the node at bit ``pos`` on the stack; return 1 if a word ends there, else 0."""
    final, fall, edges, width, at = node_head(dawg.buf, pos, dawg.skip_field)
    stack[depth, S_EDGE] = at
    stack[depth, S_LEFT] = edges
    stack[depth, S_WIDTH] = width
    stack[depth, S_FIRST] = U1
    stack[depth, S_FALL] = fall
    stack[depth, S_NODE] = node
    return final


@force_inlined
def next_edge(dawg: DawgBits, stack: Stack, depth: I64) -> tuple[U64, U64, U64]:
    """Take the next edge of the frame: ``(character, skip, child)``; the first edge's skip is given as 0."""
    at = stack[depth, S_EDGE]
    stack[depth, S_LEFT] -= U1
    character = get_bits(dawg.buf, at, dawg.cbits)
    at += dawg.cbits
    if stack[depth, S_FALL] != U0:
        return character, U0, at
    skip = U0
    if stack[depth, S_FIRST] == U0:
        skip = get_bits(dawg.buf, at, stack[depth, S_WIDTH])
        at += stack[depth, S_WIDTH]
    stack[depth, S_FIRST] = U0
    stack[depth, S_EDGE] = at + dawg.abits
    return character, skip, get_bits(dawg.buf, at, dawg.abits)


@kernel
def count_words(
    dawg: DawgBits, starts: NodeStarts, rank: Ranks, reach: Reach, stack: Stack, report: U64Array
) -> I64:
    """Follow every edge once, depth first: check addresses, loops and skips, and count what each node reaches.

    Parameters
    ----------
    dawg, starts
        As for :func:`scan_nodes`, which has accepted the file.
    rank : uint32[len(starts)]
        Nodes that start before bit ``64 * i``.
    reach : Reach
        Out.
    stack : uint64[MAX_WORD_CHARS + 2, STACK_FIELDS]
    report : uint64[2]
        Out: the bit where the problem is; the number of nodes reached.

    Returns
    -------
    int
        ``OK`` or the problem.
    """
    words, trie, heights = reach
    depth = 0
    child = dawg.first
    report[1] = U0
    entering = True
    while True:
        if entering:
            node = np.uint64(rank[child >> U6]) + _ones(starts[child >> U6] & ((U1 << (child & _U63)) - U1))
            known = words[node]
            if known == _ON_PATH:
                return LOOP
            if known == 0:
                if depth > MAX_WORD_CHARS:
                    return WORD_TOO_LONG
                words[node] = _ON_PATH
                report[1] += U1
                stack[depth, S_WORDS] = push_node(dawg, child, stack, depth, node)
                stack[depth, S_TRIE] = U0
                stack[depth, S_HEIGHT] = U0
                depth += 1
        if not entering or known != 0:
            # The edge on top of the stack leads to ``node``, which is counted: add it up.
            top = depth - 1
            stack[top, S_WORDS] += np.uint64(words[node])
            stack[top, S_TRIE] += U1 + np.uint64(trie[node])
            stack[top, S_HEIGHT] = max(stack[top, S_HEIGHT], U1 + np.uint64(heights[node]))
            if stack[top, S_WORDS] > _MAX_COUNT or stack[top, S_TRIE] > _MAX_COUNT:
                return TOO_MANY
            if stack[top, S_HEIGHT] > _MAX_HEIGHT:
                return WORD_TOO_LONG
        top = depth - 1
        if stack[top, S_LEFT] > U0:
            report[0] = stack[top, S_EDGE]
            later = stack[top, S_FIRST] == U0
            _, skip, child = next_edge(dawg, stack, top)
            if later and skip != stack[top, S_WORDS]:
                return BAD_SKIP
            if child >= dawg.end or (starts[child >> U6] >> (child & _U63)) & U1 == U0:
                return BAD_ADDRESS
            entering = True
        else:
            node = stack[top, S_NODE]
            words[node] = stack[top, S_WORDS]
            trie[node] = stack[top, S_TRIE]
            heights[node] = stack[top, S_HEIGHT]
            depth -= 1
            if depth == 0:
                return OK
            if words[node] == 0:
                return DEAD_END
            entering = False


__all__ = [
    "MAX_COUNT",
    "MAX_WORD_CHARS",
    "STACK_FIELDS",
    "count_words",
    "get_code",
    "node_head",
    "scan_nodes",
]
