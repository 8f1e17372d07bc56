"""The last intervals: their balance, and whether their files are there."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

KEPT = 15
"""Intervals that are kept."""


@dataclass
class Record:
    """One interval. Times are seconds since 1970, ``write_seconds`` is the time from its end to its last file.

    ``histogram_rows``, ``session_rows`` and ``new_qname_rows`` are None while there is no such file.
    """

    start: float
    stop: float
    frames: int
    closed: bool
    missing: int
    histogram_rows: int | None = None
    session_rows: int | None = None
    new_qname_rows: int | None = None
    write_seconds: float | None = None


class Intervals:
    """The last intervals, newest first. Any thread may use it."""

    def __init__(self) -> None:
        self._records: deque[Record] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def retired(self, start_us: int, stop_us: int, balance: Mapping[str, int]) -> None:
        """Add an interval that has ended, with the balance of its ledger."""
        missing = balance["imbalance"]
        closed = not missing and not balance["pending"]
        record = Record(start_us / 1e6, stop_us / 1e6, balance["frames_received"], closed, missing)
        with self._lock:
            self._records.appendleft(record)

    def wrote(self, kind: str, stop_us: int, rows: int, seconds: float) -> None:
        """Take note of a finished file; ``kind`` is ``histogram``, ``session`` or ``new_qname``."""
        with self._lock:
            for record in self._records:
                if record.stop == stop_us / 1e6:
                    setattr(record, f"{kind}_rows", rows)
                    record.write_seconds = max(record.write_seconds or 0.0, seconds)
                    return

    def records(self) -> list[Record]:
        """Return copies of the records."""
        with self._lock:
            return [Record(**vars(record)) for record in self._records]


__all__ = ["KEPT", "Intervals", "Record"]
