"""DAWG files: a sorted list of words as a minimal automaton, each word with its index.

The format is that of github.com/smhanov/dawg, which the Go daemon maps and trusts. Here a file is read into
memory and checked completely before anything is looked up: a damaged file is an error that names the place, and
a file may be overwritten while it is in use.

Decisions where the format leaves room: the size word must be exactly the size of the file (bytes behind the end
are as wrong as missing ones), the bits that fill the last byte must be zero, every node must be reachable and lead
to a word, words have at most 65,534 characters, and words and trie edges are each at most 2^32 - 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edm.errors import ListFileError
from edm.files.reading import LIMIT_SETTING, UnreadableError, printable, read_whole
from edm.kernel.columns import I64Array, U8Array
from edm.stages.domains.dawg import kernels as dk
from edm.stages.domains.dawg.arrays import DawgBits, Reach
from edm.stages.domains.dawg.bits import MAX_CODE_GROUPS, PADDING
from edm.stages.domains.dawg.walk import pick_words, walk_words

MAX_FILE_BYTES = 0xFFFFFFFF
"""Largest size that the 32-bit size word can state."""

BATCH_WORDS = 65536

PROBLEMS = {
    dk.TRUNCATED: "the node does not end within the file",
    dk.BAD_CHARACTER: "an edge's character is not a Unicode character",
    dk.UNORDERED: "edges are not in ascending order",
    dk.BAD_SKIP_WIDTH: "a skip field is wider than the word count",
    dk.BAD_EDGE_COUNT: "the number of edges of a node is out of bounds",
    dk.FALLS_OFF: "the last node falls through to a node that is not there",
    dk.BAD_ADDRESS: "an address points to no node",
    dk.LOOP: "an address leads back to a node above it (loop)",
    dk.BAD_SKIP: "a skip differs from the number of words before the edge",
    dk.DEAD_END: "the edge leads to no word",
    dk.WORD_TOO_LONG: f"a word is longer than {dk.MAX_WORD_CHARS:,} characters",
    dk.TOO_MANY: f"there are more than {dk.MAX_COUNT:,} words or edges",
}


def bit_length(number: int) -> int:
    """Return the bits that ``number`` needs; 0 for 0."""
    return int(number).bit_length()


class EmptyFileError(ListFileError):
    """The file has no bytes at all, which is no DAWG, but to some callers means that there is no list."""


def _wrong_size(head: bytes, size: int) -> str:
    """Return what is wrong with the size that the head of a file of ``size`` bytes states, or nothing."""
    if len(head) < 4 or (stated := int.from_bytes(head[:4], "big")) == size:
        return ""
    return f"not a valid DAWG file: at byte 0 (bit 0): it states a size of {stated:,} bytes, but there are {size:,}"


class Dawg:
    """A DAWG file in memory, completely checked.

    Attributes
    ----------
    name : str
        The file's path, for messages.
    words, nodes, edges : int
        The counts of the header; ``edges`` are those of the unfolded trie.
    longest : int
        Characters of the longest word.
    size : int
        Bytes of the file.
    """

    __slots__ = (
        "_abits",
        "_buf",
        "_cbits",
        "_digest",
        "_first",
        "_skip_field",
        "_wbits",
        "edges",
        "longest",
        "name",
        "nodes",
        "size",
        "words",
    )

    def __init__(self, buf: U8Array, size: int, name: str) -> None:
        """Check ``buf[:size]``, which :data:`edm.stages.domains.dawg.bits.PADDING` zero bytes must follow.

        Raises
        ------
        ListFileError
            If it is not a valid DAWG.
        """
        self._buf = buf
        self._digest: bytes | None = None
        self.size = size
        self.name = name
        self._read_header()
        self._check_nodes()

    @classmethod
    def open(cls, path: Path | str, limit: int = MAX_FILE_BYTES) -> Dawg:
        """Read and check a file; nothing is read of one of more than ``limit`` bytes.

        Raises
        ------
        EmptyFileError
            If the file is empty.
        ListFileError
            If the file cannot be read or is not a valid DAWG.
        """
        setting = LIMIT_SETTING if limit < MAX_FILE_BYTES else ""
        try:
            data = read_whole(path, limit, setting, refuse=_wrong_size, padding=PADDING)
        except UnreadableError as error:
            raise ListFileError(f"{printable(path)}: {error}") from None
        size = len(data) - PADDING
        if not size:
            raise EmptyFileError(f"{path}: not a valid DAWG file: the file is empty")
        return cls(np.frombuffer(data, np.uint8), size, str(path))

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "DAWG") -> Dawg:
        """Check a file's content; ``name`` stands for it in messages.

        Raises
        ------
        ListFileError
            If it is not a valid DAWG.
        """
        buf = np.zeros(len(data) + PADDING, np.uint8)
        buf[: len(data)] = np.frombuffer(data, np.uint8)
        return cls(buf, len(data), name)

    def _fail(self, bit: int, reason: str) -> ListFileError:
        return ListFileError(f"{self.name}: not a valid DAWG file: at byte {bit // 8} (bit {bit}): {reason}")

    def _number(self, pos: int, what: str) -> tuple[int, int]:
        value = 0
        for k in range(MAX_CODE_GROUPS):
            if pos + 8 * (k + 1) > 8 * self.size:
                raise self._fail(pos, f"the file ends within its {what}")
            group = int(self._buf[pos // 8 + k])
            value = value << 7 | group & 0x7F
            if group < 0x80:
                return value, pos + 8 * (k + 1)
        raise self._fail(pos, f"the {what} is out of bounds")

    def _read_header(self) -> None:
        size = self.size
        if size < 4:
            content = "the file is empty" if size == 0 else f"{size} bytes are too few"
            raise ListFileError(f"{self.name}: not a valid DAWG file: {content}")
        if wrong := _wrong_size(self._buf[:4].tobytes(), size):
            raise ListFileError(f"{self.name}: {wrong}")
        if size < 9:
            raise self._fail(32, "the file ends within its header")
        self._cbits = int(self._buf[4])
        if self._cbits > 21:
            raise self._fail(32, f"a character cannot take {self._cbits} bits")
        self._abits = int(self._buf[5])
        if not 1 <= self._abits <= 40:
            raise self._fail(40, f"an address cannot take {self._abits} bits")
        self.words, words_end = self._number(48, "number of words")
        self.nodes, nodes_end = self._number(words_end, "number of nodes")
        self.edges, self._first = self._number(nodes_end, "number of edges")
        if self.words > dk.MAX_COUNT:
            raise self._fail(48, f"{self.words:,} words are more than the {dk.MAX_COUNT:,} supported")
        if self.edges > dk.MAX_COUNT:
            raise self._fail(nodes_end, f"{self.edges:,} edges are more than the {dk.MAX_COUNT:,} supported")
        # The smallest nodes are one that falls through, and a leaf.
        room = (8 * size - self._first) // min(2 + self._cbits, 11)
        if not 1 <= self.nodes <= max(room, 1):
            raise self._fail(words_end, f"{self.nodes:,} nodes in a file with room for 1 to {room:,}")
        self._wbits = bit_length(self.words)
        self._skip_field = bit_length(self._wbits)

    def _dawg_bits(self) -> DawgBits:
        return DawgBits(
            buf=self._buf,
            first=np.uint64(self._first),
            end=np.uint64(8 * self.size),
            cbits=np.uint64(self._cbits),
            abits=np.uint64(self._abits),
            wbits=np.uint64(self._wbits),
            skip_field=np.uint64(self._skip_field),
        )

    def _check_nodes(self) -> None:
        dawg = self._dawg_bits()
        starts = np.zeros(self.size // 8 + 2, np.uint64)
        report = np.zeros(2, np.uint64)
        problem = dk.scan_nodes(dawg, np.uint64(self.nodes), starts, report)
        if problem != dk.OK:
            raise self._fail(int(report[0]), PROBLEMS[problem])
        last = int(report[0])
        if (last + 7) // 8 != self.size:
            raise self._fail(last, f"{self.size - (last + 7) // 8} bytes behind the last node")
        if self._buf[self.size - 1] & ((1 << (-last % 8)) - 1):
            raise self._fail(last, "the bits behind the last node are not zero")

        rank = np.zeros(len(starts), np.uint32)
        np.cumsum(np.bitwise_count(starts[:-1]), dtype=np.uint32, out=rank[1:])
        words = np.zeros(self.nodes, np.uint32)
        trie = np.zeros(self.nodes, np.uint32)
        heights = np.zeros(self.nodes, np.uint16)
        stack = np.empty((dk.MAX_WORD_CHARS + 2, dk.STACK_FIELDS), np.uint64)
        problem = dk.count_words(dawg, starts, rank, Reach(words, trie, heights), stack, report)
        if problem != dk.OK:
            raise self._fail(int(report[0]), PROBLEMS[problem])
        if report[1] != self.nodes:
            raise self._fail(self._first, f"{self.nodes - int(report[1])} nodes are reached by no edge")
        if words[0] != self.words:
            raise self._fail(48, f"it states {self.words:,} words, but there are {words[0]:,}")
        if trie[0] != self.edges:
            raise self._fail(48, f"it states {self.edges:,} edges, but there are {trie[0]:,}")
        self.longest = int(heights[0])

    def digest(self) -> bytes:
        """Return the SHA-256 digest of the file's content."""
        if self._digest is None:
            self._digest = hashlib.sha256(self._buf[: self.size].data).digest()
        return self._digest

    def batches(self) -> Iterator[tuple[U8Array, I64Array]]:
        """Give all words in index order, a batch at a time.

        Yields
        ------
        text : uint8[...]
            The words of the batch in UTF-8, one behind the other.
        ends : int64[words of the batch]
            Where each word ends in ``text``. Both arrays are used again for the next batch.
        """
        text = np.empty(max(1 << 20, 4 * self.longest + 4), np.uint8)
        ends = np.empty(BATCH_WORDS, np.int64)
        path = np.empty(4 * self.longest + 4, np.uint8)
        stack = np.empty((self.longest + 2, dk.STACK_FIELDS), np.uint64)
        report = np.zeros(2, np.int64)
        dawg = self._dawg_bits()
        while report[1] >= 0:
            depth = int(report[1])
            walk_words(dawg, stack, path, depth, text, ends, report)
            if report[0]:
                yield text, ends[: report[0]]

    def sample(self, count: int) -> tuple[U8Array, I64Array]:
        """Return up to ``count`` words that are spread evenly over the list, as :meth:`batches` gives them."""
        indexes = np.linspace(0, max(self.words - 1, 0), min(count, self.words)).astype(np.int64)
        text = np.empty(64 * len(indexes) + 4 * self.longest + 4, np.uint8)
        ends = np.empty(len(indexes), np.int64)
        stack = np.empty((1, dk.STACK_FIELDS), np.uint64)
        dawg = self._dawg_bits()
        done = pick_words(dawg, indexes, stack, text, ends)
        return text, ends[:done]

    def __len__(self) -> int:
        return self.words

    def __iter__(self) -> Iterator[str]:
        for text, ends in self.batches():
            content = text[: ends[-1]].tobytes()
            start = 0
            for end in ends.tolist():
                yield content[start:end].decode()
                start = end

    def _bits(self, pos: int, width: int) -> int:
        return int.from_bytes(self._buf[pos >> 3 : (pos + width + 7) >> 3].tobytes(), "big") >> (
            -(pos + width) % 8
        ) & ((1 << width) - 1)

    def _node(self, pos: int) -> tuple[bool, list[tuple[int, int, int]]]:
        """Return whether a word ends at the node, and its edges: character, skip, address of the child."""
        final = self._bits(pos, 1)
        if self._bits(pos + 1, 1):
            end = pos + 2 + self._cbits
            return bool(final), [(self._bits(pos + 2, self._cbits), final, end)]
        count, width, at = 1, 0, pos + 3
        if not self._bits(pos + 2, 1):
            count, more = 0, True
            while more:
                count = count << 7 | self._bits(at + 1, 7)
                more = bool(self._bits(at, 1))
                at += 8
            width = self._bits(at, self._skip_field)
            at += self._skip_field
        edges = []
        for k in range(count):
            character = self._bits(at, self._cbits)
            at += self._cbits
            skip = self._bits(at, width) if k else final
            at += width if k else 0
            edges.append((character, skip, self._bits(at, self._abits)))
            at += self._abits
        return bool(final), edges

    def word(self, index: int) -> str:
        """Return the word with this index.

        Raises
        ------
        IndexError
            Unless ``0 <= index < words``.
        """
        if not 0 <= index < self.words:
            raise IndexError(f"{self.name} has no word {index}")
        characters = []
        final, edges = self._node(self._first)
        while not (final and index == 0):
            character, skip, child = next(edge for edge in reversed(edges) if edge[1] <= index)
            characters.append(chr(character))
            index -= skip
            final, edges = self._node(child)
        return "".join(characters)

    def index(self, word: str) -> int:
        """Return the index of ``word``, or -1."""
        found = 0
        final, edges = self._node(self._first)
        for character in word:
            step = next((edge for edge in edges if edge[0] == ord(character)), None)
            if step is None:
                return -1
            found += step[1]
            final, edges = self._node(step[2])
        return found if final else -1


__all__ = ["PROBLEMS", "Dawg", "EmptyFileError", "bit_length"]
