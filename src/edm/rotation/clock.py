"""The rotation clock: when is the next full minute, also when the wall clock jumps."""

from __future__ import annotations

from collections.abc import Callable

MINUTE = 60.0
_LONGEST_WAIT = 1.0  # so that a jump of the wall clock, or a suspended machine, is noticed soon


class MinuteClock:
    """Tells when a minute boundary of the wall clock has been passed.

    A jump forward over boundaries gives one tick; a jump backward none until the next boundary.

    Parameters
    ----------
    now : callable
        The wall clock, seconds since 1970.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._minute = self._current()

    def _current(self) -> int:
        return int(self._now() // MINUTE)

    def wait(self) -> float:
        """Return how many seconds to wait before asking :meth:`due`."""
        left = MINUTE - self._now() % MINUTE
        return min(_LONGEST_WAIT, max(left, 0.0005))

    def due(self) -> bool:
        """Tell, once per boundary, whether one has been passed since the last call."""
        minute = self._current()
        passed = minute > self._minute
        self._minute = minute
        return passed
