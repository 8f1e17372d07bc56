"""The resources of a process: file handles, mappings, threads, memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Resources:
    """What a process held at one moment.

    Attributes
    ----------
    files : open file handles
    mappings : mappings of memory
    threads : threads
    resident : bytes of memory in use
    cpu : seconds of CPU used so far
    """

    files: int
    mappings: int
    threads: int
    resident: int
    cpu: float

    @classmethod
    def of(cls, pid: int | None = None) -> Resources:
        """Look at a process; without a number at this one."""
        folder = Path("/proc") / ("self" if pid is None else str(pid))
        statm = (folder / "statm").read_text().split()
        stat = (folder / "stat").read_text().rpartition(")")[2].split()
        return cls(
            files=sum(1 for _ in (folder / "fd").iterdir()),
            mappings=len((folder / "maps").read_text().splitlines()),
            threads=sum(1 for _ in (folder / "task").iterdir()),
            resident=int(statm[1]) * os.sysconf("SC_PAGE_SIZE"),
            cpu=(int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"),
        )
