"""The rotation clock: tells when a full minute has passed, also when the wall clock is set."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

STEP_US = 2_000_000
"""A larger jump of the wall clock, in microseconds, means that it was set. It is more than a leap second."""

_MINUTE_US = 60_000_000
_LATEST_US = (
    253_402_128_000_000_000  # 9999-12-30: a file name can still be moved forward by seconds to be unique
)
_LONGEST_WAIT = 1.0  # so that a wall clock that was set, or a suspended machine, is noticed soon


class Instant(NamedTuple):
    """A moment by two clocks, in microseconds.

    Attributes
    ----------
    wall_us : int
        The wall clock, since 1970; an operator or NTP may set it.
    running_us : int
        A clock that nobody can set. It also runs while the machine is suspended; its zero has no meaning.
    """

    wall_us: int
    running_us: int


def writable(us: int) -> int:
    """Return ``us`` (microseconds since 1970), or the nearest time that a file name can hold."""
    return min(max(us, 0), _LATEST_US)


def now() -> Instant:
    """Return the present time, limited to what a file name can hold."""
    wall_us = time.time_ns() // 1000
    running_us = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    return Instant(writable(wall_us), running_us)


class MinuteClock:
    """Tells when a minute boundary of the wall clock has been passed, or the wall clock was set.

    Several boundaries passed at once, for example while the machine was suspended, give one tick. A clock that was
    set gives a tick at once, so that no interval is longer than a minute or mixes the times of two clocks. A
    correction of at most :data:`STEP_US` gives no tick, nor does a boundary that comes twice because of it.

    Parameters
    ----------
    now : callable
        Returns the present time.

    Attributes
    ----------
    step : float
        Seconds by which the wall clock was set, as found by the last call of :meth:`due`; 0 if it was not.
    """

    def __init__(self, now: Callable[[], Instant] = now) -> None:
        self._now = now
        self.step = 0.0
        instant = now()
        self._offset = instant.wall_us - instant.running_us
        self._minute = instant.wall_us // _MINUTE_US

    def wait(self) -> float:
        """Return the seconds to wait before the next call of :meth:`due`."""
        left = (_MINUTE_US - self._now().wall_us % _MINUTE_US) / 1e6
        return min(_LONGEST_WAIT, max(left, 0.0005))

    def due(self) -> bool:
        """Return True once after each minute boundary, and once each time the clock was set."""
        instant = self._now()
        offset = instant.wall_us - instant.running_us
        step = offset - self._offset
        self._offset = offset
        self.step = step / 1e6 if abs(step) > STEP_US else 0.0
        minute = instant.wall_us // _MINUTE_US
        passed = minute > self._minute or self.step != 0.0
        if passed or minute < self._minute - 1:
            self._minute = minute
        return passed


__all__ = ["STEP_US", "Instant", "MinuteClock", "now", "writable"]
