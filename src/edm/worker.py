"""A worker: takes blocks, cuts them into batches, and runs the pipeline under one snapshot per batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from edm.input.blocks import Block, Intake
from edm.input.recent import Recent
from edm.kernel.columns import BATCH_ROWS
from edm.observe.faults import DEFECT, FRAMES
from edm.observe.logs import RateLimited
from edm.observe.metrics import Metrics
from edm.pipeline import Pipeline
from edm.snapshot import Snapshot, SnapshotCell

_TRACEBACKS = 3


class Worker:
    """Runs until the intake is closed and empty.

    Parameters
    ----------
    slot : int
        Number of the worker: its slot in the cell and its part of each interval.

    Attributes
    ----------
    blocks, frames : int
        Blocks finished, and the frames in them.
    recent : Recent, optional
        Is offered each block.
    """

    def __init__(
        self, slot: int, intake: Intake, cell: SnapshotCell[Snapshot], pipeline: Pipeline, metrics: Metrics
    ) -> None:
        self._slot = slot
        self._intake = intake
        self._cell = cell
        self.pipeline = pipeline
        self._metrics = metrics
        self._limited = RateLimited(structlog.get_logger(), on_suppressed=metrics.count_suppressed)
        self._complaints = 0
        self._busy = 0.0
        self._since = 0.0  # when the block in hand was taken; 0 while there is none
        self.recent: Recent | None = None
        self.blocks = 0
        self.frames = 0
        self.thread = threading.Thread(target=self._run, name=f"edm-worker-{slot}", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self.thread.start()

    def _run(self) -> None:
        while (block := self._intake.get()) is not None:
            self._since = began = time.monotonic()
            try:
                self._guarded(self.handle, block, "block not taken through the pipeline as a whole")
                self._guarded(self.pipeline.settle, block, "new names of a block are lost")
            finally:
                self.blocks += 1
                self.frames += block.frames
                self._intake.release(block)
                self._busy += time.monotonic() - began
                self._since = 0.0

    @property
    def busy_seconds(self) -> float:
        """Seconds spent on blocks so far, of the clock on the wall."""
        return self._busy + self.stuck_seconds

    @property
    def stuck_seconds(self) -> float:
        """Seconds spent so far on the block in hand; 0 without one."""
        since = self._since
        return time.monotonic() - since if since else 0.0

    def _guarded(self, work: Callable[[Block], None], block: Block, complaint: str) -> None:
        try:
            work(block)
        except Exception:
            self._metrics.faults.report(DEFECT)
            self._complain(complaint)

    def _complain(self, event: str, frames: int = 1) -> None:
        # The first few times with the traceback: what fails once may fail with every batch.
        if self._complaints < _TRACEBACKS:
            self._complaints += 1
            structlog.get_logger().exception(event, count=frames)
        else:
            self._limited.error(event, count=frames)

    def flush_log(self) -> None:
        """Log what the rate limit suppressed and has not come again since."""
        self._limited.flush()
        self.pipeline.flush_log()

    def handle(self, block: Block) -> None:
        """Take all frames of ``block`` through the pipeline."""
        if self.recent is not None:
            self.recent.offer(block)
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
            frames = min(BATCH_ROWS, block.frames - first)
            snapshot = self._cell.enter(self._slot)
            try:
                self.pipeline.run(block, first, frames, snapshot)
            except Exception:
                # A defect of ours must not stop the service; the ledger of the interval shows the loss too.
                self._metrics.faults.report(FRAMES, frames)
                self._complain("batch failed, its frames are lost", frames)
            finally:
                self._cell.leave(self._slot)
