"""The window: limits the unconfirmed bytes on the wire; it grows as long as answers come quickly.

Written bytes wait in buffers between us and the broker. On a slow line, many of them delay the answers, and all of
them are sent again if the connection breaks. So the window grows by the confirmed bytes, as in TCP's slow start
(RFC 5681), until the round trip takes noticeable time. It shrinks when the round trip takes too long.
"""

from __future__ import annotations

import math
from typing import NamedTuple

FIRST_BYTES = 4 * 1024
MOST_BYTES = 1024 * 1024
LEAST_BYTES = 512
"""At least one message may always be on the wire, however large."""
QUICK = 0.5
"""Longest round trip in seconds at which the window grows."""
SLOW = 1.0
"""Seconds above which it makes the window shrink, unless an empty line takes half as long."""


class Mark(NamedTuple):
    """A ping sent after some messages.

    Attributes
    ----------
    ping : number of the ping.
    messages, size : messages that it confirms beyond the previous mark, and their bytes.
    on_wire : bytes unconfirmed when it was sent.
    sent : time when it was sent, in monotonic seconds.
    """

    ping: int
    messages: int
    size: int
    on_wire: int
    sent: float


class Window:
    """Limits the bytes and messages on the wire.

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
        """Bytes after which a ping is sent: a fraction of the window, so that several pings are under way."""
        return self.size / 4

    def has_room(self, messages: int, size: int) -> bool:
        """Return whether another message may be sent now."""
        return not messages or (messages < self.messages and size < self.size)

    def confirmed(self, size: int, on_wire: int, sent: float, now: float) -> None:
        """Adapt the window to an answer.

        Parameters
        ----------
        size : int
            Bytes that the answer confirms.
        on_wire : int
            Bytes unconfirmed when the ping was sent; if that is a small part of the window, nothing changes.
        sent, now : float
            Times of the ping and of its answer, in monotonic seconds.
        """
        took = now - sent
        self._least = min(self._least, took)
        if took > max(SLOW, 2 * self._least):
            # Bytes sent before the window shrank show nothing about the present size.
            if sent >= self._shrunk:
                self.size = max(LEAST_BYTES, self.size * max(0.25, SLOW / took))
                self._shrunk = now
        elif took <= max(QUICK, 1.25 * self._least) and 2 * on_wire >= self.size:
            self.size = min(MOST_BYTES, self.size + size)


__all__ = ["FIRST_BYTES", "LEAST_BYTES", "MOST_BYTES", "Mark", "Window"]
