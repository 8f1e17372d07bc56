"""The resources of a process, second by second, and whether they grow."""

from __future__ import annotations

import os
import resource
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_PAGE = resource.getpagesize()


@dataclass(frozen=True)
class Sample:
    """What a process held at a time; memory in MiB, time and processor time in seconds."""

    time: float
    rss: float
    handles: int
    threads: int
    mappings: int
    cpu: float

    @classmethod
    def of(cls, pid: int) -> Sample:
        proc = Path("/proc") / str(pid)
        rss = int((proc / "statm").read_text().split()[1]) * _PAGE / 2**20
        ticks = (proc / "stat").read_text().rpartition(")")[2].split()
        return cls(
            time.monotonic(),
            rss,
            len(list((proc / "fd").iterdir())),
            len(list((proc / "task").iterdir())),
            (proc / "maps").read_bytes().count(b"\n"),
            (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK"),
        )


@dataclass
class Watch:
    """Samples a process once a second, from entering the context to leaving it."""

    pid: int
    samples: list[Sample] = field(default_factory=list)

    def __enter__(self) -> Watch:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            self.samples.append(Sample.of(self.pid))

    def parts(self, name: str, parts: int = 4) -> list[float]:
        """Return the medians of a quantity over equal parts of the time.

        A median does not care for the peaks while an interval is written.
        """
        values = np.array([getattr(sample, name) for sample in self.samples], float)
        return [float(np.median(part)) for part in np.array_split(values, parts)]

    def slope(self, name: str) -> float:
        """Return the growth of a quantity per hour, without the first quarter: the Theil-Sen estimate.

        That is the median of the slopes between all pairs of samples, which a third of outliers does not move.
        """
        samples = self.samples[len(self.samples) // 4 :]
        step = max(1, len(samples) // 500)
        times = np.array([sample.time for sample in samples[::step]])
        values = np.array([getattr(sample, name) for sample in samples[::step]], float)
        first, second = np.triu_indices(len(times), 1)
        return float(np.median((values[second] - values[first]) / (times[second] - times[first]))) * 3600

    @property
    def busy(self) -> float:
        """Share of one core that the process used."""
        first, last = self.samples[0], self.samples[-1]
        return (last.cpu - first.cpu) / (last.time - first.time)
