"""Counts faults: defects of the program, and data that was lost for good.

Every loss that a defect or a disk error causes is reported here and logged. Faults change the exit code of
``edm minimise`` and ``edm run``. They also show in the summary, in the state that the service manager shows, and as
a metric. Data that is dropped on purpose (by a list, a switch, the disk budget or a full event queue) is not a fault.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

DEFECT = "defect"
FRAMES = "frames_lost"
LEDGER = "ledger"
HISTOGRAM_ROWS = "histogram_rows_lost"
SESSION_ROWS = "session_rows_lost"
EVENTS = "events_lost"
INTERVALS = "intervals_unwritten"

_TEXTS = {
    DEFECT: ("defect of EDM, see the log", "defects of EDM, see the log"),
    FRAMES: ("frame lost to a defect", "frames lost to a defect"),
    LEDGER: ("interval whose ledger does not balance", "intervals whose ledger does not balance"),
    HISTOGRAM_ROWS: ("histogram row that was not written", "histogram rows that were not written"),
    SESSION_ROWS: ("session row that was not written", "session rows that were not written"),
    INTERVALS: ("interval whose files were not written", "intervals whose files were not written"),
    EVENTS: ("new_qname event that was not written", "new_qname events that were not written"),
}
KINDS = tuple(_TEXTS)
"""Kinds of faults, in the order in which :meth:`Faults.lines` lists them."""


class Faults:
    """Counts faults by kind. Any thread may report and ask.

    Parameters
    ----------
    count : callable
        Called with the kind and the number of faults at each report; feeds a metric.

    Attributes
    ----------
    on_first : callable
        Called at the first fault of each kind, in the thread that reports it.
    """

    def __init__(self, count: Callable[[str, int], None] = lambda _kind, _count: None) -> None:
        self._count = count
        self._counts = dict.fromkeys(KINDS, 0)
        self._lock = threading.Lock()
        self.on_first: Callable[[], None] = lambda: None

    def report(self, kind: str, count: int = 1) -> None:
        """Add ``count`` faults of ``kind``, one of :data:`KINDS`; does nothing if ``count`` is 0 or less."""
        if count <= 0:
            return
        with self._lock:
            first = not self._counts[kind]
            self._counts[kind] += count
        self._count(kind, count)
        if first:
            self.on_first()

    def counts(self) -> dict[str, int]:
        """Return the number of faults by kind, without the kinds that did not occur."""
        with self._lock:
            return {kind: count for kind, count in self._counts.items() if count}

    def lines(self) -> list[str]:
        """Return one line of text for each kind that occurred."""
        return [f"{count:,} {_TEXTS[kind][count != 1]}" for kind, count in self.counts().items()]

    def __bool__(self) -> bool:
        return bool(self.counts())


__all__ = [
    "DEFECT",
    "EVENTS",
    "FRAMES",
    "HISTOGRAM_ROWS",
    "INTERVALS",
    "KINDS",
    "LEDGER",
    "SESSION_ROWS",
    "Faults",
]
