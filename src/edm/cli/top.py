"""``edm top``: show the status of a daemon in a terminal and refresh it."""

from __future__ import annotations

import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.layout import Layout
from rich.live import Live
from rich.text import Text

from edm.cli.arguments import Arguments, Option, Spec
from edm.cli.status_client import Daemon, StatusError
from edm.cli.top_views import SORTS, VIEWS, show
from edm.errors import ConfigError
from edm.files.visible import visible_json

ADDRESS = "127.0.0.1:2112"

STATUS_OPTIONS = (
    Option("address", "HOST:PORT or URL of the daemon's metrics server.", default=ADDRESS),
    Option("token-file", "File with the bearer token, if the daemon asks for one."),
    Option("ca-file", "Authorities to trust for https:// (PEM); those of the system by default."),
    Option("cert-file", "Client certificate for https:// (PEM)."),
    Option("key-file", "Private key of the client certificate (PEM)."),
)
"""Options for reaching a daemon, also used by other commands."""

SPEC = Spec(
    options=(
        *STATUS_OPTIONS,
        Option("interval", "Seconds between two looks.", kind="int", default=2),
        Option("view", "The view to begin with.", default=VIEWS[0], choices=VIEWS),
        Option("once", "Print one look and end.", kind="bool", default=False),
        Option("json", "Print the status as JSON and end.", kind="bool", default=False),
    ),
    config=False,
    about="Show what a running daemon does, as its status page does: rates, fates, senders, workers, queues, new "
    "names, backlog, ledgers. Keys: 1 to 5 or Tab switch the view, s sorts the senders otherwise, space looks at once, "
    "q ends. With --once or --json the exit code is 0 if the daemon is ready, 2 if it answers and is not.",
)

NOT_READY = 2
"""Exit code if the daemon answers but is not ready."""
_SECOND_LOOK = 1.0
_HELP = "1 overview  2 senders  3 work  4 output  5 history  s sort  q quit"


def reach(args: Arguments) -> Daemon:
    """Return the daemon that the options name."""
    given = {
        name: str(args.options[name] or "") for name in ("token-file", "ca-file", "cert-file", "key-file")
    }
    return Daemon(str(args.options["address"]), *given.values())


class _Screen:
    """State of the screen: view, order of the senders, and the last document."""

    def __init__(self, daemon: Daemon, view: str) -> None:
        self.daemon = daemon
        self.view = view
        self.sort = 0
        self.document: dict[str, Any] | None = None
        self.problem = ""

    def look(self) -> None:
        """Ask the daemon; if it does not answer, the last document stays."""
        try:
            self.document = self.daemon.status()
            self.problem = ""
        except StatusError as error:
            self.problem = str(error)

    def render(self, width: int, height: int) -> Any:
        """Return the present view for rich to print."""
        if self.document is None:
            return Text(f"{self.problem}\n\nTrying again ... q quits.")
        return show(self.document, self.view, self.sort, width, height, self.problem)

    def press(self, key: str) -> bool:
        """Handle a key; return False if it ends the program."""
        if key in ("q", "Q", "\x03", "\x04"):
            return False
        if key in "12345" and key:
            self.view = VIEWS[int(key) - 1]
        elif key == "\t":
            self.view = VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)]
        elif key in ("s", "S"):
            self.sort = (self.sort + 1) % len(SORTS)
        return True


@contextmanager
def _keys(descriptor: int) -> Iterator[None]:
    """Read keys one by one and without echo; restore the terminal afterwards."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _watch(screen: _Screen, interval: float) -> int:
    console = Console()
    descriptor = sys.stdin.fileno()
    with (
        _keys(descriptor),
        Live(
            console=console, screen=True, auto_refresh=False, transient=True, vertical_overflow="crop"
        ) as live,
    ):
        due = 0.0
        while True:
            if time.monotonic() >= due:
                screen.look()
                due = time.monotonic() + interval
            width, height = console.size
            live.update(_with_help(screen.render(width, height), height), refresh=True)
            ready, _, _ = select.select([descriptor], [], [], max(0.0, due - time.monotonic()))
            if not ready:
                continue
            typed = os.read(descriptor, 64).decode("ascii", "replace")
            if not typed:  # the terminal was closed
                return 0
            for key in typed:
                if not screen.press(key):
                    return 0
                due = 0.0 if key == " " else due


def _with_help(body: Any, height: int) -> Any:
    layout = Layout()
    layout.split_column(Layout(body, name="body"), Layout(Text(_HELP, "reverse"), size=1))
    layout["body"].size = max(1, height - 1)
    return layout


def _once(daemon: Daemon, view: str, as_json: bool) -> int:
    document = daemon.status()
    if not as_json:
        time.sleep(_SECOND_LOOK)  # rates are computed over the time between two requests
        document = daemon.status()
    if as_json:
        sys.stdout.write(visible_json(json.dumps(document, indent=2)) + "\n")
    else:
        console = Console(highlight=False)
        console.print(show(document, view, 0, console.width, 200))
    health = document.get("health") or {}
    return 0 if health.get("ready") else NOT_READY


def run(args: Arguments) -> int:
    """Show the status; with ``--once`` or ``--json`` the exit code says whether the daemon is ready."""
    daemon, view = reach(args), str(args.options["view"])
    interval = int(args.options["interval"] or 0)
    if interval < 1:
        raise ConfigError("interval: must be at least 1 second")
    if args.options["once"] or args.options["json"]:
        return _once(daemon, view, bool(args.options["json"]))
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("this is no terminal: --once or --json prints one look")
    return _watch(_Screen(daemon, view), float(interval))


__all__ = ["ADDRESS", "SPEC", "STATUS_OPTIONS", "reach", "run"]
