"""Sources: where frames come from. A source fills blocks in threads of its own, from its start until it is closed.

    opened ──> start ──> blocks, blocks ... ──> close

- **opened** (by :func:`edm.startup.listening.open_source`): the settings are checked, and an address is bound.
- **start**: from now on frames may come. A source hands them to the :class:`edm.input.blocks.Intake` in blocks of whole
  frames with located offsets. :class:`edm.input.reader.FrameReader` does this for a Frame Streams byte stream. A source
  with another framing passes it each frame after a length of four bytes, big-endian, with ``prime``.
- **backpressure**: the intake lets a source wait while all blocks are in use. Only this bounds memory, so a source
  must keep nothing else that grows.
- **close**: when it returns, everything delivered before is in blocks, and no thread of the source uses the intake any
  more.

Why no frame is lost or counted twice: a block belongs to one thread at a time. It is the source's until it is
submitted, then a worker's until it is released. The engine is drained only after ``close`` has returned.

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
        """Where frames come from, for the log; not the address of a client."""

    @property
    def listening(self) -> bool:
        """Whether frames can come."""

    @property
    def connections(self) -> int:
        """Number of senders now."""

    def senders(self) -> tuple[list[Sender], list[Sender]]:
        """Return the senders connected now, and the sums of all senders so far by peer and identity."""

    @property
    def certificate_ends(self) -> float | None:
        """When the certificate shown to senders expires, seconds since 1970; None if there is none."""

    def start(self) -> None:
        """Start to fill blocks."""

    def reload(self, config: Config) -> bool:
        """Apply the settings that can change at run time to new connections; return False if there are none.

        Raises
        ------
        EdmError
            A new setting or file cannot be used; the old ones stay in use.
        """

    def refresh(self) -> None:
        """Load files that were renewed on disk; called once per interval."""

    def close(self, timeout: float) -> None:
        """Stop receiving, hand in what was delivered, and end the threads, within ``timeout`` seconds."""


__all__ = ["Source"]
