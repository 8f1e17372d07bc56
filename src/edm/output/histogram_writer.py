"""The thread that merges and writes the histograms of retired intervals."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from edm.errors import OutputError
from edm.observe.faults import DEFECT, HISTOGRAM_ROWS
from edm.observe.logs import RateLimited
from edm.observe.metrics import Metrics
from edm.output.histogram_file import write_histogram
from edm.output.paths import HISTOGRAM_PREFIX, Workshop, publish
from edm.stages.domains.table.table import DomainTable
from edm.stages.histogram.accumulators import Accumulators

RETRY = 5.0
STUCK = 10.0
"""Seconds without an answer from the disk after which the queue is bounded without the writer."""


@dataclass
class Retired:
    """What a retired interval leaves to be written: its accumulators, one per worker, and their table."""

    start_us: int
    stop_us: int
    parts: list[Accumulators]
    table: DomainTable
    metadata: dict[str, str]
    merged: Accumulators | None = None

    @property
    def state_bytes(self) -> int:
        """Bytes of memory in use."""
        return sum(part.state_bytes for part in ([self.merged] if self.merged is not None else self.parts))

    def merge(self) -> Accumulators:
        """Merge the workers' parts, once."""
        if self.merged is None:
            self.merged = Accumulators.merge(self.parts)
            self.parts = []
        return self.merged


class HistogramWriter:
    """Writes one histogram file per interval that counted anything, oldest first.

    An interval that cannot be written is kept, up to ``limit`` bytes of accumulators over all of them, and
    tried again; beyond that the oldest is dropped and its rows are counted as lost.

    Parameters
    ----------
    folder : Path
        The outbox.
    unfinished : Path
        Where files lie until they are finished; ``folder`` by default.
    """

    def __init__(
        self,
        folder: Path,
        metrics: Metrics,
        limit: int,
        on_written: Callable[[Path], None] | None = None,
        unfinished: Path | None = None,
    ) -> None:
        self._folder = folder
        self._workshop = Workshop(folder, HISTOGRAM_PREFIX, unfinished)
        self._metrics = metrics
        self._limit = limit
        self.on_written = on_written
        self._pending: deque[Retired] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._busy = False
        self._busy_since = 0.0
        self._failing = False
        self._untidy = False
        self._limited = RateLimited(structlog.get_logger(), on_suppressed=metrics.count_suppressed)
        self._lost = metrics.counter(
            "edm_histogram_rows_lost_total", "Histogram rows lost because they could not be written in time"
        )
        self._thread = threading.Thread(target=self._run, name="edm-histogram-writer", daemon=True)
        self.rows_written = 0

    @property
    def pending(self) -> int:
        """Intervals retired but not yet written."""
        return len(self._pending)

    @property
    def oldest_stop(self) -> float | None:
        """When the oldest interval that is not written ended, seconds since 1970; None if there is none."""
        with self._wake:
            return self._pending[0].stop_us / 1e6 if self._pending else None

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, retired: Retired) -> None:
        """Hand over a retired interval; never waits."""
        with self._wake:
            self._pending.append(retired)
            stuck = self._busy and time.monotonic() - self._busy_since > STUCK
            self._wake.notify_all()
        if stuck:
            self._bound(first=1)  # the first is in the writer's hands

    def flush(self, timeout: float) -> bool:
        """Wait until everything handed over is written, or writing has failed; tell whether it is written."""
        with self._wake:
            self._wake.wait_for(lambda: (not self._pending and not self._busy) or self._failing, timeout)
            return not self._pending and not self._busy

    def close(self, timeout: float) -> None:
        """Make a last try at what is pending and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout)
        if self._untidy and not self._thread.is_alive():
            self._workshop.tidy()

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._pending and not self._closing:
                    self._wake.wait()
                elif self._failing and not self._closing:
                    self._wake.wait(RETRY)
                if not self._pending:
                    if self._closing:
                        return
                    continue
                retired = self._pending[0]
                self._busy = True
                self._busy_since = time.monotonic()
            try:
                written = self._write(retired)
            except Exception:
                # A defect: trying again would fail again, and what comes later must be written.
                self._metrics.faults.report(DEFECT)
                structlog.get_logger().exception("histogram lost to a defect")
                written = True
            with self._wake:
                self._busy = False
                self._failing = not written
                if written:
                    self._pending.popleft()
                self._wake.notify_all()
                last = self._closing
            if not written and last:
                self._count_lost(self._pending, "stopping while writing fails")
                return
            if not written:
                self._bound()

    def _write(self, retired: Retired) -> bool:
        merged = retired.merge()
        if not merged.rows:
            return True
        temporary = None

        def write(final: Path) -> None:
            nonlocal temporary
            temporary = self._workshop.path(final.name)
            batches = merged.to_batches(retired.table.texts, retired.start_us)
            write_histogram(batches, final, retired.metadata, temporary)

        try:
            path = publish(
                write,
                self._folder,
                HISTOGRAM_PREFIX,
                retired.start_us,
                retired.stop_us,
            )
        except OutputError as error:
            self._untidy = True
            self._metrics.file_written("histogram", False)
            self._limited.error("histogram cannot be written, it is kept and tried again", reason=str(error))
            return False
        if self._untidy or (temporary is not None and temporary.exists()):
            self._untidy = not self._workshop.tidy()
        self.rows_written += merged.rows
        self._metrics.add(histogram_rows=merged.rows)
        self._metrics.file_written("histogram", True, retired.stop_us, merged.rows)
        if self.on_written is not None:
            self.on_written(path)
        return True

    def _bound(self, first: int = 0) -> None:
        """Drop the oldest intervals from number ``first`` on as far as too much is held; never the newest."""
        dropped = []
        with self._wake:
            held = sum(retired.state_bytes for retired in self._pending)
            while held > self._limit and len(self._pending) > first + 1:
                oldest = self._pending[first]
                del self._pending[first]
                held -= oldest.state_bytes
                dropped.append(oldest)
        self._count_lost(dropped, "too much is waiting to be written")

    def _count_lost(self, intervals: Iterable[Retired], reason: str) -> None:
        for interval in intervals:
            rows = interval.merge().rows
            self._lost.inc(rows)
            self._metrics.faults.report(HISTOGRAM_ROWS, rows)
            self._limited.error("histogram lost", count=rows, reason=reason)
