"""Sources: where frames come from. A source fills blocks in threads of its own, from its start until it is closed.

    opened ──> start ──> blocks, blocks ... ──> close

- **opened** (by :func:`edm.startup.listening.open_source`): what the operator gave is checked, an address is taken.
- **start**: from now on frames may come. A source hands them to the :class:`edm.input.blocks.Intake` in blocks of whole
  frames whose offsets are located. Who receives a Frame Streams byte stream lets :class:`edm.input.reader.FrameReader`
  do this; other framings give it each frame behind a length of four bytes, big-endian, by ``prime``.
- **backpressure**: the intake lets a source wait while all blocks are in use. That is all that bounds memory, so a
  source keeps nothing else that grows.
- **close**: what was delivered before it is in blocks when it returns, and none of its threads touches the intake any
  more.

Why no frame is lost or counted twice: a block belongs to one thread at a time, the source's until it is submitted, a
worker's until it is released; and the engine is drained only after ``close`` has returned.

:class:`edm.input.listener.Listener` is the source of the daemon. ``edm minimise`` needs no threads: it drives a
``FrameReader`` over each capture file itself.
"""

from __future__ import annotations

from typing import Protocol

from edm.config import Config
from edm.input.peers import Sender


class Source(Protocol):
    """Fills the blocks of an intake."""

    @property
    def address(self) -> str:
        """Where frames come from, for the log; no address of a client."""

    @property
    def listening(self) -> bool:
        """Whether frames can come."""

    @property
    def connections(self) -> int:
        """Number of senders now."""

    def senders(self) -> tuple[list[Sender], list[Sender]]:
        """Return who sends now, and all that have sent so far, one for each peer and identity."""

    @property
    def certificate_ends(self) -> float | None:
        """When the certificate shown to senders expires, seconds since 1970; None if there is none."""

    def start(self) -> None:
        """Begin to fill blocks."""

    def reload(self, config: Config) -> bool:
        """Take over what may change at run time, for new connections; return False if there is nothing.

        Raises
        ------
        EdmError
            It cannot be used; what was in use stays in use.
        """

    def refresh(self) -> None:
        """Look for what was renewed on disk and take it up; called once in each interval."""

    def close(self, timeout: float) -> None:
        """Take no more, hand in what was delivered, and end the threads, within ``timeout`` seconds."""


__all__ = ["Source"]
