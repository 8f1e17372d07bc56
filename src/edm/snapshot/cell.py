"""The cell that holds the current snapshot, and the grace period (as in read-copy-update).

A reader announces the snapshot it is in before it uses it and clears the announcement afterwards; both are
single attribute stores. :meth:`SnapshotCell.retire` waits until no reader is inside the old snapshot. There
is no lock on the reader's way.

Why it is right: a reader stores its announcement and then looks whether the snapshot is still the current
one; the publisher stores the new snapshot and then looks at the announcements. Whichever store comes first
(the interpreter orders them), either the reader sees the new snapshot and starts over, or the publisher sees
the reader.
"""

from __future__ import annotations

import threading
import time
from typing import Generic, TypeVar

T = TypeVar("T")


class SnapshotCell(Generic[T]):
    """Holds the current snapshot for a fixed number of readers.

    Parameters
    ----------
    first : T
        The first snapshot.
    readers : int
        Number of readers; each uses its own slot 0 .. readers-1 and one thread.
    """

    def __init__(self, first: T, readers: int) -> None:
        self._current = first
        self._inside: list[T | None] = [None] * readers
        self._waiting = 0
        self._left = threading.Condition()
        self._publishing = threading.Lock()

    @property
    def current(self) -> T:
        """The snapshot that readers enter now."""
        return self._current

    def enter(self, slot: int) -> T:
        """Enter the current snapshot as reader ``slot``; it stays alive until :meth:`leave`."""
        while True:
            snapshot = self._current
            self._inside[slot] = snapshot
            if self._current is snapshot:
                return snapshot
            self.leave(slot)  # the publisher may already be waiting for this slot

    def leave(self, slot: int) -> None:
        """Leave the snapshot entered last as reader ``slot``."""
        self._inside[slot] = None
        if self._waiting:
            with self._left:
                self._left.notify_all()

    def publish(self, new: T) -> T:
        """Make ``new`` the current snapshot and return the one before it."""
        with self._publishing:
            old = self._current
            self._current = new
            return old

    def retire(self, old: T, timeout: float | None = None) -> bool:
        """Wait out the grace period of ``old``: until no reader is inside it.

        Returns whether that was reached within ``timeout`` seconds (``None``: no limit).
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._left:
            self._waiting += 1
            try:
                while any(inside is old for inside in self._inside):
                    wait = None if deadline is None else deadline - time.monotonic()
                    if wait is not None and wait <= 0:
                        return False
                    self._left.wait(wait)
            finally:
                self._waiting -= 1
        return True
