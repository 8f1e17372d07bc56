"""Child processes of the end-to-end tests: found, started, waited for, and never left behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

POLL = 0.02
PATIENCE = 60.0
_SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"))


def find(program: str) -> str | None:
    """Return the path of a program; servers live where an ordinary user's PATH does not lead."""
    return shutil.which(program, path=_SYSTEM_PATH)


def need(*programs: str) -> None:
    """Skip the test if a program is not installed; fail it if ``EDM_REQUIRE_E2E=1`` demands the test."""
    missing = [program for program in programs if find(program) is None]
    if missing:
        reason = f"not installed: {', '.join(missing)} (make servers installs them)"
        if os.environ.get("EDM_REQUIRE_E2E") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of ``host`` that is free for TCP and UDP.

    It lies below the range from which the system chooses ports, so that no outgoing connection takes it
    before the server does.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        port = random.randrange(15000, 32000)
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(family, kind) as probe:
                    probe.bind((host, port))
        except OSError:
            continue
        return port


def has_ipv6() -> bool:
    """Tell whether this machine has the IPv6 loopback address."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def listening(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether somebody accepts TCP connections on ``port``."""
    try:
        with socket.create_connection((host, port), 1):
            return True
    except OSError:
        return False


def wait_until(
    condition: Callable[[], bool], what: str | Callable[[], str], patience: float = PATIENCE
) -> None:
    """Wait until ``condition`` holds; fail the test, saying ``what`` did not happen, if it takes too long."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {patience:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(POLL)


def start_child(command: Sequence[str | Path], **options: object) -> subprocess.Popen[bytes]:
    """Start a child that the kernel kills should the test process die without cleaning up."""
    words = [str(word) for word in command]
    if guard := find("setpriv"):
        words = [guard, "--pdeathsig", "KILL", *words]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload,no-any-return]


def end_child(process: subprocess.Popen[bytes], patience: float = 10.0) -> int:
    """End a child, by force if it does not go; return its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


class Server:
    """A server as a child process, from entering the context to leaving it; its output goes to a file.

    Subclasses set :attr:`program`, write the configuration into :attr:`folder` in :meth:`command`, and say
    in :meth:`is_up` when it serves.
    """

    program = ""

    def __init__(self, folder: Path) -> None:
        need(self.program)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.output = folder / f"{self.program}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str | Path]:
        """Return the command line, without the program."""
        raise NotImplementedError

    def is_up(self) -> bool:
        """Tell whether the server serves."""
        raise NotImplementedError

    def log(self) -> str:
        """Return what the server has written so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def start(self) -> None:
        """Start the server and wait until it serves."""
        executable = find(self.program)
        assert executable is not None
        with self.output.open("ab") as output:
            self.process = start_child([executable, *self.command()], stdout=output, stderr=output)

        def up() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                pytest.fail(f"{self.program} ended with {self.process.returncode}:\n{self.log()[-2000:]}")
            return self.is_up()

        try:
            wait_until(up, lambda: f"{self.program} serves:\n{self.log()[-2000:]}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> int:
        """End the server; return its exit code."""
        assert self.process is not None
        return end_child(self.process)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
