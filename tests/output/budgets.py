"""A data directory on a small disk, for the tests of the budget."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edm.observe.metrics import Metrics
from edm.output.budget import (
    DiskBudget,
    Limits,
    Queue,
    SeenNames,
)
from edm.output.paths import DataDirectory

KIB = 1024
NOTHING = Limits(0, 0)


def time_name(number: int) -> str:
    return f"2026-11-{1 + number // 1440:02}T{number // 60 % 24:02}-{number % 60:02}-00Z"


def session_name(number: int) -> str:
    return f"dns_session_block-{time_name(number)}_{time_name(number + 1)}.parquet"


def histogram_name(number: int) -> str:
    return f"dns_histogram-{time_name(number)}_{time_name(number + 1)}.parquet"


class FakeSessions:
    def __init__(self, data: DataDirectory) -> None:
        self.waiting_bytes = 0
        self.abandoned = 0
        self._folder = data.sessions

    def abandon(self) -> None:
        self.abandoned += 1
        for path in self._folder.glob("*.tmp"):
            path.unlink()


class FakeQueue:
    """Events of 100 bytes."""

    def __init__(self, data: DataDirectory) -> None:
        self.path = data.queue / "queue.sqlite3"

    @property
    def disk_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def shed(self, size: int) -> tuple[int, int]:
        if not self.path.exists():
            return 0, 0
        events = min(-(-size // 100), self.disk_bytes // 100)
        os.truncate(self.path, self.disk_bytes - 100 * events)
        return events, 100 * events


class FakeSeen:
    def __init__(self, data: DataDirectory) -> None:
        self.path = data.seen_names / "names-00000001.seen"
        self.held: list[bool] = []

    @property
    def removable_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def hold(self, held: bool) -> None:
        self.held.append(held)

    def forget_previous(self) -> int:
        size = self.removable_bytes
        self.path.unlink(missing_ok=True)
        return size


class World:
    """A data directory on a disk of a size that can be chosen, and a budget for it."""

    def __init__(self, folder: Path, limits: Limits = NOTHING) -> None:
        self.data = DataDirectory(folder / "data")
        self.data.sent.mkdir()
        self.data.refused.mkdir()
        self.data.queue.mkdir()
        self.data.seen_names.mkdir()
        self.sessions = FakeSessions(self.data)
        self.seen = FakeSeen(self.data)
        self.disk_size = 1 << 40
        self.taken_by_others = 0
        self.budget = self.budget_for(limits, FakeQueue(self.data), self.seen)

    def budget_for(self, limits: Limits, queue: Queue | None, seen: SeenNames) -> DiskBudget:
        self.metrics = Metrics()
        self.budget = DiskBudget(self.data, self.metrics, limits, self.sessions, queue, seen)
        return self.budget

    def statvfs(self, _: object) -> Any:
        used = sum(path.stat().st_size for path in self.data.root.rglob("*") if path.is_file())
        return SimpleNamespace(
            f_frsize=1, f_bavail=max(0, self.disk_size - used - self.taken_by_others), f_blocks=0
        )

    def session(self, number: int, size: int = KIB) -> Path:
        return put(self.data.sessions / session_name(number), size)

    def histogram(self, number: int, size: int = KIB, kind: str = "outbox") -> Path:
        return put(getattr(self.data, kind) / histogram_name(number), size)

    def left(self, kind: str) -> list[str]:
        folder = {"session": self.data.sessions, "queue": self.data.queue, "seen": self.data.seen_names}
        place = folder.get(kind) or getattr(self.data, kind)
        return sorted(path.name for path in place.iterdir())

    def check(self, times: int = 1) -> int:
        """Look at the disk; return the state."""
        for _ in range(times):
            self.budget.check()
        state = self.metrics.value("edm_disk_budget_state")
        assert state is not None
        return int(state)

    def shed(self, kind: str) -> tuple[float | None, ...]:
        names = (f"edm_disk_shed_{what}_total" for what in ("files", "bytes", "rows"))
        return tuple(self.metrics.value(name, kind=kind) for name in names)


def put(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path
