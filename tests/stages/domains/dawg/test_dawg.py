"""Reading DAWG files: the files of the Go library, and every kind of damage."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from edm.errors import ListFileError
from edm.kernel.jit import JIT_DISABLED
from edm.stages.domains import Dawg, EmptyFileError, write_dawg
from oracles import dawg_reader

LISTS = Path(__file__).parents[3] / "captures" / "lists"
THIRD_PARTY = Path(__file__).parents[4].parent / "shared" / "data" / "third-party-99999.dawg"
WORDS = [
    ".example.net.",
    "a.example.com.",
    "b.example.com.",
    "example.com.",
    "www.example.net.",
    "\u00e5.se.",
]


class Bits:
    """A file put together field by field."""

    def __init__(self, cbits: int, abits: int, words: int, nodes: int, edges: int) -> None:
        self.head = bytes([cbits, abits, words, nodes, edges])
        self.text = ""

    def put(self, *fields: tuple[int, int]) -> Bits:
        self.text += "".join(f"{value:0{width}b}" for value, width in fields)
        return self

    def build(self) -> bytes:
        size = 9 + (len(self.text) + 7) // 8
        body = int(self.text.ljust(8 * (size - 9), "0"), 2).to_bytes(size - 9, "big")
        return size.to_bytes(4, "big") + self.head + body


LEAF = ((1, 1), (0, 1), (0, 1), (0, 8), (1, 1))  # for files of one word, whose skip widths take one bit


def test_ignored_names() -> None:
    dawg = Dawg.open(LISTS / "ignored-names.dawg")
    assert list(dawg)[:5] == [".home.", ".internal.", ".lan.", ".local.", "hubver.net."]
    assert len(list(dawg)) == dawg.words == 7
    assert dawg.index(".home.") == 0
    assert dawg.index(".homes.") == dawg.index(".hom") == dawg.index("") == -1


def test_a_sample_is_spread_over_the_list() -> None:
    words = sorted(
        {"", "a", "ab", "abc", "\u00e5", "\U0001f600x", *WORDS, *(f"{i}.example." for i in range(60))}
    )
    dawg = Dawg.from_bytes(write_dawg(words))
    for count in (0, 1, 2, 7, len(words), 1000):
        text, ends = dawg.sample(count)
        starts = [0, *ends.tolist()][: len(ends)]
        found = [text[a:b].tobytes().decode() for a, b in zip(starts, ends.tolist(), strict=True)]
        step = (len(words) - 1) / max(min(count, len(words)) - 1, 1)
        assert found == [words[int(k * step + 1e-9)] for k in range(min(count, len(words)))]
    assert len(Dawg.from_bytes(write_dawg([])).sample(5)[1]) == 0


@pytest.mark.skipif(JIT_DISABLED, reason="36,000 words take too long without JIT")
def test_well_known_agrees_with_the_obvious_reader() -> None:
    content = (LISTS / "well-known.dawg").read_bytes()
    dawg = Dawg.from_bytes(content)
    reader = dawg_reader.Reader(content)
    words = list(dawg)
    assert words == reader.words()
    assert (dawg.words, dawg.nodes, dawg.edges) == (reader.word_count, reader.node_count, reader.edge_count)
    for i in range(0, len(words), 101):
        assert dawg.word(i) == words[i]
        assert dawg.index(words[i]) == reader.index(words[i]) == i


@pytest.mark.skipif(JIT_DISABLED, reason="99,999 words take too long without JIT")
@pytest.mark.skipif(not THIRD_PARTY.exists(), reason="a list of others that cannot be passed on")
def test_large_file_of_the_go_library() -> None:
    dawg = Dawg.open(THIRD_PARTY)
    assert (dawg.words, dawg.nodes, dawg.edges) == (99_999, 198_777, 1_084_124)
    words = list(dawg)
    assert words[:4] == ["0.gravatar.com.", "0.tqn.com.", "000webhost.com.", "007.com."]
    assert words[-1] == "zzz.bwh.harvard.edu."
    assert all(dawg.index(dawg.word(i)) == i for i in range(0, len(words), 997))


def test_no_word_and_the_empty_word() -> None:
    empty = Dawg.from_bytes(bytes.fromhex("0000000b00070001000000"))
    assert (empty.words, list(empty), empty.index(""), empty.index("a")) == (0, [], -1, -1)
    with pytest.raises(IndexError):
        empty.word(0)
    one = Dawg.from_bytes(bytes.fromhex("0000000b00070101008010"))
    assert (one.words, list(one), one.index(""), one.word(0)) == (1, [""], 0, "")


def test_a_null_character_takes_no_bits() -> None:
    dawg = Dawg.from_bytes(write_dawg(["", "\0", "\0\0"]))
    assert list(dawg) == ["", "\0", "\0\0"]
    assert dawg.index("\0\0") == 2


@pytest.mark.parametrize("index", [-1, len(WORDS)])
def test_no_such_word(index: int) -> None:
    with pytest.raises(IndexError):
        Dawg.from_bytes(write_dawg(WORDS)).word(index)


def test_a_file_built_by_hand() -> None:
    data = Bits(7, 8, 1, 2, 1).put((0, 1), (1, 1), (ord("a"), 7), *LEAF).build()
    assert list(Dawg.from_bytes(data)) == ["a"]


A, B = ord("a"), ord("b")


@pytest.mark.parametrize(
    ("data", "bit", "reason"),
    [
        # The only edge of the first node leads to the first node.
        (Bits(7, 8, 1, 1, 1).put((0, 1), (0, 1), (1, 1), (A, 7), (72, 8)), 75, "loop"),
        (Bits(7, 8, 1, 2, 2).put((0, 1), (1, 1), (A, 7), (0, 3), (2, 8), (0, 1)), 81, "does not end"),
        (Bits(7, 8, 1, 2, 1).put((0, 1), (0, 1), (1, 1), (A, 7), (91, 8), *LEAF), 75, "points to no node"),
        (Bits(7, 8, 1, 2, 1).put((0, 1), (0, 1), (1, 1), (A, 7), (255, 8), *LEAF), 75, "points to no node"),
        (Bits(7, 8, 1, 1, 1).put((0, 1), (1, 1), (A, 7)), 81, "falls through"),
        (Bits(7, 8, 2, 2, 2).put((0, 3), (2, 8), (1, 2), (B, 7), (106, 8), (A, 7), (0, 1), (106, 8), (4, 3),
                                 (0, 8), (1, 2)), 100, "ascending"),
        (Bits(7, 8, 2, 2, 2).put((0, 3), (2, 8), (1, 2), (A, 7), (116, 8), (B, 7), (0, 1), (116, 8), (4, 3),
                                 (0, 8), (1, 2)), 100, "skip differs"),
        (Bits(7, 8, 2, 2, 2).put((0, 3), (2, 8), (3, 2), (A, 7), (118, 8), (B, 7), (1, 3), (118, 8), (4, 3),
                                 (0, 8), (1, 2)), 72, "wider than the word count"),
        (Bits(7, 8, 1, 2, 1).put((0, 1), (1, 1), (A, 7), (0, 3), (0, 8), (1, 1)), 74, "leads to no word"),
        (Bits(7, 8, 1, 2, 0).put(*LEAF, *LEAF), 72, "reached by no edge"),
        (Bits(7, 8, 1, 1, 0).put(*LEAF, (1, 1)), 84, "behind the last node are not zero"),
        (Bits(7, 8, 1, 1, 0).put(*LEAF, (0, 8)), 84, "1 bytes behind the last node"),
        (Bits(7, 8, 1, 2, 2).put((0, 1), (1, 1), (A, 7), *LEAF), 48, "2 edges, but there are 1"),
        (Bits(7, 8, 3, 2, 1).put((0, 1), (1, 1), (A, 7), (4, 3), (0, 8), (1, 2)), 48, "3 words, but there are 1"),
        (Bits(21, 8, 1, 2, 1).put((0, 1), (1, 1), (0x110000, 21), *LEAF), 74, "Unicode"),
        (Bits(21, 8, 1, 2, 1).put((0, 1), (1, 1), (0xD800, 21), *LEAF), 74, "Unicode"),
        (Bits(7, 8, 1, 100, 1).put(*LEAF), 56, "100 nodes"),
        (Bits(7, 8, 1, 0, 1).put(*LEAF), 56, "0 nodes"),
        (Bits(22, 8, 1, 1, 0).put(*LEAF), 32, "22 bits"),
        (Bits(7, 0, 1, 1, 0).put(*LEAF), 40, "0 bits"),
        (Bits(7, 41, 1, 1, 0).put(*LEAF), 40, "41 bits"),
        # A count of edges of more than five groups.
        (Bits(7, 8, 1, 1, 1).put((0, 3), *[(0xFF, 8)] * 9), 72, "number of edges"),
    ],
)  # fmt: skip
def test_damage_is_named(data: Bits, bit: int, reason: str) -> None:
    with pytest.raises(ListFileError) as caught:
        Dawg.from_bytes(data.build(), "some/list.dawg")
    message = str(caught.value)
    assert message.startswith(f"some/list.dawg: not a valid DAWG file: at byte {bit // 8} (bit {bit}): ")
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"\0\0\0", "3 bytes are too few"),
        (b"\0\0\0\4", "ends within its header"),
        (b"\0\0\0\x0a\7\7\x80\x80\x80\x80", "ends within its number of words"),
        (b"\0\0\0\x0d\7\7" + b"\xff" * 7, "number of words is out of bounds"),
        (b"example.com.\nexample.net.\n", "states a size"),
        (b"\xff" * 1000, "states a size"),
        (b"\0\0\0\x14\7\7\x9f\xff\xff\xff\x7f" + b"\0" * 9, "more than the 4,294,967,294"),
        (b"\0\0\0\x14\7\7\1\x8f\xff\xff\xff\x7f" + b"\0" * 8, "4,294,967,295 nodes"),
        (write_dawg(WORDS)[:-1], "states a size"),
        (write_dawg(WORDS) + b"\0", "states a size"),
    ],
)
def test_no_dawg_at_all(data: bytes, reason: str) -> None:
    with pytest.raises(ListFileError, match=reason):
        Dawg.from_bytes(data)


def test_damaged_anywhere() -> None:
    """Any change of a file is noticed, or leaves a file whose content is consistent."""
    rng = random.Random(53)
    original = write_dawg(WORDS + [f"{i}.test." for i in range(20)])
    rejected = accepted = 0
    for _ in range(200 if JIT_DISABLED else 3000):
        data = bytearray(original)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(4, len(data))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.2:
            at = rng.randrange(4, len(data))
            data[at : at + rng.randint(1, 9)] = rng.randbytes(rng.randint(0, 9))
            data[:4] = len(data).to_bytes(4, "big")
        try:
            dawg = Dawg.from_bytes(bytes(data))
        except ListFileError:
            rejected += 1
            continue
        accepted += 1
        words = list(dawg)
        assert len(words) == dawg.words
        assert words == sorted(set(words)) == dawg_reader.Reader(bytes(data)).words()
        assert [dawg.word(i) for i in range(len(words))] == words
        assert [dawg.index(word) for word in words] == list(range(len(words)))
    assert rejected > 100
    assert accepted > 10


def test_random_bytes_behind_a_right_size() -> None:
    rng = random.Random(54)
    for _ in range(200 if JIT_DISABLED else 3000):
        size = rng.randint(9, 60)
        data = size.to_bytes(4, "big") + bytes([rng.randint(0, 9), rng.randint(1, 12), rng.randint(0, 3)])
        data += bytes([rng.randint(1, 9), rng.randint(0, 9)]) + rng.randbytes(size - 9)
        try:
            dawg = Dawg.from_bytes(data)
        except ListFileError:
            continue
        assert len(list(dawg)) == dawg.words


def doubling(levels: int) -> bytes:
    """Return a file in which each node has two edges to the next one: 2^levels words in a few bytes."""
    bits = Bits(1, 16, 0, 0, 0)
    words, edges = 1 << levels, (2 << levels) - 2
    wbits = words.bit_length()
    skip_field = wbits.bit_length()

    def code(number: int) -> bytes:
        return bytes((number >> 7 * k & 0x7F) | (0x80 if k else 0) for k in range(4, -1, -1))

    counts = code(words) + code(levels + 1) + code(edges)
    at = 48 + 8 * len(counts)
    for level in range(levels, -1, -1):
        reached = 1 << level
        width = reached.bit_length()
        if level == 0:
            bits.put((4, 3), (0, 8), (1, skip_field))
            break
        at += 3 + 8 + skip_field + 2 * (1 + 16) + width
        bits.put(
            (0, 3), (2, 8), (width, skip_field), (0, 1), (at, 16), (1, 1), (reached // 2, width), (at, 16)
        )
    size = 6 + len(counts) + (len(bits.text) + 7) // 8
    body = int(bits.text.ljust(8 * (size - 6 - len(counts)), "0"), 2).to_bytes(size - 6 - len(counts), "big")
    return size.to_bytes(4, "big") + b"\1\x10" + counts + body


def test_small_files_with_many_words() -> None:
    dawg = Dawg.from_bytes(doubling(10))
    assert dawg.words == 1024
    assert dawg.word(5) == "\0\0\0\0\0\0\0\1\0\1"
    # 2^30 words in a few hundred bytes are fine as long as nobody asks for all of them ...
    many = Dawg.from_bytes(doubling(30))
    assert many.words == 1 << 30
    assert many.index(many.word(123_456_789)) == 123_456_789
    # ... and 2^32 are not supported.
    with pytest.raises(ListFileError, match="more than"):
        Dawg.from_bytes(doubling(32))


def test_open(tmp_path: Path) -> None:
    path = tmp_path / "list.dawg"
    with pytest.raises(ListFileError, match=r"list\.dawg: No such file"):
        Dawg.open(path)
    path.write_bytes(write_dawg(WORDS))
    assert list(Dawg.open(str(path))) == sorted(WORDS)
    with pytest.raises(
        ListFileError, match=r"list\.dawg: .* bytes are more than the 40 allowed \(list-file-bytes\)"
    ):
        Dawg.open(path, limit=40)
    path.write_bytes(b"")
    with pytest.raises(EmptyFileError, match=r"list\.dawg: .*empty"):
        Dawg.open(path)
    with pytest.raises(ListFileError, match="Is a directory"):
        Dawg.open(tmp_path)
    with pytest.raises(ListFileError, match="there is a null byte in its path"):
        Dawg.open("a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ListFileError, match="not a regular file"):
        Dawg.open(tmp_path / "pipe")
    path.chmod(0)
    if os.geteuid() != 0:
        with pytest.raises(ListFileError, match="Permission denied"):
            Dawg.open(path)
