"""Messages on the wire: which have arrived, and what that means for the entries they came from."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class _Load:
    entry: int
    begin: int
    end: int
    done: int


@dataclass(slots=True)
class Progress:
    """What is done since it was last asked; ``partial`` is an entry and how many of its events are done."""

    finished: Sequence[int]
    partial: tuple[int, int] | None
    sent: int
    failed: int


class Flight:
    """Keeps messages in the order in which they were handed over, numbered from 0.

    Confirmations may come in any order. Progress is reported only up to the oldest message that is still
    unresolved, so that what is reported as done of an entry is always its beginning.

    Attributes
    ----------
    handed : int
        Messages handed over so far, and the number of the next one.
    """

    def __init__(self) -> None:
        self.handed = 0
        self._arrived = 0
        self._early: dict[int, bool] = {}
        self._loads: deque[_Load] = deque()
        self._last: _Load | None = None
        self._sent = 0
        self._failed = 0
        self._changed = False

    @property
    def early(self) -> int:
        """Messages that have arrived although an older one is unresolved."""
        return sum(self._early.values())

    def is_resolved(self, number: int) -> bool:
        """Tell whether it is known what became of a message."""
        return number < self._arrived or number in self._early

    @property
    def unresolved(self) -> int:
        """Messages handed over of which nothing is known yet."""
        return self.handed - self._arrived - len(self._early)

    def add(self, entry: int, events: int, done: int) -> None:
        """Announce that the next messages come from ``entry``: those from ``done`` to ``events``."""
        begin = self._last.end if self._last is not None else 0
        self._last = _Load(entry, begin, begin + events - done, done)
        self._loads.append(self._last)

    def hand_over(self, count: int = 1) -> int:
        """Count so many more messages as handed over; returns the number of the first."""
        first = self.handed
        self.handed += count
        return first

    def resolve(self, number: int, *, sent: bool = True) -> None:
        """Take note that a message has arrived, or never will."""
        if number < self._arrived or number in self._early:
            return
        self._early[number] = sent
        self._close_up()

    def resolve_before(self, number: int) -> None:
        """Take note that all messages before ``number`` have arrived but those known to have failed."""
        while self._arrived < number:
            self._pass(self._early.pop(self._arrived, True))
        self._close_up()

    def _close_up(self) -> None:
        while self._arrived in self._early:
            self._pass(self._early.pop(self._arrived))

    def _pass(self, sent: bool) -> None:
        self._arrived += 1
        self._changed = True
        if sent:
            self._sent += 1
        else:
            self._failed += 1

    def progress(self) -> Progress | None:
        """Return what is done since the last call, None if nothing."""
        if not self._changed:
            return None
        finished = []
        while self._loads and self._loads[0].end <= self._arrived:
            finished.append(self._loads.popleft().entry)
        partial = None
        if self._loads and self._loads[0].begin < self._arrived:
            load = self._loads[0]
            partial = load.entry, load.done + self._arrived - load.begin
        report = Progress(finished, partial, self._sent, self._failed)
        self._sent = self._failed = 0
        self._changed = False
        return report


__all__ = ["Flight", "Progress"]
