"""The thread that spells out frames for the debug file, beside the workers: a costly frame delays no other work."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from edm.observe.faults import DEFECT
from edm.observe.metrics import Metrics
from edm.output.debug_file import DebugFile

MOST_BYTES = 32 << 20
"""Bytes of frames that may wait to be written out."""
PATIENCE = 0.05
"""Seconds that a worker waits for room, once; then frames are left out until half of the room is free again."""
STOP = 1.0
"""Seconds that a stop waits for the frames that are left, if they are costly ..."""
STOP_LONGEST = 10.0
"""... and if many are written, which is at least so many in :data:`STOP` seconds:"""
GETS_ON = 1000

_AT_ONCE = 256  # frames taken out of the queue under one lock


class DebugWriter:
    """Takes frames from the workers and appends a line for each to the debug file, in the order in which they came.

    Parameters
    ----------
    path : Path
        See :class:`DebugFile`.
    render : callable
        Returns the line of a frame, or None if it has none.
    patience : float
        Seconds that :meth:`put` waits for room; infinite if no frame may be left out.

    Raises
    ------
    OutputError
        The file cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        metrics: Metrics,
        render: Callable[[bytes], str | None],
        patience: float = PATIENCE,
    ) -> None:
        self.file = DebugFile(path, metrics)
        self._metrics = metrics
        self._render = render
        self._patience = patience
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._left_in_hand = 0
        self._behind = False
        self._closing = False
        self._given_up = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="edm-debug-file", daemon=True)
        self._thread.start()

    def put(self, frames: Sequence[bytes]) -> None:
        """Take frames; waits for room, but not for long: what there is none for is counted and left out."""
        left_out = 0
        deadline = time.monotonic() + self._patience
        with self._changed:
            for frame in frames:
                if self._bytes >= MOST_BYTES and not self._behind:
                    wait = None if math.isinf(self._patience) else max(0.0, deadline - time.monotonic())
                    self._behind = not self._changed.wait_for(self._has_room, wait)
                if self._behind and self._bytes >= MOST_BYTES // 2:
                    left_out += 1
                    continue
                self._behind = False
                self._frames.append(frame)
                self._bytes += len(frame)
            self._changed.notify_all()
        if left_out:
            self.file.lose(left_out, "frames come faster than they can be written out")

    def _has_room(self) -> bool:
        return self._bytes < MOST_BYTES

    def drain(self, timeout: float | None) -> bool:
        """Wait until all frames are lines of the file; tell whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._frames or self._left_in_hand), timeout)

    def close(self) -> None:
        """Write out what is left, as long as that is quick, and close the file."""
        if math.isinf(self._patience):
            self.drain(None)
        else:
            self._drain_while_it_gets_on()
        with self._changed:
            self._closing = self._given_up = True
            left = len(self._frames) + self._left_in_hand
            self._frames.clear()
            self._changed.notify_all()
        if left:
            self.file.lose(left, "EDM stops, and they are not written yet")
        self.file.close()

    def _drain_while_it_gets_on(self) -> None:
        end = time.monotonic() + STOP_LONGEST
        while time.monotonic() < end:
            before = len(self._frames)
            if self.drain(STOP) or before - len(self._frames) < GETS_ON:
                return

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._frames) or self._closing)
                if self._closing:
                    return
                frames = [self._frames.popleft() for _ in range(min(_AT_ONCE, len(self._frames)))]
                self._left_in_hand = len(frames)
            for frame in frames:
                self._write(frame)
                with self._changed:
                    if self._given_up:
                        return
                    self._bytes -= len(frame)
                    self._left_in_hand -= 1
                    self._changed.notify_all()

    def _write(self, frame: bytes) -> None:
        try:
            line = self._render(frame)
        except Exception:  # a frame that cannot be written out must not end the thread
            self._metrics.faults.report(DEFECT)
            structlog.get_logger().exception("a frame cannot be written out for the debug file")
            return
        if line is not None and not self._given_up:
            self.file.write(line)


__all__ = ["MOST_BYTES", "PATIENCE", "STOP", "DebugWriter"]
