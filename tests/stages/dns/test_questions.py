from __future__ import annotations

import gzip
import json
from pathlib import Path
from random import Random

import pytest

from edm.kernel.columns import QUESTION_IGNORED
from edm.kernel.jit import JIT_DISABLED
from edm.stages.dns.name import new_memo
from edm.stages.dns.questions import BEGIN, FEW, MoreQuestions, collect_questions
from edm.stages.dns.walk import walk_messages
from edm.stages.names import wire_to_text
from oracles import dns_generator as made
from oracles import dns_message
from oracles.dns_generator import QUESTION, header
from support.costly_messages import CARRIER, chain

VECTORS = Path(__file__).parent.parent.parent / "vectors" / "dns_unpack.json.gz"


@pytest.fixture(scope="module")
def collect(batch):
    def run(messages, room, settled=()):
        """Return (row, name) of each entry, gathered in as many calls as it takes."""
        buf, scratch, columns = batch(messages)
        n = len(messages)
        walk_messages(buf, scratch, columns.u32, columns.fate, n, new_memo())
        for row in settled:
            columns.fate[row] = QUESTION_IGNORED
        out = MoreQuestions.of(room)
        place = BEGIN
        found = []
        while place[0] < n:
            count, place = collect_questions(buf, columns.u32, columns.fate, n, place, out)
            assert count == room or place[0] == n
            found += [(int(out.rows[k]), out.names[k, : out.lengths[k]].tobytes()) for k in range(count)]
        return found

    return run


def expected(messages, settled=()):
    found = []
    for row, message in enumerate(messages):
        try:
            questions = dns_message.unpack(message).questions[1:]
        except dns_message.RejectedError:
            continue
        if row not in settled:
            found += [(row, dns_message.wire_form(question.labels)) for question in questions]
    return found


def test_vectors(collect):
    with gzip.open(VECTORS, "rt") as file:
        vectors = [entry for entry in json.load(file) if entry[1] and len(entry[1]["q"]) > 1]
    assert len(vectors) > 100
    got = [
        (row, wire_to_text(name)) for row, name in collect([bytes.fromhex(text) for text, _ in vectors], 64)
    ]
    assert got == [(row, q[0]) for row, (_, answer) in enumerate(vectors) for q in answer["q"][1:]]


@pytest.mark.parametrize("room", [1, 2, 3, 7, 1000])
def test_resumes_anywhere(collect, room):
    one = header(1) + QUESTION
    four = header(4) + QUESTION + b"\1A\xc0\x0c\0\1\0\1" + b"\0\0\1\0\1" + b"\1b\0"
    broken = four + b"x"
    messages = [one, four, broken, four, header(0), four, one]
    names = [b"\1A\3www\7example\3com\0", b"\0", b"\1b\0"]
    assert collect(messages, room) == [(row, name) for row in (1, 3, 5) for name in names]
    assert collect(messages, room, settled=[3]) == [(row, name) for row in (1, 5) for name in names]


def test_nothing_to_collect(collect):
    assert collect([header(1) + QUESTION, b""], 4) == []


@pytest.mark.parametrize("seed", range(1 if JIT_DISABLED else 5))
def test_like_oracle(collect, seed):
    rng = Random(3000 + seed)
    messages = [made.valid_message(rng) for _ in range(150)]
    messages += [made.damaged(rng, message) for message in messages]
    settled = set(rng.sample(range(300), 30))
    assert collect(messages, rng.randrange(1, 40), settled) == expected(messages, settled)


def test_more_questions_than_fit_at_once(collect):
    count = 300 if JIT_DISABLED else 20000
    longest = b"\x3f" + b"a" * 63 + b"\x3f" + b"b" * 63 + b"\x3f" + b"c" * 63 + b"\x3d" + b"d" * 61 + b"\0"
    # Each a label of its own, and the same name behind it.
    names = [b"\3%03x" % (number & 0xFFF) for number in range(count - 1)]
    message = header(count) + longest[64:] + b"\0\1\0\1"
    message += b"".join(name + b"\xc0\x0c\0\1\0\1" for name in names)
    got = collect([message], count // 8)
    assert len(got) == count - 1 if count < 4096 else 4096 <= len(got) < count
    assert {name for _, name in got} == {name + longest[64:] for name in names}


@pytest.mark.parametrize("room", [1, 2, 1000])
def test_names_that_come_again_are_collected_once(collect, room):
    again = [b"\xc0\x0c", b"\1A\xc0\x0c", b"\1a\xc0\x0c", b"\1b\0"]
    rest = b"\0\1\0\1"
    for times in (3, 40):
        count = 1 + len(again) * times
        message = header(count) + QUESTION + b"".join(name + rest for name in again * times)
        first = QUESTION[:-4]
        names = [first, b"\1A" + first, b"\1a" + first, b"\1b\0"] * (times if count <= FEW else 1)
        # Twice the same message: what one row held says nothing of the next.
        assert collect([message, message], room) == [(row, name) for row in (0, 1) for name in names]


def test_names_are_spelt_the_same_when_parts_have_been_spelt_before(collect):
    body, places = chain(12)
    questions = len(body) // CARRIER
    rng = Random(4)
    messages = []
    for _ in range(2 if JIT_DISABLED else 20):
        names = [
            b"\1%c" % rng.randrange(97, 123) * rng.randrange(2) + pointer(rng.choice(places[1:]))
            for _ in range(60)
        ]
        rest = b"".join(name + b"\0\1\0\1" for name in names)
        messages.append(header(questions + len(names)) + body + rest)
    for room in (1, 7, 50, 1000):
        got = collect(messages, room)
        want = expected(messages)
        assert set(got) == set(want)
        assert len(got) <= len(want)


def test_serials_begin_anew(batch):
    message = header(3) + QUESTION + b"\1A\xc0\x0c\0\1\0\1" * 2
    other = header(3) + b"\3wwW" + QUESTION[4:] + b"\1B\xc0\x0c\0\1\0\1" * 2
    out = MoreQuestions.of(8)
    for serial in (0, (1 << 38) - 4, (1 << 38) - 2, (1 << 38) - 1):
        out.spelt[-1] = serial
        buf, scratch, columns = batch([message, other])
        walk_messages(buf, scratch, columns.u32, columns.fate, 2, new_memo())
        count, _ = collect_questions(buf, columns.u32, columns.fate, 2, BEGIN, out)
        names = [out.names[k, : out.lengths[k]].tobytes() for k in range(count)]
        assert names == [b"\1A" + QUESTION[:-4]] * 2 + [b"\1B\3wwW" + QUESTION[4:-4]] * 2
    assert out.spelt[-1] < 10


def pointer(place):
    return (0xC000 | place).to_bytes(2, "big")
