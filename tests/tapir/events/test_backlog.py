from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from structlog.testing import capture_logs

from edm.errors import OutputError
from edm.tapir.events import backlog as module
from edm.tapir.events.backlog import Backlog
from edm.tapir.events.chunks import chunks_of
from edm.tapir.events.queue_database import DiskError
from edm.tapir.events.queue_file import Entry, QueueFile
from support.events import block_of, payloads

BIG = 1 << 30


def put(backlog: Backlog, first: int, stop: int) -> bool:
    return backlog.put(list(chunks_of([block_of(payloads(first, stop))])))


def events_of(entries: list[Entry]) -> list[bytes]:
    return [m for e in entries for m in e.chunk.messages(e.chunk.done, len(e.chunk))]


def accounted(backlog: Backlog) -> bool:
    """Tell whether the ledger balances, in this run and over the life of the file."""
    gone = backlog.sent + backlog.failed + sum(backlog.dropped.values()) + backlog.damaged
    return backlog.loaded + backlog.queued == gone + backlog.disk_events + backlog.memory_events


def test_the_oldest_events_make_room_on_the_disk(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path / "queue.sqlite3", BIG)
    for first in range(0, 10_000, 500):
        put(backlog, first, first + 500)
    taken = backlog.take(1)
    before = _stored(tmp_path)
    dropped, freed = backlog.shed(400_000)
    assert freed >= 400_000
    assert before - _stored(tmp_path) == pytest.approx(freed, abs=32 * 1024)
    assert backlog.dropped["disk_budget"] == dropped
    assert dropped < 5000  # not much more than was asked for
    assert accounted(backlog)
    assert events_of(taken) == payloads(0, 500)  # what is being sent stays
    rest = [event for entry in iter(lambda: backlog.take(1), []) for event in events_of(entry)]
    assert rest == payloads(500 + dropped, 10_000)
    # What is asked beyond what is there takes all but what is being sent.
    assert backlog.shed(1 << 40)[0] == 0
    assert accounted(backlog)
    backlog.rewind()
    assert backlog.shed(1 << 40)[0] == 10_000 - dropped
    assert backlog.disk_events == 0
    assert accounted(backlog)
    backlog.close()
    assert backlog.shed(1) == (0, 0)
    again = Backlog(tmp_path / "queue.sqlite3", BIG)
    assert again.loaded == 0
    assert again.totals["dropped"] == again.totals["queued"] == 10_000
    again.close()


def test_room_of_entries_that_are_gone_is_given_back_first(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path / "queue.sqlite3", BIG)
    for first in range(0, 10_000, 500):
        put(backlog, first, first + 500)
    gone = [entry for _ in range(10) for entry in backlog.take(1)]
    backlog.acknowledge([entry.id for entry in gone], None, sent=5000, failed=0)
    assert backlog.shed(1)[0] == 0  # the log alone was enough
    dropped, freed = backlog.shed(400_000)
    assert dropped == 0
    assert freed >= 400_000
    assert backlog.disk_events == 5000
    backlog.close()


def test_what_is_sent_is_not_dropped_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    backlog = Backlog(tmp_path / "queue.sqlite3", BIG)
    put(backlog, 0, 500)
    (entry,) = backlog.take(1)
    disk.full = True
    with capture_logs():
        backlog.acknowledge([], (entry.id, 200), sent=200, failed=0)  # cannot be noted
        backlog.rewind()
        assert backlog.shed(1 << 40) == (0, 0)
    disk.full = False
    assert backlog.shed(1 << 40)[0] == 300
    assert accounted(backlog)
    assert backlog.totals["sent"] == 200
    backlog.close()


def test_a_queue_in_memory_has_nothing_to_give() -> None:
    backlog = Backlog(None, BIG)
    put(backlog, 0, 10)
    assert backlog.shed(1000) == (0, 0)
    assert backlog.memory_events == 10


def _stored(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("queue.sqlite3*") if path.suffix != ".sqlite3-shm")


@pytest.fixture(params=["disk", "memory"])
def backlog(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = Backlog(tmp_path / "queue.sqlite3" if request.param == "disk" else None, BIG)
    yield made
    made.close()


def test_taking_acknowledging_and_starting_over(backlog: Backlog) -> None:
    for first in range(0, 30, 10):
        put(backlog, first, first + 10)
    taken = backlog.take(1) + backlog.take(1)
    assert events_of(taken) == payloads(0, 20)
    backlog.acknowledge([taken[0].id], (taken[1].id, 4), sent=13, failed=1)
    assert accounted(backlog)
    backlog.rewind()
    again = backlog.take(1) + backlog.take(1) + backlog.take(1)
    assert events_of(again) == payloads(14, 30)
    backlog.acknowledge([entry.id for entry in again], None, sent=16, failed=0)
    assert backlog.take(1) == []
    assert backlog.disk_events == backlog.memory_events == 0
    assert accounted(backlog)


def test_putting_wakes_and_says_whether_it_is_safe(backlog: Backlog) -> None:
    calls: list[int] = []
    backlog.on_put = lambda: calls.append(1)
    assert put(backlog, 0, 5) is (backlog.disk_events == 5)
    assert calls == [1]


def test_putting_says_that_events_are_stored_before_anybody_can_fetch_them(backlog: Backlog) -> None:
    seen: list[tuple[int, int]] = []
    fetched: list[list[Entry]] = []
    fetcher = threading.Thread(target=lambda: fetched.append(backlog.take(1)))

    def stored() -> None:
        seen.append((backlog.disk_events, backlog.memory_events))
        fetcher.start()
        fetcher.join(0.05)
        assert not fetched

    backlog.put(list(chunks_of([block_of(payloads(0, 5))])), stored=stored)
    fetcher.join()
    assert seen in ([(5, 0)], [(0, 5)])
    assert events_of(fetched[0]) == payloads(0, 5)


def test_putting_says_so_too_if_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise DiskError("database or disk is full", full=True)

    backlog = Backlog(tmp_path / "queue.sqlite3", BIG)
    monkeypatch.setattr(QueueFile, "insert", full)
    calls: list[int] = []
    with capture_logs():
        backlog.put(list(chunks_of([block_of(payloads(0, 5))])), stored=lambda: calls.append(1))
    assert (calls, backlog.memory_events) == ([1], 5)
    monkeypatch.undo()
    backlog.close()


def test_restart(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite3"
    first = Backlog(path, BIG)
    put(first, 0, 10)
    put(first, 10, 20)
    first.acknowledge([first.take(1)[0].id], None, sent=10, failed=0)
    first.take(1)
    assert first.close() == 0
    second = Backlog(path, BIG)
    assert second.loaded == 10
    assert events_of(second.take(1)) == payloads(10, 20)
    assert second.totals["queued"] == 20
    assert second.totals["sent"] == 10
    assert accounted(second)
    second.close()


def test_memory_is_bounded(tmp_path: Path) -> None:
    backlog = Backlog(None, BIG, memory=5000)
    dropped: list[tuple[str, int]] = []
    backlog.on_dropped = lambda reason, events: dropped.append((reason, events))
    for first in range(100, 200, 10):
        put(backlog, first, first + 10)
    kept = events_of([e for _ in range(10) for e in backlog.take(1)])
    assert kept == payloads(200 - len(kept), 200)
    assert sum(map(len, kept)) <= 5000
    assert sum(events for _, events in dropped) == 100 - len(kept) == backlog.dropped["memory_full"]
    assert accounted(backlog)
    backlog.rewind()
    with capture_logs():
        assert backlog.close() == len(kept) == backlog.dropped["shutdown"]


def test_disk_bound_is_counted(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path / "queue.sqlite3", 64 * 1024)
    for first in range(0, 2000, 100):
        put(backlog, first, first + 100)
    assert backlog.disk_bytes <= 64 * 1024
    assert backlog.dropped["queue_full"] == 2000 - backlog.disk_events > 0
    assert accounted(backlog)
    backlog.close()


class FullDisk:
    """Makes a queue file fail as on a full disk, for as long as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.readable = True
        for name in ("insert", "acknowledge", "read"):
            monkeypatch.setattr(QueueFile, name, self._wrap(name, getattr(QueueFile, name)))
        monkeypatch.setattr(module, "_RETRY", 0.0)

    def _wrap(self, name: str, real: Any) -> Any:
        def method(*args: Any, **kwargs: Any) -> Any:
            if self.full and (name != "read" or not self.readable):
                raise DiskError("database or disk is full", full=True)
            return real(*args, **kwargs)

        return method


def test_a_full_disk_is_ridden_out_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    backlog = Backlog(tmp_path / "queue.sqlite3", BIG)
    put(backlog, 0, 10)
    disk.full = True
    with capture_logs() as logs:
        assert not put(backlog, 10, 20)
    assert "cannot be written" in logs[0]["event"]
    assert (backlog.disk_events, backlog.memory_events) == (10, 10)
    disk.full = False
    backlog.maintain()
    assert (backlog.disk_events, backlog.memory_events) == (20, 0)
    assert events_of(backlog.take(100)) == payloads(0, 20)
    assert accounted(backlog)
    backlog.close()


def test_what_was_sent_while_the_disk_was_full_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    backlog = Backlog(tmp_path / "queue.sqlite3", BIG)
    put(backlog, 0, 10)
    put(backlog, 10, 20)
    disk.full = True
    put(backlog, 20, 30)
    entries = backlog.take(1) + backlog.take(1) + backlog.take(1)
    assert events_of(entries) == payloads(0, 30)
    backlog.acknowledge([entries[0].id], (entries[1].id, 5), sent=15, failed=0)
    backlog.rewind()
    assert events_of(backlog.take(1)) == payloads(15, 20)
    disk.full = False
    backlog.maintain()
    assert backlog.totals == {"queued": 30, "sent": 15, "failed": 0, "dropped": 0, "damaged": 0}
    backlog.rewind()
    assert events_of([e for _ in range(3) for e in backlog.take(1)]) == payloads(15, 30)
    assert accounted(backlog)
    backlog.close()


def test_memory_goes_first_when_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    backlog = Backlog(tmp_path / "queue.sqlite3", BIG)
    put(backlog, 0, 10)
    disk.full = True
    put(backlog, 10, 20)
    assert events_of(backlog.take(1, memory_first=True)) == payloads(10, 20)
    backlog.close()


def test_a_damaged_entry_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite3"
    first = Backlog(path, BIG)
    put(first, 0, 10)
    put(first, 10, 30)
    put(first, 30, 40)
    first.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE entries SET crc = 1 WHERE id = 2")
        db.commit()
    second = Backlog(path, BIG)
    with capture_logs() as logs:
        assert events_of(second.take(100)) == [*payloads(0, 10), *payloads(30, 40)]
    assert [(line["events"], line["log_level"]) for line in logs] == [(20, "error")]
    assert second.damaged == 20
    assert accounted(second)
    second.close()


def test_a_damaged_file_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite3"
    path.write_bytes(b"\xff" * 10_000)
    with capture_logs() as logs:
        backlog = Backlog(path, BIG)
    assert "set aside" in logs[0]["event"]
    assert logs[0]["lost"] == "unknown"
    assert put(backlog, 0, 10)
    assert accounted(backlog)
    backlog.close()


def test_a_file_damaged_while_running(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite3"
    backlog = Backlog(path, BIG)
    for first in range(0, 4000, 100):
        put(backlog, first, first + 100)
    entry = backlog.take(1)[0]
    assert backlog._disk.file is not None
    backlog._disk.file._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xff" * 16384)
    backlog._disk.file._db.execute("PRAGMA cache_size = 0")
    with capture_logs() as logs:
        left = [entry]
        while taken := backlog.take(1):
            left += taken
    assert any("set aside" in line["event"] for line in logs)
    assert backlog.damaged > 0
    assert len(events_of(left)) + backlog.damaged == 4000
    assert accounted(backlog)
    # What was fetched before can still be acknowledged.
    backlog.acknowledge([entry.id], None, sent=100, failed=0)
    assert accounted(backlog)
    backlog.close()


def test_the_file_is_opened_anew_when_it_has_vanished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "queue.sqlite3"
    backlog = Backlog(path, BIG)
    monkeypatch.setattr(module, "_RETRY", 0.0)
    assert backlog._disk.file is not None
    real = backlog._disk.file.insert

    def failing(*_: Any) -> int:
        raise DiskError("disk I/O error")

    monkeypatch.setattr(backlog._disk.file, "insert", failing)
    with capture_logs() as logs:
        assert not put(backlog, 0, 5)
    assert logs
    assert put(backlog, 5, 10)
    assert backlog._disk.file.insert.__func__ is real.__func__  # type: ignore[attr-defined]
    assert events_of(backlog.take(100)) == payloads(0, 10)
    backlog.close()


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        Backlog(tmp_path / "file" / "queue.sqlite3", BIG)
    (tmp_path / "queue.sqlite3").mkdir()
    with pytest.raises(OutputError, match="Is a directory"):
        Backlog(tmp_path / "queue.sqlite3", BIG)


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: nothing is lost, nothing is made up, everything is counted."""

    folder: Path
    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.disk = FullDisk(pytest.MonkeyPatch())
        self.path = self.folder / f"{next(self.numbers)}.sqlite3"
        self.backlog = Backlog(self.path, BIG)
        self.number = 0
        self.flying: list[tuple[Entry, int]] = []
        self.done: list[bytes] = []
        self.shed_events = 0

    @rule(count=st.integers(1, 8))
    def put(self, count: int) -> None:
        put(self.backlog, self.number, self.number + count)
        self.number += count

    @rule()
    def take(self) -> None:
        self.flying += [(entry, entry.chunk.done) for entry in self.backlog.take(1)]

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        whole = data.draw(st.integers(0, len(self.flying)))
        sent = 0
        finished = []
        for entry, done in self.flying[:whole]:
            finished.append(entry.id)
            self.done += entry.chunk.messages(done, len(entry.chunk))
            sent += len(entry.chunk) - done
        del self.flying[:whole]
        partial = None
        if self.flying:
            entry, done = self.flying[0]
            upto = data.draw(st.integers(done, len(entry.chunk) - 1))
            if upto > done:
                partial = entry.id, upto
                self.done += entry.chunk.messages(done, upto)
                sent += upto - done
                self.flying[0] = entry, upto
        self.backlog.acknowledge(finished, partial, sent=sent, failed=0)

    @rule()
    def rewind(self) -> None:
        self.backlog.rewind()
        self.flying = []

    @rule(full=st.booleans(), readable=st.booleans())
    def fill_disk(self, full: bool, readable: bool) -> None:
        self.disk.full, self.disk.readable = full, readable

    @rule()
    def maintain(self) -> None:
        self.backlog.maintain()

    @rule(size=st.integers(1, 4000))
    def shed(self, size: int) -> None:
        self.shed_events += self.backlog.shed(size)[0]

    @rule()
    def restart(self) -> None:
        self.disk.full = False
        before = self.backlog.totals
        assert self.backlog.close() == 0
        self.flying = []
        self.backlog = Backlog(self.path, BIG)
        assert self.backlog.totals["queued"] >= before["queued"]
        assert self.backlog.loaded == self.number - len(self.done) - self.shed_events
        totals = self.backlog.totals
        assert totals["dropped"] == self.shed_events
        assert (
            totals["queued"] == totals["sent"] + totals["dropped"] + self.backlog.disk_events == self.number
        )

    @invariant()
    def balance(self) -> None:
        assert accounted(self.backlog)
        assert self.backlog.disk_events >= 0
        assert self.backlog.memory_events >= 0

    def teardown(self) -> None:
        self.disk.full = False
        self.backlog.rewind()
        self.backlog.maintain()
        rest: list[bytes] = []
        while taken := self.backlog.take(1):
            rest += events_of(taken)
        left = self.done + rest
        assert len(set(left)) == len(left) == self.number - self.shed_events
        assert set(left) <= set(payloads(0, self.number))
        self.backlog.close()


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
def test_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("insert", "acknowledge", "read"):
        monkeypatch.setattr(QueueFile, name, getattr(QueueFile, name))
    monkeypatch.setattr(module, "_RETRY", 0.0)

    class Here(AnyOrder):
        folder = tmp_path

    from hypothesis.stateful import run_state_machine_as_test

    with capture_logs():
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Here, settings=settings(max_examples=20, stateful_step_count=25, deadline=None)
        )
