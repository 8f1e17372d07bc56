"""The thread that writes session files beside the workers."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa
import structlog

from edm.errors import OutputError
from edm.observe.faults import DEFECT, SESSION_ROWS
from edm.observe.logs import RateLimited
from edm.observe.metrics import Metrics
from edm.output.paths import SESSION_PREFIX, SUFFIX, Workshop, file_time, publish
from edm.output.session_file import SessionFile

QUEUE_BATCHES = 4
"""Record batches that may wait for the writer; then the workers wait, for ``PATIENCE`` seconds at most."""

PATIENCE = 5.0
RETRY = 5.0

_NO_ROOM = "no room on the disk within its budget"
_MAKE_ROOM = "to make room on the disk"
_ON_PURPOSE = (_NO_ROOM, _MAKE_ROOM)  # as the operator has set it: no fault


@dataclass
class _Open:
    """The file of one interval, and what could not be written to it so far."""

    start_us: int
    name: str
    tmp: Path | None = None
    file: SessionFile | None = None
    held: list[pa.RecordBatch] = field(default_factory=list)
    lost: int = 0
    stop_us: int = 0
    metadata: dict[str, str] | None = None

    @property
    def left_over(self) -> bool:
        """Whether the file is still there under its name while it was unfinished."""
        return self.tmp is not None and self.tmp.exists()

    @property
    def waiting_bytes(self) -> int:
        """Bytes in memory that are not written yet."""
        file = self.file  # of another thread: it may be gone any moment
        held = sum(int(batch.nbytes) for batch in list(self.held))
        return held + (file.waiting_bytes if file is not None else 0)


class SessionWriter:
    """Takes record batches of session rows and writes one file per interval, in row groups as they come.

    What cannot be written is held in memory, up to ``limit`` bytes, and tried again; beyond that the oldest
    rows held are shed and counted. So are rows that come while the writer is stuck: a worker that has waited
    for it ``PATIENCE`` seconds without success is the last to wait until the writer has caught up.

    Parameters
    ----------
    folder : Path
        Where the files go.
    limit : int
        Bytes of rows held while writing fails.
    on_written : callable
        Called with the path of each finished file.
    unfinished : Path
        Where files lie until they are finished; ``folder`` by default.

    Attributes
    ----------
    admit : callable
        Asked with a number of bytes whether they may be stored; if not, the rows are shed.
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
        self._workshop = Workshop(folder, SESSION_PREFIX, unfinished)
        self._metrics = metrics
        self._limit = limit
        self.on_written = on_written
        self.admit: Callable[[int], bool] = lambda _: True
        self._tasks: deque[Callable[[], None] | None] = deque()
        self._batches_waiting = 0
        self._stuck = False
        self._turned_away: Counter[int] = Counter()  # rows by interval that found no room for too long
        self._changed = threading.Condition()
        self._intervals: dict[int, _Open] = {}
        self._retry_at = 0.0
        self._untidy = False
        self._limited = RateLimited(structlog.get_logger(), on_suppressed=metrics.count_suppressed)
        self._thread = threading.Thread(target=self._run, name="edm-session-writer", daemon=True)
        self.rows_written = 0

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, serial: int, start_us: int, batch: pa.RecordBatch) -> None:
        """Hand over rows of interval ``serial``; waits while the writer is behind, sheds when it is stuck."""
        with self._changed:
            patience = 0.0 if self._stuck else PATIENCE
            room = self._changed.wait_for(lambda: self._batches_waiting < QUEUE_BATCHES, patience)
            self._stuck = not room
            if room:
                self._take(serial, start_us, batch)
            else:
                self._turned_away[serial] += batch.num_rows
        if not room:
            self._shed(batch.num_rows, "the writer does not get on")

    def retire(
        self,
        serial: int,
        start_us: int,
        stop_us: int,
        metadata: dict[str, str],
        last: Sequence[pa.RecordBatch] = (),
    ) -> None:
        """Finish the file of interval ``serial`` with the ``last`` rows after all handed over before.

        Never waits; the last rows find room unless the writer is stuck.
        """
        shed = 0
        with self._changed:
            for batch in last:
                if self._stuck:
                    self._turned_away[serial] += batch.num_rows
                    shed += batch.num_rows
                else:
                    self._take(serial, start_us, batch)
            self._enqueue(partial(self._retired, serial, start_us, stop_us, metadata))
        self._shed(shed, "the writer does not get on")

    def abandon(self) -> None:
        """Remove the unfinished files soon: their rows, and those held, are shed. Never waits."""
        with self._changed:
            self._enqueue(self._abandon)

    def _take(self, serial: int, start_us: int, batch: pa.RecordBatch) -> None:
        self._batches_waiting += 1
        self._enqueue(partial(self._rows, serial, start_us, batch))

    def _enqueue(self, task: Callable[[], None] | None) -> None:
        self._tasks.append(task)
        self._changed.notify_all()

    def close(self, timeout: float) -> None:
        """Write what is there, try once more to write what is held, and end the thread."""
        with self._changed:
            self._enqueue(None)
        self._thread.join(timeout)

    @property
    def pending(self) -> int:
        """Intervals retired but not yet written."""
        return sum(1 for interval in list(self._intervals.values()) if interval.metadata is not None)

    @property
    def batches_waiting(self) -> int:
        """Record batches that the writer has not taken yet."""
        return self._batches_waiting

    @property
    def oldest_stop(self) -> float | None:
        """When the oldest interval that is not written ended, seconds since 1970; None if there is none."""
        stops = [i.stop_us for i in list(self._intervals.values()) if i.metadata is not None]
        return min(stops) / 1e6 if stops else None

    @property
    def waiting_bytes(self) -> int:
        """Bytes in memory that are to be written, as far as the writer has taken them."""
        return sum(interval.waiting_bytes for interval in list(self._intervals.values()))

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: bool(self._tasks), RETRY):
                    task: Callable[[], None] | None = self._flush_all
                else:
                    task = self._tasks.popleft()
            if task is None:
                break
            self._do(task)
        self._retry_at = 0.0
        self._do(self._flush_all)
        for interval in self._intervals.values():
            self._give_up(interval, "stopping while writing fails")
        self._tidy()

    def _do(self, task: Callable[[], None]) -> None:
        try:
            task()
        except Exception:
            # A defect: with what is open now it would come again, and what comes later must be written.
            self._metrics.faults.report(DEFECT)
            structlog.get_logger().exception("session rows lost to a defect")
            for serial in list(self._intervals):
                interval = self._intervals.pop(serial)
                with suppress(Exception):
                    self._give_up(interval, "a defect")

    def _open(self, serial: int, start_us: int) -> _Open:
        if serial not in self._intervals:
            name = f"{SESSION_PREFIX}{file_time(start_us)}-{serial}{SUFFIX}"
            self._intervals[serial] = _Open(start_us, name)
        return self._intervals[serial]

    def _rows(self, serial: int, start_us: int, batch: pa.RecordBatch) -> None:
        with self._changed:
            self._batches_waiting -= 1
            self._stuck = self._stuck and self._batches_waiting > 0
            self._changed.notify_all()
        interval = self._open(serial, start_us)
        if not self.admit(batch.nbytes):
            interval.lost += batch.num_rows
            self._shed(batch.num_rows, _NO_ROOM)
            return
        interval.held.append(batch)
        self._flush_all()
        self._bound()

    def _retired(self, serial: int, start_us: int, stop_us: int, metadata: dict[str, str]) -> None:
        if serial not in self._intervals:  # nothing collected, or all of it turned away: no file
            with self._changed:
                self._turned_away.pop(serial, None)
            return
        interval = self._open(serial, start_us)
        interval.stop_us = stop_us
        interval.metadata = metadata
        self._flush_all()

    def _abandon(self) -> None:
        for serial, interval in list(self._intervals.items()):
            self._give_up(interval, _MAKE_ROOM)
            if interval.metadata is not None:
                del self._intervals[serial]
        self._untidy = True  # whatever still lies there takes room as well
        self._tidy()

    def _give_up(self, interval: _Open, reason: str) -> None:
        """Shed all rows of an interval that are not in a finished file."""
        rows = sum(batch.num_rows for batch in interval.held)
        interval.held = []
        if interval.file is not None:
            rows += interval.file.rows
            interval.file.abort()
            interval.file = None
            self._untidy = self._untidy or interval.left_over
        interval.lost += rows
        self._shed(rows, reason)

    def _flush_all(self) -> None:
        if time.monotonic() < self._retry_at:
            return
        for serial, interval in list(self._intervals.items()):
            with self._changed:
                interval.lost += self._turned_away.pop(serial, 0)
            try:
                self._flush(interval)
            except OutputError as error:
                self._failed(error)
                if interval.file is not None and interval.file.broken:
                    self._give_up(interval, "the system lost them on their way to the disk")
                return
            if interval.metadata is not None:
                del self._intervals[serial]
        self._tidy()

    def _tidy(self) -> None:
        if self._untidy:
            in_use = [i.file.temporary for i in self._intervals.values() if i.file is not None]
            self._untidy = not self._workshop.tidy(in_use)

    def _flush(self, interval: _Open) -> None:
        if interval.file is None and interval.held:
            interval.tmp = self._workshop.path(interval.name)
            interval.file = SessionFile(interval.tmp)
        while interval.held and interval.file is not None:
            interval.file.write(interval.held[0])
            del interval.held[0]
        if interval.metadata is None or interval.file is None:
            return
        file = interval.file
        metadata = interval.metadata | {"edm.session_rows_shed": str(interval.lost)}
        path = publish(
            lambda final: file.close(final, metadata),
            self._folder,
            SESSION_PREFIX,
            interval.start_us,
            interval.stop_us,
        )
        interval.file = None
        self._untidy = self._untidy or interval.left_over
        self.rows_written += file.rows
        self._metrics.add(session_rows_written=file.rows)
        self._metrics.file_written("session", True, interval.stop_us, file.rows)
        if self.on_written is not None:
            self.on_written(path)

    def _failed(self, error: OutputError) -> None:
        self._metrics.file_written("session", False)
        self._retry_at = time.monotonic() + RETRY
        self._limited.error("session rows cannot be written, they are held in memory", reason=str(error))

    def _bound(self) -> None:
        intervals = list(self._intervals.values())
        held = self.waiting_bytes
        for interval in intervals:
            while held > self._limit and interval.held:
                batch = interval.held.pop(0)
                held -= batch.nbytes
                interval.lost += batch.num_rows
                self._shed(batch.num_rows, "too many rows held in memory while writing fails")

    def _shed(self, rows: int, reason: str) -> None:
        if rows:
            self._metrics.add(session_rows_shed=rows)
            if reason not in _ON_PURPOSE:
                self._metrics.faults.report(SESSION_ROWS, rows)
            self._limited.error("session rows shed", count=rows, reason=reason)
