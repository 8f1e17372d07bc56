"""A bounded sample of the frames that came last, in memory only: for trying another state on real traffic."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edm.input.blocks import Block
from edm.kernel.columns import U32Array

MOST_FRAMES = 4096
MOST_BYTES = 4 << 20
MOST_SECONDS = 60.0
EVERY = 0.1
"""Seconds between two looks at the traffic: the cost does not depend on its rate."""

_FRAMES = 128  # in one look
_BYTES = 128 << 10
_STRIDE = 977  # a prime, so that looks do not always meet the same place in blocks of equal size


class _Part(NamedTuple):
    when: float
    data: bytes
    off: U32Array
    length: U32Array


class Recent:
    """Keeps some of the frames of the last seconds, as copies; any thread may call the methods.

    Parameters
    ----------
    clock : callable
        Returns seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = -EVERY
        self._looks = 0
        self._frames = 0
        self._bytes = 0
        self._parts: deque[_Part] = deque()
        self._lock = threading.Lock()

    def offer(self, block: Block) -> None:
        """Keep some frames of a block, if it is time to look again."""
        now = self._clock()
        if now < self._due or not block.frames:
            return
        with self._lock:
            self._due = now + EVERY
            self._looks += 1
            part = _cut(block, self._looks * _STRIDE % max(1, block.frames - _FRAMES + 1), now)
            if part is not None:
                self._parts.append(part)
                self._frames += len(part.off)
                self._bytes += len(part.data)
            self._drop(now)

    def _drop(self, now: float) -> None:
        while self._parts and (
            self._frames > MOST_FRAMES or self._bytes > MOST_BYTES or now - self._parts[0].when > MOST_SECONDS
        ):
            gone = self._parts.popleft()
            self._frames -= len(gone.off)
            self._bytes -= len(gone.data)

    def expire(self) -> None:
        """Forget what is older than :data:`MOST_SECONDS`, also if nothing comes any more."""
        with self._lock:
            self._drop(self._clock())

    @property
    def frames(self) -> int:
        """Frames kept now."""
        return self._frames

    @property
    def bytes(self) -> int:
        """Size of the frames kept now, bytes."""
        return self._bytes

    def block(self) -> tuple[Block, float]:
        """Return a block with all frames kept, and the age of the oldest of them in seconds."""
        with self._lock:
            now = self._clock()
            self._drop(now)
            parts = list(self._parts)
        block = Block(
            max(64, sum(len(part.data) for part in parts), 5 * sum(len(part.off) for part in parts))
        )
        for part in parts:
            end = block.frames + len(part.off)
            block.view[block.fill : block.fill + len(part.data)] = part.data
            block.off[block.frames : end] = part.off + np.uint32(block.fill)
            block.length[block.frames : end] = part.length
            block.frames, block.fill = end, block.fill + len(part.data)
        return block, now - parts[0].when if parts else 0.0


def _cut(block: Block, first: int, now: float) -> _Part | None:
    last = min(first + _FRAMES, block.frames)
    off, length = block.off[first:last].astype(np.int64), block.length[first:last].astype(np.int64)
    start = int(off[0])
    ends = off + length
    count = int(np.searchsorted(ends, start + _BYTES, "right"))
    if not count:
        return None
    data = bytes(block.view[start : int(ends[count - 1])])
    return _Part(now, data, (off[:count] - start).astype(np.uint32), length[:count].astype(np.uint32))


__all__ = ["EVERY", "MOST_BYTES", "MOST_FRAMES", "MOST_SECONDS", "Recent"]
