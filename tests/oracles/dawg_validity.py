"""Whether a file is a valid DAWG, in the simplest way: read every node into a dict, then check all of them.

The rules are those of the format and the decisions that `edm.stages.domains.dawg.dawg` states; nothing is taken
from its code.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

LONGEST_WORD = 65_534
MOST = (1 << 32) - 2


class InvalidError(Exception):
    """Why the file is not valid."""


@dataclass
class Node:
    final: bool
    falls: bool
    edges: list[tuple[int, int | None, int]]  # character, skip (None: the first edge), child


class _Bits:
    def __init__(self, data: bytes) -> None:
        self.text = "".join(f"{byte:08b}" for byte in data)
        self.at = 0

    def take(self, width: int) -> int:
        if self.at + width > len(self.text):
            raise InvalidError("the file ends too early")
        self.at += width
        return int(self.text[self.at - width : self.at] or "0", 2)

    def code(self) -> int:
        value = 0
        for _ in range(5):
            group = self.take(8)
            value = value * 128 + group % 128
            if group < 128:
                return value
        raise InvalidError("number of more than five groups")


def _width(number: int) -> int:
    return number.bit_length()


def _node(bits: _Bits, cbits: int, abits: int, wbits: int) -> Node:
    final = bool(bits.take(1))
    if bits.take(1):
        character = bits.take(cbits)
        return Node(final, True, [(character, None, bits.at)])
    single = bits.take(1)
    count = 1 if single else bits.code()
    width = 0 if single else bits.take(_width(wbits))
    if width > wbits:
        raise InvalidError("skip field too wide")
    edges = []
    for k in range(count):
        character = bits.take(cbits)
        skip = bits.take(width) if k else None
        edges.append((character, skip, bits.take(abits)))
    return Node(final, False, edges)


def _check_characters(node: Node) -> None:
    characters = [edge[0] for edge in node.edges]
    if any(c > 0x10FFFF or 0xD800 <= c <= 0xDFFF for c in characters):
        raise InvalidError("no Unicode character")
    if characters != sorted(set(characters)):
        raise InvalidError("unordered")


def _header(bits: _Bits, size: int) -> tuple[int, int, int, int, int]:
    if size < 9:
        raise InvalidError("too short")
    if bits.take(32) != size:
        raise InvalidError("wrong size word")
    cbits, abits = bits.take(8), bits.take(8)
    if cbits > 21 or not 1 <= abits <= 40:
        raise InvalidError("impossible widths")
    words, nodes, edges = bits.code(), bits.code(), bits.code()
    if words > MOST or edges > MOST or nodes < 1:
        raise InvalidError("impossible counts")
    return cbits, abits, words, nodes, edges


def words_in(data: bytes) -> int:
    """Return the number of words of a valid file.

    Raises
    ------
    InvalidError
        It is not valid.
    """
    bits = _Bits(data)
    cbits, abits, words, node_count, edges = _header(bits, len(data))
    nodes: dict[int, Node] = {}
    first = bits.at
    for _ in range(node_count):
        start = bits.at
        nodes[start] = _node(bits, cbits, abits, _width(words))
        _check_characters(nodes[start])
    if nodes[start].falls:
        raise InvalidError("nothing to fall through to")
    rest = bits.text[bits.at :]
    if len(rest) > 7 or "1" in rest:
        raise InvalidError("something behind the last node")
    counts = _count(nodes, first)
    if len(counts) != len(nodes):
        raise InvalidError("unreached node")
    if counts[first][:2] != (words, edges):
        raise InvalidError("wrong counts")
    return words


def _count(nodes: dict[int, Node], first: int) -> dict[int, tuple[int, int, int]]:
    """Return for each node reached: words, edges of the trie, and height below it."""
    done: dict[int, tuple[int, int, int]] = {}
    above: set[int] = set()

    def visit(at: int) -> tuple[int, int, int]:
        if at in above:
            raise InvalidError("loop")
        if at in done:
            return done[at]
        if at not in nodes:
            raise InvalidError("no node there")
        above.add(at)
        node = nodes[at]
        words, edges, height = int(node.final), 0, 0
        for _, skip, child in node.edges:
            if skip is not None and skip != words:
                raise InvalidError("wrong skip")
            below = visit(child)
            if below[0] == 0:
                raise InvalidError("dead end")
            words, edges, height = words + below[0], edges + 1 + below[1], max(height, 1 + below[2])
            if words > MOST or edges > MOST or height > LONGEST_WORD:
                raise InvalidError("too many")
        above.remove(at)
        done[at] = (words, edges, height)
        return done[at]

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 2 * len(nodes) + 1000))
    try:
        visit(first)
    finally:
        sys.setrecursionlimit(limit)
    return done
