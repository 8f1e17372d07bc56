"""The command ``edm doctor``: runs the checks, prints the findings worst first, and returns the exit code."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator

from edm.cli.arguments import Arguments, Option, Spec
from edm.cli.doctor import peers, running, site
from edm.cli.doctor.catalogue import CATALOGUE, Found
from edm.cli.printing import say
from edm.cli.status_client import Daemon
from edm.cli.top import STATUS_OPTIONS, reach
from edm.config import Config, load
from edm.errors import ConfigError
from edm.files.visible import visible_json

SPEC = Spec(
    options=(
        *(dataclasses.replace(o, default=None) if o.name == "address" else o for o in STATUS_OPTIONS),
        Option(
            "offline", "Connect to nobody: neither to Core nor to the daemon.", kind="bool", default=False
        ),
        Option("json", "Print the findings as JSON.", kind="bool", default=False),
    ),
    about="Check a whole installation and say what to do, worst first: configuration, permissions, the socket and the "
    "DNS servers' users, compiled kernels, limits, clock, disk, certificates and the connections to Core (nothing is "
    "sent), and the running daemon with what DNS servers send to it. Each finding has a code, see docs/doctor.md. The "
    "exit code is 0 if all is well, 1 after warnings, 2 after errors. Run it as the user that runs EDM, or as root.",
)

EXIT = {"info": 0, "warning": 1, "error": 2}
"""Exit code by the worst severity."""


def examine(config: Config, daemon: Daemon | None) -> Iterator[Found]:
    """Yield all findings; without ``daemon``, no connection is made."""
    yield from site.look(config)
    if daemon is not None:
        yield from peers.look(config)
        yield from running.look(daemon)


def _daemon(args: Arguments, config: Config) -> Daemon:
    if args.options["address"] is None:
        secure = "https://" if config.metrics_tls_cert_file else ""
        args.options["address"] = secure + config.metrics_address
    if args.options["token-file"] is None and config.metrics_token_file:
        args.options["token-file"] = config.metrics_token_file
    return reach(args)


def _print(found: Iterable[Found]) -> None:
    for each in found:
        say(
            f"{each.code} {each.entry.severity}: {each.entry.title}",
            f"    {each.text}",
            f"    {each.entry.advice}",
        )


def run(args: Arguments) -> int:
    """Run the checks and print the findings; return the exit code of the worst one."""
    try:
        config = load(args.config_file, args.flags, os.environ)
    except ConfigError as error:
        found = [Found("EDM001", line) for line in error.violations]
    else:
        daemon = None if args.options["offline"] or not config.metrics_address else _daemon(args, config)
        found = sorted(set(examine(config, daemon)), key=lambda each: (*each.rank, each.text))
    worst = max((EXIT[each.entry.severity] for each in found), default=0)
    if args.options["json"]:
        listed = [
            {
                "code": f.code,
                "severity": f.entry.severity,
                "title": f.entry.title,
                "text": f.text,
                "do": f.entry.advice,
            }
            for f in found
        ]
        sys.stdout.write(visible_json(json.dumps({"exit": worst, "findings": listed}, indent=2)) + "\n")
        return worst
    _print(found)
    if not worst:
        print("All is well." if not found else "Nothing to do.")
    return worst


__all__ = ["CATALOGUE", "EXIT", "SPEC", "examine", "run"]
