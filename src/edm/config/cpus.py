"""How many CPUs this process may use: those it may run on, and what its control groups allow."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_QUOTA_V1 = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_ESCAPE = re.compile(r"\\([0-7]{3})")


def usable_cpus(proc: Path = Path("/proc/self")) -> int:
    """Return how many CPUs may be used, 1 at least.

    The number of CPUs that the process may run on, or less if a control group bounds the CPU time. A part of a CPU
    counts as a whole one: what half a CPU can do, one thread can do.

    Parameters
    ----------
    proc : Path
        The folder that tells of the process, see proc(5).
    """
    count = available_cpus()
    shares = [share for share in _shares(proc) if share > 0]
    return max(1, min([count, *(math.ceil(share) for share in shares)]))


def available_cpus() -> int:
    """Return how many CPUs the process may run on, whatever time it gets there.

    Like ``os.process_cpu_count`` of Python 3.13: ``PYTHON_CPU_COUNT`` or ``-X cpu_count`` come first there.
    """
    count = getattr(os, "process_cpu_count", None)
    return (count() if count is not None else len(os.sched_getaffinity(0))) or 1


def _shares(proc: Path) -> Iterator[float]:
    """Yield what each group in which the process is allows, in CPUs."""
    try:
        groups = _text(proc / "cgroup").splitlines()
        mounts = _text(proc / "mountinfo").splitlines()
    except OSError:
        return
    for line in groups:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = 1 if controllers else 2
        if version == 1 and "cpu" not in controllers.split(","):
            continue
        for root, place in _places(mounts, version):
            for folder in _way_up(place, _below(path, root)):
                share = _share_v1(folder) if version == 1 else _share_v2(folder)
                if share is not None:
                    yield share


def _places(mounts: list[str], version: int) -> Iterator[tuple[str, Path]]:
    """Yield where a hierarchy is mounted: the group that is shown as its root, and the folder. See proc(5)."""
    for line in mounts:
        front, _, back = line.partition(" - ")
        fields, more = front.split(" "), back.split(" ")
        if len(fields) < 5 or len(more) < 3:
            continue
        if (version == 2 and more[0] == "cgroup2") or (
            version == 1 and more[0] == "cgroup" and "cpu" in more[2].split(",")
        ):
            yield _unescaped(fields[3]), Path(_unescaped(fields[4]))


def _below(path: str, root: str) -> str:
    """Return the path of a group below the root of a mount.

    In a container the root may be the process's own group, or the path may be one outside of what can be seen
    (``/../other``): then the root of the mount is the nearest that can be seen.
    """
    group, top = PurePosixPath(path), PurePosixPath(root)
    if ".." in group.parts or not group.is_relative_to(top):
        return ""
    return str(group.relative_to(top))


def _way_up(place: Path, below: str) -> Iterator[Path]:
    folder = place / below
    while True:
        yield folder
        if folder == place:
            return
        folder = folder.parent


def _share_v2(folder: Path) -> float | None:
    with suppress(OSError):
        return _ratio(_text(folder / "cpu.max").split(), _NUMBER)
    return None


def _share_v1(folder: Path) -> float | None:
    with suppress(OSError):
        fields = [_text(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
        return _ratio(fields, _QUOTA_V1)
    return None


def _ratio(fields: list[str], quota: re.Pattern[str]) -> float | None:
    """Return quota by period, or None if there is no bound: ``max`` in version 2, -1 in version 1."""
    if len(fields) != 2 or not quota.fullmatch(fields[0]) or not _NUMBER.fullmatch(fields[1]):
        return None
    time, period = int(fields[0]), int(fields[1])
    return time / period if time > 0 and period > 0 else None


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape")


__all__ = ["available_cpus", "usable_cpus"]
