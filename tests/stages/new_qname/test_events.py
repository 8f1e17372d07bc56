from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edm.kernel.columns import (
    FLAGS,
    HAS_RESPONSE_TIME_NSEC,
    HAS_RESPONSE_TIME_SEC,
    PRESENT,
    QCLASS,
    QTYPE,
    RESPONSE_TIME_NSEC,
    RESPONSE_TIME_SEC,
)
from edm.kernel.jit import JIT_DISABLED
from edm.stages.new_qname.events import EventBlock, build_events
from edm.stages.new_qname.payloads import END_OF_TIME, EVENT_MAX
from oracles.new_qname_event import event
from stages.new_qname.batches import Batch, batch_of

CAPTURES = Path(__file__).parents[2] / "captures"
ROUNDS = 30 if JIT_DISABLED else 200

Question = tuple[list[bytes], int, int, int, int | None, int | None]


def wire_of(labels: list[bytes]) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def columns_of(questions: list[Question]) -> Batch:
    batch = batch_of([wire_of(question[0]) for question in questions])
    u32, u64 = batch.columns.u32, batch.columns.u64
    for row, (_, flags, qtype, qclass, seconds, nanoseconds) in enumerate(questions):
        u32[FLAGS, row], u32[QTYPE, row], u32[QCLASS, row] = flags, qtype, qclass
        u32[PRESENT, row] = 0
        if seconds is not None:
            u32[PRESENT, row] |= HAS_RESPONSE_TIME_SEC
            u64[RESPONSE_TIME_SEC, row] = seconds
        if nanoseconds is not None:
            u32[PRESENT, row] |= HAS_RESPONSE_TIME_NSEC
            u32[RESPONSE_TIME_NSEC, row] = nanoseconds
    return batch


def build(questions: list[Question], rows: list[int] | None = None) -> EventBlock:
    batch = columns_of(questions)
    chosen = np.array(range(len(questions)) if rows is None else rows, np.int64)
    block = build_events(batch.buf, batch.columns.u32, batch.columns.u64, chosen, len(chosen))
    assert len(block) == len(chosen)
    return block.select(np.ones(len(chosen), np.bool_))


def labels_strategy() -> st.SearchStrategy[list[bytes]]:
    label = st.one_of(
        st.binary(min_size=1, max_size=20),
        st.text('abz<>&"\\.@ ;', min_size=1, max_size=20).map(str.encode),
    )
    return st.lists(label, max_size=10)


NUMBER = st.integers(0, 0xFFFF)
SECONDS = st.none() | st.integers(0, 2**64 - 1) | st.integers(0, END_OF_TIME + 10**6)
QUESTION = st.tuples(
    labels_strategy(), NUMBER, NUMBER, NUMBER, SECONDS, st.none() | st.integers(0, 2**32 - 1)
)
LAST = END_OF_TIME - 1


@settings(max_examples=ROUNDS, deadline=None)
@given(st.lists(QUESTION, max_size=8))
@example([([], 0, 0, 0, None, 4_000_000_000)])
@example(
    [([b"a"], 1, 1, 1, LAST, 999_999_999), ([b"a"], 1, 1, 1, LAST, 10**9), ([b"b"], 1, 1, 1, LAST, None)]
)
@example([([b"a"], 1, 1, 1, 2**63 - 1, None), ([b"a"], 1, 1, 1, 2**63, None)])
@example([([b"a"], 1, 1, 1, 59, 999_999_999), ([b"a"], 1, 1, 1, 59, 10**9), ([b"a"], 1, 1, 1, 60, 0)])
def test_payloads_agree_with_the_oracle(questions: list[Question]) -> None:
    expected = [event(*question) for question in questions]
    block = build(questions)
    assert list(block) == [payload for payload in expected if payload is not None]
    assert block.dropped == expected.count(None)
    assert len(block) == len(list(block))
    assert len(block.payloads) == block.offsets[-1]


def test_exact_bytes() -> None:
    block = build([([b"WWW", b"New", b"se"], 33152, 1, 1, 1_700_000_000, 123)])
    assert list(block) == [
        b'{"flags":33152,"qclass":1,"qname":"WWW.New.se.","qtype":1,'
        b'"timestamp":"2023-11-14T22:13:00Z","type":"new_qname","version":0}'
    ]
    (payload,) = build([([b'<a&b>"'], 0, 0, 0, None, None)])
    assert rb'"qname":"\u003ca\u0026b\u003e\\\"."' in payload


def test_dates_of_all_centuries() -> None:
    days = range(0, END_OF_TIME // 86400, 10007 if JIT_DISABLED else 307)
    payloads = list(build([([b"a"], 0, 1, 1, day * 86400 + day % 1440 * 60, None) for day in days]))
    assert payloads == [event([b"a"], 0, 1, 1, day * 86400 + day % 1440 * 60, None) for day in days]


def test_longest_events_make_the_buffer_grow() -> None:
    labels = [b"<" * 63, b">" * 63, b"&" * 63, b"\xff" * 61]
    question: Question = (labels, 0xFFFF, 0xFFFF, 0xFFFF, LAST, None)
    block = build([question] * 40)
    assert list(block) == [event(*question)] * 40
    assert EVENT_MAX - 250 < len(block.payloads) // 40 + 61 <= EVENT_MAX


def test_only_the_rows_asked_for_in_their_order() -> None:
    questions: list[Question] = [([bytes([97 + i])], i, 1, 1, i * 60, None) for i in range(6)]
    assert list(build(questions, [4, 1, 5])) == [event(*questions[i]) for i in (4, 1, 5)]
    assert list(build(questions, [])) == []


def test_selecting_from_a_block() -> None:
    whole = build([([bytes([97 + i]) * (i + 1)], i, 1, 1, 0, None) for i in range(5)])
    chosen = whole.select(np.array([False, True, True, False, True]))
    assert list(chosen) == [list(whole)[i] for i in (1, 2, 4)]
    assert chosen.dropped == 0
    nothing = whole.select(np.zeros(5, np.bool_))
    assert (list(nothing), len(nothing), nothing.payloads) == ([], 0, b"")


def test_an_event_that_cannot_be_written_counts_only_if_it_is_wanted() -> None:
    batch = columns_of([([b"a"], 1, 1, 1, END_OF_TIME, None), ([b"b"], 1, 1, 1, 0, None)])
    block = build_events(batch.buf, batch.columns.u32, batch.columns.u64, np.arange(2), 2)
    answers = [
        (len(chosen), chosen.dropped)
        for chosen in (
            block.select(np.array(wanted)) for wanted in ([True, True], [False, True], [True, False])
        )
    ]
    assert answers == [(1, 1), (1, 0), (0, 1)]


def test_head_of_a_block() -> None:
    block = build([([bytes([97 + i])], i, 1, 1, 0, None) for i in range(5)])
    assert [list(block.head(count)) for count in (0, 2, 5, 9)] == [
        [],
        list(block)[:2],
        list(block),
        list(block),
    ]


def _labels(text: str) -> list[bytes]:
    labels, label, i = [], bytearray(), 0
    while i < len(text):
        if text[i] == "\\":
            width = 4 if text[i + 1].isdigit() else 2
            label.append(int(text[i + 1 : i + 4]) if width == 4 else ord(text[i + 1]))
            i += width
        elif text[i] == ".":
            labels.append(bytes(label))
            label.clear()
            i += 1
        else:
            label.append(ord(text[i]))
            i += 1
    return labels if text != "." else []


@pytest.mark.parametrize("capture", ["unbound", "dnsdist", "mutated"])
def test_payloads_of_the_go_daemon_are_reproduced(capture: str) -> None:
    lines = (
        (CAPTURES / capture / "new_qname.jsonl").read_bytes().splitlines()[: 200 if JIT_DISABLED else None]
    )
    questions: list[Question] = []
    for line in lines:
        found = json.loads(line)
        seconds = int(datetime.fromisoformat(found["timestamp"]).timestamp())
        name = _labels(found["qname"])
        questions.append((name, found["flags"], found["qtype"], found["qclass"], seconds + 59, 999_999_999))
    assert list(build(questions)) == lines
