"""``edm top`` against a real daemon in a pseudo-terminal, and its views in a small terminal."""

from __future__ import annotations

import copy
import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edm.cli.main import main
from edm.cli.top_views import SORTS, VIEWS, show
from edm.kernel.jit import JIT_DISABLED
from support import golden
from support.daemon import Daemon, running
from support.golden import daemon_settings as settings

EVIL = "\x1b[31mred[bold]x[/bold]\u202e"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    if JIT_DISABLED:
        pytest.skip("the daemon is tested with JIT")
    folder = tmp_path_factory.mktemp("top")
    with running(folder, **settings(folder)) as daemon:
        daemon.send(golden.frames("unbound")[:3000])
        daemon.rotate()
        yield daemon


@pytest.fixture
def status(daemon: Daemon) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(daemon.http("GET", "/api/status")[1])
    return document


def lines(document: dict[str, Any], view: str, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(show(document, view, 0, width, height))
    return capture.get().rstrip("\n").split("\n")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
def test_each_view_fits_its_terminal(status: dict[str, Any], view: str, width: int, height: int) -> None:
    shown = lines(status, view, width, height)
    assert len(shown) < height
    assert max(map(len, shown)) <= width
    assert "3,000" in shown[0]
    assert "A part of the status is missing" not in "".join(shown)


@pytest.mark.parametrize("view", VIEWS)
def test_text_from_outside_is_neither_markup_nor_control(status: dict[str, Any], view: str) -> None:
    document = copy.deepcopy(status)
    document["input"]["senders"] = [
        {
            "sender": i,
            "peer": EVIL,
            "identity": EVIL,
            "since": 0,
            "frames": i,
            "bytes": 1,
            "frames_per_second": i,
            "last_frame": None,
            "blocked_seconds": 0.0,
        }
        for i in range(100)
    ]
    document["health"].update(summary=EVIL, state="failing")
    document["health"]["findings"] = [
        {"code": "x", "severity": "error", "what": EVIL, "do": EVIL, "since": 0} for _ in range(5)
    ]
    document["program"]["host"] = EVIL
    text = "\n".join(lines(document, view, 80, 24))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[31mred[bold]x[/bold]" in text


@pytest.mark.parametrize("view", VIEWS)
def test_a_section_that_is_missing_does_not_end_it(status: dict[str, Any], view: str) -> None:
    document = {**dict.fromkeys(status), "version": 1, "time": 0.0}
    assert "A part of the status is missing" in "\n".join(lines(document, view, 80, 24))


def test_senders_are_sorted_as_wanted(status: dict[str, Any]) -> None:
    keys = ("frames_per_second", "frames", "bytes", "blocked_seconds", "last_frame", "identity")
    for sort, (_, key) in enumerate(SORTS):
        low = dict.fromkeys(keys, 1) | {"identity": "a", "peer": "low"}
        high = dict.fromkeys(keys, 2) | {"identity": "b", "peer": "high"}
        first = "low" if sort >= 4 else "high"
        assert sorted([low, high], key=key)[0]["peer"] == first


def test_once_and_json(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{daemon.metrics_port}"
    assert main(["top", "--once", "--address", address]) == 0
    assert "3,000 in all" in capsys.readouterr().out
    assert main(["top", "--json", "--address", f"http://{address}"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"]["total"] == 3000


def test_nobody_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once", "--address", "127.0.0.1:1"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "127.0.0.1:1: no answer from a daemon: Connection refused" in error


def test_without_a_terminal_it_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top"]) == 1
    assert "--once or --json" in capsys.readouterr().err


@contextmanager
def answering(body: bytes, code: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b"hello", 200, "is no JSON"),
        (b"[" * 100_000, 200, "is no JSON"),
        (b"[]", 200, "not of version 1"),
        (b'{"version":2}', 200, "not of version 1"),
        (b"no", 404, "has no /api/status"),
        (b"no", 401, "does not let us in"),
        (b"x" * (5 << 20), 200, "unexpected answer"),
        (b"", 500, "unexpected answer"),
    ],
)
def test_whatever_answers_it_is_one_line(
    capsys: pytest.CaptureFixture[str], body: bytes, code: int, text: str
) -> None:
    with answering(body, code) as address:
        assert main(["top", "--once", "--address", address]) == 1
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


class Terminal:
    """``edm top`` at a pseudo-terminal of 80 by 24 characters."""

    def __init__(self, daemon: Daemon) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        program = Path(sys.executable).with_name("edm")
        self.process = subprocess.Popen(
            [program, "top", "--address", f"127.0.0.1:{daemon.metrics_port}", "--interval", "1"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
            start_new_session=True,
        )
        self.seen = ""

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen[-2000:]
            if select.select([self.master], [], [], 0.5)[0]:
                self.seen += os.read(self.master, 65536).decode("utf-8", "replace")

    def press(self, keys: str) -> None:
        self.seen = ""
        os.write(self.master, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def test_keys_switch_views_and_sort_and_the_terminal_is_left_as_it_was(daemon: Daemon) -> None:
    terminal = Terminal(daemon)
    try:
        terminal.wait_for("Fates")
        for key, expected in (
            ("2", "Message types"),
            ("3", "Stages"),
            ("4", "Histograms to Core"),
            ("5", "Last intervals"),
        ):
            terminal.press(key)
            terminal.wait_for(expected)
        terminal.press("\t")
        terminal.wait_for("Fates")
        terminal.press("q")
        assert terminal.process.wait(30) == 0
        assert termios.tcgetattr(terminal.slave)[:6] == terminal.before[:6]
    finally:
        terminal.close()
