"""Question names in domain tables: hash and lookup, compared with matching texts. Any bytes make a wire name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random

import numpy as np

from edm.kernel import columns as c
from edm.kernel.columns import Columns
from edm.stages.domains import Dawg, DomainTable, parse_name, write_dawg
from edm.stages.domains.table.hashing import KEY_WORDS
from edm.stages.domains.table.name_hashing import hash_names
from fuzz import lists
from fuzz.guarded import guard
from fuzz.target import Target, agree, filler
from oracles import dns_message, domain_match

_KEY = np.frombuffer(Random(8).randbytes(8 * KEY_WORDS), np.uint64)
_DEEP = (
    ".", "..", ".a.", "a.", "b.a.", ".b.a.", "com.", ".com.", "example.com.", ".example.com.", "*.example.com.",
    "a\\.b.org.", ".org.", "\\000.org.", "\\255\\254.org.", "a..b.", "A.org.", ".B.org.", "", "no-dot",
    "." + "a." * 8, "." + "a." * 9, "." + "a." * 10, "." + "b." * 126, "a." * 127, "b." + "a." * 12,
    "." + "x" * 63 + ".", "." + ("y" * 63 + ".") * 3, ("y" * 63 + ".") * 3 + "y" * 61 + ".",
    "." + "\\046.a.", ".\\092.b.", "\\@.a.", ".\\@.a.",
)  # fmt: skip


def as_name(data: bytes) -> bytes:
    """Return a well-formed wire name made from any bytes."""
    wire = bytearray()
    at = 0
    while at < len(data):
        size = data[at] & 0x3F
        label = data[at + 1 : at + 1 + size]
        at += 1 + size
        if not label or len(wire) + len(label) + 1 > 254:
            break
        wire.append(len(label))
        wire += label
    return bytes(wire) + b"\0"


def labels_of(wire: bytes) -> list[bytes]:
    """Return the labels of a wire name."""
    labels = []
    at = 0
    while wire[at]:
        labels.append(wire[at + 1 : at + 1 + wire[at]])
        at += 1 + wire[at]
    return labels


@cache
def _tables() -> list[tuple[DomainTable, dict[str, int]]]:
    """Return tables, each also packed as large ones are, and the indexes of their words."""
    found = []
    for content in (
        lists.well_known(),
        lists.ignored_names(),
        write_dawg(_DEEP),
        write_dawg(["a."]),
        write_dawg([]),
    ):
        dawg = Dawg.from_bytes(content)
        for large in (None, 0):
            table = DomainTable.build(dawg, _KEY, large=large)
            texts = table.texts(range(len(dawg))).to_pylist()
            found.append((table, {word: k for k, word in enumerate(texts)}))
    return found


def find(table: DomainTable, names: Sequence[bytes], room: int) -> list[tuple[int, int]]:
    """Look the names up as a batch does, ``room`` bytes apart, the last one at the very end of the block."""
    n = len(names)
    gap = filler(names, room)
    block = bytearray(gap + b"".join(name + gap for name in names[:-1]) + names[-1])
    lengths = np.fromiter(map(len, names), np.int64, n)
    columns = Columns(n)
    columns.u32[:] = 0xA5A5A5A5
    columns.u64[:] = 0xA5A5A5A5A5A5A5A5
    columns.u32[c.QNAME_LEN, :n] = lengths
    columns.u32[c.QNAME_OFF, :n] = room + np.cumsum(lengths + room) - lengths - room
    columns.fate[1:n:7] = c.QUERY
    buf, u32, u64, fate = (
        guard(np.frombuffer(block, np.uint8)),
        guard(columns.u32),
        guard(columns.u64),
        guard(columns.fate),
    )
    before = bytes(block)
    hash_names(buf, u32, u64, fate, n, guard(_KEY))
    table.lookup(buf, u32, u64, fate, n)
    assert bytes(block) == before, "the kernel wrote into the names"
    index = columns.u32[c.DOMAIN_INDEX, :n].astype(np.int64)
    index[index == c.NO_DOMAIN] = -1
    return list(zip(index.tolist(), columns.u32[c.DOMAIN_MATCH, :n].tolist(), strict=True))


class NamesTarget(Target):
    name = "names"
    batch = 1024
    longest = 300

    def __init__(self) -> None:
        self._words = [word for _, words in _tables() for word in list(words)[:3000]]
        self._words += list(_DEEP) * 40

    def corpus(self) -> list[bytes]:
        return [self._wire(word) for word in self._words[::7]]

    def _wire(self, word: str) -> bytes:
        try:
            return parse_name(word.removeprefix(".") or ".")
        except ValueError:
            return b"\1" + word.encode()[:60]

    def generate(self, rng: Random) -> bytes:
        wire = self._wire(rng.choice(self._words))
        for _ in range(rng.choice((0, 0, 1, 2, 9))):
            label = rng.choice(
                (b"a", b"b", b"www", b".", b"\\", b"y" * 63, rng.randbytes(1 + rng.randrange(9)))
            )
            wire = bytes((len(label),)) + label + wire
        if rng.random() < 0.3:
            wire = wire.upper() if rng.random() < 0.5 else wire.title()
        return wire

    def check(self, inputs: Sequence[bytes]) -> list[bool]:
        names = [as_name(data) for data in inputs]
        texts = [dns_message.presentation(labels_of(name)) for name in names]
        found = [False] * len(inputs)
        for number, (table, words) in enumerate(_tables()):
            answers = find(table, names, (7, 0, 40, 1, 3)[(number + len(names)) % 5])
            for k, (data, text, answer) in enumerate(zip(inputs, texts, answers, strict=True)):
                if k % 7 != 1:  # the others had a fate before
                    agree(data, answer, domain_match.match(words, text))
                    found[k] |= answer[1] != 0
        return found


__all__ = ["NamesTarget", "as_name", "labels_of"]
