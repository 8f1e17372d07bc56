"""One batch's whole journey, from located frames to counted names, new names and session rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import structlog

from edm.input.blocks import Block
from edm.kernel.columns import (
    CLIENT_ADDRESS_INVALID,
    DNS_PARSE_ERROR,
    FRAME_LEN,
    FRAME_OFF,
    N_FATES,
    QUESTION_IGNORED,
    QUESTIONS,
    SESSION,
    SESSION_OFF,
    UNDECODABLE,
    WELL_KNOWN,
    Columns,
    I64Array,
)
from edm.observe.ledger import settle_fates
from edm.observe.logs import RateLimited
from edm.observe.metrics import Metrics
from edm.observe.stage_clock import StageClock
from edm.rotation.interval import Interval
from edm.snapshot.snapshot import Snapshot
from edm.stages.dns.name import new_memo
from edm.stages.dns.questions import BEGIN, MoreQuestions, collect_questions
from edm.stages.dns.walk import walk_messages
from edm.stages.dnstap.decode import decode_frames
from edm.stages.dnstap.senders import SenderTally
from edm.stages.domains.table.hashing import HASH_KEY
from edm.stages.domains.table.lookup import mark_matches
from edm.stages.domains.table.name_hashing import hash_names
from edm.stages.domains.table.table import DomainTable
from edm.stages.new_qname.events import build_events
from edm.stages.new_qname.ordering import Found, NewNames
from edm.stages.pseudonyms.contract import Maker, Pseudonyms

_MORE_NAMES = 1024


class Outputs(Protocol):
    """Where a batch's results go when they leave the worker."""

    def session_rows(self, interval: Interval, batch: pa.RecordBatch) -> None:
        """Take session rows of an interval; waits while the writer is behind."""

    def debug_frames(self, frames: Sequence[bytes]) -> None:
        """Take frames for the debug file."""


class Pipeline:
    """The pipeline of one worker: its columns, its maker of pseudonyms, and the stages in order.

    Parameters
    ----------
    worker : int
        Number of the worker; selects its part of an interval.
    new_names : NewNames
        Shared by all workers.
    message_types : iterable of int
        Types of answers that go on (dnstap.proto); none means all.
    log : structlog logger, optional
        Takes what is wrong with frames, in limited lines.

    Attributes
    ----------
    columns : Columns
        Of the batch run last.
    """

    def __init__(
        self,
        worker: int,
        new_names: NewNames,
        outputs: Outputs,
        metrics: Metrics,
        *,
        debug: bool = False,
        message_types: Iterable[int] = (),
        log: Any = None,
    ) -> None:
        self._worker = worker
        self._new_names = new_names
        self._found: list[Found] = []
        self._outputs = outputs
        self._debug = debug
        self._metrics = metrics
        self.columns = Columns()
        self._senders = SenderTally(message_types)
        self._pseudonyms: Pseudonyms | None = None
        self._maker: Maker | None = None
        self._counts: I64Array = np.zeros(N_FATES, np.int64)
        self._names = new_memo()
        self._more = MoreQuestions.of(_MORE_NAMES)
        self._limited = RateLimited(log or structlog.get_logger(), on_suppressed=metrics.count_suppressed)
        self.clock = StageClock()

    def run(self, block: Block, first: int, n: int, snapshot: Snapshot) -> None:
        """Take the frames ``first .. first+n-1`` of ``block`` all the way, under one snapshot."""
        columns = self.columns
        buf, u32, u64, fate = block.buf, columns.u32, columns.u64, columns.fate
        interval = snapshot.interval
        interval.ledger.receive(self._worker, n)
        u32[FRAME_OFF, :n] = block.off[first : first + n]
        u32[FRAME_LEN, :n] = block.length[first : first + n]

        lap = self.clock.begin()
        decode_frames(buf, u32, u64, fate, n)
        self._count_senders(block, n)
        lap("dnstap")
        if self._debug:
            self._dump(block, first, n)
            lap("debug file")
        snapshot.clients.filter(buf, u32, fate, n)
        lap("clients")
        pseudonyms = self._maker_of(snapshot).pseudonymise(buf, u32, u64, fate, n)
        lap("pseudonyms")
        walk_messages(buf, block.capacity, u32, fate, n, self._names)
        lap("dns")
        hash_names(buf, u32, u64, fate, n, HASH_KEY)
        if snapshot.ignored_names is not None:
            self._ignore_names(block, n, snapshot.ignored_names)
        snapshot.well_known.lookup(buf, u32, u64, fate, n)
        mark_matches(u32, fate, n, WELL_KNOWN)
        lap("domains")
        interval.accumulators[self._worker].update(buf, u32, u64, fate, n)
        lap("histogram")
        self._find_new(block, n, snapshot)
        lap("new_qname")
        settle_fates(fate, n, SESSION if snapshot.sessions else SESSION_OFF, self._counts)
        if snapshot.sessions:
            self._keep_sessions(block, n, interval)
            self._metrics.row_latency.sample(u32, u64, fate, n)
        lap("session")
        self._account(interval, pseudonyms.hits, pseudonyms.evictions, pseudonyms.odd_lengths)

    def flush_log(self) -> None:
        """Log what the rate limit suppressed and has not come again since."""
        self._limited.flush()

    def _maker_of(self, snapshot: Snapshot) -> Maker:
        # A maker belongs to one key for good: under a new key it starts with an empty cache by construction.
        if self._maker is None or self._pseudonyms is not snapshot.pseudonyms:
            self._pseudonyms, self._maker = snapshot.pseudonyms, snapshot.pseudonyms.new_cache()
        return self._maker

    def _count_senders(self, block: Block, n: int) -> None:
        tally = self._senders
        if tally.count(block.buf, self.columns.u32, self.columns.fate, n):
            self._metrics.senders.watch(tally.counts, tally.identities(), tally.wanted)

    def _ignore_names(self, block: Block, n: int, table: DomainTable) -> None:
        columns = self.columns
        u32, fate = columns.u32, columns.fate
        table.lookup(block.buf, u32, columns.u64, fate, n)
        mark_matches(u32, fate, n, QUESTION_IGNORED)
        if not (u32[QUESTIONS, :n] > 1).any():
            return
        more = self._more
        place = BEGIN
        while place[0] < n:
            count, place = collect_questions(block.buf, u32, fate, n, place, more)
            matched = table.match_names(more.names, more.lengths, count)
            fate[more.rows[:count][matched]] = QUESTION_IGNORED

    def _find_new(self, block: Block, n: int, snapshot: Snapshot) -> None:
        columns = self.columns
        candidates = self._new_names.store.candidates(block.buf, columns.u32, columns.fate, n)
        count = len(candidates.rows)
        if count:
            # Which of them are new is decided when all blocks before this one have been looked at; by then the
            # buffer holds other frames, so the events are written now.
            events = None
            if snapshot.events:
                events = build_events(block.buf, columns.u32, columns.u64, candidates.rows, count)
            self._found.append(Found(candidates, events))

    def settle(self, block: Block) -> None:
        """Finish a block all of whose frames have been run: decide which of its names are new."""
        found, self._found = self._found, []
        self._new_names.settle(block.sequence, found)

    def _keep_sessions(self, block: Block, n: int, interval: Interval) -> None:
        columns = self.columns
        rows = interval.rows[self._worker]
        counts = rows.append(block.buf, columns.u32, columns.u64, columns.fate, n)
        if misfits := counts.unknown_families + counts.family_mismatches:
            self._limited.error("address does not fit its socket family, stored as NULL", count=misfits)
        if rows.full:
            self._outputs.session_rows(interval, rows.take())

    def _account(self, interval: Interval, hits: int, evictions: int, odd: int) -> None:
        counts = self._counts
        interval.ledger.settle(self._worker, counts)
        self._metrics.count_fates(counts)
        self._metrics.count_pseudonyms(hits, evictions)
        if odd:
            self._limited.error("address of neither 4 nor 16 bytes, replaced by zeros", count=odd)
        found = counts.tolist()
        if undecodable := found[UNDECODABLE]:
            self._limited.error("frame is no dnstap message", count=undecodable)
        if unparsed := found[DNS_PARSE_ERROR]:
            self._limited.error("DNS message cannot be parsed", count=unparsed)
        if invalid := found[CLIENT_ADDRESS_INVALID]:
            self._limited.error("client address cannot be parsed, frame ignored", count=invalid)

    def _dump(self, block: Block, first: int, n: int) -> None:
        fate = self.columns.fate[:n]
        rows = np.flatnonzero((fate != UNDECODABLE) & (fate != DNS_PARSE_ERROR)) + first
        starts, ends = block.off[rows].tolist(), (block.off[rows] + block.length[rows]).tolist()
        self._outputs.debug_frames(
            [bytes(block.view[start:end]) for start, end in zip(starts, ends, strict=True)]
        )
