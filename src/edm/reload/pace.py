"""How often a part may be made again, so that many reloads in a short time leave enough time to the workers."""

from __future__ import annotations

import time
from collections.abc import Callable

SHARE = 0.005
"""Share of one core that making one part again and again may take."""

BURST = 3
"""Times that a part may be made without waiting, so that an operator who corrects a mistake need not wait."""

LONGEST = 10.0
"""Seconds after which a part may be made again in any case."""


class Pace:
    """The pace of one part.

    Parameters
    ----------
    share, burst, longest
        See :data:`SHARE`, :data:`BURST`, :data:`LONGEST`.
    clock : callable
        Returns seconds that never go back.
    """

    def __init__(
        self,
        share: float = SHARE,
        burst: int = BURST,
        longest: float = LONGEST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share = share
        self._burst = burst
        self._longest = longest
        self._clock = clock
        self._interval = 0.0
        self._paid = 0.0  # when all work so far would be done at the pace of ``share``

    def wait(self) -> float:
        """Return the seconds until the part may be made again; 0 if it may be now."""
        early = (self._burst - 1) * self._interval
        return max(0.0, self._paid - early - self._clock())

    def worked(self, seconds: float) -> None:
        """Record that making the part took ``seconds`` of one core."""
        self._interval = min(max(seconds, 0.0) / self._share, self._longest)
        self._paid = max(self._paid, self._clock()) + self._interval


__all__ = ["BURST", "LONGEST", "SHARE", "Pace"]
