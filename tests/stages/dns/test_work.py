"""The work for one message grows only with its bytes: the test counts steps of the kernels, not seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import pytest

from edm.kernel.jit import JIT_DISABLED
from edm.stages.dns.name import MEMO_WORDS, begin_message, new_memo, skip_name
from oracles import dns_message
from oracles.dns_generator import header, record
from support.costly_messages import CARRIER, LINKS, MESSAGES, chain

TESTS = Path(__file__).parent.parent.parent
SMALL, LARGE = 3000, 12000


class Steps(NamedTuple):
    """Lines that the walk ran, and collecting the questions; the names collected, and the bytes of the message."""

    walk: int
    collect: int
    names: int
    size: int


def steps(name: str, size: int) -> Steps:
    run = subprocess.run(
        [sys.executable, "-m", "support.count_steps", name, str(size)],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=True,
    )
    return Steps(*map(int, run.stdout.split()))


@pytest.fixture(scope="module")
def ordinary() -> float:
    """Lines per byte of a message as servers send them."""
    got = steps("ordinary", LARGE)
    return got.walk / got.size


@pytest.mark.parametrize("name", MESSAGES)
def test_steps_are_in_proportion_to_the_bytes(ordinary, name):
    small, large = steps(name, SMALL), steps(name, LARGE)
    for got in (small, large):
        assert got.walk / got.size < 5 * ordinary
    # A longer message of the kind takes no more for a byte.
    assert large.walk / large.size < 1.5 * small.walk / small.size
    assert large.collect / large.size < 1.5 * small.collect / small.size


def soup(rng: Random, size: int) -> bytes:
    """Return bytes of which most can be part of a name: pointers into them, short labels, roots."""
    pieces = []
    while sum(map(len, pieces)) < size:
        kind = rng.random()
        if kind < 0.5:
            pieces.append((0xC000 | rng.randrange(12, 12 + size)).to_bytes(2, "big"))
        elif kind < 0.8:
            label = rng.choice((1, 1, 2, 20, 60))
            pieces.append(bytes([label]) + b"x" * label)
        else:
            pieces.append(b"\0" * rng.randrange(1, 4))
    return b"".join(pieces)[:size]


def remembering(size: int) -> np.ndarray:
    """Return a memo that is used from the first name on."""
    memo = new_memo()
    begin_message(memo, 0)
    assert size <= MEMO_WORDS
    return memo


@pytest.mark.parametrize("seed", range(30 if JIT_DISABLED else 300))
def test_names_that_are_remembered_are_those_that_are_walked(seed):
    rng = Random(seed)
    data = bytes(12) + soup(rng, rng.choice((20, 60, 300)))
    before = rng.randrange(5)
    buf = np.frombuffer(bytearray(bytes(before) + data + soup(rng, 40)), np.uint8)
    memo = remembering(len(data))
    for _ in range(60):
        offset = rng.randrange(12, len(data))
        end = len(data) if rng.random() < 0.5 else rng.randrange(offset, len(data) + 1)
        try:
            expected = dns_message.read_labels(data[:end], offset)[1] + before
        except dns_message.RejectedError:
            expected = -1
        assert skip_name(buf, before, before + offset, before + end, memo) == expected
        if expected < 0:  # the message is rejected: nothing more is asked for
            begin_message(memo, 0)


@pytest.mark.parametrize("links", [LINKS - 1, LINKS, LINKS + 1, LINKS + 20])
def test_the_longest_chain_from_every_place(links):
    # From the end of the chain to its begin and the other way round: what is remembered must join to the same sums.
    body, places = chain(12, links)
    data = header(1) + body + b"".join((0xC000 | place).to_bytes(2, "big") for place in places)
    buf = np.frombuffer(bytearray(data), np.uint8)
    at = len(data) - 2 * len(places)
    for order in (range(len(places)), range(len(places) - 1, -1, -1), [len(places) // 2, 0], [0]):
        memo = remembering(len(data))
        for k in order:
            try:
                expected = dns_message.read_labels(data, at + 2 * k)[1]
            except dns_message.RejectedError:
                expected = -1
            assert skip_name(buf, 0, at + 2 * k, len(data), memo) == expected
            if expected < 0:
                begin_message(memo, 0)
    assert (expected < 0) == (links > LINKS), "the last order ends with the longest"


def test_a_name_remembered_from_a_record_may_end_behind_another():
    # The RDATA of a record may not point behind its own end, whatever a later name has shown to be there.
    target = b"\1a\1b\0"
    data = bytes(12) + b"\xc0\x10" + b"\xc0\x10" + target
    buf = np.frombuffer(bytearray(data), np.uint8)
    for first, second in ((len(data), len(data) - 1), (len(data), 14), (len(data), len(data))):
        memo = remembering(len(data))
        assert skip_name(buf, 0, 12, first, memo) == 14
        assert skip_name(buf, 0, 12, second, memo) == (14 if second == len(data) else -1)


def test_nothing_is_remembered_of_the_message_before():
    good = bytes(12) + b"\xc0\x0e\1a\0"
    bad = bytes(12) + b"\xc0\x0e\1a\x40"
    memo = remembering(len(good))
    for serial in (int(memo[0]), (1 << 32) - 2, (1 << 32) - 1):
        memo[0] = serial
        for data, expected in ((good, 14), (bad, -1), (good, 14), (bad, -1)):
            begin_message(memo, 0)
            assert skip_name(np.frombuffer(bytearray(data), np.uint8), 0, 12, len(data), memo) == expected
    assert memo[0] < 10, "the number of the message has begun anew"


@pytest.mark.parametrize("seed", range(4 if JIT_DISABLED else 100))
def test_messages_of_pointers_are_accepted_as_before(agree, seed):
    rng = Random(seed)
    messages = []
    for _ in range(40):
        body, places = chain(12, rng.choice((3, 20, LINKS, LINKS + 2)))
        parts = [header(len(body) // CARRIER + 12, 30), body]
        for count in (12, 30):
            for _ in range(count):
                place = (0xC000 | rng.choice(places) + rng.choice((0, 0, 0, 2))).to_bytes(2, "big")
                names = b"".join(
                    (0xC000 | rng.choice(places)).to_bytes(2, "big") for _ in range(rng.choice((1, 2, 9)))
                )
                if count == 12:
                    parts.append(place + b"\0\1\0\1")
                else:
                    kind, data = rng.choice(((2, names), (6, names), (55, bytes(4) + names), (58, place * 2)))
                    parts.append(record(kind, data if kind != 2 else data[:2], owner=place))
        message = b"".join(parts)
        messages.append(message)
        messages.append(message[: rng.randrange(len(body), len(message))])
    agree(messages)
