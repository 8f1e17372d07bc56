"""The status board: sections that others fill, made into one document at most about once a second."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import structlog

from edm.observe.faults import DEFECT, Faults
from edm.observe.logs import RateLimited

VERSION = 1
"""Form of the document. Members may be added to it; whatever else changes raises this number."""
FRESH = 0.9
"""Seconds for which a rendered answer is handed out again: all viewers share it."""

Section: TypeAlias = Callable[[], Any]


class Rendered:
    """Bytes of JSON that are made again when they are older than :data:`FRESH`. Any thread may ask."""

    def __init__(self, make: Callable[[], Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._make = make
        self._clock = clock
        self._lock = threading.Lock()
        self._at = float("-inf")
        self._body = b""

    def body(self) -> bytes:
        """Return the document as JSON."""
        with self._lock:
            if self._clock() - self._at > FRESH:
                self._body = (
                    json.dumps(self._make(), ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
                )
                self._at = self._clock()
            return self._body


class Board:
    """The document of ``/api/status``.

    Parameters
    ----------
    sections : mapping
        Functions by name of the section; each returns what JSON can hold. One that fails is None in the document, and
        is reported as a defect.
    """

    def __init__(self, sections: Mapping[str, Section], faults: Faults) -> None:
        self._sections = dict(sections)
        self._faults = faults
        self._limited = RateLimited(structlog.get_logger())
        self._failed: set[str] = set()

    def document(self) -> dict[str, Any]:
        """Return the document."""
        document: dict[str, Any] = {"version": VERSION, "time": time.time()}
        for name, section in self._sections.items():
            document[name] = self._fill(name, section)
        return document

    def _fill(self, name: str, section: Section) -> Any:
        try:
            return section()
        except Exception:
            if name not in self._failed:  # once: a page asks every second
                self._failed.add(name)
                self._faults.report(DEFECT)
                structlog.get_logger().exception("a section of the status cannot be filled", section=name)
            return None


class Rates:
    """Growth per second between two looks of one viewer at totals, by key."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before: dict[object, tuple[float, float]] = {}
        self._now: dict[object, tuple[float, float]] = {}

    def next_look(self) -> None:
        """Begin another look; what was not asked for in the last one is forgotten."""
        self._before, self._now = self._now, {}

    def of(self, key: object, total: float) -> float:
        """Return by how much ``total`` grew per second since the last look; 0 at the first one."""
        now = self._clock()
        self._now[key] = now, total
        then, before = self._before.get(key, (now, total))
        return max(0.0, (total - before) / (now - then)) if now > then else 0.0


__all__ = ["FRESH", "VERSION", "Board", "Rates", "Rendered", "Section"]
