"""DAWG files read and written in the simplest way, as strings of "0" and "1"."""

from __future__ import annotations

from functools import cache


class Reader:
    """The words of a valid file."""

    def __init__(self, data: bytes) -> None:
        self.bits = "".join(f"{byte:08b}" for byte in data)
        self.cbits, self.abits = data[4], data[5]
        pos = 48
        self.word_count, pos = self.code(pos)
        self.node_count, pos = self.code(pos)
        self.edge_count, self.first = self.code(pos)
        self.skip_field = len(f"{len(f'{self.word_count:b}') if self.word_count else 0:b}")
        if not self.word_count:
            self.skip_field = 0

    def number(self, pos: int, width: int) -> int:
        return int(self.bits[pos : pos + width] or "0", 2)

    def code(self, pos: int) -> tuple[int, int]:
        digits = ""
        while True:
            digits += self.bits[pos + 1 : pos + 8]
            pos += 8
            if self.bits[pos - 8] == "0":
                return int(digits, 2), pos

    def node(self, pos: int) -> tuple[bool, list[tuple[str, int, int]]]:
        """Return whether a word ends here, and (character, stored skip or 0, child) of each edge."""
        final = self.bits[pos] == "1"
        if self.bits[pos + 1] == "1":
            end = pos + 2 + self.cbits
            return final, [(chr(self.number(pos + 2, self.cbits)), int(final), end)]
        single = self.bits[pos + 2] == "1"
        count, width, pos = 1, 0, pos + 3
        if not single:
            count, pos = self.code(pos)
            width = self.number(pos, self.skip_field)
            pos += self.skip_field
        edges = []
        for k in range(count):
            char = chr(self.number(pos, self.cbits))
            pos += self.cbits
            skip = int(final)
            if k:
                skip = self.number(pos, width)
                pos += width
            edges.append((char, skip, self.number(pos, self.abits)))
            pos += self.abits
        return final, edges

    def words(self) -> list[str]:
        found = []

        def visit(pos: int, prefix: str) -> None:
            final, edges = self.node(pos)
            if final:
                found.append(prefix)
            for char, _, child in edges:
                visit(child, prefix + char)

        visit(self.first, "")
        return found

    def index(self, word: str) -> int:
        pos, index = self.first, 0
        for char in word:
            step = [edge for edge in self.node(pos)[1] if edge[0] == char]
            if not step:
                return -1
            index += step[0][1]
            pos = step[0][2]
        return index if self.node(pos)[0] else -1


def write(words: list[str]) -> bytes:
    """Return the file of some words: trie, equal nodes shared, numbered in pre-order, written."""
    words = sorted(set(words), key=lambda word: word.encode())

    # A node is (final, ((char, node), ...)): equal sub-automata are equal values.
    def trie(rest: list[str]) -> tuple:
        heads = sorted({word[0] for word in rest if word})
        edges = tuple((head, trie([word[1:] for word in rest if word[:1] == head])) for head in heads)
        return ("" in rest, edges)

    root = trie(words)
    order: list[tuple] = []
    number: dict[tuple, int] = {}

    def visit(node: tuple) -> None:
        if node not in number:
            number[node] = len(order)
            order.append(node)
            for _, child in node[1]:
                visit(child)

    visit(root)

    @cache
    def count(node: tuple) -> int:
        return node[0] + sum(count(child) for _, child in node[1])

    @cache
    def trie_edges(node: tuple) -> int:
        return sum(1 + trie_edges(child) for _, child in node[1])

    def width(value: int) -> int:
        return len(f"{value:b}") if value else 0

    def fixed(value: int, bits: int) -> str:
        return f"{value:0{bits}b}" if bits else ""

    def code(value: int) -> str:
        size = next(k for k, limit in enumerate((0x7F, 0x3FFF, 0x1FFFFF, 0xFFFFFFF), 1) if value < limit)
        digits = fixed(value, 7 * size)
        return "".join(("0" if k == size - 1 else "1") + digits[7 * k : 7 * k + 7] for k in range(size))

    cbits = width(max((ord(char) for word in words for char in word), default=0))
    skip_field = width(width(len(words)))

    def render(node: tuple, place: dict[tuple, int], abits: int) -> str:
        final, edges = node
        text = "1" if final else "0"
        if len(edges) == 1 and number[edges[0][1]] == number[node] + 1:
            return text + "1" + fixed(ord(edges[0][0]), cbits)
        skip_width = 0
        if len(edges) == 1:
            text += "01"
        else:
            skip_width = width(count(node))
            text += "00" + code(len(edges)) + fixed(skip_width, skip_field)
        skip = int(final)
        for k, (char, child) in enumerate(edges):
            text += fixed(ord(char), cbits)
            if k:
                text += fixed(skip, skip_width)
            text += fixed(place.get(child, 0), abits)
            skip += count(child)
        return text

    counts = code(len(words)) + code(len(order)) + code(trie_edges(root))
    abits = 1
    while True:
        place, end = {}, 48 + len(counts)
        for node in order:
            place[node] = end
            end += len(render(node, {}, abits))
        if width(end) <= abits:
            break
        abits = width(end)
    size = (end + 7) // 8
    bits = fixed(size, 32) + fixed(cbits, 8) + fixed(abits, 8) + counts
    bits += "".join(render(node, place, abits) for node in order)
    return int(bits.ljust(8 * size, "0"), 2).to_bytes(size, "big")
