"""The whole engine, and the daemon, on a disk that is full, read-only, slow, or kept within a budget."""

from __future__ import annotations

import io
import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from edm.engine import Engine
from edm.input.reader import FrameReader
from edm.kernel.jit import JIT_DISABLED
from edm.observe.ledger import FATE_NAMES
from edm.observe.metrics import Metrics
from edm.output import histogram_file, histogram_writer, session_file, session_writer
from edm.output.budget import DiskBudget, Limits
from edm.stages.new_qname.seen import log as log_module
from support import golden
from support.daemon import HISTOGRAMS, SESSIONS, Daemon
from support.processes import wait_until
from support.small_disk import SmallDisk, read_only, small_disk

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="thousands of frames take minutes without JIT")

MIB = 1 << 20
PART = 6000


@pytest.fixture(scope="module")
def frames() -> list[bytes]:
    return golden.frames("unbound")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_writer, "RETRY", 0.02)
    monkeypatch.setattr(histogram_writer, "RETRY", 0.02)


class Rig:
    """A running engine that is fed from memory."""

    def __init__(self, data: Path, *, workers: int = 1, **settings: object) -> None:
        self.metrics = Metrics()
        self.data = data
        self.engine = Engine(golden.golden_config(data, workers, **settings), self.metrics, events=True)
        self.engine.start()
        self.budget: DiskBudget | None = None
        self.sent = 0
        self.running = True
        self._before = rows_in(data, SESSIONS), rows_in(data, HISTOGRAMS)

    def keep_within(self, limits: Limits) -> DiskBudget:
        """Give the engine a budget, for which the disk is looked at only when the test says so."""
        engine = self.engine
        budget = DiskBudget(engine.data, self.metrics, limits, engine.session_writer, None, engine.seen)
        self.budget = budget
        engine.session_writer.admit = budget.admit
        return budget

    def feed(self, frames: list[bytes]) -> None:
        """Hand frames in; return when the workers have handled them all."""
        reader = FrameReader(self.engine.intake, self.engine.config.max_frame_size)
        source = io.BytesIO(b"".join(frames))
        while reader.pump_block(source.readinto) > 0:
            pass
        self.sent += len(frames)
        assert self.engine.intake.drain(60), "the intake stands still"

    def counted(self, name: str, **labels: str) -> int:
        return int(self.metrics.value(name, **labels) or 0)

    def fate(self, name: str) -> int:
        return self.counted("edm_frames_total", fate=name)

    @property
    def pending(self) -> int:
        return self.engine.session_writer.pending + self.engine.histogram_writer.pending

    def settle(self) -> None:
        wait_until(lambda: self.pending == 0, "everything is written")

    def stop(self) -> None:
        if self.running:
            self.running = False
            self.engine.stop(take_events=self.take_events)

    def take_events(self) -> None:
        """Take what waits, as the daemon does, to whom events are safe when they are in the queue on disk."""
        while (block := self.engine.event_queue.get(0.0)) is not None:
            block.save_names()

    def check(self) -> None:
        """Every frame has a fate; what is on disk is whole and, with what was counted as lost, all there is."""
        self.stop()
        assert self.counted("edm_frames_received_total") == self.sent
        assert sum(self.fate(name) for name in FATE_NAMES) == self.sent
        assert self.fate("pending") == 0
        assert self.counted("edm_ledger_intervals_total", result="imbalance") == 0
        removed = {
            kind: self.counted("edm_disk_shed_rows_total", kind=kind) for kind in ("session", "outbox")
        }
        sessions = rows_in(self.data, SESSIONS) + removed["session"] - self._before[0]
        assert sessions == self.counted("edm_session_rows_written_total")
        assert sessions + self.counted("edm_session_rows_shed_total") == self.fate("session")
        histograms = rows_in(self.data, HISTOGRAMS) + removed["outbox"] - self._before[1]
        assert histograms == self.counted("edm_histogram_rows_total")
        assert not list(self.data.rglob("*.tmp"))


def rows_in(data: Path, pattern: str) -> int:
    """Read every file that has a final name to the end."""
    return sum(pq.read_table(path).num_rows for path in data.glob(pattern))


def answers_in(data: Path) -> int:
    """Return how many answers the histograms have counted."""
    counts = ("ok_count", "nx_count", "fail_count", "other_rcode_count")
    return sum(
        int(np.sum(table[count].to_numpy()))
        for path in data.glob(HISTOGRAMS)
        for table in [pq.read_table(path)]
        for count in counts
    )


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(*args: Any, **settings: Any) -> Rig:
        made.append(Rig(*args, **settings))
        return made[-1]

    with capture_logs():
        yield make
        for one in made:
            one.stop()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 16 * MIB) as made:
        yield made


# Full


@pytest.mark.usefixtures("impatient")
def test_a_full_disk_costs_nothing_if_room_comes_in_time(
    rig: Callable[..., Rig], disk: SmallDisk, frames: list[bytes]
) -> None:
    one = rig(disk.data, workers=2)
    parts = [frames[i : i + PART] for i in range(0, 5 * PART, PART)]
    one.feed(parts[0])
    one.engine.rotate()
    one.settle()
    one.feed(parts[1])
    disk.fill()
    one.engine.rotate()
    for part in parts[2:4]:
        one.feed(part)
        one.engine.rotate()
    wait_until(
        lambda: (
            one.counted("edm_files_written_total", kind="session", result="error") > 2
            and one.counted("edm_files_written_total", kind="histogram", result="error") > 2
        ),
        "both writers try again",
    )
    assert one.engine.histogram_writer.pending == 3
    whole = answers_in(disk.data)
    disk.clear()
    one.settle()
    assert answers_in(disk.data) > whole
    one.feed(parts[4])
    one.check()
    assert one.counted("edm_session_rows_shed_total") == 0
    assert one.counted("edm_histogram_rows_lost_total") == 0
    assert answers_in(disk.data) == one.fate("well_known")
    again = rig(disk.data)
    again.feed(frames[: 5 * PART])
    assert again.counted("edm_new_qname_queued_total") == 0


@pytest.mark.usefixtures("impatient")
def test_beyond_the_bound_what_is_lost_is_counted(
    rig: Callable[..., Rig], disk: SmallDisk, frames: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edm.engine.SESSION_ROWS", 1000)
    part = frames[: 4 * PART]
    one = rig(disk.data, histogram_pending_bytes=MIB)
    one.feed(part)
    one.engine.rotate()
    one.settle()
    rows_each = one.counted("edm_histogram_rows_total")
    sessions_each = one.fate("session")
    assert rows_each > 100
    disk.fill()
    for _ in range(12):
        one.feed(part)
        one.engine.rotate()
    lost = "edm_histogram_rows_lost_total"
    wait_until(lambda: one.counted(lost) > 0, "histograms are given up")
    # At most the bound and the newest are held, once the writer has tried again with all that came meanwhile.
    pending = one.engine.histogram_writer._pending
    wait_until(
        lambda: sum(retired.state_bytes for retired in list(pending)[:-1]) <= MIB, "only the bound is held"
    )
    wait_until(lambda: one.counted("edm_session_rows_shed_total") > 0, "session rows are shed")
    disk.clear()
    one.settle()
    one.check()
    assert one.counted(lost) % rows_each == 0
    assert one.counted("edm_histogram_rows_total") + one.counted(lost) == 13 * rows_each
    assert one.fate("session") == 13 * sessions_each
    shed = sum(
        int(pq.read_metadata(path).metadata[b"edm.session_rows_shed"]) for path in disk.data.glob(SESSIONS)
    )
    assert 0 < shed <= one.counted("edm_session_rows_shed_total")


@pytest.mark.usefixtures("impatient")
def test_a_stop_on_a_full_disk_counts_what_is_lost(
    rig: Callable[..., Rig], disk: SmallDisk, frames: list[bytes]
) -> None:
    one = rig(disk.data)
    one.feed(frames[:PART])
    one.engine.rotate()
    one.settle()
    disk.fill()
    one.feed(frames[PART : 3 * PART])
    with capture_logs() as logs:
        one.check()
    assert one.counted("edm_session_rows_shed_total") > 0
    assert one.counted("edm_histogram_rows_lost_total") > 0
    told = {line["event"] for line in logs if line.get("reason") == "stopping while writing fails"}
    assert told == {"session rows shed", "histogram lost"}
    # A start finds a disk that is full, and works; then one with room.
    again = rig(disk.data)
    again.feed(frames[:PART])
    disk.clear()
    again.check()
    assert again.counted("edm_session_rows_shed_total") == 0


@pytest.mark.usefixtures("impatient")
def test_folders_that_turn_read_only(rig: Callable[..., Rig], disk: SmallDisk, frames: list[bytes]) -> None:
    one = rig(disk.data)
    one.feed(frames[:PART])
    with read_only(one.engine.data.sessions, one.engine.data.outbox):
        for first in range(PART, 4 * PART, PART):
            one.engine.rotate()
            one.feed(frames[first : first + PART])
        wait_until(
            lambda: one.counted("edm_files_written_total", kind="histogram", result="error") > 2, "tries"
        )
        assert rows_in(disk.data, HISTOGRAMS) == rows_in(disk.data, SESSIONS) == 0
    one.settle()
    one.check()
    assert one.counted("edm_session_rows_shed_total") == 0
    assert answers_in(disk.data) == one.fate("well_known")


# Everything at once


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("seed", range(int(os.environ.get("EDM_DISK_ROUNDS", "3"))))
def test_whatever_happens_every_row_is_somewhere(
    rig: Callable[..., Rig],
    disk: SmallDisk,
    frames: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    """Full, emptied, read-only, within a budget and stopped, in any order: nothing is lost uncounted."""
    monkeypatch.setattr("edm.engine.SESSION_ROWS", 1000)
    monkeypatch.setattr("edm.output.budget.PATIENCE", 0.0)
    chance = random.Random(seed)
    events = 0
    for _ in range(3):
        one = rig(disk.data, workers=chance.choice((1, 2)), histogram_pending_bytes=chance.choice((0, MIB)))
        limits = Limits(chance.choice((0, 2 * MIB)), chance.choice((0, 4 * MIB)))
        budget = one.keep_within(limits)
        for _ in range(15):
            act = chance.choice(("feed", "feed", "feed", "rotate", "fill", "clear", "look", "read-only"))
            if act == "feed":
                first = chance.randrange(len(frames) - PART)
                one.feed(frames[first : first + PART])
            elif act == "rotate":
                one.engine.rotate()
            elif act == "fill":
                disk.fill(chance.randrange(0, 40) * 4096)
            elif act == "clear":
                disk.clear()
            elif act == "look":
                budget.check()
            else:
                with read_only(one.engine.data.outbox, one.engine.data.sessions):
                    one.feed(frames[:PART])
                    one.engine.rotate()
                    budget.check()
        if chance.random() < 0.5:
            disk.clear()
            budget.check()
        one.check()
        events += one.counted("edm_new_qname_queued_total")
    assert events > 0


# Slow


class Valve:
    """Stands in for ``os`` in a module: while it is shut, one of its functions waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        self._open = threading.Event()
        self._open.set()
        self.waiting = threading.Event()
        real = getattr(module.os, name)

        def wait(*args: Any, **more: Any) -> Any:
            if not self._open.is_set():
                self.waiting.set()
                self._open.wait()
            return real(*args, **more)

        monkeypatch.setattr(module, "os", SimpleNamespace(**{**vars(module.os), name: wait}))

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()


def test_sessions_that_the_disk_does_not_answer(
    rig: Callable[..., Rig], tmp_path: Path, frames: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers wait once, not for every batch; rotations do not wait; what is shed is counted."""
    waits: list[float] = []
    monkeypatch.setattr(session_writer, "PATIENCE", 0.2)
    monkeypatch.setattr("edm.engine.SESSION_ROWS", 1000)
    monkeypatch.setattr(session_file, "ROW_GROUP_ROWS", 1000)
    monkeypatch.setattr(
        session_writer, "SessionFile", lambda tmp: session_file.SessionFile(tmp, row_group_rows=1000)
    )
    valve = Valve(monkeypatch, session_file, "writev")
    one = rig(tmp_path)
    writer = one.engine.session_writer
    real = writer._changed.wait_for

    def wait_for(predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        if threading.current_thread() is not writer._thread and not predicate() and timeout:
            waits.append(timeout)
        return real(predicate, timeout)

    monkeypatch.setattr(writer._changed, "wait_for", wait_for)
    valve.shut()
    one.feed(frames)
    assert valve.waiting.wait(60)
    one.engine.rotate()
    for _ in range(3):
        one.feed(frames)
        one.engine.rotate()
    assert waits == [0.2]
    assert one.counted("edm_processed_dnstap_total") == 4 * len(frames)
    assert one.counted("edm_session_rows_shed_total") > 0
    one.engine.histogram_writer.flush(60)
    assert answers_in(tmp_path) == one.fate("well_known")
    valve.open()
    wait_until(lambda: writer._batches_waiting == 0, "the writer catches up")
    shed = one.counted("edm_session_rows_shed_total")
    one.feed(frames)
    one.settle()
    one.check()
    assert one.counted("edm_session_rows_shed_total") == shed  # it has caught up: nothing more is shed


def test_histograms_that_the_disk_does_not_answer(
    rig: Callable[..., Rig], tmp_path: Path, frames: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(histogram_writer, "STUCK", 0.0)
    one = rig(tmp_path, histogram_pending_bytes=MIB)
    valve = Valve(monkeypatch, histogram_file, "fsync")
    one.feed(frames[: 2 * PART])
    one.engine.rotate()
    one.engine.histogram_writer.flush(60)
    rows_each = one.counted("edm_histogram_rows_total")
    valve.shut()
    for _ in range(9):
        one.feed(frames[: 2 * PART])
        one.engine.rotate()
        assert valve.waiting.wait(60)
    lost = one.counted("edm_histogram_rows_lost_total")
    assert lost > 0
    assert lost % rows_each == 0
    assert sum(retired.state_bytes for retired in list(one.engine.histogram_writer._pending)) <= MIB
    assert not list(tmp_path.glob(HISTOGRAMS))[1:]
    valve.open()
    one.check()
    assert one.counted("edm_histogram_rows_total") + lost == 10 * rows_each


def test_seen_names_that_the_disk_does_not_answer(
    rig: Callable[..., Rig], tmp_path: Path, frames: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intake goes on; who takes events waits until their names are with the operating system."""
    one = rig(tmp_path)
    valve = Valve(monkeypatch, log_module, "pwrite")
    valve.shut()
    handed_on = []

    def take() -> None:
        while (block := one.engine.event_queue.get()) is not None:
            block.save_names()
            handed_on.append(len(block))

    taker = threading.Thread(target=take)
    monkeypatch.setattr(one, "take_events", taker.join)
    taker.start()
    try:
        one.feed(frames)
        assert valve.waiting.wait(60)
        assert one.counted("edm_processed_dnstap_total") == len(frames)
        found = one.counted("edm_new_qname_queued_total")
        assert found == golden.expected_counters("unbound")["edm_new_qname_queued_total"]
        assert handed_on == []
        size = (tmp_path / "seen-names" / "names-00000001.seen").stat().st_size
        assert size == log_module.HEADER_BYTES
    finally:
        valve.open()
        one.stop()
        taker.join()
    assert sum(handed_on) == found
    one.check()


# The daemon, with a budget


def total(daemon: Daemon, name: str) -> int:
    return int(daemon.metric(name))


def by_kind(daemon: Daemon, what: str, kind: str) -> int:
    return int(daemon.metric(f"edm_disk_shed_{what}_total", kind=kind))


@pytest.mark.slow
def test_the_daemon_keeps_its_budget(tmp_path: Path, frames: list[bytes]) -> None:
    """A disk of 12 MiB takes hours of traffic: sessions make room for sessions, histograms all stay."""
    with small_disk(tmp_path / "disk", 12 * MIB) as disk:
        settings = golden.daemon_settings(tmp_path, data_dir=disk.data, disk_min_free_bytes=6 * MIB)
        with Daemon(tmp_path / "run", **settings) as daemon:
            sent = 0
            for _ in range(12):
                daemon.send(frames)
                sent += len(frames)
                daemon.rotate(settle=False)
                assert disk.free >= 3 * MIB
            daemon._wait(
                lambda: (
                    daemon.metric("edm_pending_intervals") == 0 and by_kind(daemon, "files", "session") > 0
                ),
                "old session files make room",
            )
            frames_total = sum(daemon.metric("edm_frames_total", fate=fate) for fate in FATE_NAMES)
            assert frames_total == sent
            written = total(daemon, "edm_session_rows_written_total")
            shed = total(daemon, "edm_session_rows_shed_total")
            total_sessions = int(daemon.metric("edm_frames_total", fate="session"))
            assert written + shed == total_sessions
            on_disk = rows_in(disk.data, SESSIONS)
            assert on_disk > 0
            assert on_disk + by_kind(daemon, "rows", "session") == written
            assert answers_in(disk.data) == daemon.metric("edm_frames_total", fate="well_known")
            assert by_kind(daemon, "files", "outbox") == 0
            names = [path.name for path in daemon.files(SESSIONS)]
            rotated = {entry["kind"] for entry in daemon.messages("removed to make room on the disk")}
            assert rotated == {"session"}
            # Somebody else takes nearly all: sessions go. More than all that could still go would bring back is
            # taken then, so histograms stay and go on being written.
            disk.fill(MIB)
            daemon.reload()  # which looks at the disk at once
            daemon._wait(lambda: daemon.files(SESSIONS) == [], "session files make room")
            disk.fill(MIB // 4)
            daemon.reload()
            daemon.wait_for_metric("edm_disk_budget_state", 3)
            before = len(daemon.files(HISTOGRAMS))
            daemon.send(frames)
            daemon.rotate(settle=False)
            daemon._wait(lambda: len(daemon.files(HISTOGRAMS)) > before, "the histogram is written")
            assert by_kind(daemon, "files", "outbox") == 0
            assert total(daemon, "edm_session_rows_written_total") == written
            assert total(daemon, "edm_session_rows_shed_total") == shed + total_sessions // 12
            # A kill on a disk without any room at all, and a start on the same.
            disk.fill()
            daemon.send(frames)
            daemon.kill()
            daemon.start()
            daemon.send(frames)
            disk.clear()
            daemon.reload()
            daemon._wait(lambda: daemon.metric("edm_disk_budget_state") < 2, "there is room again")
            daemon.send(frames)
            daemon.rotate(settle=False)
            daemon._wait(lambda: daemon.files(SESSIONS) != [], "sessions are stored again")
            assert daemon.stop() == 0, daemon.tail()
            assert "Traceback" not in daemon.tail()
            rows_in(disk.data, SESSIONS)
            rows_in(disk.data, HISTOGRAMS)
            assert names
            assert not list(disk.data.rglob("*.tmp"))


@pytest.mark.parametrize("inodes", [None, 6])
def test_no_room_to_start(tmp_path: Path, inodes: int | None) -> None:
    with small_disk(tmp_path / "disk", MIB, inodes=inodes) as disk:
        disk.fill()
        settings = golden.daemon_settings(tmp_path, data_dir=disk.data)
        daemon = Daemon(tmp_path / "run", **settings)
        daemon.start(wait=False)
        assert daemon.wait() == 1
        (line,) = daemon.errors()
        assert line["msg"] == "cannot start"
        assert str(disk.data) in line["startup_error"]
        assert line["startup_error"].endswith("No space left on device")
        assert "Traceback" not in daemon.tail()


@pytest.mark.slow
def test_bounds_are_reloaded(tmp_path: Path, frames: list[bytes]) -> None:
    settings = golden.daemon_settings(tmp_path, disk_min_free_bytes=0)
    with Daemon(tmp_path / "run", **settings) as daemon:
        for _ in itertools.repeat(None, 3):
            daemon.send(frames)
            daemon.rotate()
        files = daemon.files(SESSIONS)
        assert len(files) >= 3
        used = sum(path.stat().st_size for path in daemon.data.rglob("*") if path.is_file())
        # A little less than there is, and a sixteenth for the rest.
        daemon.reload(disk_budget_bytes=(used - 1000) * 16 // 15)
        daemon._wait(lambda: daemon.files(SESSIONS) == files[1:], "the oldest file makes room")
        assert by_kind(daemon, "files", "session") == 1
        assert daemon.metric("edm_reloads_total", part="disk_budget", result="ok") == 1
        daemon.reload(disk_budget_bytes=1)
        daemon._wait(lambda: daemon.files(SESSIONS) == daemon.files(HISTOGRAMS) == [], "all make room")
        assert daemon.stop() == 0
