from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edm.errors import OutputError
from edm.output import histogram_file
from edm.output.histogram_file import write_histogram
from edm.stages.histogram.schema import SCHEMA

AS_WRITTEN = Path(__file__).parents[1] / "captures" / "as-written" / "histogram.parquet"


@pytest.fixture(scope="module")
def golden() -> pa.Table:
    return pq.read_table(AS_WRITTEN).slice(0, 4000).combine_chunks()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dns_histogram-2023-11-29T13-50-00Z_2023-11-29T13-51-00Z.parquet"


def names(path: Path) -> list[str]:
    return [entry.name for entry in path.parent.iterdir()]


def test_rows_and_metadata_come_back(golden: pa.Table, path: Path) -> None:
    assert write_histogram(golden, path, {"ledger": '{"frames": 1}', "ä": "ö"}) == 4000
    assert pq.read_table(path).replace_schema_metadata(None).equals(golden)
    assert pq.read_metadata(path).metadata == {b"ledger": b'{"frames": 1}', "ä".encode(): "ö".encode()}
    assert names(path) == [path.name]


def test_schema_and_encoding_are_those_of_the_go_daemon(golden: pa.Table, path: Path) -> None:
    write_histogram(golden, path, {})
    ours, theirs = pq.read_metadata(path), pq.read_metadata(AS_WRITTEN)
    assert str(ours.schema).splitlines()[1:] == str(theirs.schema).splitlines()[1:]
    assert ours.num_row_groups == 1
    for i in range(26):
        mine, wanted = ours.row_group(0).column(i), theirs.row_group(0).column(i)
        assert mine.compression == wanted.compression == "SNAPPY"
        assert set(mine.encodings) >= set(wanted.encodings)
        assert not mine.has_dictionary_page
        assert mine.is_stats_set
        assert mine.has_column_index
        assert mine.has_offset_index


def test_duckdb_reads_it(golden: pa.Table, path: Path) -> None:
    write_histogram(golden, path, {"k": "v"})
    described = "SELECT name, type, converted_type, logical_type FROM parquet_schema(?)"
    assert (
        duckdb.execute(described, [str(path)]).fetchall()
        == duckdb.execute(described, [str(AS_WRITTEN)]).fetchall()
    )
    columns = [name for name in SCHEMA.names if name != "start_time"]
    query = f"SELECT epoch_us(start_time), {', '.join(columns)} FROM read_parquet(?)"
    found = duckdb.execute(query, [str(path)]).fetchall()
    start_time = golden["start_time"].cast(pa.int64()).to_pylist()
    expected = [
        (start, *row.values())
        for start, row in zip(start_time, golden.select(columns).to_pylist(), strict=True)
    ]
    assert found == expected


def test_each_batch_is_a_row_group(golden: pa.Table, path: Path) -> None:
    assert write_histogram(iter(golden.to_batches(max_chunksize=1500)), path, {}) == 4000
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [1500, 1500, 1000]
    assert pq.read_table(path).equals(golden)


def test_no_rows(path: Path) -> None:
    assert write_histogram(SCHEMA.empty_table(), path, {"k": "v"}) == 0
    assert pq.read_table(path).schema.equals(SCHEMA)


def test_an_existing_file_is_never_overwritten(golden: pa.Table, path: Path) -> None:
    path.write_bytes(b"before")
    with pytest.raises(FileExistsError):
        write_histogram(golden, path, {})
    assert path.read_bytes() == b"before"

    other = path.with_name("other.parquet")

    def appears_meanwhile() -> Iterator[pa.RecordBatch]:
        yield from golden.to_batches()
        other.write_bytes(b"meanwhile")

    with pytest.raises(FileExistsError):
        write_histogram(appears_meanwhile(), other, {})
    assert other.read_bytes() == b"meanwhile"
    assert set(names(path)) == {path.name, other.name}


def test_a_left_over_temporary_file_that_is_also_a_finished_file_is_not_truncated(
    golden: pa.Table, path: Path
) -> None:
    finished = path.with_name("finished.parquet")
    finished.write_bytes(b"finished")
    os.link(finished, path.with_name(f".{path.name}.tmp"))
    write_histogram(golden, path, {})
    assert finished.read_bytes() == b"finished"
    assert set(names(path)) == {path.name, finished.name}


@pytest.mark.parametrize("meanwhile", [False, True])
def test_file_systems_without_hard_links(
    golden: pa.Table, path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: bool
) -> None:
    def refuse(source: Path, target: Path) -> None:
        if meanwhile:
            path.write_bytes(b"meanwhile")
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(histogram_file.os, "link", refuse)
    if meanwhile:
        with pytest.raises(FileExistsError):
            write_histogram(golden, path, {})
        assert path.read_bytes() == b"meanwhile"
    else:
        write_histogram(golden, path, {})
        assert pq.read_table(path).equals(golden)
    assert names(path) == [path.name]


def test_a_full_disk_is_an_error_with_path_and_reason_and_leaves_nothing(
    golden: pa.Table, path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OutputError) as caught:
            write_histogram(golden, path, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(path) in str(caught.value)
    assert "File too large" in str(caught.value)
    assert names(path) == []


def test_a_missing_directory(golden: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "x.parquet"
    with pytest.raises(OutputError, match=r"missing.*No such file or directory"):
        write_histogram(golden, path, {})


def test_an_error_while_rows_are_made_leaves_nothing(golden: pa.Table, path: Path) -> None:
    def breaks() -> Iterator[pa.RecordBatch]:
        yield from golden.to_batches()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_histogram(breaks(), path, {})
    assert names(path) == []


@pytest.mark.parametrize(("umask", "mode"), [(0, 0o640), (0o022, 0o640), (0o077, 0o600)])
def test_no_umask_makes_files_readable_for_everybody(
    golden: pa.Table, path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        write_histogram(golden, path, {})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
    assert path.stat().st_nlink == 1


def test_a_folder_whose_name_is_not_utf_8(golden: pa.Table, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"s3:\xff")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("the file system takes no such name")
    write_histogram(golden, folder / "x.parquet", {})
    with (folder / "x.parquet").open("rb") as file:
        assert pq.read_table(file).num_rows == golden.num_rows
