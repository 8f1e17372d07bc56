"""DNS messages: the walk, all question names and their presentation form, compared with the plain unpacker."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np

from edm.kernel import columns as c
from edm.kernel.columns import NAME_MAX, Columns
from edm.stages.dns.name import new_memo
from edm.stages.dns.questions import BEGIN, FEW, MoreQuestions, collect_questions
from edm.stages.dns.walk import walk_messages
from edm.stages.names import wire_to_text
from fuzz.guarded import guard
from fuzz.target import Target, agree, filler
from oracles import dns_generator, dns_message, dnstap_frame
from oracles.framestream import CAPTURES, capture_frames

_GAP = 8
_VECTORS = CAPTURES.parent / "vectors" / "dns_unpack.json.gz"

Answer = tuple[Any, ...] | None


def expected(message: bytes) -> Answer:
    """Return what the oracle finds: flags, RCODE, questions, type and class of the first, all names."""
    try:
        found = dns_message.unpack(message)
    except dns_message.RejectedError:
        return None
    names = [dns_message.wire_form(question.labels) for question in found.questions]
    if not names:
        return found.flags, found.rcode, 0, 0, 0, names, ""
    first = found.questions[0]
    text = dns_message.presentation(first.labels)
    head = found.flags, found.rcode, len(names), first.qtype, first.qclass
    return (*head, [names[0], *_distinct(names[1:])], text)


def lay_out(messages: Sequence[bytes]) -> tuple[bytearray, int, Columns]:
    """Return a block that holds the messages, the first free byte in it, and the columns that point to them."""
    n = len(messages)
    gap = filler(messages, _GAP)
    block = bytearray(gap + b"".join(message + gap for message in messages[:-1]) + messages[-1])
    scratch = len(block)
    block += filler(messages, NAME_MAX * n)
    lengths = np.fromiter(map(len, messages), np.int64, n)
    columns = Columns(n)
    columns.u32[:] = 0xA5A5A5A5
    columns.u32[c.RESPONSE_MESSAGE_LEN, :n] = lengths
    columns.u32[c.RESPONSE_MESSAGE_OFF, :n] = _GAP + np.cumsum(lengths + _GAP) - lengths - _GAP
    columns.u32[c.PRESENT, :n] = c.HAS_RESPONSE_MESSAGE
    return block, scratch, columns


def more_names(block: Any, columns: Columns, n: int, room: int) -> list[list[bytes]]:
    """Return the names of the second and later questions of each row, collected ``room`` at a time."""
    found: list[list[bytes]] = [[] for _ in range(n)]
    out = MoreQuestions.of(room)
    guarded = MoreQuestions(*map(guard, out))
    u32, fate = guard(columns.u32), guard(columns.fate)
    place = BEGIN
    while place[0] < n:
        count, place = collect_questions(block, u32, fate, n, place, guarded)
        for name, length, at in zip(
            out.names, out.lengths[:count].tolist(), out.rows[:count].tolist(), strict=False
        ):
            found[at].append(name[:length].tobytes())
    return [_distinct(names) for names in found]


def _distinct(names: list[bytes]) -> list[bytes]:
    # Of many questions, the kernel leaves out most of the names that come again.
    return names if len(names) < FEW else sorted(set(names))


def walk(messages: Sequence[bytes]) -> list[Answer]:
    """Run the kernels over one block and read the columns back in the form of `expected`."""
    n = len(messages)
    block, scratch, columns = lay_out(messages)
    before = bytes(block)
    buf = np.frombuffer(block, np.uint8)
    guarded = guard(buf, scratch)
    end = walk_messages(guarded, scratch, guard(columns.u32), guard(columns.fate), n, new_memo())
    assert scratch <= end <= len(block)
    assert block.startswith(before[:scratch]), "the kernel wrote into the messages"
    assert bytes(block[end:]) == before[end:], "the kernel wrote behind the names"
    assert not columns.fate[n:].any(), "the kernel wrote behind its rows"
    others = more_names(guarded, columns, n, 1 + zlib.crc32(messages[-1]) % 40)
    content = bytes(block)
    answers: list[Answer] = []
    for row, fate, more in zip(columns.u32[:, :n].T.tolist(), columns.fate[:n].tolist(), others, strict=True):
        if fate == c.DNS_PARSE_ERROR:
            answers.append(None)
        elif fate == c.EMPTY_QUESTION:
            answers.append((row[c.FLAGS], row[c.RCODE], row[c.QUESTIONS], 0, 0, [], ""))
        else:
            assert fate == c.PENDING
            name = content[row[c.QNAME_OFF] : row[c.QNAME_OFF] + row[c.QNAME_LEN]]
            head = row[c.FLAGS], row[c.RCODE], row[c.QUESTIONS], row[c.QTYPE], row[c.QCLASS]
            answers.append((*head, [name, *more], wire_to_text(name)))
    return answers


class DnsTarget(Target):
    name = "dns"
    batch = 1024
    longest = 3000

    def corpus(self) -> list[bytes]:
        with gzip.open(_VECTORS, "rt") as file:
            messages = [bytes.fromhex(text) for text, _ in json.load(file)]
        for frame in (f for name in ("unbound", "dnsdist", "mutated") for f in capture_frames(name)[::499]):
            found = dnstap_frame.decode(frame) or {}
            message = found.get("message", {}).get("rm")
            if message:
                messages.append(message)
        return [message for message in messages if len(message) <= self.longest]

    def generate(self, rng: Random) -> bytes:
        return dns_generator.valid_message(rng)

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        if data and rng.random() < 0.5:
            return dns_generator.damaged(rng, data)[: self.longest]
        return super().mutate(rng, data, other)

    def check(self, inputs: Sequence[bytes]) -> list[bool]:
        answers = walk(inputs)
        for message, answer in zip(inputs, answers, strict=True):
            agree(message, answer, expected(message))
        return [answer is not None for answer in answers]


__all__ = ["DnsTarget", "expected", "walk"]
