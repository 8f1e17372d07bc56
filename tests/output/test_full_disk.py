"""Every output on a real file system that is full, with each possible number of free bytes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from edm.errors import EdmError, OutputError
from edm.observe.metrics import Metrics
from edm.output import debug_file, session_file, usage
from edm.output.budget import DiskBudget, Limits
from edm.output.debug_file import DebugFile
from edm.output.histogram_file import write_histogram
from edm.output.paths import DataDirectory
from edm.output.session_file import SessionFile
from edm.stages.histogram.schema import SCHEMA as HISTOGRAM_SCHEMA
from edm.stages.new_qname.seen import log as log_module
from edm.stages.new_qname.seen.store import SeenStore
from edm.stages.session.columns import SCHEMA
from edm.tapir.events import backlog as backlog_module
from edm.tapir.events.backlog import Backlog
from edm.tapir.events.chunks import chunks_of
from edm.tapir.upload.outbox import Outbox
from stages.new_qname.batches import insert, wire
from support.events import block_of, payloads
from support.processes import wait_until
from support.small_disk import SmallDisk, read_only, small_disk

PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 2 * MIB) as made:
        yield made


def session_rows(count: int, first: int = 0) -> pa.RecordBatch:
    columns = [pa.nulls(count, field.type) for field in SCHEMA]
    ports = pa.array([(first + i) % 65536 for i in range(count)], pa.uint16())
    columns[SCHEMA.get_field_index("source_port")] = ports
    messages = [os.urandom(100) for _ in range(count)]
    columns[SCHEMA.get_field_index("response_message")] = pa.array(messages, pa.binary())
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def histogram_rows(count: int) -> pa.Table:
    columns = []
    for field in HISTOGRAM_SCHEMA:
        if pa.types.is_string(field.type):
            columns.append(pa.array([os.urandom(8).hex() for _ in range(count)], field.type))
        elif pa.types.is_binary(field.type):
            columns.append(pa.array([os.urandom(50) for _ in range(count)], field.type))
        else:
            columns.append(pa.array(range(count), pa.int64()).cast(field.type))
    return pa.Table.from_arrays(columns, schema=HISTOGRAM_SCHEMA)


def test_a_histogram_is_whole_or_not_there(disk: SmallDisk) -> None:
    rows = histogram_rows(300)
    final = disk.folder / "dns_histogram-x.parquet"
    write_histogram(rows, final, {"k": "v"})
    size = final.stat().st_size
    final.unlink()
    assert size > 8 * PAGE
    failed = 0
    reasons: set[str] = set()
    for leave in range(0, size + 2 * PAGE, PAGE):
        disk.fill(leave)
        try:
            write_histogram(rows, final, {"k": "v"})
        except OutputError as error:
            failed += 1
            reasons.add(str(error).rpartition(": ")[2])
            assert [path.name for path in disk.folder.iterdir()] == ["ballast"]
        else:
            assert pq.read_table(final).equals(rows)
            final.unlink()
        disk.clear()
    assert failed == -(-size // PAGE)
    assert reasons == {"No space left on device"}


def test_a_session_file_waits_for_room_and_is_then_whole(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [session_rows(100, first) for first in range(0, 1000, 100)]
    final = disk.folder / "dns_session_block-x.parquet"
    failed = 0
    reasons: set[str] = set()
    for leave in range(0, 48 * PAGE, 3 * PAGE):
        disk.fill(leave)
        file = SessionFile(disk.folder / "x.tmp", row_group_rows=200)
        taken = refused = 0
        while taken < len(batches):
            try:
                file.write(batches[taken])
                taken += 1
            except OutputError as error:
                reasons.add(str(error).rpartition(": ")[2])
                assert not final.exists()
                refused += 1
                disk.clear()
                disk.fill(PAGE)  # a little room at a time
        try:
            file.close(final, {"k": "v"})
        except OutputError:
            refused += 1
            assert not final.exists()
            disk.clear()
            file.close(final, {"never": "taken"})
            disk.fill()
        table = pq.read_table(final)
        assert pa.table(table).equals(pa.Table.from_batches(batches))
        assert table.schema.metadata[b"k"] == b"v"
        assert not (disk.folder / "x.tmp").exists()
        final.unlink()
        disk.clear()
        failed += refused
    assert failed > 20
    assert reasons == {"No space left on device"}


def test_what_the_system_lost_is_never_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After fsync has failed the pages are gone, and the next fsync says that all is well."""
    file = SessionFile(tmp_path / "x.tmp")
    file.write(session_rows(10))
    errors = [OSError(errno.EIO, "Input/output error")]

    def fsync(_: int) -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(session_file.os, "fsync", fsync)
    with pytest.raises(OutputError, match="Input/output error"):
        file.close(tmp_path / "final", {})
    assert file.broken
    with pytest.raises(OutputError, match="part of it was lost"):
        file.close(tmp_path / "final", {})
    file.abort()
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_directory(disk: SmallDisk) -> None:
    final = disk.folder / "f"
    with read_only(disk.folder):
        with pytest.raises(OutputError, match="Read-only file system"):
            write_histogram(histogram_rows(1), final, {})
        with pytest.raises(OutputError, match="Read-only file system"):
            SessionFile(disk.folder / "x.tmp")
    assert list(disk.folder.iterdir()) == []
    file = SessionFile(disk.folder / "x.tmp")
    file.write(session_rows(10))
    with read_only(disk.folder), pytest.raises(OutputError, match="Read-only file system"):
        file.close(final, {})
    assert not final.exists()
    file.close(final, {})
    assert pq.read_table(final).num_rows == 10


def test_the_upload_takes_finished_files_only(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    name = "dns_histogram-2026-11-23T08-59-00Z_2026-11-23T09-00-00Z.parquet"
    for unfinished in (f"{name}.tmp", f"{name}.tmp.parquet~", f".{name}"):
        (data.outbox / unfinished).write_bytes(b"half")
    (data.outbox / name).write_bytes(b"whole")
    assert [file.path.name for file in Outbox(data).scan()] == [name]


# The queue for Core


def put(backlog: Backlog, first: int, stop: int) -> bool:
    return backlog.put(list(chunks_of([block_of(payloads(first, stop))])))


def events_of(backlog: Backlog) -> list[bytes]:
    found = []
    while entries := backlog.take(100):
        for entry in entries:
            found += entry.chunk.messages(entry.chunk.done, len(entry.chunk))
    return found


def accounted(backlog: Backlog) -> bool:
    gone = backlog.sent + backlog.failed + sum(backlog.dropped.values()) + backlog.damaged
    return backlog.loaded + backlog.queued == gone + backlog.disk_events + backlog.memory_events


def test_events_wait_in_memory_for_room(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "_RETRY", 0.0)
    path = disk.folder / "queue.sqlite3"
    backlog = Backlog(path, 1 << 30)
    assert put(backlog, 0, 500)
    disk.fill()
    with capture_logs() as logs:
        for first in range(500, 4000, 500):
            put(backlog, first, first + 500)
            assert accounted(backlog)
    assert backlog.memory_events >= 3000
    assert any("keeping them in memory" in line["event"] for line in logs)
    disk.clear()
    backlog.maintain()
    assert backlog.memory_events == 0
    assert events_of(backlog) == payloads(0, 4000)
    assert accounted(backlog)
    backlog.close()


def test_events_beyond_the_memory_are_dropped_and_counted(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog_module, "_RETRY", 0.0)
    disk.fill()
    with capture_logs() as logs:
        backlog = Backlog(disk.folder / "queue.sqlite3", 1 << 30, memory=200_000)
        for first in range(0, 4000, 500):
            put(backlog, first, first + 500)
            assert accounted(backlog)
    dropped = backlog.dropped["memory_full"]
    assert 0 < dropped < 4000
    assert any(line["event"] == "memory for new names is full, dropping the oldest" for line in logs)
    disk.clear()
    backlog.maintain()
    assert events_of(backlog) == payloads(dropped, 4000)
    assert accounted(backlog)
    backlog.close()


def test_a_queue_killed_on_a_full_disk_opens_on_it(disk: SmallDisk) -> None:
    path = disk.folder / "queue.sqlite3"
    script = (
        "import os, sys, signal; from pathlib import Path; from edm.tapir.events.backlog import Backlog;"
        "from output.test_full_disk import put; b = Backlog(Path(sys.argv[1]), 1 << 30);"
        "put(b, 0, 500); fd = os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY);\n"
        "try:\n while True: os.write(fd, bytes(4096))\nexcept OSError: pass\n"
        "print(put(b, 500, 20000), b.disk_events, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    run = subprocess.run(
        [sys.executable, "-c", script, str(path), str(disk.folder / "ballast")],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == -9, run.stderr
    safe, on_disk = run.stdout.split("\n")[-2].split()
    assert safe == "False"
    assert int(on_disk) >= 500
    with capture_logs():
        backlog = Backlog(path, 1 << 30)
        if backlog.loaded == 0:  # even to open it SQLite may need a little room
            assert backlog.memory_events == 0
        disk.clear()
        backlog.maintain()
    assert events_of(backlog) == payloads(0, int(on_disk))
    backlog.close()


# Seen names


def names(first: int, stop: int) -> list[bytes]:
    return [wire(f"host{number}.example.com") for number in range(first, stop)]


def test_names_are_found_and_saved_later(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now[0])
    folder = disk.folder / "seen-names"
    with SeenStore.open(folder, limit_entries=1 << 20, sync=False) as store:
        assert all(insert(store, names(0, 100)))
        disk.fill()
        with capture_logs() as logs:
            for first in range(100, 10_000, 100):
                assert all(insert(store, names(first, first + 100)))
                assert not any(insert(store, names(first - 100, first)))
        assert [line["event"] for line in logs] == ["cannot save seen names; they are kept in memory"]
        assert (folder / "names-00000001.seen").stat().st_size <= PAGE
        disk.clear()
        store.flush()
        assert store.unsaved == 0
        assert (folder / "names-00000001.seen").stat().st_size == 64 + 8 * 10_000
    with SeenStore.open(folder, limit_entries=1 << 20, sync=False) as store:
        assert not any(insert(store, names(0, 10_000)))


def test_a_store_stopped_on_a_full_disk_opens_on_it(disk: SmallDisk) -> None:
    folder = disk.folder / "seen-names"
    with capture_logs() as logs:
        with SeenStore.open(folder, limit_entries=1 << 20, sync=False) as store:
            assert all(insert(store, names(0, 1000)))
            disk.fill()
            assert all(insert(store, names(1000, 4000)))
        assert [line["event"] for line in logs] == [
            "cannot save seen names; they are kept in memory",
            "seen names are lost: they could not be saved",
        ]
        lost = logs[-1]["count"]
        assert 0 < lost <= 3000
        with SeenStore.open(folder, limit_entries=1 << 20, sync=False) as store:
            again = insert(store, names(0, 4000))
    assert not any(again[:1000])
    # A part of what was to be written in one go may have found room.
    assert lost - PAGE // 8 <= sum(again) <= lost


# The debug file


def test_the_debug_file_has_whole_lines_only(disk: SmallDisk) -> None:
    path = disk.folder / "debug.json"
    metrics = Metrics()
    file = DebugFile(path, metrics)
    assert path.stat().st_mode & 0o777 == 0o600
    lines = [f"{number:06}" + "x" * 1000 for number in range(2000)]
    with capture_logs() as logs:
        for number, line in enumerate(lines):
            if number == 500:
                file.flush()
                disk.fill(3 * PAGE)
            if number == 1500:
                disk.clear()
            file.write(line)
        file.close()
    written = path.read_text().splitlines()
    assert set(written) <= set(lines)
    assert len(set(written)) == len(written)
    assert written[:500] == lines[:500]
    assert written[-100:] == lines[-100:]
    lost = metrics.value("edm_debug_lines_lost_total")
    assert lost == 2000 - len(written) > 0
    told = [line for line in logs if line["event"] == "debug file cannot be written"]
    assert told
    assert told[0]["reason"] == "No space left on device"


def test_a_debug_file_is_appended_to_and_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "debug.json"
    path.write_text("before\n")
    path.chmod(0o646)
    file = DebugFile(path, Metrics())
    file.write("line")
    file.flush()
    assert path.read_text() == "before\nline\n"
    assert path.stat().st_mode & 0o777 == 0o640
    file.close()


def test_a_debug_file_that_was_renamed_is_followed_by_a_new_one(tmp_path: Path) -> None:
    path, old = tmp_path / "debug.json", tmp_path / "debug.json.1"
    metrics = Metrics()
    file = DebugFile(path, metrics)
    file.write("first")
    file.flush()
    file.reopen()  # nothing has happened
    file.write("second")
    path.rename(old)
    file.reopen()
    file.write("third")
    file.flush()
    assert old.read_text() == "first\n"
    assert path.read_text() == "second\nthird\n"
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    path.mkdir()
    with pytest.raises(OutputError, match=r"debug-dnstap-filename: .*debug\.json: Is a directory"):
        file.reopen()
    path.rmdir()
    file.write("fourth")
    file.reopen()
    file.close()
    file.reopen()
    assert path.read_text() == "fourth\n"
    assert metrics.value("edm_debug_lines_lost_total") == 0


def test_a_debug_file_loses_no_line_to_renaming_beside_writers(tmp_path: Path) -> None:
    path = tmp_path / "debug.json"
    file = DebugFile(path, Metrics())

    def write(writer: int) -> None:
        for number in range(3000):
            file.write(f"{writer} {number} " + "x" * 500)

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(3)]
    for thread in writers:
        thread.start()
    turns = 0
    while any(thread.is_alive() for thread in writers):
        path.rename(tmp_path / f"debug.json.{turns}")
        file.reopen()
        turns += 1
    file.close()
    lines = [line.rsplit(" ", 1)[0] for part in tmp_path.iterdir() for line in part.read_text().splitlines()]
    assert sorted(lines) == sorted(f"{writer} {number}" for writer in range(3) for number in range(3000))


def test_a_line_that_was_begun_is_ended_before_a_new_debug_file(disk: SmallDisk, tmp_path: Path) -> None:
    metrics = Metrics()
    path = disk.folder / "debug.json"
    file = DebugFile(path, metrics)
    file.write("before")
    file.flush()
    disk.fill(PAGE)
    file.write("y" * 3 * PAGE)
    file.flush()
    path.rename(disk.folder / "old")
    disk.clear()
    file.write("after")
    file.reopen()
    file.close()
    assert (disk.folder / "old").read_text() == "before\n" + "y" * 3 * PAGE + "\n"
    assert path.read_text() == "after\n"
    assert metrics.value("edm_debug_lines_lost_total") == 0


def test_a_debug_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"debug-dnstap-filename: .*no/file: No such file or directory"):
        DebugFile(tmp_path / "no" / "file", Metrics())


# The budget


class Nobody:
    """Has nothing to give."""

    waiting_bytes = disk_bytes = removable_bytes = 0

    def abandon(self) -> None:
        raise AssertionError("there is no unfinished file")

    def hold(self, held: bool) -> None:
        pass

    def forget_previous(self) -> int:
        return 0


def session_name(minute: int) -> str:
    return f"dns_session_block-2026-11-23T08-{minute:02}-00Z_2026-11-23T08-{minute + 1:02}-00Z.parquet"


def test_a_folder_on_a_file_system_of_its_own(tmp_path: Path) -> None:
    """Only what lies on the file system that is short of room gives way, also behind a symbolic link."""
    with small_disk(tmp_path / "disk", 4 * MIB) as disk:
        root = tmp_path / "data"
        (root / "parquet").mkdir(parents=True)
        (root / "parquet" / "sessions").symlink_to(disk.folder)
        data = DataDirectory(root)
        data.sent.mkdir()
        sent = data.sent / "dns_histogram-2026-11-23T08-59-00Z_2026-11-23T09-00-00Z.parquet"
        sent.write_bytes(bytes(MIB))
        for minute in range(3):
            (disk.folder / session_name(minute)).write_bytes(bytes(MIB))
        nobody = Nobody()
        metrics = Metrics()
        budget = DiskBudget(data, metrics, Limits(0, 2 * MIB), nobody, None, nobody)
        assert usage.Disk(data).look().free_beside("session") == disk.free == MIB
        with capture_logs():
            budget.check()
        assert disk.free == 2 * MIB
        assert sorted(path.name for path in disk.folder.iterdir()) == [session_name(1), session_name(2)]
        assert sent.exists()
        assert metrics.value("edm_disk_shed_files_total", kind="session") == 1
        assert budget.admit(1) is False
        assert metrics.value("edm_disk_free_bytes", kind="session") == MIB  # as found before


def test_files_on_a_read_only_file_system(disk: SmallDisk) -> None:
    data = DataDirectory(disk.data)
    for minute in range(20):
        (data.sessions / session_name(minute)).write_bytes(bytes(100))
    nobody = Nobody()
    metrics = Metrics()
    budget = DiskBudget(data, metrics, Limits(1, 0), nobody, None, nobody)
    with read_only(data.sessions), capture_logs() as logs:
        budget.check()
    assert {line["reason"] for line in logs} == {"Read-only file system"}
    assert metrics.value("edm_disk_budget_errors_total") == 8  # it does not try them all
    assert len(list(data.sessions.iterdir())) == 20
    with capture_logs():
        budget.check()
    assert list(data.sessions.iterdir()) == []


# Start


def begin(root: Path) -> None:
    data = DataDirectory(root)
    with SeenStore.open(data.seen_names, limit_entries=100, sync=False):
        pass


@pytest.mark.parametrize("inodes", [None, 4])
def test_no_room_for_the_folders(tmp_path: Path, inodes: int | None) -> None:
    with small_disk(tmp_path / "disk", PAGE if inodes is None else MIB, inodes=inodes) as disk:
        if inodes is None:
            disk.fill()
        with pytest.raises(EdmError) as caught:
            begin(disk.data)
        text = str(caught.value)
        assert str(disk.data) in text
        assert text.endswith("No space left on device")
        assert "\n" not in text


def test_a_budget_that_is_checked_in_its_thread(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edm.output.budget.CHECK", 0.01)
    data = DataDirectory(disk.data)
    nobody = Nobody()
    budget = DiskBudget(data, Metrics(), Limits(0, MIB), nobody, None, nobody)
    budget.start()
    try:
        with capture_logs():
            (data.sessions / session_name(1)).write_bytes(bytes(MIB + PAGE))
            wait_until(lambda: not list(data.sessions.iterdir()), "the file is removed")
    finally:
        budget.stop(10)


def test_a_debug_pipe_that_nobody_reads_is_an_error_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match=r"debug-dnstap-filename: .*/pipe: No such device or address"):
        DebugFile(tmp_path / "pipe", Metrics())


def test_a_debug_pipe_whose_reader_rests_costs_lines_and_not_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debug_file, "PATIENCE", 0.01)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    metrics = Metrics()
    file = DebugFile(tmp_path / "pipe", metrics)
    lines = [f"{i:03}" + "x" * 1000 for i in range(500)]
    for line in lines[:400]:
        file.write(line)
    file.flush()
    text = os.read(reader, 1 << 20)
    for line in lines[400:450]:
        file.write(line)
    file.close()
    text += os.read(reader, 1 << 20)
    os.close(reader)
    found = text.decode().splitlines()
    lost = metrics.value("edm_debug_lines_lost_total")
    assert lost > 0
    assert len(found) + lost == 450
    assert set(found) <= set(lines)  # whole lines
    assert found[-50:] == lines[400:450]
