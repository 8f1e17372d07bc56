"""dnstap frames through the whole pipeline: fates, rows, histograms and events, compared with all oracles."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
from structlog.testing import capture_logs

from edm.config import Config
from edm.input.blocks import Block
from edm.kernel import columns as c
from edm.observe.ledger import FATE_NAMES
from edm.observe.metrics import Metrics
from edm.pipeline import Pipeline
from edm.rotation.interval import Interval
from edm.snapshot.snapshot import Snapshot
from edm.stages.clients import parse_prefix_file
from edm.stages.domains import Dawg, DomainTable
from edm.stages.new_qname.events import EventBlock
from edm.stages.new_qname.ordering import NewNames
from edm.stages.new_qname.seen.store import SeenStore
from edm.stages.pseudonyms.cryptopan import Pseudonymiser
from fuzz import lists
from fuzz.scratch import scratch_file
from fuzz.target import Target, agree, filler
from fuzz.targets.dnstap import expected
from oracles import (
    dns_generator,
    dns_message,
    domain_match,
    histogram_rows,
    new_qname_event,
    prefix_file,
    session_rows,
)
from oracles.cryptopan import CryptoPan
from oracles.dnstap_generator import Generator
from oracles.framestream import CAPTURES, capture_frames

_CLIENTS = CAPTURES / "lists" / "ignored-clients"
_SECRET = bytes(range(32))
_START_US = 1_700_000_000_000_000
_CAPACITY = 1 << 21
_ROWS = 4096
_GAP = 4
_THRESHOLD = 3  # explicit sketches give way to registers after three clients
_UNLIMITED = 1 << 20


@cache
def _lists() -> tuple[DomainTable, dict[str, int], DomainTable, dict[str, int], list[prefix_file.Network]]:
    found: list[Any] = []
    for content in (lists.well_known(), lists.ignored_names()):
        table = DomainTable.build(Dawg.from_bytes(content))
        found += [table, {word: k for k, word in enumerate(table.texts(range(len(table))).to_pylist())}]
    networks = prefix_file.parse(_CLIENTS.read_bytes())
    assert networks
    return (*found, networks)


class _Outputs:
    """Takes what leaves the worker during a batch, which is nothing: there is room for all rows."""

    def session_rows(self, interval: Interval, batch: pa.RecordBatch) -> None:
        raise AssertionError("more session rows than frames")

    def debug_frames(self, frames: Sequence[bytes]) -> None:
        raise AssertionError("no debug file is wanted")


@dataclass
class Made:
    """What came out of a batch, or should have come out."""

    fates: dict[str, int] = field(default_factory=dict)
    histogram: list[dict[str, Any]] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)


def _microseconds(value: Any) -> Any:
    return value // timedelta(microseconds=1) if isinstance(value, timedelta) else value


def run(frames: Sequence[bytes]) -> Made:
    """Run the pipeline of one worker over one block."""
    well_known, _, ignored, _, _ = _lists()
    n = len(frames)
    block = Block(_CAPACITY)
    gap = filler(frames, _GAP)
    content = gap + b"".join(frame + gap for frame in frames)
    block.view[: len(content)] = content
    lengths = np.fromiter(map(len, frames), np.int64, n)
    block.length[:n] = lengths
    block.off[:n] = _GAP + np.cumsum(lengths + _GAP) - lengths - _GAP
    block.frames, block.fill, block.sequence = n, len(content), 1
    interval = Interval.begin(1, len(well_known), _THRESHOLD, _ROWS + 1)
    clients = parse_prefix_file(_CLIENTS)
    pseudonymiser = Pseudonymiser(_SECRET, 100)
    snapshot = Snapshot(1, Config(), pseudonymiser, clients, ignored, well_known, interval, True, True)
    events: list[bytes] = []
    with _store() as store, capture_logs():
        new_names = NewNames(store, lambda found: events.extend(_take(found)))
        pipeline = Pipeline(0, new_names, _Outputs(), Metrics())
        pipeline.run(block, 0, n, snapshot)
        pipeline.settle(block)
    fates = interval.ledger.fates().tolist()
    table = interval.accumulators[0].to_table(well_known.texts, _START_US)
    batch = interval.rows[0].take() if len(interval.rows[0]) else None
    return Made(
        {name: count for name, count in zip(FATE_NAMES, fates, strict=True) if count},
        sorted(table.to_pylist(), key=repr),
        [] if batch is None else _plain(batch),
        events,
    )


def _take(found: EventBlock) -> Iterator[bytes]:
    yield from found


@contextlib.contextmanager
def _store() -> Iterator[SeenStore]:
    folder = scratch_file("marker", b"").parent / "seen"
    for path in folder.glob("*"):
        path.unlink()
    store = SeenStore.open(folder, limit_entries=_UNLIMITED, sync=False)
    try:
        yield store
    finally:
        store.close()


def _plain(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return the rows as dicts of plain values, times in microseconds, without what is NULL."""
    arrays = {}
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        arrays[name] = (array.cast(pa.int64()) if pa.types.is_timestamp(array.type) else array).to_pylist()
    rows = [dict(zip(arrays, values, strict=True)) for values in zip(*arrays.values(), strict=True)]
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


class _Oracle:
    """Takes one frame after the other through all rules."""

    def __init__(self) -> None:
        self.fates: Counter[str] = Counter()
        self.counted: list[histogram_rows.Frame] = []
        self.sessions: list[dict[str, Any]] = []
        self.events: list[bytes] = []
        self._seen: set[str] = set()
        self._pseudonyms = CryptoPan(_SECRET)

    def made(self) -> Made:
        texts = list(_lists()[1])
        start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=_START_US)
        rows = histogram_rows.rows(self.counted, _THRESHOLD, texts, start)
        return Made(dict(self.fates), sorted(rows, key=repr), self.sessions, self.events)

    def take(self, frame: bytes) -> None:
        self.fates[self._fate(frame)] += 1

    def _fate(self, frame: bytes) -> str:
        decoded = expected(frame)[0]
        if decoded != c.PENDING:
            return FATE_NAMES[decoded]
        fields = session_rows.decode(frame)
        assert fields is not None
        _, words, _, ignored, networks = _lists()
        if fields.query_address is None or len(fields.query_address) not in (4, 16):
            return "client_address_invalid"
        if prefix_file.holds(networks, fields.query_address):
            return "client_ignored"
        try:
            message = dns_message.unpack(fields.response_message or b"")
        except dns_message.RejectedError:
            return "dns_parse_error"
        if not message.questions:
            return "empty_question"
        texts = [dns_message.presentation(question.labels) for question in message.questions]
        if any(domain_match.match(ignored, text)[1] for text in texts):
            return "question_ignored"
        question = message.questions[0]
        index, match = domain_match.match(words, texts[0])
        if match:
            kind = question.qtype, question.qclass, message.rcode
            self.counted.append(histogram_rows.Frame(index, match, *kind, fields.query_address))
            return "well_known"
        self._new_name(fields, message, texts[0])
        source, dest = (self._pseudonyms.field(a) for a in (fields.query_address, fields.response_address))
        row = session_rows.row(fields, question.labels, source, dest)
        self.sessions.append({name: value for name, value in row.items() if value is not None})
        return "session"

    def _new_name(self, fields: session_rows.Fields, message: dns_message.Message, text: str) -> None:
        if text.lower() in self._seen:
            return
        self._seen.add(text.lower())
        question = message.questions[0]
        event = new_qname_event.event(
            question.labels,
            message.flags,
            question.qtype,
            question.qclass,
            fields.response_time_sec,
            fields.response_time_nsec,
        )
        if event is not None:
            self.events.append(event)


class PipelineTarget(Target):
    name = "pipeline"
    batch = 512
    longest = 3000

    def corpus(self) -> list[bytes]:
        frames = [f for name in ("unbound", "dnsdist") for f in capture_frames(name)[1::601]]
        return [frame for frame in frames + capture_frames("mutated")[::31] if len(frame) <= self.longest]

    def generate(self, rng: Random) -> bytes:
        if rng.random() < 0.1:
            return Generator(rng).frame()
        response = dns_generator.valid_message(rng)
        if rng.random() < 0.2:
            response = dns_generator.damaged(rng, response)
        if rng.random() < 0.4:
            response = dns_generator.header(1, flags=rng.getrandbits(16)) + self._question(rng)
        address = rng.choice((4, 4, 4, 16, 16, 12, 0, 5))
        client = (
            rng.randbytes(address) if rng.random() < 0.6 else bytes(max(0, address - 2)) + rng.randbytes(1)
        )
        if address == 12:
            client = bytes(10) + b"\xff\xff" + client[-4:].rjust(4, b"\1")
        message = (
            b"\x08"
            + bytes((rng.choice((2, 4, 6, 6, 6, 5, 14)),))
            + b"\x10"
            + bytes((rng.choice((0, 1, 2, 2, 3)),))
        )
        message += b"\x22" + bytes((len(client),)) + client
        if rng.random() < 0.5:
            message += (
                b"\x2a\x04" + rng.randbytes(4) + b"\x30" + rng.choice((b"\x35", b"\xff\xff\xff\xff\x0f"))
            )
        if rng.random() < 0.7:
            message += b"\x60" + rng.choice(
                (b"\x00", b"\xb2\xde\xcd\xa0\x06", b"\xff" * 9 + b"\x01", b"\xff\xd6\x94\x9d\xf0\x07")
            )
            message += b"\x6d" + rng.choice((rng.randbytes(4), b"\xff\xc9\x9a\x3b", b"\x00\xca\x9a\x3b"))
        message += b"\x72" + _varint(len(response)) + response
        return b"\x0a\x03dns" * (rng.random() < 0.5) + b"\x72" + _varint(len(message)) + message + b"\x78\x01"

    def _question(self, rng: Random) -> bytes:
        word = rng.choice(
            (
                "com.",
                "x.y.",
                "norhubtata.com.",
                "a.hubver.net.",
                "hubver.net.",
                "b.home.",
                "zenzenlita10.com.",
            )
        )
        labels = [rng.choice((b"a", b"B", b"\xff.", b"<&>"))] * rng.randrange(12) + word.encode().split(b".")[
            :-1
        ]
        return (
            dns_message.wire_form(labels)
            + rng.choice((b"\0\1", b"\0\x1c", b"\0\x0f", b"\0\2", b"\0\6"))
            + b"\0\1"
        )

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        if rng.random() < 0.3:
            return super().mutate(rng, data, other)
        # Without moving anything, so that most of it still decodes and reaches the later stages.
        changed = bytearray(data)
        for _ in range(rng.choice((0, 1, 1, 2, 4)) if changed else 0):
            changed[int(rng.random() * len(changed))] ^= rng.choice((1, 2, 4, 8, 16, 32, 64, 128, 255))
        return bytes(changed)

    def check(self, inputs: Sequence[bytes]) -> list[bool]:
        frames = [frame or b"\0" for frame in inputs]
        oracle = _Oracle()
        for frame in frames:
            oracle.take(frame)
        made, wanted = run(frames), oracle.made()
        for part in ("fates", "events", "histogram", "sessions"):
            agree(frames[0], getattr(made, part), getattr(wanted, part))
        kept = len(wanted.sessions) + len(oracle.counted)
        return [k < kept for k in range(len(inputs))]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


__all__ = ["PipelineTarget", "run"]
