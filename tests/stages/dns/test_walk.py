from __future__ import annotations

import gzip
import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.kernel.columns import (
    CLIENT_IGNORED,
    DNS_PARSE_ERROR,
    EMPTY_QUESTION,
    PENDING,
    PRESENT,
    QNAME_LEN,
    QNAME_OFF,
    RESPONSE_MESSAGE_OFF,
)
from edm.kernel.jit import JIT_DISABLED
from edm.stages.dns.name import new_memo
from edm.stages.dns.walk import walk_messages
from edm.stages.names import wire_to_text
from oracles import dns_generator as made
from oracles import dns_message
from oracles.dns_generator import QUESTION, header, record

VECTORS = Path(__file__).parent.parent.parent / "vectors" / "dns_unpack.json.gz"
ROUNDS = 4 if JIT_DISABLED else 12


@pytest.fixture(scope="module")
def vectors():
    with gzip.open(VECTORS, "rt") as file:
        return [(bytes.fromhex(text), answer) for text, answer in json.load(file)]


def test_vectors(walk, vectors):
    results = walk([message for message, _ in vectors])
    for (message, answer), got in zip(vectors, results, strict=True):
        assert (got is None) == (answer is None), message.hex()
        if got is not None:
            assert (got.rcode, got.questions) == (answer["rcode"], len(answer["q"])), message.hex()
            if got.first:
                assert [wire_to_text(got.first[0]), *got.first[1:]] == answer["q"][0]


def test_oracle_passes_vectors(vectors):
    for message, answer in vectors:
        try:
            got = dns_message.unpack(message)
        except dns_message.RejectedError:
            assert answer is None, message.hex()
            continue
        questions = [[dns_message.presentation(q.labels), q.qtype, q.qclass] for q in got.questions]
        counts = dict(zip(("an", "ns", "ar"), got.counts, strict=True))
        assert {"rcode": got.rcode, **counts, "q": questions} == answer, message.hex()


def test_fates(batch):
    whole = header(1) + QUESTION
    messages = [whole, b"", whole[:11], header(65535, 9, 9, 9), header(0), whole, whole]
    buf, scratch, columns = batch(messages)
    columns.u32[PRESENT, 5] = 0
    columns.fate[6] = CLIENT_IGNORED
    columns.u32[QNAME_LEN, 6] = 77
    walk_messages(buf, scratch, columns.u32, columns.fate, len(messages), new_memo())
    broken, empty = DNS_PARSE_ERROR, EMPTY_QUESTION
    assert columns.fate[:7].tolist() == [PENDING, broken, broken, empty, empty, broken, CLIENT_IGNORED]
    assert columns.u32[QNAME_LEN, 6] == 77
    assert columns.u32[QNAME_OFF, 0] == columns.u32[RESPONSE_MESSAGE_OFF, 0] + 12


def test_rows_behind_n_are_left_alone(batch):
    buf, scratch, columns = batch([b"", b""])
    assert walk_messages(buf, scratch, columns.u32, columns.fate, 1, new_memo()) == scratch
    assert columns.fate[:2].tolist() == [DNS_PARSE_ERROR, PENDING]


def test_compressed_names_are_spelt_out_one_after_another(batch):
    plain = header(1) + QUESTION
    # The name is "www" and a pointer forward to "Example.com." behind the question.
    compressed = header(1) + b"\3wWw\xc0\x16\0\1\0\1" + b"\7Example\3com\0"
    buf, scratch, columns = batch([compressed, plain, compressed])
    end = walk_messages(buf, scratch, columns.u32, columns.fate, 3, new_memo())
    name = b"\3wWw\7Example\3com\0"
    assert buf[scratch:end].tobytes() == name + name
    assert columns.u32[QNAME_OFF, :3].tolist() == [
        scratch,
        columns.u32[RESPONSE_MESSAGE_OFF, 1] + 12,
        scratch + len(name),
    ]
    assert set(buf[end:].tolist()) == {0xEE}


OPT_1, OPT_2 = (record(41, b"", b"\0", ttl << 24) for ttl in (1, 2))


@pytest.mark.parametrize(
    ("flags", "sections", "rcode"),
    [
        (0x8180, ([], [], [OPT_1]), 16),
        (0x8183, ([], [], [record(41, b"", b"\0", 255 << 24)]), 4083),
        (0x8180, ([], [], [OPT_1, OPT_2]), 32),
        (0x8185, ([], [], [OPT_1, record(1, b"abcd"), OPT_2, record(1, b"abcd")]), 37),
        (0x8182, ([OPT_1], [OPT_2], []), 2),
        (0x8182, ([OPT_1], [OPT_2], [record(1, b"abcd")]), 2),
    ],
)
def test_extended_rcode(walk, agree, flags, sections, rcode):
    counts = (len(section) for section in sections)
    message = (
        header(1, *counts, flags=flags)
        + QUESTION
        + b"".join(wire for section in sections for wire in section)
    )
    (got,) = walk([message])
    assert got.rcode == rcode
    assert got.flags == flags
    assert agree([message]) == 1


@pytest.mark.parametrize(
    ("body", "count", "accepted"),
    [
        (b"\1a\0", 1, True),
        (b"\1a\0\0", 1, False),
        (b"\1a\0\0\x1c", 1, True),
        (b"\1a\0\0\x1c\0", 1, False),
        (b"\1a\0\0\x1c\0\3", 1, True),
        (b"\1a\0\0\x1c\0\3", 2, False),
        (b"\1a\0\0\x1c\0\3\0", 2, True),
        (b"\1a\0\0\x1c\0\3\1b\xc0\x0c\0\1", 2, True),
        (b"\1a\0\0\x1c\0\3\1b\xc0", 2, False),
        (b"rubbish", 0, True),
    ],
)
def test_ends_of_questions(walk, agree, body, count, accepted):
    message = header(count) + body
    assert agree([message]) == accepted
    if accepted and count:
        (got,) = walk([message])
        qtype = 28 if len(body) > 4 else 0
        assert got.first == (b"\1a\0", qtype, 3 if len(body) > 6 else 0)


@pytest.mark.parametrize("section", [0, 1, 2])
def test_sections_may_stop_at_the_end_of_the_message_only(agree, section):
    counts = [0, 0, 0]
    counts[section] = 65535
    message = header(1, *counts) + QUESTION
    assert agree([message]) == 1
    whole = record(1, b"abcd", b"\1x\xc0\x0c")
    assert agree([message + whole, message + whole + whole]) == 2
    assert agree([message + whole + whole[:cut] for cut in range(1, len(whole))]) == 0
    # Octets behind the last counted record do not matter.
    assert agree([header(1) + QUESTION + whole[:cut] for cut in range(len(whole))]) == len(whole)


def pointers(count: int, behind: bytes = b"") -> bytes:
    """Return a question whose name is the root, ``count`` pointers away, then ``behind``, then the chain."""
    start = 12 + 6 + len(behind)
    chain = b"".join((0xC000 | start + 2 * k).to_bytes(2, "big") for k in range(1, count)) + b"\0"
    return (0xC000 | start).to_bytes(2, "big") + b"\0\1\0\1" + behind + chain


def test_pointers_are_limited_to_126(agree):
    assert agree([header(1) + pointers(count) for count in (1, 2, 125, 126)]) == 4
    assert agree([header(1) + pointers(count) for count in (127, 128, 1000)]) == 0
    # An owner that points to the question's name follows one pointer more than that name.
    answer = record(1, b"abcd")
    for count, accepted in ((124, 1), (125, 1), (126, 0)):
        assert agree([header(1, 1) + pointers(count, answer)]) == accepted


@pytest.mark.parametrize(
    "name",
    [
        b"\xc0\x0c",  # to itself
        b"\xc0\x0e\xc0\x0c",  # in turns
        b"\1a\xc0\x0c",  # a label more each time round
        b"\x3f" + b"a" * 63 + b"\xc0\x0c",
        b"\xff\xff",
        b"\xc0",
        b"\x40a\0",
        b"\x80a\0",
        b"\xbf\x0c\0",
        b"\x3f" + b"a" * 62,
    ],
)
def test_hostile_names(agree, name):
    tails = (b"", b"\0\1\0\1", b"\0")
    assert agree([header(1) + name + tail for tail in tails[: 1 if name[0] == 0x3F else 3]]) == 0


def test_pointer_targets(walk, agree):
    # Into the header: ID 0x0161 is the label "a", then the flags word 0x0000 ends the name.
    head = b"\1a\0\0\0\1\0\0\0\0\0\0"
    (got,) = walk([head + b"\xc0\0\0\1\0\1"])
    assert got.first == (b"\1a\0", 1, 1)
    message = header(1) + b"\xc0\x12\0\1\0\1\0"
    assert agree([message]) == 1
    assert agree([message[:-1]]) == 0  # to the end of the message


@pytest.mark.parametrize(
    ("sizes", "accepted"),
    [
        ([63, 63, 63, 61], True),
        ([63, 63, 63, 62], False),
        ([1] * 127, True),
        ([1] * 128, False),
        ([63, 63, 63, 60], True),
        ([63, 63, 63, 60, 1], False),
    ],
)
def test_longest_names(walk, agree, sizes, accepted):
    labels = [bytes([size]) + b"n" * size for size in sizes]
    messages = [header(1) + b"".join(labels) + b"\0\0\1\0\1"]
    # The same with its head or its tail behind a pointer.
    for split in (1, len(labels) - 1):
        head, tail = b"".join(labels[:split]), b"".join(labels[split:])
        target = 12 + len(head) + 6
        messages.append(header(1) + head + (0xC000 | target).to_bytes(2, "big") + b"\0\1\0\1" + tail + b"\0")
    assert agree(messages) == accepted * 3
    if accepted:
        assert {got.first[0] for got in walk(messages)} == {b"".join(labels) + b"\0"}


def test_65535_questions(agree):
    count = 2000 if JIT_DISABLED else 65535
    message = header(count) + b"\0\0\1\0\1" * count
    assert agree([message]) == 1
    assert agree([message[:-5]]) == 0


def test_messages_over_64_kib(agree):
    opaque = record(10, bytes(65535))
    message = header(1, 2, 1) + QUESTION + opaque + opaque + record(2, b"\2ns\xc0\x0c")
    assert agree([message, message[:-1], message + b"x"]) == 2


def test_pointers_count_from_the_message(batch):
    message = header(1) + b"\1a\xc0\x12\0\1" + b"\1b\0"
    buf, scratch, columns = batch([bytes(20000), message])
    walk_messages(buf, scratch, columns.u32, columns.fate, 2, new_memo())
    offset = columns.u32[QNAME_OFF, 1]
    assert buf[offset : offset + columns.u32[QNAME_LEN, 1]].tobytes() == b"\1a\1b\0"


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_valid_messages(agree, seed):
    rng = Random(seed)
    messages = [made.valid_message(rng) for _ in range(300)]
    # Nearly all: an owner with long labels before its pointer may exceed 255 octets.
    assert agree(messages) > 280


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_damaged_messages(agree, seed):
    rng = Random(1000 + seed)
    messages = [made.damaged(rng, made.valid_message(rng)) for _ in range(300 if JIT_DISABLED else 1000)]
    accepted = agree(messages)
    assert 0.1 < accepted / len(messages) < 0.9


@pytest.mark.parametrize("seed", range(3))
def test_cut_messages(agree, seed):
    rng = Random(2000 + seed)
    for _ in range(1 if JIT_DISABLED else 15):
        message = made.valid_message(rng)
        agree([message[:cut] for cut in range(len(message) + 1)])


@settings(max_examples=20 if JIT_DISABLED else 200, deadline=None)
@given(
    st.tuples(*[st.integers(0, 3)] * 4),
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from([QUESTION, b"\xc0\x0c", b"\0\1\0\1", OPT_1, b"\1a\0", record(1, b"abcd")]),
            st.builds(record, st.sampled_from(made.TYPES), st.binary(max_size=40)),
        ),
        max_size=6,
    ),
)
def test_any_bytes(agree, counts, pieces):
    agree([header(*counts) + b"".join(pieces)])


def test_batch_equals_rows(walk):
    rng = Random(5)
    messages = [made.damaged(rng, made.valid_message(rng)) for _ in range(60)]
    assert walk(messages) == [walk([message])[0] for message in messages]
    assert walk(messages[::-1]) == walk(messages)[::-1]
