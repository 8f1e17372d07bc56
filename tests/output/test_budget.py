"""What gives way when room runs out: in which order, how much, and that all of it is counted."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from edm.core.backlog import Backlog
from edm.core.chunks import chunks_of
from edm.new_qname.store import SeenStore
from edm.observe.metrics import Metrics
from edm.output import budget as module
from edm.output import usage
from edm.output.budget import (
    CANNOT_BE_KEPT,
    ENOUGH,
    REST_GIVES_WAY,
    SESSIONS_GIVE_WAY,
    DiskBudget,
    Limits,
    Queue,
    SeenNames,
)
from edm.output.paths import DataDirectory
from edm.output.usage import KINDS, Disk
from new_qname.batches import insert, wire
from support.events import block_of, payloads
from support.processes import wait_until

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


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setattr(usage, "os", SimpleNamespace(**{**vars(os), "statvfs": made.statvfs}))
    return made


# What gives way


def test_nothing_is_removed_while_there_is_room(world: World) -> None:
    world.session(1, 3000)
    world.histogram(1, 500)
    world.histogram(1, 400, "sent")
    world.disk_size = 10_000
    world.budget.limits = Limits(5000, 2000)
    assert world.check(3) == ENOUGH
    assert world.metrics.value("edm_disk_bytes", kind="session") == 3000
    assert world.metrics.value("edm_disk_bytes", kind="outbox") == 500
    assert world.metrics.value("edm_disk_files", kind="sent") == 1
    assert world.metrics.value("edm_disk_free_bytes", kind="seen") == 10_000 - 3900
    assert [world.shed(kind) for kind in KINDS] == [(0, 0, 0)] * len(KINDS)


def test_sent_copies_and_damaged_files_go_before_the_oldest_sessions(world: World) -> None:
    for number in range(10):
        world.session(number)
    world.histogram(20, kind="sent")
    world.histogram(30)
    damaged = put(world.data.seen_names / "names-00000003.seen.corrupt", KIB)
    world.budget.limits = Limits(9 * KIB * 16 // 15 + 100, 0)
    assert world.check() == SESSIONS_GIVE_WAY
    assert world.left("sent") == []
    assert not damaged.exists()
    assert world.left("session") == [session_name(number) for number in range(2, 10)]
    assert world.left("outbox") == [histogram_name(30)]
    assert world.shed("session") == (2, 2 * KIB, 0)
    assert world.shed("sent") == world.shed("damaged") == (1, KIB, 0)
    assert world.check() == ENOUGH


def test_rows_of_removed_files_are_counted(world: World) -> None:
    for number, rows in enumerate((7, 100, 20)):
        table = pa.table({"source_port": pa.array(range(rows), pa.uint16())})
        pq.write_table(table, world.data.sessions / session_name(number))
        pq.write_table(table, world.data.outbox / histogram_name(number))
    world.histogram(3, kind="refused")  # a file of no rows that can be told
    world.budget.limits = Limits(1, 0)
    with capture_logs() as logs:
        world.check()
    assert world.shed("session")[0::2] == (3, 127)
    assert world.shed("outbox")[0::2] == (3, 127)
    assert world.shed("refused") == (1, KIB, 0)
    told = {line["kind"]: line for line in logs if line["event"] == "removed to make room on the disk"}
    assert told["session"]["rows"] == 127
    assert told["session"]["files"] == 3


def test_the_unfinished_session_file_goes_after_the_finished_and_before_histograms(world: World) -> None:
    world.session(1)
    unfinished = put(world.data.sessions / f"dns_session_block-{time_name(2)}-7.parquet.tmp", 5 * KIB)
    world.histogram(1, 2 * KIB)
    world.budget.limits = Limits(4 * KIB, 0)
    assert world.check() == SESSIONS_GIVE_WAY
    assert world.left("session") == []
    assert world.sessions.abandoned == 1
    assert not unfinished.exists()
    assert world.check() == ENOUGH
    assert world.left("outbox") == [histogram_name(1)]


def test_the_rest_gives_way_in_order(world: World) -> None:
    for number in range(4):
        world.histogram(number)
        world.histogram(number, kind="refused")
    queue = put(world.data.queue / "queue.sqlite3", 4000)
    seen = put(world.seen.path, 4000)
    world.budget.limits = Limits(2 * 4000 + 6 * KIB, 0)
    assert world.check() == REST_GIVES_WAY
    assert world.left("refused") == [histogram_name(2), histogram_name(3)]
    assert len(world.left("outbox")) == 4
    world.budget.limits = Limits(2 * 4000 + 2 * KIB, 0)
    assert world.check() == REST_GIVES_WAY
    assert world.left("refused") == []
    assert world.left("outbox") == [histogram_name(2), histogram_name(3)]
    world.budget.limits = Limits(7000, 0)
    assert world.check() == REST_GIVES_WAY
    assert world.left("outbox") == []
    assert queue.stat().st_size == 3000
    assert world.shed("queue") == (0, 1000, 10)
    assert world.seen.held == []
    world.budget.limits = Limits(3000, 0)
    assert world.check() == REST_GIVES_WAY
    assert queue.stat().st_size == 0
    assert world.seen.held == [True]
    assert seen.exists()
    assert world.check() == REST_GIVES_WAY
    assert not seen.exists()
    assert world.shed("seen") == (1, 4000, 0)
    assert world.check() == ENOUGH
    assert world.seen.held == [True, False]


def test_a_budget_below_what_cannot_be_removed(world: World) -> None:
    put(world.data.seen_names / "names-00000002.seen", 4000)
    world.session(1)
    world.budget.limits = Limits(1000, 0)
    with capture_logs() as logs:
        assert world.check(3) == CANNOT_BE_KEPT
    assert "disk budget cannot be kept: nothing is left that may be removed" in [x["event"] for x in logs]
    assert world.left("session") == []
    assert not world.budget.admit(1)
    assert world.left("seen") == ["names-00000002.seen"]


class _Sizes:
    files = st.lists(st.integers(1, 5000), max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.fixed_dictionaries(dict.fromkeys(("sent", "session", "refused", "outbox"), _Sizes.files)),
    queue=st.integers(0, 50),
    seen=st.integers(0, 5000),
    unfinished=st.integers(0, 5000),
    total=st.integers(0, 60_000),
    free=st.integers(0, 60_000),
    others=st.integers(0, 100_000),
)
def test_order_and_account_hold_whatever_is_there(
    sizes: dict[str, list[int]], queue: int, seen: int, unfinished: int, total: int, free: int, others: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        world = World(Path(folder), Limits(total, free))
        world.disk_size, world.taken_by_others = 200_000, others
        patch.setattr(usage, "os", SimpleNamespace(**{**vars(os), "statvfs": world.statvfs}))
        before: dict[str, list[str]] = {}
        for kind, list_ in sizes.items():
            for number, size in enumerate(list_):
                if kind == "session":
                    world.session(number, size)
                else:
                    world.histogram(number, size, kind)
            before[kind] = world.left(kind)
        put(world.data.queue / "queue.sqlite3", 100 * queue)
        put(world.seen.path, seen)
        tmp = put(world.data.sessions / f"dns_session_block-{time_name(50)}-7.parquet.tmp", unfinished)
        start = Disk(world.data).look()
        with capture_logs():
            state = world.check(6)
        end = Disk(world.data).look()
        after = {kind: world.left(kind) for kind in before}
        if tmp.exists():
            after["session"].remove(tmp.name)
        # The oldest went, and each kind only when there was nothing left of those before it.
        for kind, names in before.items():
            assert after[kind] == names[len(names) - len(after[kind]) :]
        gone = {kind for kind in before if len(after[kind]) < len(before[kind])}
        gone |= {"queue"} if end.size("queue") < 100 * queue else set()
        gone |= {"seen"} if end.size("seen") < seen else set()
        order = ["sent", "session", "refused", "outbox", "queue", "seen"]
        if gone:
            last = max(order.index(kind) for kind in gone)
            assert all(not end.files[kind] for kind in order[: min(last, 4)] if kind != "session")
            if last >= 2:
                assert after["session"] == []
                assert end.size("session") == 0
            if last == 5:
                assert end.size("queue") == 0
        # Every byte that is gone was counted, but for those of the file that its own writer removes.
        counted = sum(world.metrics.value("edm_disk_shed_bytes_total", kind=kind) or 0 for kind in KINDS)
        abandoned = unfinished if not tmp.exists() else 0
        assert start.total - end.total == counted + abandoned
        # The bounds are kept, or nothing is left, or others are to blame.
        rest_free = 200_000 - others - end.total
        total_kept = not total or end.total <= total
        free_kept = not free or rest_free >= free // 2
        if state != CANNOT_BE_KEPT:
            assert total_kept
            assert free_kept
        elif total_kept:
            assert 200_000 - others < free // 2 or end.total == end.size("queue") + end.size("seen")
        if (total and end.total > total - total // 16) or (free and rest_free < free):
            assert after["session"] == after["sent"] == []


# Free space


def test_sessions_keep_the_minimum_free_and_the_rest_half_of_it(world: World) -> None:
    world.disk_size = 100 * KIB
    world.budget.limits = Limits(0, 40 * KIB)
    for number in range(70):
        world.session(number)
    assert world.check() == SESSIONS_GIVE_WAY
    assert len(world.left("session")) == 60
    for number in range(30):
        world.histogram(number)
    world.check()
    assert len(world.left("session")) == 30
    for number in range(30, 65):
        world.histogram(number)
    assert world.check() == SESSIONS_GIVE_WAY
    assert world.left("session") == []
    for number in range(65, 85):
        world.histogram(number)
    assert world.check() == REST_GIVES_WAY
    assert world.left("outbox") == [histogram_name(number) for number in range(5, 85)]


def test_a_disk_that_others_fill_costs_no_histogram(world: World) -> None:
    world.disk_size = 100 * KIB
    world.taken_by_others = 90 * KIB
    world.budget.limits = Limits(0, 60 * KIB)
    world.session(1)
    world.histogram(1)
    put(world.seen.path, KIB)
    with capture_logs() as logs:
        assert world.check(3) == CANNOT_BE_KEPT
    assert world.left("session") == []
    assert world.left("outbox") == [histogram_name(1)]
    assert world.seen.held == []
    assert not world.budget.admit(1)
    assert next(line["event"] for line in logs if line["log_level"] == "error").startswith("too little disk")
    world.taken_by_others = 0
    assert world.check() == ENOUGH
    assert world.budget.admit(KIB)


def test_without_bounds_rows_are_admitted_whatever_the_disk_says(world: World) -> None:
    world.disk_size = 0
    world.session(1)
    assert world.check() == ENOUGH
    assert world.budget.admit(1 << 40)
    assert world.left("session") == [session_name(1)]


# Who asks before writing


def test_rows_take_the_place_of_the_oldest_files(world: World) -> None:
    for number in range(10):
        world.session(number)
    world.budget.limits = Limits(16 * KIB, 0)
    world.budget.start()
    try:
        assert world.budget.admit(5 * KIB)
        assert len(world.left("session")) == 10
        world.sessions.waiting_bytes = 5 * KIB
        assert world.budget.admit(3 * KIB)
        assert world.left("session") == [session_name(number) for number in range(3, 10)]
        world.sessions.waiting_bytes = 8 * KIB
        assert not world.budget.admit(15 * KIB)  # however many files went, it would not fit
    finally:
        world.budget.stop(10)
    assert not world.budget._thread.is_alive()


def test_who_was_refused_need_not_wait_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK", 3600.0)
    monkeypatch.setattr(module, "PATIENCE", 3600.0)
    put(world.data.seen_names / "names-00000002.seen", 10 * KIB)
    world.budget.limits = Limits(10 * KIB, 0)
    world.budget.start()
    try:
        assert not world.budget.admit(KIB)  # after a look at the disk
        assert not any(world.budget.admit(KIB) for _ in range(1000))
        world.budget.reload(Limits(30 * KIB, 0))
        wait_until(lambda: world.budget.admit(KIB), "the new bound leaves room")
    finally:
        world.budget.stop(10)


def test_a_stuck_disk_refuses_after_a_moment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    world.budget.limits = Limits(KIB, 0)
    # The thread never runs, as if the disk did not answer it.
    assert not world.budget.admit(1)
    assert not world.budget.admit(1)


# What must not be touched, and what can go wrong


def foreign(world: World) -> Iterator[Path]:
    for folder, names in (
        (world.data.sessions, ["notes.txt", "dns_session_block-.parquet", session_name(1) + ".bak"]),
        (world.data.sessions, [session_name(1).upper(), "my-" + session_name(1), "x.parquet.tmp"]),
        (world.data.outbox, ["dns_histogram-yesterday.parquet", histogram_name(1) + ".gz"]),
        (world.data.sent, ["dns_histogram-2026-11-01_2026-11-02.parquet", session_name(1)]),
        (world.data.queue, ["queue.sqlite3.backup", "queue"]),
        (world.data.seen_names, ["lock", "names.seen", "names-1.seen.corrupt.old"]),
    ):
        for name in names:
            yield put(folder / name, 5 * KIB)
    directory = world.data.sessions / session_name(2)
    directory.mkdir()
    yield directory
    target = put(world.data.root / "precious", 5 * KIB)
    link = world.data.sessions / session_name(3)
    link.symlink_to(target)
    yield from (target, link)


def test_foreign_files_are_neither_counted_nor_touched(world: World) -> None:
    others = list(foreign(world))
    world.session(9)
    world.budget.limits = Limits(1, 0)
    with capture_logs():
        world.check(4)
    assert all(os.path.lexists(path) for path in others)
    assert not (world.data.sessions / session_name(9)).exists()
    assert sum(world.metrics.value("edm_disk_bytes", kind=kind) or 0 for kind in KINDS) == 0


def test_a_removed_file_can_be_read_on(world: World) -> None:
    path = world.session(1)
    path.write_bytes(b"rows" * KIB)
    world.budget.limits = Limits(1, 0)
    with path.open("rb") as reader:
        world.check()
        assert not path.exists()
        assert reader.read() == b"rows" * KIB


def test_where_a_file_cannot_be_removed_what_comes_later_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        world.session(number)
    world.histogram(1)
    world.budget.limits = Limits(1, 0)
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name == session_name(1):
            raise OSError(errno.EPERM, "Operation not permitted")
        real(path, missing_ok)

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(Path, "unlink", unlink)
        assert world.check(3) == CANNOT_BE_KEPT
    assert world.left("session") == [session_name(1)]
    assert world.left("outbox") == [histogram_name(1)]
    assert world.metrics.value("edm_disk_budget_errors_total") == 3
    (first, *_) = [line for line in logs if line["event"] == "file cannot be removed to make room"]
    assert first["reason"] == "Operation not permitted"
    assert first["filename"].endswith(session_name(1))
    world.check()
    assert world.left("session") == world.left("outbox") == []


def test_a_folder_that_cannot_be_read(world: World) -> None:
    world.session(1)
    world.data.outbox.rmdir()
    put(world.data.outbox, 1)
    world.budget.limits = Limits(1, 0)
    with capture_logs() as logs:
        world.budget.check()
    assert [line["event"] for line in logs] == ["disk usage cannot be measured"]
    assert "outbox" in logs[0]["reason"]
    assert world.metrics.value("edm_disk_budget_errors_total") == 1
    assert world.left("session") == [session_name(1)]


def test_folders_that_are_not_there_hold_nothing(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    found = Disk(data).look()
    assert found.total == 0
    assert set(found.devices) == set(KINDS)
    assert found.free_beside("queue") > 0


def test_what_changes_is_seen_at_the_next_look(world: World) -> None:
    disk = Disk(world.data)

    def old(path: Path) -> None:
        # So long ago that the folder's time is believed.
        os.utime(path, ns=(10**18, path.stat().st_mtime_ns - 10**10))

    old(world.data.sessions)
    assert disk.look().total == disk.look().total == 0
    world.session(1, 1000)
    tmp = put(world.data.sessions / f"dns_session_block-{time_name(2)}-7.parquet.tmp", 10)
    assert disk.look().size("session") == 1010
    old(world.data.sessions)
    assert disk.look().size("session") == 1010
    put(tmp, 500)
    assert disk.look().size("session") == 1500
    tmp.unlink()
    (world.data.sessions / session_name(1)).unlink()
    assert disk.look().total == 0


# With the real queue and the real store


def queue_with(path: Path, events: int) -> Backlog:
    backlog = Backlog(path, 1 << 30)
    for first in range(0, events, 500):
        backlog.put(list(chunks_of([block_of(payloads(first, first + 500))])))
    return backlog


def taken(backlog: Backlog) -> Iterable[bytes]:
    while entries := backlog.take(1):
        for entry in entries:
            yield from entry.chunk.messages(entry.chunk.done, len(entry.chunk))


def test_the_oldest_events_go_and_the_file_becomes_smaller(world: World) -> None:
    backlog = queue_with(world.data.queue / "queue.sqlite3", 20_000)
    in_flight = backlog.take(1)
    budget = world.budget_for(Limits(2 << 20, 0), backlog, world.seen)
    before = Disk(world.data).look().size("queue")
    with capture_logs():
        budget.check()
    after = Disk(world.data).look().size("queue")
    assert after <= 2 << 20
    assert world.metrics.value("edm_disk_shed_bytes_total", kind="queue") == pytest.approx(
        before - after, abs=64 * KIB
    )
    dropped = backlog.dropped["disk_budget"]
    assert dropped == world.metrics.value("edm_disk_shed_rows_total", kind="queue")
    assert 0 < dropped < 20_000
    # Not more than was needed, and not what is being sent.
    assert after > (2 << 20) - 256 * KIB
    sent = [m for e in in_flight for m in e.chunk.messages(0, len(e.chunk))]
    assert sent == payloads(0, 500)
    backlog.acknowledge([entry.id for entry in in_flight], None, sent=500, failed=0)
    assert list(taken(backlog)) == payloads(500 + dropped, 20_000)
    totals = backlog.totals
    assert totals["queued"] == totals["sent"] + totals["dropped"] + backlog.disk_events
    backlog.close()


def test_seen_names_stay_known_while_they_give_way(world: World) -> None:
    def names(first: int, stop: int) -> list[bytes]:
        return [wire(f"host{number}.example.com") for number in range(first, stop)]

    folder = world.data.seen_names
    with SeenStore.open(folder, limit_entries=300, sync=False, first_slots=64) as store:
        assert all(insert(store, names(0, 500)))
        assert world.left("seen") == ["lock", "names-00000001.seen", "names-00000002.seen"]
        budget = world.budget_for(Limits(KIB, 0), None, store)
        with capture_logs():
            budget.check()  # holds
            size = (folder / "names-00000002.seen").stat().st_size
            assert all(insert(store, names(500, 550)))
            assert (folder / "names-00000002.seen").stat().st_size == size
            budget.check()  # removes the previous generation
        assert world.left("seen") == ["lock", "names-00000002.seen"]
        assert world.shed("seen")[0] == 1
        assert not any(insert(store, names(0, 550)))
        budget.limits = NOTHING
        budget.check()
        store.flush()
        assert (folder / "names-00000002.seen").stat().st_size > size
        assert store.unsaved == 0
    with SeenStore.open(folder, limit_entries=300, sync=False, first_slots=64) as store:
        assert not any(insert(store, names(300, 550)))
