"""The last hour, second by second: frames by fate and a few more totals, in memory that does not grow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

SECONDS = 3600
"""Seconds that are kept."""
RECENT = 300
"""Seconds that are handed out one by one; the whole hour comes in minutes."""


class History:
    """Samples totals that only grow, once a second, and keeps how much they grew.

    Parameters
    ----------
    names : sequence of str
        One for each total.
    read : callable
        Returns the totals now, in that order.
    clock : callable
        Returns seconds since 1970.
    """

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[], Sequence[int]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.names = tuple(names)
        self._read = read
        self._clock = clock
        self._grown = np.zeros((SECONDS, len(self.names)), np.int64)
        self._last = list(read())
        self._second = int(clock())  # up to which the table is filled
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edm-history", daemon=True)

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """End sampling."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.wait(1.0 - self._clock() % 1.0):
            self.sample()

    def sample(self) -> None:
        """Add what has come since the last sample to the second that is over now.

        If samples came late, or the clock was set forward, it is spread over the seconds in between; while the clock
        is behind, it is added to the last second.
        """
        totals = list(self._read())
        now = int(self._clock())
        with self._lock:
            grown = np.array(totals, np.int64) - np.array(self._last, np.int64)
            self._last = totals
            gap = min(now - self._second, SECONDS)
            if gap <= 0:
                if self._second - now > SECONDS:  # set back: begin again instead of waiting for so long
                    self._grown[:] = 0
                    self._second = now
                self._grown[self._second % SECONDS] += grown
                return
            rows = np.arange(now - gap + 1, now + 1) % SECONDS
            share, rest = np.divmod(grown, gap)
            self._grown[rows] = share
            self._grown[rows[-1]] += rest
            self._second = now

    def rates(self, seconds: int = 5) -> dict[str, float]:
        """Return how much each total grew per second, as the mean of the last seconds."""
        with self._lock:
            rows = np.arange(self._second - seconds + 1, self._second + 1) % SECONDS
            mean = self._grown[rows].mean(axis=0)
        return dict(zip(self.names, mean.tolist(), strict=True))

    def series(self, step: int) -> dict[str, Any]:
        """Return the history as ``/api/history`` shows it.

        Parameters
        ----------
        step : {1, 60}
            Seconds of each value: the last :data:`RECENT` seconds, or the last hour in whole minutes.
        """
        with self._lock:
            end = self._second
            if step == 1:
                rows = np.arange(end - RECENT + 1, end + 1) % SECONDS
                table = self._grown[rows]
            else:
                end -= end % 60  # the minute that is over
                rows = np.arange(end - SECONDS + 60, end) % SECONDS
                table = self._grown[rows].reshape(-1, 60, len(self.names)).sum(axis=1)
        used = np.any(table, axis=0).tolist()
        values = {name: table[:, i].tolist() for i, name in enumerate(self.names) if used[i]}
        return {"version": 1, "step": step, "end": end, "count": len(table), "series": values}


__all__ = ["RECENT", "SECONDS", "History"]
