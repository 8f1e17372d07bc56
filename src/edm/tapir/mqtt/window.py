"""How much may be on the wire unconfirmed: little at first, more as long as answers come quickly.

Whatever is written waits in buffers between us and the broker. On a slow line much of it is an answer that comes too
late, and all of it is sent again if the connection breaks meanwhile. So the window grows by what is confirmed, as in
TCP's slow start (RFC 5681), until the round trip takes noticeable time, and shrinks when it takes too long.
"""

from __future__ import annotations

import math
from typing import NamedTuple

FIRST_BYTES = 4 * 1024
MOST_BYTES = 1024 * 1024
LEAST_BYTES = 512
"""At least one message may always be on the wire, however large."""
QUICK = 0.5
"""Seconds up to which a round trip lets the window grow."""
SLOW = 1.0
"""Seconds above which it makes the window shrink, unless an empty line takes half as long."""


class Mark(NamedTuple):
    """A ping behind some messages.

    Attributes
    ----------
    ping : number of the ping.
    messages, size : how many messages it confirms beyond the mark before, and their bytes.
    on_wire : bytes unconfirmed when it was sent.
    sent : when.
    """

    ping: int
    messages: int
    size: int
    on_wire: int
    sent: float


class Window:
    """Bytes and messages that may be on the wire.

    Parameters
    ----------
    messages : int
        Most messages, whatever their size.

    Attributes
    ----------
    size : float
        Bytes.
    """

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.size = float(FIRST_BYTES)
        self._least = math.inf
        self._shrunk = -math.inf

    @property
    def part(self) -> float:
        """Bytes behind which an answer is asked for: several parts of the window are under way at a time."""
        return self.size / 4

    def has_room(self, messages: int, size: int) -> bool:
        """Tell whether another message may follow those on the wire."""
        return not messages or (messages < self.messages and size < self.size)

    def confirmed(self, size: int, on_wire: int, sent: float, now: float) -> None:
        """Take note of an answer.

        Parameters
        ----------
        size : int
            Bytes that it confirms.
        on_wire : int
            Bytes that were unconfirmed when it was asked for; with little of the window in use nothing is learned.
        sent, now : float
            When it was asked for, and when it came; monotonic seconds.
        """
        took = now - sent
        self._least = min(self._least, took)
        if took > max(SLOW, 2 * self._least):
            # What was sent before the window shrank says nothing about the window as it is.
            if sent >= self._shrunk:
                self.size = max(LEAST_BYTES, self.size * max(0.25, SLOW / took))
                self._shrunk = now
        elif took <= max(QUICK, 1.25 * self._least) and 2 * on_wire >= self.size:
            self.size = min(MOST_BYTES, self.size + size)


__all__ = ["FIRST_BYTES", "LEAST_BYTES", "MOST_BYTES", "Mark", "Window"]
