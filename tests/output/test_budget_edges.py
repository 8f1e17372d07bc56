"""Files that the budget must not remove, disk errors, and the real queue and store of seen names."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from edm.output import budget
from edm.output.budget import (
    CANNOT_BE_KEPT,
    Limits,
)
from edm.output.paths import DataDirectory
from edm.output.usage import KINDS, Disk, StoredFile
from edm.stages.new_qname.seen.store import SeenStore
from edm.tapir.events.backlog import Backlog
from edm.tapir.events.chunks import chunks_of
from output.budgets import KIB, NOTHING, World, histogram_name, put, session_name, time_name
from stages.new_qname.batches import insert, wire
from support.events import block_of, payloads


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


def test_rows_are_counted_whatever_the_path(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("the file system takes no such name")
    whole, damaged = folder / "whole.parquet", folder / "damaged.parquet"
    with whole.open("wb") as file:
        pq.write_table(pa.table({"colname": [1, 2, 3]}), file, store_schema=False)
    damaged.write_bytes(whole.read_bytes().replace(b"PAR1", b"\xff\xfe\xfd\xfc"))
    assert [budget._rows_in(StoredFile(path, 1, 1, False), "session") for path in (whole, damaged)] == [3, 0]
