"""An interval: what the workers gather between two rotations."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from edm.observe.ledger import Ledger
from edm.rotation import clock
from edm.rotation.clock import STEP_US, Instant
from edm.stages.histogram.accumulators import Accumulators
from edm.stages.session.rows import SessionRows

_serial = itertools.count(1)


@dataclass(eq=False)
class Interval:
    """State of one interval; each worker has its own accumulators and session rows in it.

    Attributes
    ----------
    began : Instant
        When it began.
    serial : int
        Distinguishes intervals that start within the same second.
    accumulators, rows : list
        One per worker.
    """

    began: Instant
    accumulators: list[Accumulators]
    rows: list[SessionRows]
    ledger: Ledger
    serial: int = field(default_factory=lambda: next(_serial))

    @classmethod
    def begin(cls, workers: int, domains: int, explicit_threshold: int, session_rows: int) -> Interval:
        """Begin an interval, now, over a domain table of ``domains`` entries."""
        return cls(
            began=clock.now(),
            accumulators=[Accumulators(domains, explicit_threshold) for _ in range(workers)],
            rows=[SessionRows(session_rows) for _ in range(workers)],
            ledger=Ledger(workers),
        )

    @property
    def start_us(self) -> int:
        """Start, microseconds since 1970."""
        return self.began.wall_us

    def stop_us(self, end: Instant | None = None) -> int:
        """Return the end, microseconds since 1970; never before the start.

        It is what the wall clock shows at the end, unless that clock was set meanwhile: then it is what the clock
        would show if it had been left alone, so that start and stop tell how long the interval was.

        Parameters
        ----------
        end : Instant, optional
            The end; now if not given.
        """
        if end is None:
            end = clock.now()
        unset_us = self.start_us + max(0, end.running_us - self.began.running_us)
        stop_us = end.wall_us if abs(end.wall_us - unset_us) <= STEP_US else unset_us
        return max(clock.writable(stop_us), self.start_us)
