"""Blocks, and the intake that hands them from readers to workers.

A block is a buffer of whole length-prefixed frames together with their located offsets. The pool of blocks made at
start is all the memory that input can take. When every block is in use, readers wait, the system's socket buffers
fill, and the DNS server's own queue decides what to drop.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from edm.kernel.columns import SCRATCH_BYTES, U8Array, U32Array

SHARED_FRAMES = 8192
"""Frames above which a shared block is closed, however much room is left in it."""

_SMALLEST_FRAME = 5  # bytes: the length word and one byte

NO_ROOM = -2
"""What a ``fill`` function returns when the block it was given has too little room left."""

Waited: TypeAlias = Callable[[float], None]
"""Called with the seconds that a reader had to wait."""


def _ignore(_seconds: float) -> None:
    pass


class Block:
    """A buffer for frames.

    Attributes
    ----------
    buf : uint8[capacity + SCRATCH_BYTES]
        Received bytes, then room for question names that must be written out. The scratch pages are only
        touched when such names occur.
    view : memoryview
        The first ``capacity`` bytes of ``buf``, to receive into.
    off, length : uint32[capacity // 5 + 1]
        Payload offset and length (bytes) of each located frame. There are as many rows as frames of the smallest
        size fit into the bytes, so the rows never run out first; memory pages that are never used cost nothing.
    frames : int
        Number of located frames.
    fill : int
        Bytes of ``buf`` in use.
    received, oversized : int
        Bytes received, and oversized frames skipped, while the block was filled.
    """

    __slots__ = (
        "buf",
        "capacity",
        "fill",
        "frames",
        "length",
        "off",
        "opened",
        "oversized",
        "received",
        "sequence",
        "view",
    )

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.buf: U8Array = np.empty(capacity + SCRATCH_BYTES, np.uint8)
        self.view = self.buf.data[:capacity]
        rows = capacity // _SMALLEST_FRAME + 1
        self.off: U32Array = np.empty(rows, np.uint32)
        self.length: U32Array = np.empty(rows, np.uint32)
        self.opened = 0.0
        self.sequence = 0
        self.clear()

    def clear(self) -> None:
        """Make the block empty."""
        self.frames = 0
        self.fill = 0
        self.received = 0
        self.oversized = 0

    @property
    def empty(self) -> bool:
        """Whether a worker would have nothing to do or to count."""
        return not (self.frames or self.oversized)


class _Turn:
    """A reader's place in a queue, used under the intake's lock.

    The block (or the turn) is handed to the reader that waits, so that no later reader can get it first.
    """

    __slots__ = ("_changed", "_come", "block")

    def __init__(self, lock: threading.Lock) -> None:
        self.block: Block | None = None
        self._come = False
        self._changed = threading.Condition(lock)

    def wait(self) -> None:
        while not self._come:
            self._changed.wait()

    def give(self, block: Block | None = None) -> None:
        self.block = block
        self._come = True
        self._changed.notify()


class Intake:
    """The bounded way from readers to workers.

    Heavy senders fill a block of their own (:meth:`acquire`, :meth:`submit`). Light senders share one open
    block (:meth:`share`). It closes when it is full, or ``linger`` seconds after its first byte, so that the number
    of blocks per second does not grow with the number of writes.

    When blocks are scarce, readers get them in the order in which they began to wait. Every second block goes to the
    light senders, who fill it in turns. So light senders are served, however many heavy ones there are.

    Parameters
    ----------
    blocks : int
        Size of the pool.
    block_size : int
        Bytes of received data per block.
    linger : float
        Seconds that a shared block may stay open after its first byte.
    """

    def __init__(self, blocks: int, block_size: int, linger: float) -> None:
        self.block_size = block_size
        self.blocks = blocks
        self.linger = linger
        self._free = [Block(block_size) for _ in range(blocks)]
        self._ready: deque[Block] = deque()
        self._open: Block | None = None
        self._outstanding: set[int] = set()
        self._sequence = 0
        self._closed = False
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # workers wait here
        self._idle = threading.Condition(self._lock)  # drain() waits here
        self._heavy: deque[_Turn] = deque()  # readers that wait for a block of their own
        self._light: deque[_Turn] = deque()  # at most one: the reader that waits for a block to share
        self._light_next = True
        self._sharers: deque[_Turn] = deque()  # readers that wait for their turn with the shared block
        self._sharing = False  # a reader's turn has come, but it waits for a block or has not woken up yet
        self.blocked_seconds = 0.0
        self.longest_blocked = 0.0
        self.blocks_total = 0
        self.frames_total = 0
        self.bytes_total = 0

    @property
    def depth(self) -> int:
        """Blocks that are filled and wait for a worker."""
        return len(self._ready)

    @property
    def scarce(self) -> bool:
        """Whether a reader waits for a block."""
        return bool(self._heavy or self._light)

    @property
    def crowded(self) -> bool:
        """Whether readers wait for their turn with the shared block."""
        return bool(self._sharers)

    def acquire(self, waited: Waited = _ignore) -> Block:
        """Take an empty block out of the pool; waits for one (the backpressure) and counts the time.

        ``waited`` is called with the seconds if it had to wait.
        """
        with self._lock:
            return self._take_free(self._heavy, waited)

    def _take_free(self, queue: deque[_Turn], waited: Waited) -> Block:
        # While a reader waits no block is free: a returned block goes straight to the next reader.
        block = self._free.pop() if self._free else self._wait_for_block(queue, waited)
        block.clear()
        return block

    def _wait_for_block(self, queue: deque[_Turn], waited: Waited) -> Block:
        block = self._wait_in(queue, waited).block
        assert block is not None
        return block

    def _wait_in(self, queue: deque[_Turn], waited: Waited) -> _Turn:
        began = time.monotonic()
        turn = _Turn(self._lock)
        queue.append(turn)
        turn.wait()
        seconds = time.monotonic() - began
        self.blocked_seconds += seconds
        self.longest_blocked = max(self.longest_blocked, seconds)
        waited(seconds)
        return turn

    def submit(self, block: Block) -> None:
        """Hand a filled block to the workers, after the shared block that light senders have filled so far."""
        with self._lock:
            if block.empty:
                self.bytes_total += block.received
                self._give_back(block)
                return
            # A connection may have written to the shared block before it turned heavy: keep its order.
            self._close_open()
            self._enqueue(block)

    def share(self, fill: Callable[[Block], int], waited: Waited = _ignore) -> int:
        """Let ``fill`` receive into the shared open block; return what it returns.

        ``fill`` runs under the intake's lock, must not wait, and advances ``frames`` and ``fill`` of the block that
        it gets. If it returns :data:`NO_ROOM` it is called again with an empty block. ``waited`` is called with
        the seconds if this call had to wait.
        """
        with self._lock:
            if self._sharing:
                self._wait_in(self._sharers, waited)
            self._sharing = True
            try:
                while (result := fill(self._shared(waited))) == NO_ROOM:
                    self._close_open()
                return result
            finally:  # also after a malformed frame: the frames before it count
                self._after_sharing()

    def _shared(self, waited: Waited) -> Block:
        if (block := self._open) is None:
            block = self._open = self._take_free(self._light, waited)
        return block

    def _after_sharing(self) -> None:
        block = self._open
        if block is not None:
            if not block.empty and not block.opened:
                block.opened = time.monotonic()
                self._work.notify()
            if block.fill * 2 > block.capacity or block.frames > SHARED_FRAMES:
                self._close_open()
        if self._sharers:
            self._sharers.popleft().give()
        else:
            self._sharing = False

    def _close_open(self) -> None:
        block = self._open
        if block is not None and not block.empty:
            self._open = None
            self._enqueue(block)

    def _enqueue(self, block: Block) -> None:
        block.opened = 0.0
        self._sequence += 1
        block.sequence = self._sequence
        self._outstanding.add(self._sequence)
        self.blocks_total += 1
        self.frames_total += block.frames
        self.bytes_total += block.received
        self._ready.append(block)
        self._work.notify()

    def _give_back(self, block: Block) -> None:
        block.opened = 0.0
        if not (self._heavy or self._light):
            self._free.append(block)
            return
        queue = self._light if self._light and (self._light_next or not self._heavy) else self._heavy
        self._light_next = queue is self._heavy
        queue.popleft().give(block)

    def get(self) -> Block | None:
        """Wait for the next block; ``None`` once the intake is closed and empty."""
        with self._lock:
            while True:
                if self._ready:
                    return self._ready.popleft()
                wait: float | None = None
                if self._open is not None and not self._open.empty:
                    wait = self._open.opened + self.linger - time.monotonic()
                    if wait <= 0 or self._closed:
                        self._close_open()
                        continue
                elif self._closed:
                    return None
                self._work.wait(wait)

    def release(self, block: Block) -> None:
        """Give back a block whose frames have all been handled."""
        with self._lock:
            self._outstanding.discard(block.sequence)
            self._give_back(block)
            self._idle.notify_all()

    def drain(self, timeout: float) -> bool:
        """Wait until every frame handed in so far has been handled; return False after ``timeout`` seconds."""
        with self._lock:
            self._close_open()
            target = self._sequence
            return self._idle.wait_for(lambda: not any(s <= target for s in self._outstanding), timeout)

    def close(self) -> None:
        """Let workers finish the blocks handed in and then end. Readers must have stopped before."""
        with self._lock:
            self._closed = True
            self._work.notify_all()
