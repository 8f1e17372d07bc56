"""An interval: what the workers gather between two rotations."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field

from edm.histogram.accumulators import Accumulators
from edm.observe.ledger import Ledger
from edm.session.rows import SessionRows

_serial = itertools.count(1)


def now_us() -> int:
    """Return the wall clock in microseconds since 1970."""
    return time.time_ns() // 1000


@dataclass(eq=False)
class Interval:
    """State of one interval; each worker has its own accumulators and session rows in it.

    Attributes
    ----------
    start_us : int
        Start, microseconds since 1970.
    serial : int
        Distinguishes intervals that start within the same second.
    accumulators, rows : list
        One per worker.
    """

    start_us: int
    accumulators: list[Accumulators]
    rows: list[SessionRows]
    ledger: Ledger
    serial: int = field(default_factory=lambda: next(_serial))

    @classmethod
    def begin(
        cls,
        workers: int,
        domains: int,
        explicit_threshold: int,
        session_rows: int,
        start_us: int | None = None,
    ) -> Interval:
        """Begin an interval over a domain table of ``domains`` entries."""
        return cls(
            start_us=now_us() if start_us is None else start_us,
            accumulators=[Accumulators(domains, explicit_threshold) for _ in range(workers)],
            rows=[SessionRows(session_rows) for _ in range(workers)],
            ledger=Ledger(workers),
        )
