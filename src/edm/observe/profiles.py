"""Profiles of the running program: thread stacks, sampled stacks, memory use.

They show code and threads, never data: no local variables, no addresses, no secrets from the command line.
"""

from __future__ import annotations

import gc
import json
import math
import re
import sys
import threading
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType

from edm.errors import EdmError, mask_passwords
from edm.files.visible import visible
from edm.observe.privacy import redact

MAX_SECONDS = 60.0
MAX_HERTZ = 250.0
_MAX_DEPTH = 128
_MAX_STACKS = 20_000
_MAX_SHARE = 0.1  # of the time the profiler may hold the GIL

_SECRET_FLAG = re.compile(r"(?:^|-)(?:key|salt|secret|password|passphrase|token)$", re.IGNORECASE)

Site = tuple[CodeType, int]
Stack = tuple[int, tuple[Site, ...]]


class ProfileError(EdmError):
    """The requested profile cannot be taken."""


class Samples:
    """Stacks seen by the sampler.

    Attributes
    ----------
    stacks : Counter
        Number of samples by thread identifier and call sites, outermost first.
    names : dict
        Thread name by identifier.
    seconds : float
        Duration of the sampling.
    rounds : int
        Number of times all threads were sampled.
    """

    def __init__(self) -> None:
        self.stacks: Counter[Stack] = Counter()
        self.names: dict[int, str] = {}
        self.seconds = 0.0
        self.rounds = 0

    def take(self, skip: int) -> None:
        """Sample the stacks of all threads once, except the thread with identifier ``skip``."""
        for ident, frame in sys._current_frames().items():
            if ident == skip:
                continue
            sites = _sites(frame)
            stack = (ident, sites)
            if stack not in self.stacks and len(self.stacks) >= _MAX_STACKS:
                stack = (ident, ())
            self.stacks[stack] += 1
            if ident not in self.names:
                self.names.update(_thread_names())
                self.names.setdefault(ident, f"thread-{ident}")
        self.rounds += 1

    def collapsed(self) -> str:
        """Return lines ``thread;outermost;...;innermost count``, as flame graph tools read them."""
        lines: Counter[str] = Counter()
        for (ident, sites), count in self.stacks.items():
            frames = [self.names[ident], *(_describe(site) for site in sites)]
            lines[";".join(frame.replace(";", ",") for frame in frames)] += count
        return "".join(f"{line} {count}\n" for line, count in sorted(lines.items()))

    def speedscope(self) -> str:
        """Return JSON after https://www.speedscope.app/file-format-schema.json, one profile per thread."""
        numbers: dict[Site, int] = {}
        profiles: dict[int, tuple[list[list[int]], list[float]]] = {}
        weight = self.seconds / max(1, self.rounds)
        for (ident, sites), count in self.stacks.items():
            samples, weights = profiles.setdefault(ident, ([], []))
            samples.append([numbers.setdefault(site, len(numbers)) for site in sites])
            weights.append(count * weight)
        document = {
            "$schema": "https://www.speedscope.app/file-format-schema.json",
            "name": "edm",
            "exporter": "edm",
            "shared": {
                "frames": [
                    {"name": code.co_qualname, "file": code.co_filename, "line": line}
                    for code, line in numbers
                ]
            },
            "profiles": [
                {
                    "type": "sampled",
                    "name": self.names[ident],
                    "unit": "seconds",
                    "startValue": 0,
                    "endValue": sum(weights),
                    "samples": samples,
                    "weights": weights,
                }
                for ident, (samples, weights) in profiles.items()
            ],
        }
        return json.dumps(document)


def _sites(frame: FrameType | None) -> tuple[Site, ...]:
    sites: list[Site] = []
    while frame is not None and len(sites) < _MAX_DEPTH:
        sites.append((frame.f_code, frame.f_lineno or frame.f_code.co_firstlineno))
        frame = frame.f_back
    sites.reverse()
    return tuple(sites)


def _describe(site: Site) -> str:
    code, line = site
    return f"{code.co_qualname} ({'/'.join(Path(code.co_filename).parts[-2:])}:{line})"


def _thread_names() -> dict[int, str]:
    # A thread's name may contain the address that it serves.
    return {t.ident: redact(t.name) for t in threading.enumerate() if t.ident is not None}


class Profiler:
    """Takes sampling profiles, one at a time."""

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End a running profile early (its samples are kept), and take no more profiles."""
        self._stopped.set()

    def sample(self, seconds: float, hertz: float = 100.0) -> Samples:
        """Sample all threads ``hertz`` times a second for ``seconds`` seconds; blocks for that long.

        Waiting threads are sampled like running ones: times are wall-clock times. Between two samples the profiler
        pauses at least nine times as long as a sample took. So it never takes more than a tenth of the
        interpreter's time, however many threads there are.

        Raises
        ------
        ProfileError
            A number is out of range, or another profile is being taken.
        """
        if not (math.isfinite(seconds) and 0 < seconds <= MAX_SECONDS):
            raise ProfileError(f"seconds must be above 0 and at most {MAX_SECONDS:.0f}")
        if not (math.isfinite(hertz) and 1 <= hertz <= MAX_HERTZ):
            raise ProfileError(f"hz must be between 1 and {MAX_HERTZ:.0f}")
        if not self._busy.acquire(blocking=False):
            raise ProfileError("another profile is being taken")
        try:
            return self._run(seconds, 1 / hertz)
        finally:
            self._busy.release()

    def _run(self, seconds: float, period: float) -> Samples:
        samples = Samples()
        me = threading.get_ident()
        start = time.perf_counter()
        end = start + seconds
        while True:
            began = time.perf_counter()
            samples.take(me)
            now = time.perf_counter()
            pause = max(period - (now - began), (now - began) * (1 / _MAX_SHARE - 1))
            if now + pause >= end:
                self._stopped.wait(max(0.0, end - now))
                break
            if self._stopped.wait(pause):
                break
        samples.seconds = time.perf_counter() - start
        return samples


def thread_stacks() -> str:
    """Return the stack of every thread, innermost call last."""
    frames = sys._current_frames()
    parts = []
    for thread in sorted(threading.enumerate(), key=lambda t: t.name):
        frame = frames.get(thread.ident or 0)
        if frame is None:
            continue
        kind = "daemon" if thread.daemon else "joined at exit"
        parts.append(f"{redact(thread.name)} (native id {thread.native_id}, {kind})\n")
        parts += traceback.format_list(traceback.extract_stack(frame, limit=_MAX_DEPTH))
        parts.append("\n")
    return "".join(parts)


def heap_summary(top: int = 50) -> str:
    """Return the memory use of the process: total, garbage collector, and allocation sites if traced."""
    lines = []
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    wanted = ("VmPeak:", "VmSize:", "VmHWM:", "VmRSS:", "RssAnon:", "RssFile:", "VmData:", "Threads:")
    lines += [line for line in status.splitlines() if line.startswith(wanted)]
    lines.append(f"allocated blocks: {sys.getallocatedblocks()}")
    for generation, (count, stats) in enumerate(zip(gc.get_count(), gc.get_stats(), strict=True)):
        lines.append(f"gc generation {generation}: {count} since the last collection, {stats}")
    if (arrow := sys.modules.get("pyarrow")) is not None:
        lines.append(f"Arrow: {arrow.total_allocated_bytes()} bytes")
    if tracemalloc.is_tracing():
        current, peak = tracemalloc.get_traced_memory()
        lines.append(f"traced: {current} bytes, at most {peak}")
        lines += [str(statistic) for statistic in tracemalloc.take_snapshot().statistics("lineno")[:top]]
    else:
        lines.append("allocation sites: not traced; start with PYTHONTRACEMALLOC=1 to see them")
    return "\n".join(lines) + "\n"


def command_line(arguments: Sequence[str]) -> str:
    """Return the command line with NUL between arguments and ``***`` for the values of secret flags."""
    shown = []
    hide_next = False
    for argument in arguments:
        if hide_next:
            shown.append("***")
            hide_next = False
            continue
        flag, equals, _ = argument.partition("=")
        if flag.startswith("-") and _SECRET_FLAG.search(flag):
            shown.append(f"{flag}=***" if equals else flag)
            hide_next = not equals
        else:
            shown.append(mask_passwords(argument))
    return "\0".join(map(visible, shown))


__all__ = [
    "MAX_HERTZ",
    "MAX_SECONDS",
    "ProfileError",
    "Profiler",
    "Samples",
    "command_line",
    "heap_summary",
    "thread_stacks",
]
