"""An interval: what the workers collect between two rotations."""

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
    accumulators : list of Accumulators
        Histogram counts, one per worker.
    rows : list of SessionRows
        Session rows not yet handed to the writer, one per worker.
    ledger : Ledger
        Counts of the interval's frames by fate.
    serial : int
        Distinguishes intervals that start within the same second.
    """

    began: Instant
    accumulators: list[Accumulators]
    rows: list[SessionRows]
    ledger: Ledger
    serial: int = field(default_factory=lambda: next(_serial))

    @classmethod
    def begin(cls, workers: int, domains: int, explicit_threshold: int, session_rows: int) -> Interval:
        """Return an interval that begins now, for a domain table of ``domains`` entries."""
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

        It is the wall clock's time at the end. If that clock was set meanwhile, it is the start plus the length of
        the interval, so that start and stop always show how long the interval was.

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
