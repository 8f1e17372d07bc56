"""Findings: what is not well, in words, with what to do. One place for health, page, ``edm top`` and the doctor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""Worst first."""

NOT_READY = (
    "not-listening",
    "worker-stuck",
    "stalled",
    "interval-late",
    "ledger-imbalance",
    "disk-shedding",
    "disk-full",
    "stopping",
)
"""Codes with which a daemon is not ready."""
NOT_LIVE = ("main-loop-stuck", "worker-dead")
"""Codes with which only a restart helps."""
CODES = (
    *NOT_LIVE,
    *NOT_READY,
    "losses",
    "broker-away",
    "uploads-failing",
    "reload-failed",
    "certificate-expiring",
    "no-frames",
    "queries-only",
    "duplicate-logging",
    "log-lines-lost",
)
"""All codes."""


@dataclass(frozen=True)
class Finding:
    """Something that an operator should know.

    Attributes
    ----------
    code : str
        Stable: lower-case words with hyphens.
    what, do : str
        A sentence each: what is so, and what to do. No text from outside that was not made harmless.
    """

    code: str
    severity: Severity
    what: str
    do: str = ""


Check: TypeAlias = Callable[[], Finding | None]


class Watch:
    """Runs all checks, and remembers since when a finding has been there."""

    def __init__(self, checks: Iterable[Check], clock: Callable[[], float] = time.time) -> None:
        self._checks = tuple(checks)
        self._clock = clock
        self._since: dict[str, float] = {}

    def look(self) -> list[tuple[Finding, float]]:
        """Return what was found, worst first, each with its time in seconds since 1970."""
        found = [finding for check in self._checks if (finding := check()) is not None]
        found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
        now = self._clock()
        self._since = {finding.code: self._since.get(finding.code, now) for finding in found}
        return [(finding, self._since[finding.code]) for finding in found]


__all__ = ["CODES", "NOT_LIVE", "NOT_READY", "SEVERITIES", "Check", "Finding", "Severity", "Watch"]
