"""A bounded queue for events, from the workers to the one thread that takes them."""

from __future__ import annotations

import threading
from collections import deque

from edm.stages.new_qname.events import EventBlock, end_of_interval


class EventQueue:
    """A queue of event blocks with a limit on events. Putting never waits: events that do not fit are discarded.

    It is made for one thread that fetches.

    Parameters
    ----------
    limit_events : int
        Most events that wait at any time.
    """

    def __init__(self, limit_events: int) -> None:
        if limit_events < 0:
            raise ValueError(f"the bound of the event queue must not be negative, not {limit_events}")
        self.limit_events = limit_events
        self._blocks: deque[EventBlock] = deque()
        self._events = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def events(self) -> int:
        """Events that wait to be fetched."""
        return self._events

    def put(self, block: EventBlock) -> tuple[int, int]:
        """Hand a block over: as many of its first events as there is room for.

        Returns
        -------
        tuple[int, int]
            How many events were queued, and how many discarded (all of them after :meth:`close`).
        """
        count = len(block)
        with self._changed:
            queued = 0 if self._closed else min(count, self.limit_events - self._events)
            if queued:
                self._blocks.append(block.head(queued))
                self._events += queued
                # A thread in gather() need not be woken by each block.
                if len(self._blocks) == 1 or self._plenty:
                    self._changed.notify()
        return queued, count - queued

    def end_interval(self, start_us: int, stop_us: int) -> None:
        """Mark the end of an interval behind all events put so far; ignored after :meth:`close`.

        The mark comes out of :meth:`get` as a block without events (``EventBlock.ended``).
        """
        with self._changed:
            if not self._closed:
                self._blocks.append(end_of_interval(start_us, stop_us))
                self._changed.notify()

    def get(self, timeout: float | None = None) -> EventBlock | None:
        """Return the oldest block.

        Parameters
        ----------
        timeout : float or None
            Seconds to wait for one; None waits as long as the queue is open.

        Returns
        -------
        EventBlock or None
            None if none came in time, or the queue is closed and empty.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._blocks or self._closed, timeout)
            if not self._blocks:
                return None
            block = self._blocks.popleft()
            self._events -= len(block)
            return block

    def gather(self, seconds: float) -> None:
        """Wait for more blocks, for so many seconds or until the queue is half full or closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._plenty, seconds)

    @property
    def _plenty(self) -> bool:
        return 2 * self._events >= self.limit_events

    @property
    def finished(self) -> bool:
        """The queue is closed and everything was fetched."""
        with self._changed:
            return self._closed and not self._blocks

    def close(self) -> None:
        """Accept no more events; those in the queue can still be fetched."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


__all__ = ["EventQueue"]
