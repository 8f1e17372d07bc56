"""Writes log lines from a bounded queue in a separate thread, so that logging never blocks.

The reader of a log may stop reading (a container's log driver with a full disk, a paused terminal). A write to it
then blocks without limit, and no worker may block with it.
"""

from __future__ import annotations

import io
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

MOST_LINES = 8192
"""Lines that may be queued."""
MOST_CHARACTERS = 4 << 20
"""Characters of all queued lines."""

_SAY_EVERY = 1.0  # seconds between two reports of dropped lines


class LineWriter:
    """Queues lines without blocking; a thread writes them to a stream in their order.

    Parameters
    ----------
    stream : text file
        Written to through its file descriptor if it has one, so that no line stays in the stream's buffer.
    on_dropped : callable
        Called in the writing thread, when the stream takes lines again, with the number of lines dropped since the
        last call. What it logs itself is queued even if the queue is full.
    most_lines, most_characters : int
        Limits of the queue.
    """

    def __init__(
        self,
        stream: TextIO,
        on_dropped: Callable[[int], None],
        most_lines: int = MOST_LINES,
        most_characters: int = MOST_CHARACTERS,
    ) -> None:
        self._stream = stream
        self._on_dropped = on_dropped
        self._most_lines = most_lines
        self._most_characters = most_characters
        try:
            self._fd = stream.fileno()
        except (OSError, ValueError, io.UnsupportedOperation):
            self._fd = -1
        self._lines: deque[str] = deque()
        self._characters = 0
        self._writing = False
        self._dropped = 0
        self._said = 0
        self._next_say = 0.0
        self._works = True  # the stream took the last line
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="edm-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines dropped because the queue was full or the stream did not take them."""
        return self._dropped

    def msg(self, line: str) -> None:
        """Queue a line, or drop it if the queue is full."""
        with self._changed:
            full = (
                len(self._lines) >= self._most_lines or self._characters + len(line) > self._most_characters
            )
            if full and threading.current_thread() is not self._thread:
                self._dropped += 1
                return
            self._lines.append(line)
            self._characters += len(line)
            self._changed.notify_all()

    log = debug = info = warn = warning = error = critical = fatal = exception = failure = err = msg

    def flush(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until all lines are written; return whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._writing, timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._lines), self._patience())
                line = self._lines.popleft() if self._lines else None
                if line is not None:
                    self._characters -= len(line)
                    self._writing = True
            if line is not None:
                self._works = self._write(line)
                if not self._works:
                    with self._changed:
                        self._dropped += 1
            self._say()

    def _patience(self) -> float | None:
        """Return the seconds to wait for a line: no limit, unless dropped lines are to be reported."""
        if self._works and self._dropped > self._said:
            return max(0.0, self._next_say - time.monotonic())
        return None

    def _say(self) -> None:
        now = time.monotonic()
        lost = self._dropped - self._said
        if lost and self._works and now >= self._next_say:
            self._said += lost
            self._next_say = now + _SAY_EVERY
            self._on_dropped(lost)

    def _write(self, line: str) -> bool:
        """Write a line and a line break; return whether the stream took them."""
        try:
            if self._fd < 0:
                self._stream.write(line + "\n")
                self._stream.flush()
                return True
            # One write for line and line break; otherwise lines of two processes on one pipe would mix.
            data = memoryview((line + "\n").encode("utf-8", "backslashreplace"))
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:  # another process set the shared pipe to non-blocking
                    poll = select.poll()
                    poll.register(self._fd, select.POLLOUT)
                    poll.poll()
        except (OSError, ValueError):
            return False
        return True


__all__ = ["MOST_CHARACTERS", "MOST_LINES", "LineWriter"]
