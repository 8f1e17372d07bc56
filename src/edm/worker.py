"""A worker: takes blocks, cuts them into batches, and runs the pipeline under one snapshot per batch."""

from __future__ import annotations

import threading

import structlog

from edm.input.blocks import Block, Intake
from edm.kernel.columns import BATCH_ROWS
from edm.observe.metrics import Metrics
from edm.pipeline import Pipeline
from edm.snapshot import Snapshot, SnapshotCell


class Worker:
    """Runs until the intake is closed and empty.

    Parameters
    ----------
    slot : int
        Number of the worker: its slot in the cell and its part of each interval.
    """

    def __init__(
        self, slot: int, intake: Intake, cell: SnapshotCell[Snapshot], pipeline: Pipeline, metrics: Metrics
    ) -> None:
        self._slot = slot
        self._intake = intake
        self._cell = cell
        self.pipeline = pipeline
        self._metrics = metrics
        self.thread = threading.Thread(target=self._run, name=f"edm-worker-{slot}", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self.thread.start()

    def _run(self) -> None:
        while (block := self._intake.get()) is not None:
            try:
                try:
                    self.handle(block)
                finally:
                    self.pipeline.settle(block)
            except Exception:
                # A defect of ours must not stop the service; the ledger of the interval shows the loss.
                structlog.get_logger().exception("batch failed, its frames are lost")
            finally:
                self._intake.release(block)

    def handle(self, block: Block) -> None:
        """Take all frames of ``block`` through the pipeline."""
        self._metrics.count_block(block.received)
        self._metrics.count_received(block.frames)
        if block.oversized:
            self._metrics.count_oversized(block.oversized)
            snapshot = self._cell.enter(self._slot)
            try:
                snapshot.interval.ledger.skip_oversized(block.oversized)
            finally:
                self._cell.leave(self._slot)
        for first in range(0, block.frames, BATCH_ROWS):
            snapshot = self._cell.enter(self._slot)
            try:
                self.pipeline.run(block, first, min(BATCH_ROWS, block.frames - first), snapshot)
            finally:
                self._cell.leave(self._slot)
