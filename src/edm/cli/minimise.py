"""``edm minimise``: the pipeline over capture files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from edm.cli.arguments import Arguments, Option, Spec
from edm.cli.printing import complain, say
from edm.config import load
from edm.files.visible import visible, visible_json
from edm.observe import logs

SPEC = Spec(
    positional="FILE...",
    options=(
        Option("summary", "How to print the summary.", default="text", choices=("text", "json")),
        Option("quiet", "No progress bar and no summary.", kind="bool", default=False),
    ),
    about="Minimise dnstap captures (Frame Streams files, plain, gzip or Zstandard; - is standard input) "
    "with the pipeline of the daemon. Histograms and sessions go below --data-dir as the daemon writes them, new "
    "names to new_qname.jsonl there.",
)


def run(args: Arguments) -> int:
    """Minimise the files; returns 0 if all were whole and nothing was lost, else 1."""
    config = load(args.config_file, args.flags, os.environ, purpose="minimise")
    logs.configure(cast(logs.Format, config.log_format), config.debug)
    from edm.captures.minimiser import minimise
    from edm.startup.warmup import warm_up

    warm_up(config)
    quiet = bool(args.options["quiet"])
    with _progress(not quiet and sys.stderr.isatty()) as progress:
        summary = minimise(config, args.positional, progress)
    if not quiet:
        if args.options["summary"] == "json":
            print(visible_json(json.dumps(summary.as_dict(), indent=2)))
        else:
            say(*summary.as_text().splitlines())
    complain(args.program, *summary.problems, *summary.faults)
    return 1 if summary.problems or summary.faults else 0


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
