"""Makes valid DAWG files unlike those of the usual writer: other orders, wider fields, no sharing."""

from __future__ import annotations

from random import Random
from typing import Any


class _Node:
    def __init__(self, final: bool) -> None:
        self.final = final
        self.edges: list[tuple[int, _Node]] = []
        self.words = 0
        self.trie = 0

    def count(self) -> None:
        self.words = self.final + sum(child.words for _, child in self.edges)
        self.trie = sum(1 + child.trie for _, child in self.edges)


def words(rng: Random) -> list[str]:
    """Return a few words, some of which are entries of a domain list."""
    labels = rng.choice(
        (("a", "b", "ab"), ("www", "example", "net", "a\\.b", "\\000"), ("é", "0", "\0", "\U0001f600"))
    )
    found = set()
    for _ in range(rng.choice((0, 1, 2, 3, 5, 12, 40))):
        word = "".join(rng.choice(labels) + rng.choice(("", ".", ".")) for _ in range(rng.randrange(5)))
        found.add(rng.choice(("", "", ".")) + word)
    if rng.random() < 0.02:
        found.add("x" * rng.choice((100, 350)))
    return sorted(found)


def _automaton(rng: Random, rest: list[str], shared: dict[Any, _Node] | None) -> _Node:
    node = _Node("" in rest)
    for head in sorted({word[0] for word in rest if word}):
        child = _automaton(rng, [word[1:] for word in rest if word[:1] == head], shared)
        node.edges.append((ord(head), child))
    if shared is not None:
        node = shared.setdefault((node.final, tuple((c, id(child)) for c, child in node.edges)), node)
    node.count()
    return node


def _ordered(rng: Random, root: _Node) -> list[_Node]:
    order: dict[int, _Node] = {}
    waiting = [root]
    while waiting:
        # The last one gives an order in which nodes can fall through, any other one does not.
        node = waiting.pop(-1 if rng.random() < 0.8 else int(rng.random() * len(waiting)))
        if id(node) not in order:
            order[id(node)] = node
            waiting += [child for _, child in reversed(node.edges)]
    return list(order.values())


def _fixed(value: int, bits: int) -> str:
    return f"{value:0{bits}b}" if bits else ""


class _Writer:
    def __init__(self, rng: Random, root: _Node) -> None:
        self.rng = rng
        self.root = root
        self.nodes = _ordered(rng, root)
        self.number = {id(node): k for k, node in enumerate(self.nodes)}
        largest = max((c for node in self.nodes for c, _ in node.edges), default=0)
        self.cbits = min(21, largest.bit_length() + self.slack())
        self.wbits = root.words.bit_length()
        self.skip_field = self.wbits.bit_length()
        # What each node chooses must stay the same while addresses move.
        self.choices = [(rng.random() < 0.9, rng.random() < 0.7, self.slack()) for _ in self.nodes]

    def slack(self) -> int:
        return self.rng.choice((0, 0, 0, 1, 3))

    def code(self, value: int, more: int = 0) -> str:
        size = min(5, max(1, (value.bit_length() + 6) // 7) + more)
        digits = _fixed(value, 7 * size)
        return "".join(("0" if k == size - 1 else "1") + digits[7 * k : 7 * k + 7] for k in range(size))

    def node(self, node: _Node, place: dict[int, int], abits: int) -> str:
        at = self.number[id(node)]
        falls, single, slack = self.choices[at]
        text = "1" if node.final else "0"
        if falls and len(node.edges) == 1 and self.number[id(node.edges[0][1])] == at + 1:
            return text + "1" + _fixed(node.edges[0][0], self.cbits)
        width = 0
        if single and len(node.edges) == 1:
            text += "01"
        else:
            width = min(self.wbits, node.words.bit_length() + slack)
            text += "00" + self.code(len(node.edges), slack % 2) + _fixed(width, self.skip_field)
        skip = int(node.final)
        for k, (character, child) in enumerate(node.edges):
            text += _fixed(character, self.cbits)
            text += _fixed(skip, width) if k else ""
            text += _fixed(place.get(id(child), 0), abits)
            skip += child.words
        return text

    def file(self) -> bytes:
        counts = "".join(
            self.code(n, self.slack() % 2) for n in (self.root.words, len(self.nodes), self.root.trie)
        )
        abits = 1
        while True:
            place, end = {}, 48 + len(counts)
            for node in self.nodes:
                place[id(node)] = end
                end += len(self.node(node, {}, abits))
            if end.bit_length() <= abits:
                break
            abits = min(40, end.bit_length() + self.slack())
        size = (end + 7) // 8
        bits = _fixed(size, 32) + _fixed(self.cbits, 8) + _fixed(abits, 8) + counts
        bits += "".join(self.node(node, place, abits) for node in self.nodes)
        return int(bits.ljust(8 * size, "0"), 2).to_bytes(size, "big")


def file(rng: Random) -> bytes:
    """Return a valid file."""
    shared: dict[Any, _Node] | None = {} if rng.random() < 0.8 else None
    return _Writer(rng, _automaton(rng, words(rng), shared)).file()
