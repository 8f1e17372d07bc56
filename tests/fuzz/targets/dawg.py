"""DAWG files: which are accepted, and their words and indexes, compared with a simple reader."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from edm.errors import ListFileError
from edm.stages.domains import Dawg, DomainTable, write_dawg
from edm.stages.domains.table.hashing import KEY_WORDS
from fuzz.target import Target, agree, one_line
from oracles import dawg_generator, dawg_reader, dawg_validity
from oracles.framestream import CAPTURES

_KEY = np.frombuffer(Random(7).randbytes(8 * KEY_WORDS), np.uint64)
_WORDS_READ = 300
_MADE = 300
_LONGEST_READ = 400


def _expected(data: bytes) -> int | None:
    try:
        return dawg_validity.words_in(data)
    except dawg_validity.InvalidError:
        return None


class DawgTarget(Target):
    name = "dawg"
    batch = 64
    longest = 3000

    def __init__(self) -> None:
        self._made: list[bytes] = []

    def corpus(self) -> list[bytes]:
        rng = Random(3)
        files = [(CAPTURES / "lists" / "ignored-names.dawg").read_bytes()]
        files += [write_dawg(dawg_generator.words(rng)) for _ in range(30)]
        return files

    def generate(self, rng: Random) -> bytes:
        # Making a file takes longer than checking it.
        if len(self._made) < _MADE or rng.random() < 0.1:
            self._made = [*self._made[-_MADE + 1 :], dawg_generator.file(rng)]
            return self._made[-1]
        return rng.choice(self._made)

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        if rng.random() < 0.6 and len(data) > 6:
            # A single bit or field: what is noticed only when edges are followed.
            changed = bytearray(data)
            for _ in range(rng.choice((1, 1, 2, 3))):
                at = 4 + int(rng.random() * (len(changed) - 4))
                changed[at] ^= rng.choice((1, 2, 4, 8, 16, 32, 64, 128, 3, 255))
            return bytes(changed)
        changed = bytearray(super().mutate(rng, data, other))
        if rng.random() < 0.9:
            changed[:4] = len(changed).to_bytes(4, "big")
        return bytes(changed)

    def check(self, inputs: Sequence[bytes]) -> list[bool]:
        return [self._one(data) for data in inputs]

    def _one(self, data: bytes) -> bool:
        expected = _expected(data)
        try:
            dawg = Dawg.from_bytes(data, "list.dawg")
        except ListFileError as error:
            one_line(error, "list.dawg: ")
            agree(data, None, expected)
            return False
        agree(data, dawg.words, expected)
        if dawg.words <= _WORDS_READ and dawg.longest <= _LONGEST_READ:
            self._read(data, dawg)
        return True

    def _read(self, data: bytes, dawg: Dawg) -> None:
        words = dawg_reader.Reader(data).words()
        agree(data, list(dawg), words)
        for k in range(0, len(words), 1 + len(words) // 5):
            agree(data, (dawg.word(k), dawg.index(words[k])), (words[k], k))
            agree(
                data,
                dawg.index(words[k] + "?"),
                words.index(words[k] + "?") if words[k] + "?" in words else -1,
            )
        table = DomainTable.build(dawg, _KEY)
        agree(data, table.texts(range(len(words))).to_pylist(), words)
        packed = DomainTable.build(dawg, _KEY, large=0)
        agree(data, sorted(packed.texts(range(len(words))).to_pylist()), sorted(words))
        agree(data, packed.entries, table.entries)
        table.close()
        packed.close()


__all__ = ["DawgTarget"]
