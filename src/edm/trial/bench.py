"""A pipeline for trials: the stages of the workers, with a fresh interval and outputs that forget."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from edm.input.blocks import Block
from edm.kernel.columns import (
    DOMAIN_INDEX,
    DOMAIN_MATCH,
    QUERY_ADDRESS_LEN,
    QUERY_ADDRESS_OFF,
    I64Array,
    U8Array,
    U32Array,
)
from edm.observe.metrics import Metrics
from edm.pipeline import Pipeline
from edm.rotation.interval import Interval
from edm.snapshot import Snapshot
from edm.stages.new_qname.events import EventBlock
from edm.stages.new_qname.ordering import Names, NewNames
from edm.stages.new_qname.seen.store import Candidates
from edm.stages.new_qname.seen.unsaved import Unsaved

_ROWS = 4096


class Verdicts(NamedTuple):
    """What became of the frames of a batch.

    Attributes
    ----------
    fate : uint8[n]
    entry, match : uint32[n]
        The entry of the list that decided, where one did: its index, and ``DOMAIN_MATCH``.
    address_off, address_len : uint32[n]
        Where the client's address is in the block.
    """

    fate: U8Array
    entry: U32Array
    match: U32Array
    address_off: U32Array
    address_len: U32Array


class NoNames:
    """A store of seen names in which everything has been seen: nobody asks about novelty."""

    def candidates(self, buf: U8Array, u32: U32Array, fate: U8Array, n: int) -> Candidates:
        """Return no candidate."""
        del buf, u32, fate, n
        none: I64Array = np.empty(0, np.int64)
        return Candidates(none, np.empty(0, np.uint64), np.empty(0, np.uint8), None)

    def remember(self, candidates: Candidates) -> tuple[U8Array, Unsaved]:
        """Remember nothing; all candidates are taken for new."""
        return np.ones(len(candidates.rows), np.uint8), Unsaved(b"", [], lambda _: None)


class _Outputs:
    def session_rows(self, interval: Interval, batch: pa.RecordBatch) -> None:
        pass

    def debug_frames(self, frames: Sequence[bytes]) -> None:
        pass


class _Silent:
    """A logger that says nothing: what is tried is no event of the service."""

    def info(self, _event: str, **_fields: object) -> None:
        pass

    warning = error = exception = debug = info


class Bench:
    """Runs batches under one state.

    Parameters
    ----------
    snapshot : Snapshot
        The state; its interval is not touched.
    names : Names
        Asked for names seen before. To remember nothing is up to it.
    message_types : iterable of int
        As in :class:`edm.pipeline.Pipeline`.

    Attributes
    ----------
    interval : Interval
        What the frames left: rows, counts, the ledger.
    events : list of bytes
        Payloads of the events of candidates that ``names`` took for new.
    """

    def __init__(self, snapshot: Snapshot, names: Names, message_types: Iterable[int] = ()) -> None:
        self.interval = Interval.begin(
            workers=1,
            domains=len(snapshot.well_known),
            explicit_threshold=snapshot.config.histogram_hll_explicit_threshold,
            session_rows=_ROWS,
        )
        self.events: list[bytes] = []
        self._snapshot = dataclasses.replace(snapshot, interval=self.interval)
        metrics = Metrics()
        metrics.senders.warn = False
        self._pipeline = Pipeline(
            0,
            NewNames(names, self._emit),
            _Outputs(),
            metrics,
            message_types=message_types,
            log=_Silent(),
        )
        self._sequence = 0

    def _emit(self, events: EventBlock) -> None:
        self.events += events

    def run(self, block: Block, first: int, n: int) -> Verdicts:
        """Run the frames ``first .. first+n-1`` of a block, at most ``BATCH_ROWS``; the block stays as it is."""
        self._pipeline.run(block, first, n, self._snapshot)
        self._sequence += 1
        sequence, block.sequence = block.sequence, self._sequence
        self._pipeline.settle(block)
        block.sequence = sequence
        columns = self._pipeline.columns
        u32 = columns.u32
        fields = (
            u32[row, :n].copy() for row in (DOMAIN_INDEX, DOMAIN_MATCH, QUERY_ADDRESS_OFF, QUERY_ADDRESS_LEN)
        )
        return Verdicts(columns.fate[:n].copy(), *fields)


def block_of(frames: Sequence[bytes]) -> Block:
    """Return a block that holds these frames and nothing else."""
    data = b"".join(frames)
    block = Block(max(len(data), 5 * len(frames), 64))
    block.view[: len(data)] = data
    lengths: U32Array = np.array([len(frame) for frame in frames], np.uint32)
    block.length[: len(frames)] = lengths
    block.off[: len(frames)] = np.cumsum(lengths, dtype=np.uint32) - lengths
    block.frames, block.fill = len(frames), len(data)
    return block


__all__ = ["Bench", "NoNames", "Verdicts", "block_of"]
