"""When to try again: growing waits after failures, and what a server's ``Retry-After`` says."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

from edm.tapir.upload.outbox import HistogramFile
from edm.tapir.upload.post import Limits


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds between things.

    Attributes
    ----------
    scan, clean : between two looks into the outbox, and at what was sent.
    retry, retry_longest : before a file that failed is tried again, at first and at most.
    pace, pace_longest : before the next file is tried after another one failed.
    outage, outage_longest : before anything is tried after Core was busy or could not be reached.
    retry_after_longest : the most that Core can ask for with ``Retry-After``.
    limits : of the steps of an exchange.
    """

    scan: float = 10.0
    clean: float = 60.0
    retry: float = 15.0
    retry_longest: float = 300.0
    pace: float = 1.0
    pace_longest: float = 15.0
    outage: float = 15.0
    outage_longest: float = 300.0
    retry_after_longest: float = 3600.0
    limits: Limits = field(default_factory=Limits)


class Backoff:
    """A wait that doubles with each failure in a row.

    Parameters
    ----------
    first, longest : float
        Seconds to wait after the first failure, and at most.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._failures = 0
        self.until = -math.inf

    def failed(self, now: float) -> float:
        """Note a failure at ``now`` (monotonic seconds); return how long to wait."""
        delay = min(self._longest, self._first * 2.0 ** min(self._failures, 64))
        self._failures += 1
        self.until = now + delay
        return delay

    def reset(self) -> None:
        """Note a success: no wait, and the next one is a first one."""
        self._failures = 0
        self.until = -math.inf

    def forgive(self) -> None:
        """Allow the next try at once."""
        self.until = -math.inf


@dataclass
class FileRecord:
    """The state of a file that could not be uploaded at once."""

    identity: tuple[int, int]
    backoff: Backoff
    until: float = -math.inf  # before that it is not tried again
    refusals: int = 0
    stored: bool = False  # Core has it, only moving it away failed
    brought_back: bool = False  # from those set aside: one try, after all others

    @classmethod
    def of(cls, file: HistogramFile, timing: Timing) -> FileRecord:
        """Return the record of a file of which nothing is known yet."""
        return cls(file.identity, Backoff(timing.retry, timing.retry_longest))


def retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds to wait that a ``Retry-After`` field asks for, or None if it says nothing usable.

    Parameters
    ----------
    value : str or None
        The field's value (RFC 9110, 10.2.3): seconds or a date.
    now : float
        Seconds since 1970.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:20])
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - now)
    except (ValueError, OverflowError):
        return None


__all__ = ["Backoff", "FileRecord", "Timing", "retry_after"]
