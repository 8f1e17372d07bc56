"""Runs the kernels of the DNS stage over lists of messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytest

from edm.kernel.columns import (
    DNS_PARSE_ERROR,
    FLAGS,
    HAS_RESPONSE_MESSAGE,
    PRESENT,
    QCLASS,
    QNAME_LEN,
    QNAME_OFF,
    QTYPE,
    QUESTIONS,
    RCODE,
    RESPONSE_MESSAGE_LEN,
    RESPONSE_MESSAGE_OFF,
    Columns,
    U8Array,
)
from edm.stages.dns.name import new_memo
from edm.stages.dns.walk import walk_messages
from oracles import dns_message

MEMO = new_memo()
"""One for all tests, as a worker has one for all batches."""


class Unpacked(NamedTuple):
    """What the columns say about one message."""

    flags: int
    rcode: int
    questions: int
    first: tuple[bytes, int, int] | None


def lay_out(messages: Sequence[bytes]) -> tuple[U8Array, int, Columns]:
    """Return a block of the messages (with rubbish around them), its free end, and the batch's columns."""
    data = bytearray(b"\xc0\x00\x3f")
    columns = Columns(len(messages))
    for row, message in enumerate(messages):
        columns.u32[RESPONSE_MESSAGE_OFF, row] = len(data)
        columns.u32[RESPONSE_MESSAGE_LEN, row] = len(message)
        columns.u32[PRESENT, row] = HAS_RESPONSE_MESSAGE
        data += message + b"\0\0\xff"
    scratch = len(data)
    data += b"\xee" * (255 * len(messages))
    return np.frombuffer(bytes(data), np.uint8).copy(), scratch, columns


def walk_all(messages: Sequence[bytes]) -> list[Unpacked | None]:
    """Return what each message unpacks to; None for those that are not valid."""
    buf, scratch, columns = lay_out(messages)
    before = buf[:scratch].copy()
    end = walk_messages(buf, scratch, columns.u32, columns.fate, len(messages), MEMO)
    assert scratch <= end <= len(buf)
    assert np.array_equal(buf[:scratch], before)
    results: list[Unpacked | None] = []
    for row in range(len(messages)):
        if columns.fate[row] == DNS_PARSE_ERROR:
            results.append(None)
            continue
        get = columns.u32[:, row].tolist()
        first = None
        if get[QUESTIONS]:
            name = buf[get[QNAME_OFF] : get[QNAME_OFF] + get[QNAME_LEN]].tobytes()
            first = (name, get[QTYPE], get[QCLASS])
        results.append(Unpacked(get[FLAGS], get[RCODE], get[QUESTIONS], first))
    return results


def expected(message: bytes) -> Unpacked | None:
    """Return what the oracle says."""
    try:
        unpacked = dns_message.unpack(message)
    except dns_message.RejectedError:
        return None
    first = None
    if unpacked.questions:
        question = unpacked.questions[0]
        first = (dns_message.wire_form(question.labels), question.qtype, question.qclass)
    return Unpacked(unpacked.flags, unpacked.rcode, len(unpacked.questions), first)


@pytest.fixture(scope="session")
def walk() -> Callable[[Sequence[bytes]], list[Unpacked | None]]:
    return walk_all


@pytest.fixture(scope="session")
def agree() -> Callable[[Sequence[bytes]], int]:
    """Check that kernel and oracle say the same about each message; give the number accepted."""

    def check(messages: Sequence[bytes]) -> int:
        results = walk_all(messages)
        for message, got in zip(messages, results, strict=True):
            assert got == expected(message), message.hex()
        return sum(result is not None for result in results)

    return check


@pytest.fixture(scope="session")
def batch() -> Callable[[Sequence[bytes]], tuple[U8Array, int, Columns]]:
    return lay_out
