"""``edm minimise``: the pipeline over capture files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from edm.cli.arguments import Arguments, Option, Spec, UsageError
from edm.cli.printing import complain, say
from edm.config import load
from edm.files.visible import visible, visible_json
from edm.observe import logs

SPEC = Spec(
    positional="FILE...",
    options=(
        Option("summary", "How to print the summary.", default="text", choices=("text", "json")),
        Option("json", "The same as --summary json.", kind="bool", default=False),
        Option(
            "compare",
            "Take the first two arguments for configuration files, and tell which frames of the captures would meet "
            "another fate with the second; nothing is written.",
            kind="bool",
            default=False,
        ),
        Option("quiet", "No progress bar and no summary.", kind="bool", default=False),
    ),
    about="Minimise dnstap captures (Frame Streams files, plain, gzip or Zstandard; - is standard input) "
    "with the pipeline of the daemon. Histograms and sessions go below --data-dir as the daemon writes them, new "
    "names to new_qname.jsonl there.",
)


def run(args: Arguments) -> int:
    """Minimise the files; returns 0 if all were whole and nothing was lost, else 1."""
    if args.options["compare"]:
        return _compare(args)
    config = load(args.config_file, args.flags, os.environ, purpose="minimise")
    logs.configure(cast(logs.Format, config.log_format), config.debug)
    from edm.captures.minimiser import minimise
    from edm.startup.warmup import warm_up

    warm_up(config)
    quiet = bool(args.options["quiet"])
    with _progress(not quiet and sys.stderr.isatty()) as progress:
        summary = minimise(config, args.positional, progress)
    if not quiet:
        if _wants_json(args):
            print(visible_json(json.dumps(summary.as_dict(), indent=2)))
        else:
            say(*summary.as_text().splitlines())
    complain(args.program, *summary.problems, *summary.faults)
    return 1 if summary.problems or summary.faults else 0


def _wants_json(args: Arguments) -> bool:
    return bool(args.options["json"]) or args.options["summary"] == "json"


def _compare(args: Arguments) -> int:
    if len(args.positional) < 3:
        raise UsageError(["--compare needs two configuration files, and captures behind them"])
    if args.config_file is not None:
        raise UsageError(["--compare takes its configuration files as arguments, without --config-file"])
    before, after = (
        load(Path(name), args.flags, os.environ, purpose="minimise") for name in args.positional[:2]
    )
    logs.configure(cast(logs.Format, before.log_format), before.debug)
    from edm.captures.compare import compare
    from edm.trial.telling import tell_comparison

    comparison, problems = compare(before, after, args.positional[2:])
    found = comparison.document()
    if _wants_json(args):
        print(visible_json(json.dumps({**found, "problems": problems}, indent=2)))
    else:
        say(*tell_comparison(found))
    complain(args.program, *problems)
    return 1 if problems else 0


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[str, int, int | None], None]]:
    if not shown:
        yield lambda _name, _done, _size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, int] = {}

        def show(name: str, done: int, size: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(visible(name), total=size)
            bar.update(tasks[name], completed=done)  # type: ignore[arg-type]

        yield show
