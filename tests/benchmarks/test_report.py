"""The benchmark report: its table and the recorded runs."""

from __future__ import annotations

import io
import json
import platform
from pathlib import Path

import pytest
from benchmarks.results import Result, median
from rich.console import Console

from benchmarks import report

RESULTS = [
    Result("end to end: tool", cpu=2e-7, rate=4_000_000.0),
    Result(
        "end to end: daemon", cpu=6e-7, rate=1_500_000.0, of_capture_cpu=3.0, of_capture_rate=0.375, note="so"
    ),
    Result("rotation", rate=1_000_000.0),
]
WHERE = {"cores": 2, "cpu": "some"}


def recorded(results: list[Result]) -> dict[str, object]:
    return report.as_json(results, WHERE, {"size": "quick"})


def printed(before: dict[str, object] | None) -> list[list[str]]:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.table(RESULTS, before))
    lines = console.export_text().splitlines()
    return [[cell.strip() for cell in line.split("│")] for line in lines if "│" in line]


def test_table() -> None:
    tool, daemon, rotation = printed(None)[-3:]
    assert tool == ["end to end: tool", "4,000,000", "0.200", "", "", "", ""]
    assert daemon == ["end to end: daemon", "1,500,000", "0.600", "3.00", "0.38", "", "so"]
    assert rotation == ["rotation", "1,000,000", "", "", "", "", ""]


def test_cpu_time_alone_gives_a_rate() -> None:
    table = report.table([Result("walk", cpu=1e-8)])
    assert next(iter(table.columns[1].cells)) == "100,000,000"


def test_ratio_to_the_run_before() -> None:
    before = recorded(
        [
            Result("end to end: daemon", cpu=1.2e-6, rate=1.0),
            Result("rotation", rate=2_000_000.0),
            Result("gone", cpu=1.0),
        ]
    )
    assert report.ratios(RESULTS, before) == {
        "end to end: daemon": pytest.approx(0.5),
        "rotation": pytest.approx(2.0),
    }
    assert report.ratios(RESULTS, None) == {}
    assert [row[5] for row in printed(before)[-3:]] == ["", "0.50", "2.00"]


def test_a_run_is_recorded_and_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.json"
    report.write(recorded(RESULTS), path)
    run = report.read(path)
    assert [Result(**entry) for entry in run["results"]] == RESULTS
    assert run["machine"] == WHERE


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": 0, "results": []}', "nonsense"])
def test_what_is_no_run_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(ValueError):
        report.read(path)


def test_runs_are_numbered_and_the_last_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(report, "BASELINE", tmp_path / "baseline.json")
    assert report.previous() is None
    report.BASELINE.write_text("{}")
    assert report.previous() == report.BASELINE
    first = report.next_path()
    report.write(recorded([]), first)
    second = report.next_path()
    report.write(recorded([]), second)
    assert first.name.endswith("-001.json")
    assert second.name.endswith("-002.json")
    assert report.previous() == second


def test_machine_is_described_without_its_name() -> None:
    where = report.machine()
    assert where["cores"] >= 1
    assert where["python"] == platform.python_version()
    assert {"numba", "numpy", "pyarrow", "memory_gib"} <= where.keys()
    assert platform.node() not in json.dumps(where).split('"')


def test_median() -> None:
    assert median([3.0, 1.0, 100.0]) == 3.0
