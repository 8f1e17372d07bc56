"""The one table, and the JSON of a run that later runs are compared with."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.results import Result

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
BASELINE = FOLDER / "baseline.json"
FORMAT = 1


def machine() -> dict[str, Any]:
    """Describe what was measured on, without naming it."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    packages = {name: version(name) for name in ("edm-dnstap", "numba", "numpy", "pyarrow", "cryptography")}
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu,
        "memory_gib": round(memory / (1 << 30)),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **packages,
    }


def as_json(
    results: Sequence[Result], where: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a run as it is recorded."""
    return {
        "format": FORMAT,
        "options": dict(options),
        "machine": dict(where),
        "results": [result.as_dict() for result in results],
    }


def write(run: Mapping[str, Any], path: Path) -> None:
    """Record a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read a recorded run.

    Raises
    ------
    ValueError
        The file holds no run, or one of another format.
    """
    run = json.loads(path.read_text())
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        raise ValueError(f"{path} holds no recorded run of format {FORMAT}")
    return run


def next_path() -> Path:
    """Return a path for today's next run."""
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    number = 1
    while (path := RESULTS / f"{today}-{number:03}.json").exists():
        number += 1
    return path


def previous() -> Path | None:
    """Return the run recorded last; the baseline if there is none."""
    recorded = sorted(RESULTS.glob("*.json"))
    if recorded:
        return recorded[-1]
    return BASELINE if BASELINE.exists() else None


def ratios(results: Sequence[Result], before: Mapping[str, Any] | None) -> dict[str, float]:
    """Return, by name, how many times the cost in the run ``before`` the cost is now.

    The cost is the CPU time; for a result without one, the time from frame to frame.
    """
    if before is None:
        return {}
    old = {entry["name"]: entry for entry in before["results"]}
    found = {}
    for result in results:
        entry = old.get(result.name)
        if entry is None:
            continue
        if result.cpu and entry["cpu"]:
            found[result.name] = result.cpu / entry["cpu"]
        elif result.rate and entry["rate"]:
            found[result.name] = entry["rate"] / result.rate
    return found


def table(results: Sequence[Result], before: Mapping[str, Any] | None = None) -> Table:
    """Return the table of a run."""
    compared = ratios(results, before)
    shown = Table(show_edge=False, pad_edge=False, header_style="bold")
    shown.add_column("stage", overflow="fold")
    for heading in (
        "frames/s",
        "CPU µs\n/frame",
        "× CPU of\nfstrm_capture",
        "of its\nframes/s",
        "× previous\nrun",
    ):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("", style="dim", overflow="fold")
    group = ""
    for result in results:
        first = result.name.partition(":")[0]
        if group and first != group:
            shown.add_section()
        group = first
        shown.add_row(
            result.name,
            f"{result.rate or 1 / result.cpu:,.0f}" if result.rate or result.cpu else "",
            f"{result.cpu * 1e6:.3f}" if result.cpu else "",
            f"{result.of_capture_cpu:.2f}" if result.of_capture_cpu else "",
            f"{result.of_capture_rate:.2f}" if result.of_capture_rate else "",
            f"{compared[result.name]:.2f}" if result.name in compared else "",
            result.note,
        )
    return shown


def show(
    results: Sequence[Result], where: Mapping[str, Any], before: Mapping[str, Any] | None, console: Console
) -> None:
    """Print machine and table."""
    console.print(
        f"{where['cores']} cores ({where['cpu']}), {where['memory_gib']} GiB, load {where['load_before']} before; "
        f"Python {where['python']}, numba {where['numba']}, numpy {where['numpy']}, pyarrow {where['pyarrow']}",
        style="dim",
    )
    if before is not None and _kind(before["machine"]) != _kind(where):
        console.print("the previous run was recorded on another kind of machine", style="yellow")
    console.print(table(results, before))


def _kind(where: Mapping[str, Any]) -> tuple[Any, Any]:
    return where.get("cores"), where.get("cpu")
