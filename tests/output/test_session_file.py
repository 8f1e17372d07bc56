from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edm.errors import OutputError
from edm.output import session_file
from edm.output.session_file import SessionFile
from edm.stages.session.columns import SCHEMA
from oracles.session_rows import CAPTURES

GOLDEN = CAPTURES / "as-written" / "session.parquet"


def golden_batch() -> pa.RecordBatch:
    return pq.read_table(GOLDEN).cast(SCHEMA).combine_chunks().to_batches()[0]


def small_batch(rows: int, first: int = 0) -> pa.RecordBatch:
    columns = {name: pa.nulls(rows, kind) for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True)}
    columns["source_port"] = pa.array(range(first, first + rows), pa.uint16())
    columns["label0"] = pa.array(["com"] * rows)
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=SCHEMA)


class FullDisk:
    """Stands in for os.writev: takes so many bytes and then has no space left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, space: int) -> None:
        self.space = space
        self.writev = os.writev
        monkeypatch.setattr(session_file.os, "writev", self)

    def __call__(self, fd: int, chunks: list[memoryview]) -> int:
        if self.space == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = chunks[0][: self.space]
        self.space -= len(part)
        return self.writev(fd, [part])


def test_schema_is_that_of_the_go_daemon(tmp_path: Path) -> None:
    file = SessionFile(tmp_path / "x.tmp")
    file.write(golden_batch())
    file.close(tmp_path / "x.parquet", {})
    ours, theirs = pq.ParquetFile(tmp_path / "x.parquet"), pq.ParquetFile(GOLDEN)
    assert ours.schema.equals(theirs.schema)
    for k in range(len(theirs.schema)):
        one, other = ours.schema.column(k), theirs.schema.column(k)
        assert (one.path, one.physical_type) == (other.path, other.physical_type)
        assert str(one.logical_type) == str(other.logical_type)
        assert (one.max_definition_level, one.max_repetition_level) == (1, 0)
    assert str(ours.schema).split("\n")[1] == str(theirs.schema).split("\n")[1]  # the root's name
    assert ours.read().equals(theirs.read())


def test_readable_by_duckdb(tmp_path: Path) -> None:
    file = SessionFile(tmp_path / "x.tmp")
    file.write(golden_batch())
    file.close(tmp_path / "x.parquet", {"a": "b"})
    query = "select * replace (epoch_us(response_time) as response_time) from read_parquet(?)"
    ours = duckdb.execute(query, [str(tmp_path / "x.parquet")]).fetchall()
    assert ours == duckdb.execute(query, [str(GOLDEN)]).fetchall()
    metadata = duckdb.execute("select key, value from parquet_kv_metadata(?)", [str(tmp_path / "x.parquet")])
    assert metadata.fetchall() == [(b"a", b"b")]


def test_only_encodings_that_every_reader_knows(tmp_path: Path) -> None:
    file = SessionFile(tmp_path / "x.tmp")
    file.write(golden_batch())
    file.close(tmp_path / "x.parquet", {})
    group = pq.ParquetFile(tmp_path / "x.parquet").metadata.row_group(0)
    for k in range(group.num_columns):
        assert set(group.column(k).encodings) <= {"PLAIN", "RLE", "RLE_DICTIONARY"}
        assert group.column(k).compression in ("SNAPPY", "UNCOMPRESSED")
    assert (tmp_path / "x.parquet").stat().st_size < 1.15 * GOLDEN.stat().st_size


def test_small_batches_are_combined_and_metadata_is_kept(tmp_path: Path) -> None:
    file = SessionFile(tmp_path / "x.tmp", row_group_rows=100)
    for k in range(25):
        file.write(small_batch(30, 30 * k))
    assert file.rows == 750
    assert (tmp_path / "x.tmp").stat().st_size > 0
    assert not (tmp_path / "x.parquet").exists()
    file.close(tmp_path / "x.parquet", {"edm.rows": "750", "note": "ä"})
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]
    result = pq.ParquetFile(tmp_path / "x.parquet")
    assert result.read()["source_port"].to_pylist() == list(range(750))
    metadata = result.metadata
    assert [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)] == [120] * 6 + [30]
    assert metadata.metadata == {b"edm.rows": b"750", b"note": "ä".encode()}


def test_empty_batches(tmp_path: Path) -> None:
    file = SessionFile(tmp_path / "x.tmp", row_group_rows=1)
    for rows in (0, 3, 0):
        file.write(small_batch(rows))
    file.close(tmp_path / "x.parquet", {})
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 3


def test_no_batch_at_all(tmp_path: Path) -> None:
    file = SessionFile(tmp_path / "x.tmp")
    with pytest.raises(ValueError, match="without rows"):
        file.close(tmp_path / "x.parquet", {})
    file.abort()
    assert list(tmp_path.iterdir()) == []


def test_never_overwrites_and_can_be_closed_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"precious")
    file = SessionFile(tmp_path / "x.tmp")
    file.write(small_batch(5))
    with pytest.raises(FileExistsError):
        file.close(tmp_path / "x.parquet", {"k": "1"})
    file.close(tmp_path / "y.parquet", {"k": "2"})
    assert (tmp_path / "x.parquet").read_bytes() == b"precious"
    assert pq.read_table(tmp_path / "y.parquet").num_rows == 5
    assert pq.ParquetFile(tmp_path / "y.parquet").metadata.metadata == {b"k": b"1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.parquet", "y.parquet"]


def test_never_overwrites_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(_source: Path, _target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(session_file.os, "link", no_links)
    (tmp_path / "x.parquet").write_bytes(b"precious")
    file = SessionFile(tmp_path / "x.tmp")
    file.write(small_batch(5))
    with pytest.raises(FileExistsError):
        file.close(tmp_path / "x.parquet", {})
    file.close(tmp_path / "y.parquet", {})
    assert (tmp_path / "x.parquet").read_bytes() == b"precious"
    assert pq.read_table(tmp_path / "y.parquet").num_rows == 5
    assert not (tmp_path / "x.tmp").exists()


def test_abort_leaves_nothing(tmp_path: Path) -> None:
    file = SessionFile(tmp_path / "x.tmp", row_group_rows=10)
    file.write(small_batch(15))
    file.write(small_batch(3))
    file.abort()
    assert list(tmp_path.iterdir()) == []


def test_an_old_temporary_file_is_replaced_not_truncated(tmp_path: Path) -> None:
    (tmp_path / "done.parquet").write_bytes(b"whole")
    os.link(tmp_path / "done.parquet", tmp_path / "x.tmp")
    file = SessionFile(tmp_path / "x.tmp")
    file.write(small_batch(1))
    file.close(tmp_path / "x.parquet", {})
    assert (tmp_path / "done.parquet").read_bytes() == b"whole"


@pytest.mark.parametrize(("umask", "mode"), [(0, 0o640), (0o022, 0o640), (0o077, 0o600)])
def test_no_umask_makes_files_readable_for_everybody(tmp_path: Path, umask: int, mode: int) -> None:
    old = os.umask(umask)
    try:
        file = SessionFile(tmp_path / "x.tmp")
    finally:
        os.umask(old)
    file.write(small_batch(1))
    file.close(tmp_path / "x.parquet", {})
    assert (tmp_path / "x.parquet").stat().st_mode & 0o777 == mode


def test_errors_name_the_file_and_the_reason(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "x.tmp"
    with pytest.raises(OutputError, match=rf"{missing}: No such file or directory"):
        SessionFile(missing)
    file = SessionFile(tmp_path / "x.tmp")
    file.write(small_batch(1))
    with pytest.raises(OutputError, match="No such file or directory"):
        file.close(tmp_path / "nowhere" / "x.parquet", {})
    file.close(tmp_path / "x.parquet", {})  # what failed may be tried again
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 1


@pytest.mark.parametrize("space", [0, 1, 50, 700, 3000])
def test_full_disk_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: int) -> None:
    disk = FullDisk(monkeypatch, space)
    file = SessionFile(tmp_path / "x.tmp", row_group_rows=100)
    taken = refused = 0
    for _ in range(10):
        try:
            file.write(small_batch(100, taken))
        except OutputError:
            refused += 1
        else:
            taken += 100
    assert file.rows == taken
    assert taken > 0
    assert refused > 0
    assert file.waiting_bytes > 0
    with pytest.raises(OutputError, match="No space left on device"):
        file.close(tmp_path / "x.parquet", {"k": "v"})
    assert not (tmp_path / "x.parquet").exists()
    disk.space = 10
    with pytest.raises(OutputError, match="No space left on device"):
        file.close(tmp_path / "x.parquet", {"k": "v"})
    disk.space = 1 << 30
    file.close(tmp_path / "x.parquet", {"k": "v"})
    assert pq.read_table(tmp_path / "x.parquet")["source_port"].to_pylist() == list(range(taken))


def test_a_real_file_that_takes_nothing(tmp_path: Path) -> None:
    file = SessionFile(tmp_path / "x.tmp", row_group_rows=1)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, file._fd)
    os.close(full)
    file.write(small_batch(10))
    with pytest.raises(OutputError, match=r"x\.tmp: No space left on device"):
        file.write(small_batch(10))
    file.abort()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for k in range(5):
        file = SessionFile(tmp_path / "x.tmp")
        file.write(small_batch(1))
        if k % 2:
            file.abort()
        else:
            file.close(tmp_path / f"{k}.parquet", {})
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_row_group_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_file, "ROW_GROUP_BYTES", 200_000)
    rng = np.random.default_rng(1)
    file = SessionFile(tmp_path / "x.tmp")
    index = SCHEMA.get_field_index("response_message")
    for _ in range(10):
        messages = pa.array([rng.bytes(1000) for _ in range(100)], pa.binary())
        file.write(small_batch(100).set_column(index, "response_message", messages))
        assert file.waiting_bytes < 350_000
    file.close(tmp_path / "x.parquet", {})
    assert pq.ParquetFile(tmp_path / "x.parquet").metadata.num_row_groups >= 4


def test_writing_to_the_disk_begins_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[int, int]] = []
    real = os.posix_fadvise

    def advise(descriptor: int, offset: int, size: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        begun.append((offset, offset + size))
        real(descriptor, offset, size, advice)

    monkeypatch.setattr(session_file.os, "posix_fadvise", advise)
    monkeypatch.setattr(session_file, "WRITE_BACK_BYTES", 1000)
    file = SessionFile(tmp_path / "file.tmp", row_group_rows=50)
    for first in range(0, 1000, 50):
        file.write(small_batch(50, first))
    assert len(begun) > 5
    file.close(tmp_path / "file.parquet", {})
    assert begun[0][0] == 0
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(begun))
    assert begun[-1][1] >= (tmp_path / "file.parquet").stat().st_size - 2000
    assert pq.read_table(tmp_path / "file.parquet").num_rows == 1000


def test_a_system_that_refuses_to_begin_writing_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(session_file.os, "posix_fadvise", refuse)
    monkeypatch.setattr(session_file, "WRITE_BACK_BYTES", 0)
    file = SessionFile(tmp_path / "file.tmp", row_group_rows=50)
    file.write(small_batch(100))
    file.close(tmp_path / "file.parquet", {})
    assert pq.read_table(tmp_path / "file.parquet").num_rows == 100
