"""The snippets of docs/files.md, run unchanged while a file is being written, on IPv6 data with the top bit set."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edm.observe.metrics import Metrics
from edm.output.paths import DataDirectory
from edm.output.session_writer import SessionWriter
from edm.stages.session.columns import SCHEMA
from support import golden
from support.processes import wait_until

PAGE = Path(__file__).resolve().parents[2] / "docs" / "files.md"
MINUTE = 60_000_000
CLIENTS = [
    "fd12:3456:789a:bcde:f123:4567:89ab:cdef",
    "8000::8000:0:0:1",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe",
    "2001:db8::9007:1992:5474:993",
    "203.0.113.255",
    "0.0.0.1",
    None,
]
ANSWERS = {client: 3 * (number + 1) for number, client in enumerate(CLIENTS)}


def snippet(title: str) -> str:
    section = PAGE.read_text(encoding="utf-8").split(f"### {title}\n")[1].split("\n### ")[0]
    (code,) = re.findall(r"^```[a-z]+\n(.*?)^```", section, re.M | re.S)
    return str(code)


def batch(clients: list[str | None]) -> pa.RecordBatch:
    columns: dict[str, list[int | None]] = {}
    for name in ("source_ipv4", "source_ipv6_network", "source_ipv6_host"):
        columns[name] = []
    for client in clients:
        address = None if client is None else ipaddress.ip_address(client)
        number = 0 if address is None else int(address)
        six = address is not None and address.version == 6
        columns["source_ipv4"].append(number if address is not None and not six else None)
        columns["source_ipv6_network"].append(number >> 64 if six else None)
        columns["source_ipv6_host"].append(number & (1 << 64) - 1 if six else None)
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(len(clients), field.type)
        for field in SCHEMA
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataDirectory]:
    """A data directory with two session files and a histogram, in which a third session file is being written."""
    data = DataDirectory(tmp_path / "data")
    writer = SessionWriter(data.sessions, Metrics(), 1 << 30, unfinished=data.unfinished)
    writer.start()
    rows = [client for client, count in ANSWERS.items() for _ in range(count)]
    for serial, part in enumerate((rows[::2], rows[1::2])):
        writer.put(serial, serial * MINUTE, batch(part))
        writer.retire(serial, serial * MINUTE, (serial + 1) * MINUTE, {"edm.ledger.closed": "true"})
    writer.put(2, 2 * MINUTE, batch(rows))
    wait_until(lambda: any(data.unfinished.iterdir()), "a file is being written")
    wait_until(lambda: len(list(data.sessions.iterdir())) == 2, "two files are whole")
    data.sent.mkdir()
    shutil.copy(golden.CAPTURES / "as-written" / "histogram.parquet", data.sent / "one.parquet")
    monkeypatch.chdir(data.root)
    yield data
    assert any(data.unfinished.iterdir())
    writer.retire(2, 2 * MINUTE, 3 * MINUTE, {})
    writer.close(10)


def ran(title: str, **names: Any) -> dict[str, Any]:
    space: dict[str, Any] = names
    exec(compile(snippet(title), title, "exec"), space)
    return space


def test_duckdb(data: DataDirectory) -> None:
    *macros, most, failures, closed = [part for part in snippet("DuckDB").split(";") if part.strip()]
    with duckdb.connect() as connection:
        for macro in macros:
            connection.execute(macro)
        found = dict(connection.execute(most).fetchall())
        shown = {client and str(ipaddress.ip_address(client)): count for client, count in found.items()}
        assert shown == ANSWERS
        assert len(connection.execute(failures).fetchall()) == 10
        assert {state for _, state in connection.execute(closed).fetchall()} == {"true"}


def test_pyarrow(data: DataDirectory) -> None:
    file = next(data.sessions.iterdir())
    code = snippet("pyarrow").replace("FILE.parquet", file.name)
    first, last = code.split("    if v4 is not None:")
    # Gathers what the loop makes of each row.
    code = f"found = []\n{first}    client = None\n    if v4 is not None:{last}"
    code = code.replace("\n\nprint", "\n    found.append(client and str(client))\n\nprint")
    space: dict[str, Any] = {}
    exec(compile(code, "pyarrow", "exec"), space)
    assert Counter(space["found"]) == ANSWERS


def test_pandas(data: DataDirectory) -> None:
    pytest.importorskip("pandas")
    rows = ran("pandas")["rows"]
    found = Counter(None if client != client else client for client in rows["client"].tolist())
    assert found == ANSWERS


def test_polars(data: DataDirectory) -> None:
    pytest.importorskip("polars")
    clients = ran("Polars")["clients"]
    assert dict(zip(clients["client"].to_list(), clients["len"].to_list(), strict=True)) == ANSWERS


def test_signed_columns_for_delta_and_iceberg(data: DataDirectory) -> None:
    table = ran("Delta Lake and Iceberg")["table"]
    assert not [field for field in table.schema if pa.types.is_unsigned_integer(field.type)]
    halves = zip(table["source_ipv6_network"].to_pylist(), table["source_ipv6_host"].to_pylist(), strict=True)
    found = Counter(
        str(ipaddress.IPv6Address(int(network) << 64 | int(host)))
        for network, host in halves
        if isinstance(network, Decimal)
    )
    assert found == {client: count for client, count in ANSWERS.items() if client and ":" in client}


def test_spark_is_python_at_least() -> None:
    # It runs below, where there is Spark.
    compile(snippet("Spark"), "Spark", "exec")


@pytest.fixture
def spark(tmp_path: Path) -> Iterator[Any]:
    """A session of Spark, which is no dependency: it takes some hundred megabytes, and Java."""
    sql = pytest.importorskip("pyspark.sql", reason="no pyspark here")
    if not (shutil.which("java") or "JAVA_HOME" in os.environ):
        pytest.skip("no Java here")
    builder = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    session = builder.config("spark.sql.warehouse.dir", str(tmp_path / "warehouse")).getOrCreate()
    yield session
    session.stop()


def test_spark(data: DataDirectory, spark: Any) -> None:
    # Where unfinished files lie beside the finished ones, their names keep them out.
    (data.sessions / ".dns_session_block-x.parquet.tmp").write_bytes(b"PAR1")
    rows = ran("Spark", spark=spark)["rows"]
    clients = Counter(row["client"] for row in rows.select("client").collect())
    assert {
        client and str(ipaddress.ip_address(client)): count for client, count in clients.items()
    } == ANSWERS
    types = dict(rows.dtypes)
    assert (types["dns_protocol"], types["source_port"]) == ("smallint", "int")
    assert (types["source_ipv4"], types["source_ipv6_host"]) == ("bigint", "decimal(20,0)")


def test_files_of_new_names(data: DataDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    data.new_names.mkdir()
    (data.new_names / "new_qname-A_B.jsonl").write_text('{"qname":"WWW.New.se."}\n{"qname":"b."}\n')
    (data.unfinished / ".new_qname-B-1.jsonl.tmp").write_text('{"qname":"')
    ran("Files of new names")
    assert capsys.readouterr().out == "WWW.New.se.\nb.\n"


def test_sketches(data: DataDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    ran("Clients over several files")
    assert int(capsys.readouterr().out) > 0


def test_folders_are_read_as_a_whole(data: DataDirectory) -> None:
    rows = sum(ANSWERS.values())
    assert pq.read_table("parquet/sessions").num_rows == rows
    query = "SELECT count(*) FROM read_parquet('parquet/sessions/*')"
    assert duckdb.execute(query).fetchall() == [(rows,)]
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    assert len(pandas.read_parquet("parquet/sessions")) == rows
    assert polars.scan_parquet("parquet/sessions").collect().height == rows
    assert polars.read_parquet("parquet/sessions").height == rows
