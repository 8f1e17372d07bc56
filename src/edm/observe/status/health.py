"""Health: whether the daemon is alive, whether it is ready, and what is wrong, by what the checks find."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from edm.observe.status.findings import NOT_LIVE, NOT_READY, Finding, Watch

FRESH = 0.9
"""Seconds for which an answer is reused: a thousand probes cost no more than one."""


class Health:
    """What the checks say, looked at no more than about once a second. Any thread may ask."""

    def __init__(self, watch: Watch, clock: Callable[[], float] = time.monotonic) -> None:
        self._watch = watch
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._found: list[tuple[Finding, float]] = []

    def findings(self) -> list[tuple[Finding, float]]:
        """Return what is not well, worst first, with since when."""
        with self._lock:
            if self._clock() - self._looked > FRESH:
                self._found = self._watch.look()
                self._looked = self._clock()
            return self._found

    @property
    def live(self) -> bool:
        """Whether a restart would not help."""
        return not self._reasons(NOT_LIVE)

    @property
    def ready(self) -> bool:
        """Whether frames are taken and what comes of them is written."""
        return not self._reasons((*NOT_LIVE, *NOT_READY))

    def _reasons(self, codes: tuple[str, ...]) -> list[Finding]:
        return [finding for finding, _ in self.findings() if finding.code in codes]

    def answer(self, question: str) -> tuple[bool, dict[str, Any]]:
        """Answer ``/livez`` or ``/readyz``: whether it is so, and the document that says why not.

        Parameters
        ----------
        question : {"live", "ready"}
        """
        reasons = self._reasons(NOT_LIVE if question == "live" else (*NOT_LIVE, *NOT_READY))
        told = [{"code": finding.code, "what": finding.what, "do": finding.do} for finding in reasons]
        return not reasons, {question: not reasons, "reasons": told}

    def document(self) -> dict[str, Any]:
        """Return the section ``health`` of the status."""
        found = self.findings()
        worst = found[0][0].severity if found else "info"
        state = {"error": "failing", "warning": "degraded", "info": "ok"}[worst]
        return {
            "state": state,
            "live": self.live,
            "ready": self.ready,
            "summary": _summary([finding for finding, _ in found if finding.severity != "info"]),
            "findings": [{**vars(finding), "since": since} for finding, since in found],
        }


def _summary(troubles: list[Finding]) -> str:
    if not troubles:
        return "All is well."
    more = len(troubles) - 1
    rest = f" And {more} more finding{'s' if more > 1 else ''}." if more else ""
    return troubles[0].what + rest


__all__ = ["FRESH", "Health"]
