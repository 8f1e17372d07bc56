"""The data phase of one Frame Streams byte stream: from ``recv_into`` to blocks of located frames.

The reader does not decode frames; it only keeps a copy of the first one's beginning. Between two receives it
holds only the incomplete frame at the end (``rest``), so that an idle connection holds no block.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeAlias

from edm.errors import ProtocolError
from edm.input.blocks import NO_ROOM, Block, Intake
from edm.stages.framestream import protocol
from edm.stages.framestream.locate import CONTROL, OVERSIZED, locate_frames

Receive: TypeAlias = Callable[[memoryview], int]
"""Receives into a memoryview without waiting; returns the bytes received, 0 at the stream's end, -1 if none yet."""

SHARED_RECEIVE = 65536
"""Most bytes received at once into the shared block, because the intake's lock is held meanwhile."""

HOLD = 0.05
"""Seconds after which a block is handed on even if more comes, so that a slow sender does not keep it for long."""

_MIN_ROOM = 4096
_RATION = (
    512  # frames (estimated by the size of earlier ones) per turn when many readers wait for the shared block
)
_MIN_RATION = 1024
_LARGE = 16384  # an incomplete frame of more bytes is collected in memory of its own
_WORTH = 16384  # bytes per receive that a sender needs to keep its block while others wait for one

_BEGINNING = 512  # bytes of the first frame that are kept
_CONTROL_FRAMES = 1024  # control frames after which a sender is treated as hostile


def _from(data: bytearray) -> Receive:
    def receive(view: memoryview) -> int:
        view[: len(data)] = data
        return len(data)

    return receive


class FrameReader:
    """Cuts one stream into frames and puts them into blocks.

    Parameters
    ----------
    intake : Intake
    max_frame : int
        Largest frame accepted, bytes; a larger one is skipped and counted, the stream goes on.
    until_stop : bool
        Whether STOP ends the stream; in concatenated capture files more may follow it.

    Attributes
    ----------
    stopped : bool
        Whether the STOP control frame has come; bytes after it are ignored.
    frames, bytes : int
        Data frames located, and bytes received, so far.
    blocked : float
        Seconds for which the reader had to wait for workers or for other readers.
    first_frame : bytes
        The beginning of the first data frame, which holds the sender's identity.
    last_frame : float
        When the last data frame came, seconds since 1970; 0 if none has.
    """

    def __init__(self, intake: Intake, max_frame: int, *, until_stop: bool = True) -> None:
        if intake.block_size < 2 * (max_frame + 4) + _MIN_ROOM:
            raise ValueError("a block must have room for two frames of the largest size")
        self._intake = intake
        self._max_frame = max_frame
        self._until_stop = until_stop
        self._rest = b""
        self._skip = 0  # bytes of an oversized frame still to skip
        self._large: bytearray | None = None  # a large frame, of which ``_gathered`` bytes have come
        self._gathered = 0
        self._ration = SHARED_RECEIVE
        self._controls = 0
        self.stopped = False
        self.frames = 0
        self.bytes = 0
        self.blocked = 0.0
        self.first_frame = b""
        self.last_frame = 0.0

    def _waited(self, seconds: float) -> None:
        self.blocked += seconds

    @property
    def inside_frame(self) -> bool:
        """Whether the stream, if it ended now, would end inside a frame."""
        return self.unconsumed > 0

    @property
    def unconsumed(self) -> int:
        """Bytes at the end that are not a whole frame; at least 1 inside an oversized frame."""
        held = len(self._rest) if self._large is None else self._gathered
        return held or int(self._skip > 0)

    def prime(self, data: bytes) -> None:
        """Take bytes of the data phase that came together with the handshake.

        Raises
        ------
        ProtocolError
            A control frame among them is malformed.
        """
        rest = memoryview(data)

        def receive(view: memoryview) -> int:
            nonlocal rest
            count = min(len(view), len(rest))
            view[:count] = rest[:count]
            rest = rest[count:]
            return count

        while rest and not self.stopped:
            self.pump_shared(receive)

    def pump_shared(self, receive: Receive) -> int:
        """Receive once into the shared block; return what ``receive`` returned.

        Raises
        ------
        ProtocolError
            The stream holds a malformed control frame.
        """
        if self._large is not None:
            return self._gather(self._large, receive)
        frames = self.frames
        most = self._ration if self._intake.crowded else SHARED_RECEIVE
        got = self._intake.share(lambda block: self._fill(block, receive, most), self._waited)
        if got > 0:
            self._ration = min(SHARED_RECEIVE, max(_MIN_RATION, got * _RATION // (self.frames - frames + 1)))
        return got

    def pump_block(self, receive: Receive, wait: Callable[[], bool] | None = None) -> int:
        """Fill a block for this stream alone and submit it; return the bytes received, or what ``receive`` returned.

        The block is closed when it is full, when the stream ends, or when nothing can be received and ``wait`` (if
        given) returns False. With ``wait`` it is also closed after :data:`HOLD` seconds, and after a small receive
        while other readers wait for a block.

        Raises
        ------
        ProtocolError
            The stream holds a malformed control frame.
        """
        if self._large is not None:
            return self._gather(self._large, receive)
        total = got = 0
        block = self._intake.acquire(self._waited)
        until = time.monotonic() + HOLD if wait is not None else math.inf
        try:
            while not self.stopped and self._large is None:
                got = self._fill(block, receive, block.capacity)
                if got > 0:
                    total += got
                    if time.monotonic() > until or (
                        got < _WORTH and wait is not None and self._intake.scarce
                    ):
                        break
                elif got == NO_ROOM or got == 0 or wait is None or not wait():
                    break
        finally:
            self._intake.submit(block)
        return total or got

    def _gather(self, frame: bytearray, receive: Receive) -> int:
        """Receive more of a large frame, without a block and without the intake's lock.

        In a block, all of its bytes so far would be copied in and out at each receive, even for one more byte.
        """
        got = receive(memoryview(frame)[self._gathered :])
        if got > 0:
            self.bytes += got
            self._gathered += got
            if self._gathered == len(frame):
                self._large = None
                self.bytes -= len(frame)  # putting them into a block counts them again
                self._intake.share(
                    lambda block: self._fill(block, _from(frame), len(frame), len(frame)), self._waited
                )
        return got

    def _fill(self, block: Block, receive: Receive, most: int, room: int = _MIN_ROOM) -> int:
        start = block.fill + len(self._rest)
        if block.capacity - start < room:
            return NO_ROOM
        got = receive(block.view[start : start + most])
        if got > 0:
            block.received += got
            self.bytes += got
            self._absorb(block, start + got)
        return got

    def _absorb(self, block: Block, stop: int) -> None:
        """Locate the frames in ``rest`` and in the new bytes after it, up to ``stop``."""
        position = block.fill
        block.view[position : position + len(self._rest)] = self._rest
        try:
            while not self.stopped:
                if self._skip:
                    gone = min(self._skip, stop - position)
                    self._skip -= gone
                    position += gone
                count, position, status = locate_frames(
                    block.buf,
                    position,
                    stop,
                    self._max_frame,
                    block.off[block.frames :],
                    block.length[block.frames :],
                )
                if count:
                    self._note(block)
                block.frames += count
                self.frames += count
                if status == OVERSIZED:
                    self._skip = 4 + int.from_bytes(block.view[position : position + 4], "big")
                    block.oversized += 1
                elif status == CONTROL:
                    end = self._control(block, position, stop)
                    if end < 0:
                        break
                    position = end
                else:
                    break
        finally:
            # Only located frames stay in the block, also after a malformed frame. Control frames and skipped bytes
            # take no room, so that no sender can use up blocks with them.
            last = block.frames - 1
            block.fill = int(block.off[last]) + int(block.length[last]) if last >= 0 else 0
            self._rest = b"" if self.stopped else bytes(block.view[position:stop])
        if len(self._rest) > _LARGE:
            self._set_apart()

    def _note(self, block: Block) -> None:
        """Record the time of data frames just located after those of the block, and the beginning of the first."""
        self.last_frame = time.time()
        if not self.first_frame:
            first, size = int(block.off[block.frames]), int(block.length[block.frames])
            self.first_frame = bytes(block.view[first : first + min(size, _BEGINNING)])

    def _set_apart(self) -> None:
        """Move the incomplete frame from ``rest`` to memory of its own."""
        self._large = bytearray(4 + int.from_bytes(self._rest[:4], "big"))
        self._gathered = len(self._rest)
        self._large[: self._gathered] = self._rest
        self._rest = b""

    def _control(self, block: Block, position: int, stop: int) -> int:
        """Handle the control frame at ``position``; return its end, or -1 if it is not complete yet."""
        if stop - position < 8:
            return -1
        size = int.from_bytes(block.view[position + 4 : position + 8], "big")
        protocol.check_control_length(size)
        end = position + 8 + size
        if end > stop:
            return -1
        control = protocol.parse_control(bytes(block.view[position + 8 : end]))
        self.stopped = control.type == protocol.STOP and self._until_stop
        self._controls += 1
        if self._controls > _CONTROL_FRAMES and self._until_stop:
            raise ProtocolError(f"more than {_CONTROL_FRAMES} control frames in the data phase")
        return end
