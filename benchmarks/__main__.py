"""``python -m benchmarks``: measure, print one table, record the run."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import end_to_end, growth, lists, long_runs, pipeline_stages, report, stages
from benchmarks.end_to_end import CASES, NO_SESSIONS, QUICK, Ground, Scale
from benchmarks.processes import CAPTURE_TOOL, capture_tool
from benchmarks.results import Result
from benchmarks.streams import Parameters, from_capture, generate

SCALES = {
    "quick": Scale(frames=400_000, passes=4, rounds=1, light_seconds=4.0),
    "usual": Scale(frames=1_000_000, passes=6, rounds=3, light_seconds=10.0),
    "full": Scale(frames=1_000_000, passes=20, rounds=5, light_seconds=30.0),
}
MILLION = 1_000_000

Part = tuple[str, Callable[[], list[Result]]]


def _pipeline(ground: Ground, size: str) -> list[Result]:
    rounds = {"quick": 3, "usual": 7, "full": 15}[size]
    frames = 200_000 if size == "quick" else 500_000
    wide = {"well_known_domains_file": ground.list_file()}
    results = []
    for name, queries, settings in (
        ("mixed", True, wide),
        ("responses", False, wide),
        ("no sessions", False, {**wide, **NO_SESSIONS}),
    ):
        if size == "quick" and name != "responses":
            continue
        stream = generate(Parameters(frames=frames, queries=queries))
        results += pipeline_stages.stages(stream, name, rounds, **settings)
        if len(os.sched_getaffinity(0)) > 1 and size != "quick":
            results.append(pipeline_stages.side_by_side(stream, name, 2 * rounds, **settings))
    if size != "quick":
        stream = from_capture("dnsdist", queries=False)
        results += pipeline_stages.stages(stream, "capture dnsdist", rounds)
    return results


def parts(size: str, ground: Ground) -> list[Part]:
    """Return what a run of a size consists of: names and what to call."""
    scale = ground.scale
    full, quick = size == "full", size == "quick"
    cases = [case for case in CASES if not quick or case.name in QUICK]
    seen = [MILLION // 2] if quick else [MILLION, 10 * MILLION] + [100 * MILLION] * full
    sizes = [Parameters.names] if quick else [1000, Parameters.names, MILLION] + [10 * MILLION] * full
    made: list[Part] = [
        ("end to end", lambda: end_to_end.measure(ground, cases, "end to end", list_captures=True)),
        ("light", lambda: long_runs.light_traffic(ground)),
        ("pipeline", lambda: _pipeline(ground, size)),
        ("pseudonyms", lambda: stages.pseudonyms(max(3, scale.rounds), 4 if quick else 32)),
        ("seen names", lambda: stages.seen_names(max(3, scale.rounds), seen, 8 if quick else 32)),
        ("list", lambda: lists.lists(max(3, scale.rounds) * (1 if quick else 4), sizes, 4 if quick else 8)),
        ("histogram", lambda: stages.histograms(Parameters.names if quick else MILLION, 5)),
    ]
    if quick:
        return made
    made.append(("rotation", lambda: long_runs.rotation(ground, MILLION, (30 if full else 6) * MILLION)))
    made += _growth(ground, full)
    if full:
        made.append(("endurance", lambda: long_runs.endurance(ground, 600.0)))
    return made


def _growth(ground: Ground, full: bool) -> list[Part]:
    few = Scale(ground.scale.frames, min(6, ground.scale.passes), min(3, ground.scale.rounds), 0.0)
    small = Ground(ground.folder / "growth", few)
    small.folder.mkdir(exist_ok=True)
    return [
        ("growth batch", lambda: growth.batch_rows(small, [512, 1024, 2048, 4096, 8192])),
        ("growth block", lambda: growth.block_size(small, [1 << k for k in (17, 18, 19, 20, 22)])),
        ("growth workers", lambda: growth.workers(small, [1, 2, 4])),
        ("growth connections", lambda: growth.connections(small, [1, 4, 16])),
        (
            "growth list",
            lambda: growth.list_size(small, [1000, Parameters.names, MILLION] + [10 * MILLION] * full),
        ),
        ("growth clients", lambda: growth.clients(small, [1000, 28_000, MILLION])),
        ("growth frame", lambda: growth.frame_size(small, [0, 256, 1024])),
    ]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", const="quick", dest="size", help="under two minutes")
    size.add_argument("--full", action="store_const", const="full", dest="size", help="an hour and more")
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="parts whose name begins so; repeatable"
    )
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="where to record the run instead of results/"
    )
    parser.add_argument(
        "--compare", metavar="FILE", type=Path, help="compare with this run, not the last one"
    )
    parser.add_argument("--list", action="store_true", help="name the parts and end")
    parser.set_defaults(size="usual")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks; return the exit code."""
    arguments = _arguments(argv)
    console = Console(width=None if sys.stdout.isatty() else 160)
    compared = arguments.compare or report.previous()
    before = report.read(compared) if compared is not None else None
    where = report.machine()
    with tempfile.TemporaryDirectory(prefix="edm-bench-") as folder:
        ground = Ground(Path(folder), SCALES[arguments.size])
        chosen = [
            part
            for part in parts(arguments.size, ground)
            if not arguments.only or any(part[0].startswith(only) for only in arguments.only)
        ]
        if arguments.list or not chosen:
            console.print("\n".join(name for name, _ in parts(arguments.size, ground)))
            return 0 if arguments.list else 2
        if capture_tool() is None:
            console.print(f"{CAPTURE_TOOL} (Debian package fstrm-bin) is not installed: no ratios to it")
        end_to_end.warm_up()
        results: list[Result] = []
        for name, run in chosen:
            began = time.monotonic()
            results += run()
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    report.show(results, where, before, console)
    path = arguments.json or report.next_path()
    options = {"size": arguments.size, "only": arguments.only or []}
    report.write(report.as_json(results, where, options), path)
    console.print(f"recorded in {path}" + (f", compared with {compared}" if compared else ""), style="dim")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
