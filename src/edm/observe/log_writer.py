"""Where lines go that must not wait for their reader: a bounded queue, and a thread of its own that writes.

A log's reader may stop (the driver of a container with a full disk, a terminal that is held), and then a write
waits for ever. Whoever logs must not.
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
"""Lines that may wait."""
MOST_CHARACTERS = 4 << 20
"""Characters of all lines that may wait."""

_SAY_EVERY = 1.0  # seconds between two lines that tell of dropped ones


class LineWriter:
    """Takes lines without ever waiting, and writes them to a stream in the order in which they came.

    Parameters
    ----------
    stream : text file
        Written to through its descriptor if it has one: nothing of ours may stay in its buffer.
    on_dropped : callable
        Called in the writing thread, when lines get through again, with the number of those that did not since it
        was last told. What it logs is taken however many lines wait.
    most_lines, most_characters : int
        What may wait.
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
        self._works = True  # the last line got through
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="edm-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were dropped, since too many waited or the stream did not take them."""
        return self._dropped

    def msg(self, line: str) -> None:
        """Take a line, or drop it if too many wait."""
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
        """Wait until all lines are written, at most ``timeout`` seconds; tell whether they are."""
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
        """Return how long to wait for a line: without end, unless there is something to say."""
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
        """Write a line and its end; tell whether the stream took it."""
        try:
            if self._fd < 0:
                self._stream.write(line + "\n")
                self._stream.flush()
                return True
            # One write for both, or lines of two processes on one pipe would interleave.
            data = memoryview((line + "\n").encode("utf-8", "backslashreplace"))
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:  # another process that has the pipe made it one that does not wait
                    poll = select.poll()
                    poll.register(self._fd, select.POLLOUT)
                    poll.poll()
        except (OSError, ValueError):
            return False
        return True


__all__ = ["MOST_CHARACTERS", "MOST_LINES", "LineWriter"]
