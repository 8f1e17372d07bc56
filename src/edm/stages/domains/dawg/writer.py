"""Writing DAWG files, byte for byte as the Go library writes them for the same words."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np
import numpy.typing as npt

from edm.errors import ListFileError
from edm.kernel.columns import I64Array
from edm.stages.domains.dawg import writer_kernels as wk
from edm.stages.domains.dawg.arrays import Automaton, Graph, Widths
from edm.stages.domains.dawg.dawg import MAX_FILE_BYTES, bit_length
from edm.stages.domains.dawg.kernels import MAX_WORD_CHARS

U32Matrix = npt.NDArray[np.uint32]

_BATCH_WORDS = 65536


def _grown(array: U32Matrix, rows: int) -> U32Matrix:
    if rows > len(array):
        # In place: realloc moves the pages of a large array instead of copying them.
        array.resize((max(rows, len(array) * 3 // 2), *array.shape[1:]), refcheck=False)
    return array


def _code(number: int) -> bytes:
    """Return ``number`` in the header's 7-bit code."""
    groups = 1
    # The Go library leaves the last value of each size out: 127 takes two groups.
    while number >= (1 << 7 * groups) - 1:
        groups += 1
    return bytes((number >> 7 * k & 0x7F) | (0x80 if k else 0) for k in range(groups - 1, -1, -1))


class _Automaton:
    """The minimal automaton under construction: owns the arrays and makes room in them."""

    def __init__(self) -> None:
        self.meta: I64Array = np.zeros(wk.N_META, np.int64)
        self.path: U32Matrix = np.zeros((64, 3), np.uint32)
        self.pend: U32Matrix = np.zeros((64, 2), np.uint32)
        self.node: U32Matrix = np.zeros((1024, 4), np.uint32)
        self.edge: U32Matrix = np.zeros((1024, 2), np.uint32)
        self.slots: U32Matrix = np.full(2048, wk.NO_NODE, np.uint32)
        self.longest = 0

    def add(self, words: list[str], *, last: bool) -> None:
        """Add words in ascending order; see :func:`edm.stages.domains.dawg.writer_kernels.add_words`."""
        try:
            text = np.frombuffer("".join(words).encode("utf-32-le"), np.uint32)
        except UnicodeEncodeError as error:
            raise ListFileError(f"a word contains a lone surrogate: {error.object[error.start]!a}") from error
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        self.longest = max(self.longest, int(lengths.max(initial=0)))
        if self.longest > MAX_WORD_CHARS:
            raise ListFileError(f"a word of {self.longest:,} characters is longer than {MAX_WORD_CHARS:,}")
        more = len(text) + int(self.meta[wk.M_DEPTH]) + 2
        self.path = _grown(self.path, self.longest + 2)
        self.pend = _grown(self.pend, int(self.meta[wk.M_OPEN]) + more)
        self.edge = _grown(self.edge, int(self.meta[wk.M_EDGES]) + more)
        self.node = _grown(self.node, int(self.meta[wk.M_NODES]) + more)
        if 2 * (int(self.meta[wk.M_NODES]) + more) > len(self.slots):
            size = 1 << bit_length(4 * (int(self.meta[wk.M_NODES]) + more))
            self.slots = np.full(size, wk.NO_NODE, np.uint32)
            wk.fill_slots(self.node, self.meta[wk.M_NODES], self.edge, self.slots)
        added = wk.add_words(
            text,
            np.cumsum(lengths),
            len(words),
            int(last),
            Automaton(self.meta, self.path, self.pend, self.node, self.edge, self.slots),
        )
        if added != len(words):
            raise ListFileError(f"the words are not in ascending order at {words[added]!r}")

    def to_bytes(self) -> bytes:
        """Lay the finished automaton out as a file."""
        nodes = int(self.meta[wk.M_NODES])
        words = int(self.meta[wk.M_WORDS])
        # The hash table is done with, and the numbers need its room.
        self.slots = np.zeros(0, np.uint32)
        number = np.full(nodes, wk.NO_NODE, np.uint32)
        order = np.empty(nodes, np.uint32)
        stack = np.empty((self.longest + 2, 2), np.uint32)
        graph = Graph(self.node, self.edge, number, order)
        wk.number_nodes(nodes - 1, graph, stack)
        cbits = bit_length(int(self.meta[wk.M_LARGEST]))
        skip_field = bit_length(bit_length(words))
        counts = _code(words) + _code(nodes) + _code(int(self.meta[wk.M_TRIE]))
        first = 8 * (6 + len(counts))
        position = np.empty(nodes, np.uint64)
        # The width of an address depends on the size of the file, and that on the width.
        abits, end = 0, 1
        while bit_length(end) > abits:
            abits = bit_length(end)
            end = wk.place_nodes(nodes, graph, first, Widths(cbits, abits, skip_field), position)
        size = (int(end) + 7) // 8
        if size > MAX_FILE_BYTES:
            raise ListFileError(f"a file of {size:,} bytes is more than the format allows")
        out = np.zeros(size + 8, np.uint8)
        header = size.to_bytes(4, "big") + bytes([cbits, abits]) + counts
        out[: len(header)] = np.frombuffer(header, np.uint8)
        widths = Widths(np.uint64(cbits), np.uint64(abits), np.uint64(skip_field))
        wk.put_nodes(nodes, graph, widths, position, out)
        return out[:size].tobytes()


def write_dawg(words: Iterable[str]) -> bytes:
    """Return the DAWG file of a set of words.

    Parameters
    ----------
    words : iterable of str
        In any order; a word that comes twice counts once. Indexes follow the order of the words' code points.

    Raises
    ------
    ListFileError
        If a word is longer than 65,534 characters or no valid Unicode, or the file would be larger than 4 GiB.
    """
    automaton = _Automaton()
    # Sorting takes no time if the words are in order already.
    ordered = iter(sorted(words))
    while batch := list(islice(ordered, _BATCH_WORDS)):
        automaton.add(batch, last=False)
    automaton.add([], last=True)
    return automaton.to_bytes()


__all__ = ["write_dawg"]
