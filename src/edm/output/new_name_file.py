"""Files of new names: one event a line, a file for each interval in which there were any."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from edm.errors import EdmError, OutputError
from edm.files import publish as names
from edm.files.own import make_new
from edm.observe.faults import EVENTS
from edm.observe.logs import RateLimited
from edm.observe.metrics import Metrics
from edm.output.paths import (
    LINES_SUFFIX,
    NEW_NAMES_PREFIX,
    TMP_SUFFIX,
    DataDirectory,
    Workshop,
    file_time,
    make_folder,
    publish,
)
from edm.stages.new_qname.events import EventBlock

RETRY = 5.0
"""Seconds between two tries to write to a disk that takes nothing."""


@dataclass(slots=True)
class _Lines:
    """The lines of one block; ``block`` is there if its names are saved once they are on disk."""

    data: bytes
    count: int
    block: EventBlock | None


@dataclass(slots=True)
class _End:
    start_us: int
    stop_us: int


class NewNameFiles:
    """Writes the events of new names; for the use of one thread.

    Lines are on disk (fdatasync) when :meth:`write` returns. What the disk does not take is held in memory and tried
    again; what is more than ``limit`` bytes is lost and counted, the oldest first. The file that is being written
    holds whole lines only, or half a line at its end after a kill: :func:`rescue` makes it a file at the next start.

    Parameters
    ----------
    data : DataDirectory
    metrics : Metrics
    limit : int
        Most bytes held while writing fails.
    start_us : int
        Start of the first interval, microseconds since 1970.
    """

    def __init__(self, data: DataDirectory, metrics: Metrics, limit: int, start_us: int) -> None:
        self._folder = data.new_names
        self._workshop = Workshop(data.new_names, NEW_NAMES_PREFIX, data.unfinished)
        self._metrics = metrics
        self._limit = limit
        self._start_us = start_us
        self._serial = 0
        self._items: deque[_Lines | _End] = deque()
        self._fd = -1
        self._path = Path()
        self._size = 0
        self._lines = 0
        self._retry_at = 0.0
        self._limited = RateLimited(structlog.get_logger(), on_suppressed=metrics.count_suppressed)
        self._written = metrics.counter(
            "edm_new_qname_lines_written_total", "new_qname events written to files of new names"
        )
        self._lost = metrics.counter(
            "edm_new_qname_lines_lost_total",
            "new_qname events that are in no file of new names because the disk did not take them",
        )
        metrics.callback(
            "edm_new_qname_lines_held",
            "new_qname events held in memory because the disk does not take them",
            lambda: self.held,
        )

    @property
    def held(self) -> int:
        """Events that wait for the disk; any thread may ask."""
        return sum(item.count for item in list(self._items) if isinstance(item, _Lines))

    def check(self) -> None:
        """Make the folder, and see that files can be made in it.

        Raises
        ------
        OutputError
            They cannot.
        """
        make_folder(self._folder)
        probe = self._folder / f".write-test{TMP_SUFFIX}"
        try:
            os.close(make_new(probe, 0o600))
            probe.unlink()
        except OSError as error:
            raise OutputError(f"data-dir: {self._folder}: {error.strerror}") from error

    def write(self, blocks: Sequence[EventBlock], *, save: bool) -> None:
        """Write events, and give files whose interval has ended their names.

        Parameters
        ----------
        blocks : sequence of EventBlock
            In the order of the queue.
        save : bool
            Save the names of each block once its lines are on disk. If not, the caller does.
        """
        for block in blocks:
            if len(block):
                self._items.append(_Lines(block.lines(), len(block), block if save else None))
            if block.ended is not None:
                self._items.append(_End(*block.ended))
        self.maintain()

    def maintain(self) -> None:
        """Try again what could not be written, if it is time."""
        if self._items and time.monotonic() >= self._retry_at:
            self._write_out()
        self._bound(self._limit, "too much is held in memory while writing fails")

    def hurry(self) -> None:
        """Let the next try come at once; any thread may."""
        self._retry_at = 0.0

    def close(self) -> None:
        """Make a last try; what still cannot be written is lost and counted."""
        self._write_out()
        self._bound(0, "stopping while writing fails")
        if self._fd >= 0:
            os.close(self._fd)  # its interval has no end: the next start makes it a file
            self._fd = -1
        self._limited.flush()

    def _write_out(self) -> None:
        try:
            while self._items:
                first = self._items[0]
                if isinstance(first, _End):
                    self._finish(first)
                    self._items.popleft()
                else:
                    self._append()
        except (OSError, EdmError) as error:
            self._metrics.file_written("new_qname", False)
            self._retry_at = time.monotonic() + RETRY
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self._limited.error("new names cannot be written, they are held in memory", reason=reason)

    def _append(self) -> None:
        """Write the lines up to the next end of an interval, and save their names."""
        group: list[_Lines] = []
        for item in self._items:
            if isinstance(item, _End):
                break
            group.append(item)
        if self._fd < 0:
            self._open()
        data = memoryview(b"".join(item.data for item in group))
        try:
            done = 0
            while done < len(data):
                done += os.write(self._fd, data[done:])
            os.fdatasync(self._fd)
        except OSError:
            with suppress(OSError):
                # No half line, and none twice: all of it is written again. The file is open for appending.
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)
        for item in group:
            self._items.popleft()
            self._lines += item.count
            self._written.inc(item.count)
            if item.block is not None:
                item.block.save_names()

    def _open(self) -> None:
        self._serial += 1
        name = f"{NEW_NAMES_PREFIX}{file_time(self._start_us)}-{self._serial}{LINES_SUFFIX}"
        self._path = self._workshop.path(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, names.FILE_MODE)
        self._size = self._lines = 0
        names.sync_folder(self._path.parent)

    def _finish(self, end: _End) -> None:
        """Give the file of an interval its name, if it has lines."""
        if self._fd >= 0 and self._size:
            make_folder(self._folder)
            try:
                _publish(self._path, self._folder, end.start_us, end.stop_us)
            except FileNotFoundError:
                if os.path.lexists(self._path):
                    raise
                self._lose(self._lines, "the unfinished file was removed")
            else:
                self._metrics.file_written("new_qname", True, end.stop_us, self._lines)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            if not self._size:
                with suppress(OSError):
                    self._path.unlink(missing_ok=True)
        self._start_us = end.stop_us

    def _bound(self, limit: int, reason: str) -> None:
        held = sum(len(item.data) for item in self._items if isinstance(item, _Lines))
        kept: deque[_Lines | _End] = deque()
        lost = 0
        for item in self._items:
            if isinstance(item, _Lines) and held > limit:
                held -= len(item.data)
                lost += item.count
            else:
                kept.append(item)
        if lost:
            self._items = kept
            self._lose(lost, reason)

    def _lose(self, count: int, reason: str) -> None:
        self._lost.inc(count)
        self._metrics.faults.report(EVENTS, count)
        self._limited.error("new names lost", count=count, reason=reason)


def rescue(data: DataDirectory) -> None:
    """Make files of what a killed process left unfinished: its names are remembered and do not come again.

    To be called before anything is written. Half a line at the end is cut off: its name was not saved.
    """
    log = structlog.get_logger()
    for folder in (data.unfinished, data.new_names):
        for path in sorted(folder.glob(f".{NEW_NAMES_PREFIX}*{LINES_SUFFIX}{TMP_SUFFIX}")):
            try:
                final = _rescue(path, data.new_names)
            except (OSError, EdmError) as error:
                reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
                log.warning("unfinished file of new names cannot be used", filename=str(path), reason=reason)
            else:
                if final is not None:
                    log.info("finished a file of new names of an earlier run", filename=str(final))


def _rescue(path: Path, folder: Path) -> Path | None:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "r+b") as file:
        found = os.fstat(file.fileno())
        size = _whole_lines(file.fileno(), found.st_size)
        # With two names it was finished, and killed before the first one was removed.
        if not size or found.st_nlink > 1:
            path.unlink()
            return None
        if size < found.st_size:
            file.truncate(size)
            os.fsync(file.fileno())
    make_folder(folder)
    stop_us = int(found.st_mtime * 1_000_000)
    began = path.name[1 + len(NEW_NAMES_PREFIX) :].rpartition("-")[0]
    try:
        start_us = _time_of(began)
    except ValueError:
        start_us = stop_us
    return _publish(path, folder, start_us, max(start_us, stop_us))


def _whole_lines(descriptor: int, size: int) -> int:
    """Return how many bytes a file has up to the end of its last whole line."""
    step = 1 << 16
    while size > 0:
        begin = max(0, size - step)
        at = os.pread(descriptor, size - begin, begin).rfind(b"\n")
        if at >= 0:
            return begin + at + 1
        size = begin
    return 0


def _time_of(text: str) -> int:
    """Return what :func:`file_time` made ``text`` from, microseconds since 1970."""
    return int(datetime.strptime(f"{text}+0000", "%Y-%m-%dT%H-%M-%SZ%z").timestamp()) * 1_000_000


def _publish(temporary: Path, folder: Path, start_us: int, stop_us: int) -> Path:
    return publish(
        lambda final: names.publish(temporary, final),
        folder,
        NEW_NAMES_PREFIX,
        start_us,
        stop_us,
        LINES_SUFFIX,
    )


__all__ = ["NewNameFiles", "rescue"]
