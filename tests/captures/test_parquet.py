"""``edm inspect`` of Parquet files from any program: one line each, no traceback, bounded memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edm.captures import inspection, parquet
from edm.captures.inspection import inspect
from edm.cli.main import main
from edm.errors import InputError
from edm.stages.histogram.schema import SCHEMA as HISTOGRAM_SCHEMA
from edm.stages.session.columns import SCHEMA as SESSION_SCHEMA
from support import golden

MUTATIONS = 500
SEED = 13

PROGRAM = """
import json, resource, sys
from edm.captures.inspection import inspect
from edm.errors import InputError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    said = inspect(sys.argv[1])
except InputError as error:
    said = str(error)
print(json.dumps([said, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10]))
"""


def sessions(rows: int, **columns: list[Any]) -> pa.Table:
    made = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(rows, field.type)
        for field in SESSION_SCHEMA
    ]
    return pa.table(dict(zip(SESSION_SCHEMA.names, made, strict=True)))


def apart(path: Path) -> tuple[Any, int]:
    """Inspect a file in a process of its own; return what it says, and the bytes of memory that it took."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    said, taken = json.loads(done.stdout)
    return said, taken


def mutated(rng: random.Random, whole: bytes) -> bytes:
    """Change some bytes, half of them in the footer, and cut something out now and then."""
    raw = bytearray(whole)
    footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(max(4, footer) if rng.random() < 0.5 and footer < len(raw) else 4, len(raw))
        if rng.random() < 0.1:
            del raw[at : at + rng.randint(1, 50)]
        else:
            raw[at] = rng.randrange(256)
    return bytes(raw)


def test_mutated_files_end_in_a_line(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    files = [path.read_bytes() for path in sorted(golden.CAPTURES.rglob("*.parquet"))]
    path = tmp_path / "mutated.parquet"
    read, lines = 0, []
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(rng, rng.choice(files)))
        try:
            json.dumps(inspect(str(path)))
            read += 1
        except InputError as error:
            lines.append(str(error).splitlines())
    assert read > MUTATIONS // 50
    assert len(lines) > MUTATIONS // 2
    assert all(len(line) == 1 for line in lines)


def test_text_in_the_footer_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"colname": [1]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"colname", b"col\xff\xfe\xfde"))
    with pytest.raises(InputError, match=r"x\.parquet: not a whole Parquet file: text in it is not UTF-8"):
        inspect(str(path))


def test_names_that_are_not_utf_8_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(sessions(2, label0=["org"] * 2, label1=["wxyz"] * 2), path, compression="none")
    path.write_bytes(path.read_bytes().replace(b"wxyz", b"w\xffyz"))
    assert inspect(str(path))["top"] == [{"name": "w�yz.org.", "rows": 2}]


@pytest.mark.parametrize(
    "name", [b"s3:x.parquet", b"file:x.parquet", b"hdfs:x", b"a b#c?d=e", b"\xff\xfe.parquet"]
)
def test_paths_that_look_like_something_else(
    tmp_path: Path, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = os.fsdecode(name)
    try:
        pq.write_table(sessions(3, label0=["org"] * 3), "made")
        os.rename("made", path)  # noqa: PTH104
    except OSError:
        pytest.skip("the file system takes no such name")
    facts = inspect(path)
    assert (facts["kind"], facts["rows"], facts["names"]) == ("session", 3, 1)
    json.dumps(facts)


def test_known_columns_of_other_types_are_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    for kind in (pa.string(), pa.int64(), pa.list_(pa.uint64()), pa.float32(), pa.bool_()):
        for name in ("a_count", "label3", "v4client_count_hll"):
            schema = HISTOGRAM_SCHEMA.set(HISTOGRAM_SCHEMA.get_field_index(name), pa.field(name, kind))
            if schema.types == HISTOGRAM_SCHEMA.types:
                continue
            pq.write_table(pa.table([pa.nulls(2, type_) for type_ in schema.types], names=schema.names), path)
            assert inspect(str(path))["kind"] == "parquet"


@pytest.mark.parametrize(
    ("kind", "module_schema", "schema"),
    [("histogram", "HISTOGRAM_SCHEMA", HISTOGRAM_SCHEMA), ("session", "SESSION_SCHEMA", SESSION_SCHEMA)],
)
def test_files_from_before_a_new_column_are_still_known(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    module_schema: str,
    schema: pa.Schema,
) -> None:
    """Those of an older version, and those of the Go daemon, which has no column of ours."""
    later = schema.append(pa.field("first_new", pa.uint16())).append(pa.field("second_new", pa.string()))
    monkeypatch.setattr(parquet, module_schema, later)
    older = {
        "go": (schema, ["first_new", "second_new"]),
        "one": (later.remove(len(later) - 1), ["second_new"]),
    }
    for name, (columns, missing) in {**older, "now": (later, [])}.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table([pa.nulls(2, kind_) for kind_ in columns.types], names=columns.names), path)
        facts = inspect(str(path))
        assert (facts["kind"], facts["rows"], facts["missing"]) == (kind, 2, missing)
        assert main(["inspect", str(path)]) == 0
        shown = [line for line in capsys.readouterr().out.splitlines() if "missing columns" in line]
        assert len(shown) == bool(missing)
        assert all(name in line for line in shown for name in missing)


@pytest.mark.parametrize("name", ["histogram", "session"])
def test_files_of_the_go_daemon_are_known(name: str) -> None:
    facts = inspect(str(golden.CAPTURES / "unbound" / f"{name}.parquet"))
    assert (facts["kind"], facts["missing"]) == (name, [])


def test_the_first_columns_are_not_enough_without_those_that_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    for schema in (HISTOGRAM_SCHEMA, SESSION_SCHEMA):
        few = pa.schema([schema.field(number) for number in range(3)])
        pq.write_table(pa.table([pa.nulls(2, kind) for kind in few.types], names=few.names), path)
        assert inspect(str(path))["kind"] == "parquet"


def test_null_in_known_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    columns = [pa.nulls(3, field.type) for field in HISTOGRAM_SCHEMA]
    columns[HISTOGRAM_SCHEMA.get_field_index("a_count")] = pa.array([None, 7, 1], pa.uint64())
    pq.write_table(pa.table(columns, names=HISTOGRAM_SCHEMA.names), path)
    facts = inspect(str(path))
    assert facts["responses"] == 8
    assert [row["responses"] for row in facts["top"]] == [7, 1, 0]
    assert facts["top"][0] == {
        "name": ".", "responses": 7, "nx_count": 0, "v4client_count": 0, "v6client_count": 0
    }  # fmt: skip
    pq.write_table(sessions(3), path)
    assert inspect(str(path))["top"] == [{"name": ".", "rows": 3}]


def test_files_without_rows_or_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    for table in (sessions(0), HISTOGRAM_SCHEMA.empty_table(), pa.table({})):
        pq.write_table(table, path)
        assert inspect(str(path))["rows"] == 0


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    names = pa.repeat("x" * 1_000_000, 1000).dictionary_encode()
    table = sessions(1000).set_column(SESSION_SCHEMA.get_field_index("label1"), "label1", names)
    pq.write_table(table, path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 1 << 20
    said, taken = apart(path)
    assert said == f"{path}: reading it would take more than {parquet.MEMORY >> 20} MiB of memory"
    assert taken < parquet.MEMORY + (64 << 20)


@pytest.mark.slow
def test_names_without_bound_take_no_memory_without_bound(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    often = ["often"] * 300_000
    names = [f"n{number}" for number in range(1_500_000)] + often
    pq.write_table(sessions(len(names), label1=names), path, compression="zstd", use_dictionary=False)
    said, taken = apart(path)
    assert said["rows"] == len(names)
    assert not said["names_complete"]
    assert parquet.MOST_NAMES < said["names"] <= 1_500_001
    assert said["top"][0] == {"name": "often.", "rows": 300_000}
    assert taken < parquet.MEMORY + (64 << 20)


def test_of_too_many_names_the_most_frequent_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MOST_NAMES", 1000)
    path = tmp_path / "x.parquet"
    names = [f"n{number % 40_000 if number % 3 else number % 30}" for number in range(100_000)]
    pq.write_table(sessions(len(names), label0=names), path)
    facts = inspect(str(path), 10)
    assert not facts["names_complete"]
    assert {int(row["name"][1:-1]) for row in facts["top"]} <= set(range(30))
    monkeypatch.undo()
    assert inspect(str(path))["names_complete"]


def test_a_capture_of_too_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(golden.capture("unbound"))
    whole = inspect(path)
    assert whole["names_complete"]
    monkeypatch.setattr(inspection, "MOST_NAMES", whole["names"] // 2)
    facts = inspect(path)
    assert not facts["names_complete"]
    assert whole["names"] // 2 < facts["names"] <= whole["names"]
    assert facts["top"][0] == whole["top"][0]
