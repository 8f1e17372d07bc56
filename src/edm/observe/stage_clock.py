"""Processor time by stage, measured in one batch of some hundred, and how old a response is when its row exists."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import prometheus_client as prometheus

from edm.kernel.columns import (
    HAS_RESPONSE_TIME_SEC,
    PRESENT,
    RESPONSE_TIME_NSEC,
    RESPONSE_TIME_SEC,
    SESSION,
    U8Array,
    U32Array,
    U64Array,
)

SAMPLE = 256
"""Batches of which one is timed."""
STAGES = (
    "dnstap",
    "clients",
    "pseudonyms",
    "dns",
    "domains",
    "histogram",
    "new_qname",
    "session",
    "debug file",
)
"""What is timed, in the order of the pipeline; the debug file only where there is one."""

_EVERY = 0.05  # seconds between two samples of the latency
_WARM = 3  # the first batches find cold caches and are no sample


def _no_lap(_stage: str) -> None:
    pass


class StageClock:
    """The clock of one worker. Only its thread starts it; any thread may read it."""

    def __init__(self, sample: int = SAMPLE) -> None:
        self._sample = sample
        self._batches = 0
        self._timed = 0
        self._mark = 0.0
        self._seconds = dict.fromkeys(STAGES, 0.0)

    def begin(self) -> Callable[[str], None]:
        """Begin a batch; return a function to call with the name of each stage when it ends."""
        self._batches += 1
        if self._batches % self._sample != _WARM % self._sample:
            return _no_lap
        self._timed += 1
        self._mark = time.thread_time()
        return self._lap

    def _lap(self, stage: str) -> None:
        now = time.thread_time()
        self._seconds[stage] += now - self._mark
        self._mark = now

    def seconds(self) -> dict[str, float]:
        """Return the processor seconds of each stage so far, estimated from the batches that were timed."""
        scale = self._batches / self._timed if self._timed else 0.0
        return {stage: seconds * scale for stage, seconds in self._seconds.items()}


class RowLatency:
    """Time from the response of a frame to its session row: a row of a batch, some times a second."""

    def __init__(self, histogram: prometheus.Histogram) -> None:
        self.histogram = histogram
        self._next = 0.0
        self._lock = threading.Lock()

    def sample(self, u32: U32Array, u64: U64Array, fate: U8Array, n: int) -> None:
        """Observe the row in the middle of a batch, if it is due and the frame tells its time."""
        now = time.monotonic()
        if now < self._next or not n:
            return
        row = n // 2
        if fate[row] != SESSION or not int(u32[PRESENT, row]) & HAS_RESPONSE_TIME_SEC:
            return
        self._next = now + _EVERY
        response = int(u64[RESPONSE_TIME_SEC, row]) + int(u32[RESPONSE_TIME_NSEC, row]) / 1e9
        with self._lock:
            self.histogram.observe(max(0.0, time.time() - response))


__all__ = ["SAMPLE", "STAGES", "RowLatency", "StageClock"]
