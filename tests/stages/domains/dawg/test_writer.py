"""The writer, compared with files of the Go library, hand-made files, and a simple writer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.errors import ListFileError
from edm.kernel.jit import JIT_DISABLED
from edm.stages.domains import Dawg, write_dawg
from oracles import dawg_reader

LISTS = Path(__file__).parents[3] / "captures" / "lists"
THIRD_PARTY = Path(__file__).parents[4].parent / "shared" / "data" / "third-party-99999.dawg"

names = st.text("ab.c\\-9", max_size=6)
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)


@pytest.mark.parametrize(
    ("words", "hexadecimal"),
    [
        ([], "0000000b00070001000000"),
        ([""], "0000000b00070101008010"),
        (
            [".example.net.", "example.com."],
            "0000002b07090218190052e3be55e0e57c385daf0763955cee72bd15d0017c385daf0763955ce3779dada0",
        ),
    ],
)
def test_files_written_by_hand(words: list[str], hexadecimal: str) -> None:
    assert write_dawg(words).hex() == hexadecimal


def test_worked_example_in_bits() -> None:
    bits = "".join(f"{byte:08b}" for byte in write_dawg([".example.net.", "example.com."]))
    assert bits[72:119] == "00000000010100101110001110111110010101011110000"
    assert bits[119:218] == "".join(f"01{ord(char):07b}" for char in "example.net")
    assert bits[227:240] == "1000000000001"
    assert bits[321:340] == "001" + f"{ord('m'):07b}" + f"{218:09b}"


@pytest.mark.parametrize("name", ["ignored-names.dawg", "well-known.dawg"])
def test_files_of_the_go_library(name: str) -> None:
    if JIT_DISABLED and name == "well-known.dawg":
        pytest.skip("36,000 words take too long without JIT")
    content = (LISTS / name).read_bytes()
    assert write_dawg(Dawg.from_bytes(content, name)) == content


@pytest.mark.skipif(JIT_DISABLED, reason="99,999 words take too long without JIT")
@pytest.mark.skipif(not THIRD_PARTY.exists(), reason="a list of others that cannot be passed on")
def test_large_file_of_the_go_library() -> None:
    content = THIRD_PARTY.read_bytes()
    assert write_dawg(Dawg.from_bytes(content)) == content


@settings(max_examples=30 if JIT_DISABLED else 300, deadline=None)
@given(st.lists(names | any_text, max_size=20))
def test_same_bytes_as_the_obvious_writer(words: list[str]) -> None:
    assert write_dawg(words) == dawg_reader.write(words)


@settings(max_examples=20 if JIT_DISABLED else 200, deadline=None)
@given(st.lists(names, max_size=30))
def test_read_back(words: list[str]) -> None:
    data = write_dawg(words)
    ordered = sorted(set(words))
    dawg = Dawg.from_bytes(data)
    assert list(dawg) == ordered == dawg_reader.Reader(data).words()
    assert [dawg.word(i) for i in range(len(dawg))] == ordered
    assert [dawg.index(word) for word in ordered] == list(range(len(ordered)))
    assert dawg.longest == max(map(len, ordered), default=0)
    for word in ("", "a", "ab.c", "zz", *(word + "x" for word in ordered), *(word[:-1] for word in ordered)):
        assert dawg.index(word) == (ordered.index(word) if word in ordered else -1)


def test_many_edges_take_a_long_count() -> None:
    # 126 edges fit one group of the count; 127 take two, although one would do.
    for count in (126, 127, 128, 300):
        words = [chr(0x100 + i) for i in range(count)]
        data = write_dawg(words)
        assert data == dawg_reader.write(words)
        assert list(Dawg.from_bytes(data)) == words


def test_order_and_repetition_do_not_matter() -> None:
    assert write_dawg(iter(["b.", "a.", "b.", "a."])) == write_dawg(["a.", "b."])


def test_more_words_than_a_batch() -> None:
    if JIT_DISABLED:
        pytest.skip("too many words without JIT")
    words = [f"{i:06}.example." for i in range(140_000)]
    dawg = Dawg.from_bytes(write_dawg(words))
    assert list(dawg) == words
    assert dawg.index("139999.example.") == 139_999


def test_words_that_no_file_can_hold() -> None:
    with pytest.raises(ListFileError, match="longer than 65,534"):
        write_dawg(["a" * 65_535])
    with pytest.raises(ListFileError, match="surrogate"):
        write_dawg(["a\ud800b"])
    if not JIT_DISABLED:
        assert len(Dawg.from_bytes(write_dawg(["a" * 65_534])).word(0)) == 65_534
