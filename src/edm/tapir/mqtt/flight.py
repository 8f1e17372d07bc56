"""Tracks which messages have arrived, and which events of each backlog entry are therefore done."""

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
    """Entries done since the last call; ``partial`` is an unfinished entry and the number of its events done."""

    finished: Sequence[int]
    partial: tuple[int, int] | None
    sent: int
    failed: int


class Flight:
    """Numbers messages from 0 in the order in which they are handed over, and tracks their confirmations.

    Confirmations may come in any order. Progress is reported only up to the oldest unresolved message, so the events
    of an entry that are reported as done are always its first ones.

    Attributes
    ----------
    handed : int
        Messages handed over so far; also the number of the next message.
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
        """Number of messages that have arrived while an older one is unresolved."""
        return sum(self._early.values())

    def is_resolved(self, number: int) -> bool:
        """Return whether a message is known to have arrived or to have failed."""
        return number < self._arrived or number in self._early

    @property
    def unresolved(self) -> int:
        """Number of messages handed over that are still unresolved."""
        return self.handed - self._arrived - len(self._early)

    def add(self, entry: int, events: int, done: int) -> None:
        """Announce that the next messages are the events ``done`` to ``events`` of ``entry``."""
        begin = self._last.end if self._last is not None else 0
        self._last = _Load(entry, begin, begin + events - done, done)
        self._loads.append(self._last)

    def hand_over(self, count: int = 1) -> int:
        """Count further messages as handed over; return the number of the first."""
        first = self.handed
        self.handed += count
        return first

    def resolve(self, number: int, *, sent: bool = True) -> None:
        """Record that a message has arrived, or that it never will."""
        if number < self._arrived or number in self._early:
            return
        self._early[number] = sent
        self._close_up()

    def resolve_before(self, number: int) -> None:
        """Record that all messages before ``number`` have arrived, except those known to have failed."""
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
        """Return the progress since the last call, or None if there is none."""
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
