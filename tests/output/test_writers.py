"""The writer threads while the disk refuses writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edm.errors import OutputError
from edm.kernel.columns import DOMAIN_INDEX, DOMAIN_MATCH, QCLASS, QTYPE, WELL_KNOWN, Columns
from edm.observe.metrics import Metrics
from edm.output import histogram_writer, session_writer
from edm.output.histogram_writer import HistogramWriter, Retired
from edm.output.session_writer import SessionWriter
from edm.stages.domains.dawg.dawg import Dawg
from edm.stages.domains.dawg.writer import write_dawg
from edm.stages.domains.table.table import DomainTable
from edm.stages.histogram.accumulators import Accumulators
from edm.stages.session.columns import SCHEMA
from support.processes import wait_until

MINUTE = 60_000_000


def rows(count: int, port: int) -> pa.RecordBatch:
    columns = [pa.nulls(count, field.type) for field in SCHEMA]
    columns[SCHEMA.get_field_index("source_port")] = pa.array([port] * count, pa.uint16())
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_writer, "RETRY", 0.02)
    monkeypatch.setattr(histogram_writer, "RETRY", 0.02)


class Disk:
    """Lets opening output files fail while it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        real_file, real_write = session_writer.SessionFile, histogram_writer.write_histogram

        def open_file(path: Path) -> object:
            self.check(path)
            return real_file(path)

        def write(batches: object, path: Path, metadata: dict[str, str], temporary: Path) -> int:
            self.check(path)
            return real_write(batches, path, metadata, temporary)  # type: ignore[arg-type]

        monkeypatch.setattr(session_writer, "SessionFile", open_file)
        monkeypatch.setattr(histogram_writer, "write_histogram", write)

    def check(self, path: Path) -> None:
        if self.full:
            raise OutputError(f"{path}: No space left on device")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def sessions(tmp_path: Path, metrics: Metrics) -> Iterator[Callable[..., SessionWriter]]:
    made: list[SessionWriter] = []

    def make(limit: int = 1 << 20) -> SessionWriter:
        writer = SessionWriter(tmp_path, metrics, limit)
        writer.start()
        made.append(writer)
        return writer

    yield make
    for writer in made:
        writer.close(10)


def files(folder: Path) -> list[pa.Table]:
    return [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]


def test_session_rows_wait_for_the_disk_and_are_then_written(
    tmp_path: Path, metrics: Metrics, disk: Disk, sessions: Callable[..., SessionWriter]
) -> None:
    disk.full = True
    writer = sessions()
    writer.put(1, 0, rows(10, 1))
    writer.retire(1, 0, MINUTE, {"k": "v"})
    writer.put(2, MINUTE, rows(20, 2))
    writer.retire(2, MINUTE, 2 * MINUTE, {})
    wait_until(
        lambda: (metrics.value("edm_files_written_total", kind="session", result="error") or 0) > 1, "tries"
    )
    assert files(tmp_path) == []
    assert writer.pending == 2
    disk.full = False
    wait_until(lambda: writer.pending == 0, "both files are written")
    first, second = files(tmp_path)
    assert first["source_port"].to_pylist() == [1] * 10
    assert first.schema.metadata[b"k"] == b"v"
    assert second.num_rows == 20
    assert metrics.value("edm_session_rows_shed_total") == 0
    assert not list(tmp_path.glob("*.tmp"))


def test_beyond_the_bound_the_oldest_rows_are_shed_and_counted(
    tmp_path: Path, metrics: Metrics, disk: Disk, sessions: Callable[..., SessionWriter]
) -> None:
    disk.full = True
    one = rows(1000, 1)
    writer = sessions(limit=3 * one.nbytes)
    for port in range(8):
        writer.put(1, 0, rows(1000, port))
    writer.retire(1, 0, MINUTE, {})
    wait_until(lambda: metrics.value("edm_session_rows_shed_total") == 5000, "five batches are shed")
    disk.full = False
    wait_until(lambda: writer.pending == 0, "the file is written")
    (table,) = files(tmp_path)
    assert set(table["source_port"].to_pylist()) == {5, 6, 7}
    assert table.schema.metadata[b"edm.session_rows_shed"] == b"5000"


def test_rows_that_are_not_admitted_are_shed_and_counted(
    tmp_path: Path, metrics: Metrics, sessions: Callable[..., SessionWriter]
) -> None:
    writer = sessions()
    asked: list[int] = []

    def admit(size: int) -> bool:
        asked.append(size)
        return len(asked) != 2

    writer.admit = admit
    batches = [rows(count, count) for count in (10, 20, 30)]
    for batch in batches:
        writer.put(1, 0, batch)
    writer.retire(1, 0, MINUTE, {})
    wait_until(lambda: len(files(tmp_path)) == 1, "the file is written")
    (table,) = files(tmp_path)
    assert table["source_port"].to_pylist() == [10] * 10 + [30] * 30
    assert table.schema.metadata[b"edm.session_rows_shed"] == b"20"
    assert metrics.value("edm_session_rows_shed_total") == 20
    assert asked == [batch.nbytes for batch in batches]


def test_an_unfinished_file_that_is_given_up(
    tmp_path: Path, metrics: Metrics, sessions: Callable[..., SessionWriter]
) -> None:
    (tmp_path / "dns_session_block-left-behind.parquet.tmp").touch()
    writer = sessions()
    writer.put(1, 0, rows(10, 1))
    wait_until(lambda: writer.waiting_bytes > 0, "the rows are taken")
    writer.abandon()
    wait_until(lambda: metrics.value("edm_session_rows_shed_total") == 10, "they are given up")
    wait_until(lambda: not list(tmp_path.iterdir()), "nothing is left")
    assert writer.waiting_bytes == 0
    writer.put(1, 0, rows(5, 2))  # there is room again
    writer.retire(1, 0, MINUTE, {})
    wait_until(lambda: len(files(tmp_path)) == 1, "the file is written")
    (table,) = files(tmp_path)
    assert table.num_rows == 5
    assert table.schema.metadata[b"edm.session_rows_shed"] == b"10"


def test_a_file_that_the_system_lost_is_given_up(
    tmp_path: Path,
    metrics: Metrics,
    sessions: Callable[..., SessionWriter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = [OSError(5, "Input/output error")]

    def fsync(_: int) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr("edm.output.session_file.os.fsync", fsync)
    writer = sessions()
    writer.put(1, 0, rows(10, 1))
    writer.retire(1, 0, MINUTE, {})
    writer.put(2, MINUTE, rows(20, 2))
    writer.retire(2, MINUTE, 2 * MINUTE, {})
    wait_until(lambda: len(files(tmp_path)) == 1, "the second file is written")
    assert [table.num_rows for table in files(tmp_path)] == [20]
    assert metrics.value("edm_session_rows_shed_total") == 10
    assert not list(tmp_path.glob("*.tmp"))


def test_what_could_not_be_removed_at_once_is_removed_later(
    tmp_path: Path,
    metrics: Metrics,
    sessions: Callable[..., SessionWriter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Path.unlink
    failures = [OSError(30, "Read-only file system")]

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith(".tmp") and path.exists() and failures:
            raise failures.pop()
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    writer = sessions()
    writer.put(1, 0, rows(10, 1))
    writer.retire(1, 0, MINUTE, {})
    wait_until(lambda: len(files(tmp_path)) == 1, "the file is written")
    wait_until(lambda: not list(tmp_path.glob("*.tmp")), "its other name is removed")
    assert failures == []


def test_an_interval_without_rows_makes_no_session_file(
    tmp_path: Path, sessions: Callable[..., SessionWriter]
) -> None:
    writer = sessions()
    writer.retire(1, 0, MINUTE, {})
    writer.put(2, 0, rows(1, 1))
    writer.retire(2, 0, MINUTE, {})
    wait_until(lambda: len(files(tmp_path)) == 1, "the second interval is written")


def test_two_intervals_of_one_second_get_two_names(
    tmp_path: Path, sessions: Callable[..., SessionWriter]
) -> None:
    writer = sessions()
    for serial in (1, 2, 3):
        writer.put(serial, 0, rows(serial, 1))
        writer.retire(serial, 0, 0, {})
    wait_until(lambda: len(files(tmp_path)) == 3, "three files")
    names = [path.name for path in sorted(tmp_path.glob("*.parquet"))]
    assert names == [
        f"dns_session_block-1970-01-01T00-00-00Z_1970-01-01T00-00-0{s}Z.parquet" for s in range(3)
    ]
    assert [table.num_rows for table in files(tmp_path)] == [1, 2, 3]


def counted(table: DomainTable, hits: int) -> Accumulators:
    accumulators = Accumulators(len(table), 20)
    columns = Columns(hits)
    columns.fate[:hits] = WELL_KNOWN
    columns.u32[DOMAIN_INDEX, :hits] = 0
    columns.u32[DOMAIN_MATCH, :hits] = 1
    columns.u32[QCLASS, :hits] = columns.u32[QTYPE, :hits] = 1
    accumulators.update(np.zeros(64, np.uint8), columns.u32, columns.u64, columns.fate, hits)
    return accumulators


def test_histograms_wait_for_the_disk_oldest_first(tmp_path: Path, metrics: Metrics, disk: Disk) -> None:
    table = DomainTable.build(Dawg.from_bytes(write_dawg(["example.com."])))
    writer = HistogramWriter(tmp_path, metrics, limit=1 << 30)
    writer.start()
    disk.full = True
    for minute in range(3):
        parts = [counted(table, minute + 1), counted(table, 1)]
        writer.put(Retired(minute * MINUTE, (minute + 1) * MINUTE, parts, table, {"minute": str(minute)}))
    wait_until(
        lambda: (metrics.value("edm_files_written_total", kind="histogram", result="error") or 0) > 1, "tries"
    )
    assert writer.pending == 3
    disk.full = False
    wait_until(lambda: writer.pending == 0, "all are written")
    tables = files(tmp_path)
    assert [t["a_count"].to_pylist() for t in tables] == [[2], [3], [4]]
    assert [t.schema.metadata[b"minute"] for t in tables] == [b"0", b"1", b"2"]
    writer.close(10)


def test_histograms_beyond_the_bound_are_counted_as_lost(
    tmp_path: Path, metrics: Metrics, disk: Disk
) -> None:
    table = DomainTable.build(Dawg.from_bytes(write_dawg(["example.com."])))
    writer = HistogramWriter(tmp_path, metrics, limit=1)
    writer.start()
    disk.full = True
    for minute in range(3):
        writer.put(Retired(minute * MINUTE, (minute + 1) * MINUTE, [counted(table, 1)], table, {}))
    wait_until(lambda: metrics.value("edm_histogram_rows_lost_total") == 2, "all but the newest are dropped")
    disk.full = False
    wait_until(lambda: writer.pending == 0, "the newest is written")
    assert len(files(tmp_path)) == 1
    writer.close(10)
