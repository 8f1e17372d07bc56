"""The golden captures: inputs, configuration, and expected outputs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from edm.captures.reading import CaptureReader
from edm.captures.replay import data_frames
from edm.config import Config

CAPTURES = Path(__file__).resolve().parent.parent / "captures"
LISTS = CAPTURES / "lists"
NAMES = ("unbound", "dnsdist", "mutated")

LIST_SETTINGS = {
    "well_known_domains_file": str(LISTS / "well-known.dawg"),
    "ignored_question_names_file": str(LISTS / "ignored-names.dawg"),
    "ignored_client_ips_file": str(LISTS / "ignored-clients"),
}
LABELS = [f"label{i}" for i in range(10)]


def capture(name: str) -> Path:
    return CAPTURES / name / "input.fstrm.zst"


def frames(name: str) -> list[bytes]:
    with CaptureReader(capture(name)) as reader:
        return data_frames(reader)


def daemon_settings(folder: Path, **more: object) -> dict[str, object]:
    """Return settings for :class:`support.daemon.Daemon` with the captures' lists and a Unix socket in ``folder``."""
    return {**LIST_SETTINGS, "input_unix": folder / "dnstap.sock", **more}


def golden_config(data_dir: Path, workers: int = 1, **more: object) -> Config:
    settings: dict[str, object] = {
        "cryptopan_key": "mysecret",
        "data_dir": str(data_dir),
        "minimiser_workers": workers,
        **LIST_SETTINGS,
        **more,
    }
    return Config(**settings)  # type: ignore[arg-type]


def golden_toml(folder: Path, workers: int = 1, **more: object) -> Path:
    """Write a daemon configuration for the golden captures; keyword names have ``_`` for ``-``."""
    settings: dict[str, object] = {
        "cryptopan_key": "mysecret",
        "data_dir": str(folder / "data"),
        "minimiser_workers": workers,
        "input_unix": str(folder / "dnstap.sock"),
        "disable_histogram_sender": True,
        "disable_mqtt": True,
        "metrics_address": "",
        "debug_address": "",
        **LIST_SETTINGS,
        **more,
    }
    path = folder / "edm.toml"
    lines = (f"{key.replace('_', '-')} = {json.dumps(value)}\n" for key, value in settings.items())
    path.write_text("".join(lines))
    return path


def read_all(folder: Path, pattern: str) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob(pattern))])


def histogram_rows(table: pa.Table) -> pa.Table:
    """Rows sorted by labels, without the start time, which is the run's own."""
    keys = [(label, "ascending") for label in LABELS]
    return table.drop_columns(["start_time"]).sort_by(keys).replace_schema_metadata(None)


def session_rows(table: pa.Table, *, ordered: bool) -> list[tuple[object, ...]]:
    """All rows as tuples of plain values: times as microseconds, since some lie beyond the year 9999."""
    columns = []
    for name in sorted(table.column_names):
        column = table[name].combine_chunks()
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        if pa.types.is_string(column.type):
            column = column.cast(pa.binary())
        columns.append(column.to_pylist())
    rows = list(zip(*columns, strict=True))
    return rows if ordered else sorted(rows, key=repr)


def events(lines: Iterable[str], *, ordered: bool) -> list[str]:
    stripped = [line.rstrip("\n") for line in lines]
    return stripped if ordered else sorted(stripped)


def expected_counters(name: str) -> dict[str, int]:
    counters: dict[str, int] = json.loads((CAPTURES / name / "counters.json").read_text())
    return counters
