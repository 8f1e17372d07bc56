"""The domain table, compared with a dict of words, and its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edm.errors import ListFileError
from edm.kernel import columns as c
from edm.kernel.jit import JIT_DISABLED, kernel
from edm.stages.domains import (
    Dawg,
    DomainTable,
    compile_list,
    hash_names,
    mark_matches,
    parse_name,
    write_dawg,
)
from edm.stages.domains.table import packed, plain, table
from edm.stages.domains.table.hashing import new_hash_key
from edm.stages.domains.table.packed import PackedWords
from edm.stages.domains.table.packed_kernels import LINE
from edm.stages.domains.table.plain import PlainWords
from edm.stages.domains.table.symbols import (
    RAW,
    decode_name,
    encode_name,
    make_symbols,
    same_coded,
    surely_same_coded,
)
from edm.stages.names import wire_to_text
from oracles import domain_match

LISTS = Path(__file__).parents[3] / "captures" / "lists"
SHARED = Path(__file__).parents[4].parent / "shared"
EXAMPLES = 30 if JIT_DISABLED else 150


def batch(names: list[bytes], *, room: int = 7) -> tuple[np.ndarray, c.Columns]:
    """Lay wire names out in a buffer, the last one at its very end."""
    columns = c.Columns(max(len(names), 1))
    content = b""
    for i, name in enumerate(names):
        content += b"\xaa" * room
        columns.u32[c.QNAME_OFF, i] = len(content)
        columns.u32[c.QNAME_LEN, i] = len(name)
        content += name
    return np.frombuffer(content or b"\0", np.uint8).copy(), columns


def find(domains: DomainTable, names: list[bytes]) -> list[tuple[int, int]]:
    buf, columns = batch(names)
    hash_names(buf, columns.u32, columns.u64, columns.fate, len(names))
    domains.lookup(buf, columns.u32, columns.u64, columns.fate, len(names))
    index = columns.u32[c.DOMAIN_INDEX, : len(names)].astype(np.int64)
    index[index == c.NO_DOMAIN] = -1
    return list(zip(index.tolist(), columns.u32[c.DOMAIN_MATCH, : len(names)].tolist(), strict=True))


def build(words: list[str], *, large: int | None = None) -> DomainTable:
    return DomainTable.build(Dawg.from_bytes(write_dawg(words)), large=large)


def in_order(domains: DomainTable, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Replace the indexes of a packed table with those of the list."""
    texts = domains.texts(range(domains.words)).to_pylist()
    place = {word: i for i, word in enumerate(sorted(texts))}
    return [(place[texts[index]] if index >= 0 else -1, match) for index, match in found]


def check(words: list[str], names: list[bytes]) -> None:
    ordered = {word: i for i, word in enumerate(sorted(set(words)))}
    expected = [domain_match.match(ordered, wire_to_text(name)) for name in names]
    domains = build(words)
    assert find(domains, names) == expected
    assert [domains.word(i) for i in ordered.values()] == list(ordered)
    small = build(words, large=0)
    assert small.entries == domains.entries
    assert sorted(small.texts(range(len(ordered))).to_pylist()) == list(ordered)
    assert in_order(small, find(small, names)) == expected


# Few labels and letters, so that names and words meet often; the odd ones are those that need escapes.
label = st.sampled_from(
    [b"a", b"B", b"b", b"www", b"example", b"com", b".", b"a.b", b"\\", b"\xff", b" ", b"*"]
)
name = st.lists(label, max_size=5).map(lambda parts: b"".join(bytes([len(p)]) + p for p in parts) + b"\0")
good_word = st.tuples(st.booleans(), name).map(
    lambda pair: ("." if pair[0] and len(pair[1]) > 1 else "") + wire_to_text(pair[1]).lower()
)
bad_word = st.text(".aB\\0c9", max_size=6) | st.sampled_from(
    ["a", "A.", ".A.", "..", "...", "a..", "a..b.", "\\065.",
     "\\097.", "\\a.", "\\255", "\\300.", "\\", "\\.", "a b.", "\u00fc."]
)  # fmt: skip


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(good_word | bad_word, max_size=12), st.lists(name, max_size=12))
@example(["."], [b"\0", b"\1a\0"])
@example([".", "..", ".a."], [b"\0", b"\1a\0", b"\1b\1a\0"])
@example([".com.", ".example.com."], [b"\3com\0", b"\1a\7example\3com\0", b"\7example\3com\0"])
@example([".b.org.", ".org."], [b"\3a.b\3org\0", b"\4foo\\\1b\3org\0"])
def test_against_a_dict(words: list[str], names: list[bytes]) -> None:
    check(words, names)


@settings(max_examples=EXAMPLES // 4, deadline=None)
@given(st.lists(st.integers(1, 63), min_size=1, max_size=8), st.integers(0, 254), st.booleans())
def test_every_byte_counts(sizes: list[int], at: int, suffix: bool) -> None:
    """A name that differs from an entry in one byte does not match, wherever that byte stands."""
    wire = bytearray()
    for size in sizes:
        if len(wire) + 1 + size <= 252:
            wire += bytes([size]) + bytes(0x61 + (len(wire) + k) % 26 for k in range(size))
    wire += b"\0"
    word = wire_to_text(bytes(wire))
    tables = [build(["." + word if suffix else word, "unrelated."], large=large) for large in (0, None)]
    front = b"\1x" if suffix else b""
    for domains in tables:
        found = in_order(domains, find(domains, [front + wire, front + wire.upper()]))
        assert found == [(0, 2 if suffix else 1)] * 2
    at %= len(wire) - 1
    heads = {0}
    while (last := max(heads)) + 1 + wire[last] < len(wire) - 1:
        heads.add(last + 1 + wire[last])
    if at not in heads:
        wire[at] = ord("-")
        assert [find(domains, [front + wire]) for domains in tables] == [[(-1, 0)]] * 2


def test_sizes_and_labels_at_their_limits() -> None:
    longest = b"\x3f" + b"a" * 63 + b"\x3f" + b"b" * 63 + b"\x3f" + b"c" * 63 + b"\x3d" + b"d" * 61 + b"\0"
    labels = b"\1a" * 127 + b"\0"
    wide = b"\x3f" + b"\xff" * 63 + b"\x3f" + b"\0" * 63 + b"\x3f" + b"." * 63 + b"\x3d" + b" " * 61 + b"\0"
    assert len(longest) == len(labels) == len(wide) == 255
    names = [longest, labels, wide, b"\0", b"\1a\0", b"\1a\1a\0"]
    words = [wire_to_text(name) for name in names]
    check(words, names)
    check(["." + wire_to_text(name[name[0] + 1 :]) for name in names[:3]], names)
    # A suffix entry of 255 bytes leaves no room for a label before it, and longer words are no names at all.
    check(["." + word for word in words] + [f"a.{words[0]}", "a" * 64 + ".", "a" * 3000 + "."], names)


def test_suffix_with_every_number_of_labels() -> None:
    deepest = b"\1a" * 127 + b"\0"
    for count in (1, 2, 63, 125, 126):
        for large in (0, None):
            domains = build(["." + "a." * count], large=large)
            assert find(domains, [deepest, b"\1a" * count + b"\0"]) == [(0, 2), (-1, 0)]


def test_the_longest_of_all_parents() -> None:
    """Parents of many labels and of few among the entries: an exact entry first, then the longest suffix entry."""
    counts = range(1, 40, 3)
    words = ["." + "a." * count for count in counts] + ["a." * 20, "b.a.", "a." * 5 + "c."]
    names = [front + b"\1a" * count + b"\0" for count in range(45) for front in (b"", b"\3WWW", b"\1b")]
    check(words, [*names, b"\1a" * 5 + b"\1c\0", b"\1a" * 30 + b"\1c\0"])


@settings(max_examples=EXAMPLES // 4, deadline=None)
@given(st.lists(st.integers(1, 63), max_size=20), st.integers(0, 40), st.integers(0, 40))
def test_hashes_of_parents(sizes: list[int], before: int, behind: int) -> None:
    """A parent's hash depends neither on what stands before it nor on where in the buffer that is."""
    labels = [bytes([size]) + bytes(0x41 + (k + size) % 50 for k in range(size)) for size in sizes]
    while sum(map(len, labels)) > 254:
        labels.pop()
    name = b"".join(labels)
    places = [name, b"\7another" + name] if len(name) <= 246 else [name]
    found = []
    for wire in places:
        buf = np.frombuffer(b"\xee" * before + wire + b"\0" + b"\xee" * behind, np.uint8)
        for start in (before, before + len(b"\1x")):
            room = b"\x5a" * (start - before)
            columns = c.Columns(1)
            columns.u32[c.QNAME_OFF, 0] = start
            columns.u32[c.QNAME_LEN, 0] = len(wire) + 1
            content = np.frombuffer(room + buf.tobytes(), np.uint8).copy()
            hash_names(content, columns.u32, columns.u64, columns.fate, 1)
            assert columns.u32[c.QNAME_LABELS, 0] == len(labels) + (wire is not name)
            hashes = []
            for count in range(1, min(len(labels), c.SUFFIX_DEPTH + 1)):
                value = int(columns.u64[c.SUFFIX_HASH_1 + count - 1, 0])
                assert value & 0xFF == len(wire) - len(b"".join(labels[len(labels) - count :]))
                hashes.append(value >> 8)
            found.append(hashes)
            assert len(set(hashes)) == len(hashes)
    assert all(hashes == found[0] for hashes in found)


def test_rows_that_have_a_fate_are_left_alone() -> None:
    names = [b"\1a\0", b"\1a\0", b"\1b\0"]
    buf, columns = batch(names)
    columns.fate[0] = c.QUERY
    columns.u32[c.DOMAIN_INDEX] = 77
    columns.u32[c.DOMAIN_MATCH] = 78
    hash_names(buf, columns.u32, columns.u64, columns.fate, 3)
    build(["a."]).lookup(buf, columns.u32, columns.u64, columns.fate, 3)
    assert columns.u32[c.DOMAIN_INDEX, :4].tolist() == [77, 0, c.NO_DOMAIN, 77]
    assert columns.u32[c.DOMAIN_MATCH, :4].tolist() == [78, 1, 0, 78]
    assert columns.u64[c.QNAME_HASH, :4].tolist()[0] == columns.u64[c.QNAME_HASH, :4].tolist()[3] == 0
    mark_matches(columns.u32, columns.fate, 3, c.QUESTION_IGNORED)
    assert columns.fate[:4].tolist() == [c.QUERY, c.QUESTION_IGNORED, c.PENDING, c.PENDING]


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(name, min_size=2, max_size=30, unique_by=bytes.lower))
def test_hash_of_names(names: list[bytes]) -> None:
    buf, columns = batch(names + [name.swapcase() for name in names])
    hash_names(buf, columns.u32, columns.u64, columns.fate, 2 * len(names))
    hashes = columns.u64[c.QNAME_HASH].tolist()
    assert hashes[: len(names)] == hashes[len(names) : 2 * len(names)]
    assert len(set(hashes[: len(names)])) == len(names)
    other = hashes[: len(names)]
    hash_names(buf, columns.u32, columns.u64, columns.fate, len(names), new_hash_key())
    assert columns.u64[c.QNAME_HASH, : len(names)].tolist() != other


def test_tables_of_every_size() -> None:
    for count in (0, 1, 2, 3, 7, 8, 9, 100) if JIT_DISABLED else (0, 1, 2, 3, 7, 8, 9, 100, 1000, 20_000):
        words = sorted(f"host{i}.example{i % 7}.net." for i in range(count))
        names = [parse_name(word) for word in words] + [
            parse_name(f"host{i}.example.net.") for i in range(count)
        ]
        expected = [(i, 1) for i in range(count)] + [(-1, 0)] * count
        assert find(build(words), names) == expected
        small = build(words, large=0)
        assert in_order(small, find(small, names)) == expected


def test_large_tables_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "LARGE", 4)
    assert isinstance(build(["a.", "b.", "c."])._store, PlainWords)
    assert isinstance(build(["a.", "b.", "c.", "d."])._store, PackedWords)


def test_both_layouts_with_words_of_all_kinds() -> None:
    count = 50 if JIT_DISABLED else 3000
    words = sorted(
        [f"n{i}.example." for i in range(count)] + [f".s{i}.example." for i in range(count)] + ["Bad."] * 3
        + [f"no dot {i}" for i in range(20)]
    )  # fmt: skip
    names = [parse_name(f"n{i}.example") for i in range(count)] + [
        parse_name(f"x.S{i}.example") for i in range(count)
    ]
    check(words, names)
    assert build(words).entries == 2 * count


@pytest.mark.parametrize("per_bucket", [1, 40, 10_000])
def test_full_and_empty_buckets(monkeypatch: pytest.MonkeyPatch, per_bucket: int) -> None:
    """Also blocks of more names than a record tells the number of, or holds tags of."""
    monkeypatch.setattr(packed, "NAMES_PER_BUCKET", per_bucket)
    count = 40 if JIT_DISABLED else 800
    words = [f"{'.' * (i & 1)}n{i}.example." for i in range(count)] + [".", "No Name", "x.\\255\\000y."]
    names = [parse_name(f"{'w.' * (i & 1)}N{i}.example") for i in range(count)]
    absent = [parse_name(f"{'w.' * (i & 1)}n{i}.example.x") for i in range(count)]
    check(words, [*names, *absent, b"\0", b"\1X\3\xff\0Y\0"])


@pytest.mark.parametrize("per_bucket", [4, 40])
def test_many_rows_of_all_kinds(monkeypatch: pytest.MonkeyPatch, per_bucket: int) -> None:
    """Rows that match as a whole, by a parent of any size, or not at all, in any order and among rows with a fate."""
    monkeypatch.setattr(packed, "NAMES_PER_BUCKET", per_bucket)
    rng = np.random.default_rng(per_bucket)
    count = 150 if JIT_DISABLED else 5000

    def domain(most: int) -> str:
        return "".join("abcdefgh"[k] + "." for k in rng.integers(0, 8, rng.integers(1, most + 1)))

    words = sorted(
        {("." if rng.random() < 0.4 else "") + domain(11) for _ in range(count)} | {".a.", ".b.c."}
    )
    names = [parse_name(domain(13) if rng.random() < 0.5 else "x." * (w[0] == ".") + w.lstrip("."))
             for w in rng.choice(words, count)]  # fmt: skip
    ordered = {word: i for i, word in enumerate(words)}
    expected = [domain_match.match(ordered, wire_to_text(name)) for name in names]
    domains = build(words, large=0)
    assert in_order(domains, find(domains, names)) == expected
    buf, columns = batch(names)
    columns.fate[: len(names)] = rng.choice([c.PENDING, c.QUERY], len(names))
    columns.u32[c.DOMAIN_MATCH] = 78
    hash_names(buf, columns.u32, columns.u64, columns.fate, len(names))
    domains.lookup(buf, columns.u32, columns.u64, columns.fate, len(names))
    matches = [
        match if fate == c.PENDING else 78 for fate, (_, match) in zip(columns.fate, expected, strict=False)
    ]
    assert columns.u32[c.DOMAIN_MATCH, : len(names)].tolist() == matches


def test_blocks_keep_to_cache_lines() -> None:
    count = 200 if JIT_DISABLED else 20_000
    store = build(
        [f"{'.' * (i & 1)}{i * 7919 % 65521:x}.example{i % 7}.net." for i in range(count)], large=0
    )._store
    arena, records = store._arena, store._directory.reshape(-1, 2)
    assert arena.ctypes.data % LINE == 0
    crossing = used = 0
    for word in records[:-1, 0].tolist():
        offset, names = word & 0xFFFFFFFF, word >> 60
        if names < 15:
            size = names + max(names - 8, 0) + int(arena[offset : offset + names].sum())
            used += size
            crossing += names > 0 and size <= LINE and offset // LINE != (offset + size - 1) // LINE
            assert size <= LINE or offset % LINE == 0
    assert crossing == 0
    assert len(arena) < used * 1.25 + 1000


def test_packed_names_of_every_length() -> None:
    """Names with many codes and few, looked up in the middle of a buffer and at its end."""
    wires = [bytes([n]) + bytes(0x61 + k % 26 for k in range(n)) for n in range(1, 64)]
    wires += [wires[k] + wires[62 - k] + wires[k % 30] for k in range(60)]
    wires += [bytes([3, 0x80 + k, k, 255 - k]) + wires[k] for k in range(63)]
    wires += [b"\1a" * 127, b"\1\xff" * 127]
    words = [wire_to_text(wire + b"\0").lower() for wire in wires]
    words += ["." + word for word, wire in zip(words, wires, strict=True) if len(wire) < 250]
    names = [front + wire + b"\0" for wire in wires for front in (b"", b"\1w") if len(front + wire) < 255]
    check(words, names)
    domains = build(words, large=0)
    for name in names[:: 20 if JIT_DISABLED else 3]:
        assert find(domains, [name.upper()]) == find(domains, [name, b"\0"])[:1] != [(-1, 0)]


lower = st.binary(max_size=40).map(bytes.lower) | st.text("ab.1", max_size=40).map(str.encode)


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(st.lists(lower, max_size=30), st.lists(lower.map(lambda s: s[:8]).filter(bool), max_size=60))
@example([b"01234567abcdefgh", b"01234567", b"0123456"], [b"01234567"])
def test_codes_stand_for_names(names: list[bytes], strings: list[bytes]) -> None:
    """Whatever the symbols, the codes of a string are at most one more than its bytes and give it back."""
    symbols = make_symbols(set(strings))
    wire, codes, out = (np.zeros(room, np.uint8) for room in (400, 80, 264))
    for name in names:
        wire[: len(name)] = np.frombuffer(name, np.uint8)
        count = code_and_back(wire, len(name), symbols, codes, out)
        assert 1 <= count <= len(name) + 1
        # Whatever stands around the codes.
        codes[:8] = codes[8 + count :] = 255 - codes[8]
        size, start = np.uint64(len(name)), np.uint64(8)
        sure = same_by_symbols(codes, start, np.uint64(count), symbols.book, wire, size)
        assert sure == (codes[8 : 8 + count].max() < RAW)
        assert out[: len(name)].tobytes() == name


@kernel
def code_and_back(wire, size, symbols, codes, out):  # type: ignore[no-untyped-def]
    off = np.uint64(0)
    start = np.uint64(8)
    end = encode_name(wire, off, np.uint64(size), symbols, codes, start)
    count = end - start
    decoded = decode_name(codes, start, count, symbols.book, out)
    same = same_coded(codes, start, count, symbols.book, wire, off, np.uint64(size))
    wrong = False
    for k in range(size):
        wire[k] ^= 1
        wrong |= same_coded(codes, start, count, symbols.book, wire, off, np.uint64(size))
        wrong |= surely_same_coded(codes, start, count, symbols.book, wire, off, np.uint64(size))
        wire[k] ^= 1
    return np.int64(count) if decoded == size and same and not wrong else -1


@kernel
def same_by_symbols(codes, start, count, book, wire, size):  # type: ignore[no-untyped-def]
    return surely_same_coded(codes, start, count, book, wire, np.uint64(0), size)


def test_a_full_tag_is_no_match() -> None:
    """Entries that share all the bits of the hash that a slot holds are told apart by their bytes."""
    words = [f"{i}.example." for i in range(30 if JIT_DISABLED else 3000)]
    domains = build(words)
    names = [parse_name(word) for word in sorted(words)]
    expected = [(i, 1) for i in range(len(words))]
    assert find(domains, names) == expected
    # The same table with hashes of 0: every name has the same home slot and tag.
    buf, columns = batch([*names, b"\1x\0"])
    store = domains._store
    store._filters[:] = 0xFFFFFFFFFFFFFFFF
    store._slots[:] = 0xFFFFFFFF
    store._slots[: len(words)] = np.arange(len(words), dtype=np.uint32)
    rows = min(len(words), 200)
    domains.lookup(buf, columns.u32, columns.u64, columns.fate, rows)
    assert columns.u32[c.DOMAIN_INDEX, :rows].tolist() == list(range(rows))
    last = len(words)
    columns.u32[:, 0] = columns.u32[:, last]
    domains.lookup(buf, columns.u32, columns.u64, columns.fate, 1)
    assert columns.u32[c.DOMAIN_INDEX, 0] == c.NO_DOMAIN


def test_texts() -> None:
    words = sorted(
        [".", "..", "b.example.", ".b.example.", "Not.A.Name", "\u00e5", "x" * 5000, "", r"a\.b\255.c."]
    )
    domains = build(words)
    assert domains.words == len(domains) == len(words)
    assert domains.entries == 4
    assert domains.texts(range(len(words))).to_pylist() == words
    wanted = [3, 3, 0, len(words) - 1] * 50
    got = domains.texts(np.array(wanted, np.uint32))
    assert got.type == pa.string()
    got.validate(full=True)
    assert got.to_pylist() == [words[i] for i in wanted]
    assert domains.texts([]).to_pylist() == []
    small = build(words, large=0)
    place = [small.texts(range(len(words))).to_pylist().index(word) for word in words]
    assert sorted(place) == list(range(len(words)))
    assert small.texts([place[i] for i in wanted]).to_pylist() == got.to_pylist()
    assert [small.word(i) for i in place] == words
    for index in (-1, len(words)):
        for each in (domains, small):
            with pytest.raises(IndexError):
                each.word(index)


def test_match_of_a_text() -> None:
    domains = DomainTable.build(Dawg.from_bytes(compile_list(["example.com", "*.example.net", "."])))
    assert domains.match("EXAMPLE.com") == (2, 1)
    assert domains.match("a.b.example.net.") == (1, 2)
    assert domains.match("example.net") == domains.match("www.example.com") == (-1, 0)
    assert domains.match(".") == (0, 1)
    with pytest.raises(ValueError, match="empty"):
        domains.match("a..b")


def test_loose_names() -> None:
    domains = build(["a.", ".b."])
    names = np.zeros((4, c.NAME_MAX), np.uint8)
    wires = [b"\1A\0", b"\1x\1B\0", b"\1b\0", b"\0"]
    for row, wire in zip(names, wires, strict=True):
        row[: len(wire)] = np.frombuffer(wire, np.uint8)
    lengths = np.array([len(wire) for wire in wires], np.uint32)
    index, match = domains.find_names(names, lengths, 4)
    assert index.tolist() == [1, 0, c.NO_DOMAIN, c.NO_DOMAIN]
    assert match.tolist() == [1, 2, 0, 0]
    assert domains.match_names(names, lengths, 3).tolist() == [True, True, False]
    assert domains.match_names(names, lengths, 0).tolist() == []


@pytest.mark.skipif(JIT_DISABLED, reason="99,999 words take too long without JIT")
@pytest.mark.skipif(not (SHARED / "vectors").exists(), reason="a list of others that cannot be passed on")
def test_answers_of_the_go_library() -> None:
    domains = DomainTable.open(SHARED / "data" / "third-party-99999.dawg")
    vectors = json.loads((SHARED / "vectors" / "dawg_lookup_shipped.json").read_text())
    names = [parse_name(name) for name, _, _ in vectors]
    expected = [(index, 0 if index < 0 else 2 if suffix else 1) for _, index, suffix in vectors]
    assert find(domains, names) == expected


@pytest.mark.skipif(JIT_DISABLED, reason="36,000 words take too long without JIT")
def test_every_well_known_name() -> None:
    dawg = Dawg.open(LISTS / "well-known.dawg")
    words = list(dawg)
    domains = DomainTable.build(dawg)
    assert domains.texts(np.arange(len(words))).to_pylist() == words
    front = [b"\1x" if word.startswith(".") else b"" for word in words]
    names = [head + parse_name(word.removeprefix(".")) for head, word in zip(front, words, strict=True)]
    assert find(domains, names) == [(i, 2 if head else 1) for i, head in enumerate(front)]
    absent = [b"\1x" + name for name, head in zip(names, front, strict=True) if not head]
    ordered = {word: i for i, word in enumerate(words)}
    assert find(domains, absent) == [domain_match.match(ordered, wire_to_text(name)) for name in absent]


def test_the_file_is_not_needed_any_more(tmp_path: Path) -> None:
    path = tmp_path / "list.dawg"
    path.write_bytes(write_dawg(["a.example.", ".b.example."]))
    domains = DomainTable.open(path)
    path.write_bytes(b"\xff" * path.stat().st_size)
    path.unlink()
    assert domains.match("a.example") == (1, 1)
    assert domains.match("x.b.example") == (0, 2)
    assert str(path) not in Path("/proc/self/maps").read_text()


BUILD_AND_DROP = """
import ctypes, gc, os, weakref
from pathlib import Path
from edm.stages.domains import Dawg, DomainTable, write_dawg

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))

dawg = Dawg.from_bytes(write_dawg(f"{i:x}.example.net." for i in range(300_000)))
DomainTable.build(dawg).close()
before = resident(), descriptors()
for _ in range(8):
    domains = DomainTable.build(dawg)
    size = domains.nbytes
    domains.close()
    try:
        domains.match("a.example")
    except ValueError as error:
        assert "closed" in str(error)
    else:
        raise AssertionError("it answers although it is closed")
    dropped = DomainTable.build(dawg)
    arena = weakref.ref(dropped._store._arena)
    del dropped
    assert arena() is None
after = resident(), descriptors()
print(size, after[0] - before[0], after[1] - before[1])
"""


@pytest.mark.skipif(JIT_DISABLED, reason="too many words without JIT")
def test_memory_comes_back() -> None:
    # In a process of its own: what other tests leave to the allocator comes and goes meanwhile.
    done = subprocess.run([sys.executable, "-c", BUILD_AND_DROP], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    size, grown, opened = map(int, done.stdout.split())
    assert size > 2_000_000
    # Were either kind of table not given back, it would be eight times the size.
    assert grown < 3 * size
    assert opened == 0


def test_lists_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_WORDS", 3)
    with pytest.raises(ListFileError, match="4 words are more than the 3 supported"):
        build(["a.", "b.", "c.", "d."])
    monkeypatch.setattr(table, "MAX_WORDS", 1000)
    monkeypatch.setattr(plain, "MAX_ARENA_BYTES", 600)
    monkeypatch.setattr(packed, "MAX_ARENA_BYTES", 200)
    for large, limit in ((None, 600), (0, 200)):
        with pytest.raises(ListFileError, match=f"its names take more than {limit} bytes"):
            build([f"{i}.example.com." for i in range(100)], large=large)
        with pytest.raises(ListFileError, match=f"its words take more than {limit} bytes"):
            build(["x" * 700], large=large)
