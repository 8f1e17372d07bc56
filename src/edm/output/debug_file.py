"""The debug file: a line for each frame, as long as the disk takes them."""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
from contextlib import suppress
from pathlib import Path

import structlog

from edm.errors import OutputError
from edm.files.own import open_own
from edm.observe.logs import RateLimited
from edm.observe.metrics import Metrics

BUFFER_BYTES = 64 * 1024
PATIENCE = 1.0
"""Seconds for which the reader of a pipe may pause before lines are lost; so it cannot delay input or a stop."""


class DebugFile:
    """A text file that is appended to in whole lines. Any thread may use it.

    What a full disk does not take is lost and counted; but a line that has been begun is ended before anything
    else is written. A write waits for the disk, and for the reader of a pipe no longer than :data:`PATIENCE`.

    Parameters
    ----------
    path : Path
        Made with mode 0600 if it is not there; of a file that is, everybody's rights are taken away.

    Raises
    ------
    OutputError
        It cannot be opened.
    """

    def __init__(self, path: Path, metrics: Metrics) -> None:
        self._lost = metrics.counter(
            "edm_debug_lines_lost_total", "Lines of the debug file that were not written"
        )
        self._limited = RateLimited(structlog.get_logger(), on_suppressed=metrics.count_suppressed)
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._bytes = 0
        self._rest = b""
        self._stuck = False
        self._path = path
        self._fd = self._opened()

    def _opened(self) -> int:
        try:
            descriptor = _open(self._path)
        except OSError as error:
            raise OutputError(f"debug-dnstap-filename: {self._path}: {error.strerror}") from error
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode) and mode & 0o007:
            with suppress(OSError):  # another owner's file: not ours to decide
                os.fchmod(descriptor, stat.S_IMODE(mode) & ~0o007)
        return descriptor

    def reopen(self) -> None:
        """Go on in the file that has the name now, if the one in use was renamed or removed.

        No line is lost or split: what was begun is ended in the old file, lines that are queued go to the new one.

        Raises
        ------
        OutputError
            It cannot be opened; the old file stays in use.
        """
        with self._lock:
            if self._fd < 0 or self._is_in_place():
                return
            new = self._opened()
            lines, self._lines = self._lines, []
            waiting, self._bytes = self._bytes, 0
            self._write_out()
            if self._rest:
                self._rest = b""  # the old file keeps half a line: its disk does not take the other half
                self.lose(1, "the disk is full, and the file was replaced")
            os.close(self._fd)
            self._fd, self._lines, self._bytes = new, lines, waiting

    def _is_in_place(self) -> bool:
        # A device need not be what it was opened as: /dev/stderr leads elsewhere by now, or cannot be opened again.
        ours = os.fstat(self._fd)
        if not stat.S_ISREG(ours.st_mode) or self._path.parent == Path("/dev"):
            return True
        try:
            return os.path.samestat(ours, os.lstat(self._path))
        except OSError:
            return False

    def write(self, line: str) -> None:
        """Append a line, given without its end."""
        with self._lock:
            self._lines.append(line.encode() + b"\n")
            self._bytes += len(self._lines[-1])
            if self._bytes >= BUFFER_BYTES:
                self._write_out()

    def flush(self) -> None:
        """Hand all lines to the operating system."""
        with self._lock:
            self._write_out()
        self._limited.flush()

    def close(self) -> None:
        """Write what is left, and close the file."""
        self.flush()
        with self._lock:
            os.close(self._fd)
            self._fd = -1

    def _write_out(self) -> None:
        if self._fd < 0 or not (self._lines or self._rest):
            return
        lines, self._lines, self._bytes = self._lines, [], 0
        data = self._rest + b"".join(lines)
        done = 0
        try:
            while done < len(data):
                self._wait_for_reader()
                done += os.write(self._fd, data[done:])
        except OSError as error:
            # Of a line of which the file has a part the rest is kept; the lines behind it are lost.
            begun = done > 0 and data[done - 1 : done] != b"\n" if done else bool(self._rest)
            end = data.index(b"\n", done) + 1 if begun else done
            self._rest = data[done:end]
            lost = data.count(b"\n", end)
            self.lose(lost, error.strerror)
        else:
            self._rest = b""

    def lose(self, count: int, reason: str | None) -> None:
        """Count and log lines that are not written."""
        self._lost.inc(count)
        self._limited.error("debug file cannot be written", reason=reason, count=count)

    def _wait_for_reader(self) -> None:
        waiting = select.poll()
        waiting.register(self._fd, select.POLLOUT)
        # A reader that did not read in time is not waited for again until it reads.
        self._stuck = not waiting.poll(0 if self._stuck else PATIENCE * 1000)
        if self._stuck:
            raise OSError(errno.EAGAIN, "who reads it does not go on")


def _open(path: Path) -> int:
    # Without waiting: of a named pipe that nobody reads, that is an error.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK
    if path.parent == Path("/dev"):  # /dev/stderr is a link
        return os.open(path, flags | os.O_CLOEXEC, 0o600)
    descriptor = open_own(path, flags)
    found = os.fstat(descriptor)
    planted = found.st_uid not in (0, os.geteuid()) or found.st_nlink > 1
    if stat.S_ISREG(found.st_mode) and planted and path.absolute().parent.stat().st_mode & stat.S_IWOTH:
        os.close(descriptor)
        raise OSError(errno.EPERM, "belongs to another user, who could read the true addresses in it")
    return descriptor


__all__ = ["DebugFile"]
