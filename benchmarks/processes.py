"""The receivers that are measured, as child processes: the daemon, and ``fstrm_capture`` to compare with."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.streams import LISTS, ROOT

PROGRAM = ("-m", "edm.cli.main")
"""Arguments of the interpreter for the daemon's own command line."""

START_TIMEOUT = 300.0
"""Seconds for the start of a daemon, which may have to compile all kernels."""

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_of(pid: int) -> float:
    """Return the CPU seconds, user and system, that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def rss_of(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_rss_of(pid: int) -> int:
    """Return the largest resident memory that a process ever had, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def threads_of(pid: int) -> dict[int, float]:
    """Return the CPU seconds that each thread has used so far."""
    used: dict[int, float] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            used[int(task.name)] = (int(fields[11]) + int(fields[12])) / _TICK
    return used


@dataclass(frozen=True)
class Ended:
    """What a child used in its whole life: CPU seconds and, in bytes, its peak of resident memory."""

    code: int
    cpu: float
    peak_rss: int


class Child:
    """A child whose resources are known when it has ended. A context that leaves none behind."""

    def __init__(self, command: list[str], stderr: IO[bytes] | int = subprocess.DEVNULL) -> None:
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr)
        self.pid = self._process.pid
        self._ended: Ended | None = None

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return (
            self._ended is None
            and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        )

    def stop(self, number: int = signal.SIGTERM, timeout: float = 120.0) -> Ended:
        """Send a signal, wait for the end, and return what was used."""
        if self._ended is None:
            os.kill(self.pid, number)
            timer = threading.Timer(timeout, os.kill, (self.pid, signal.SIGKILL))
            timer.start()
            _, status, used = os.wait4(self.pid, 0)
            timer.cancel()
            code = os.waitstatus_to_exitcode(status)
            self._process.returncode = code
            self._ended = Ended(code, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)
        return self._ended

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)


def wait_for(
    condition: Callable[[], bool], what: str, timeout: float = 60.0, *, pause: float = 0.005
) -> None:
    """Wait until ``condition`` holds; it is asked every ``pause`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:.0f} s")
        time.sleep(pause)


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Daemon:
    """The daemon with a folder of its own; a context that leaves neither child nor files behind.

    Parameters
    ----------
    settings : mapping
        Configuration, named with ``_`` for ``-``, over what is usual here.
    program : sequence of str
        What runs instead of the daemon's own command line; it gets the same arguments.

    Attributes
    ----------
    startup_cpu : float
        CPU seconds used until it received dnstap.
    startup_seconds : float
    """

    def __init__(self, settings: Mapping[str, object], program: Sequence[str] = PROGRAM) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edm-bench-")
        self.folder = Path(self._folder.name)
        self.socket = str(self.folder / "dnstap.sock")
        self.port = free_port()
        self.settings: dict[str, object] = {
            "cryptopan_key": "benchmark",
            "data_dir": str(self.folder / "data"),
            "input_unix": self.socket,
            "well_known_domains_file": str(LISTS / "well-known.dawg"),
            "ignored_question_names_file": str(LISTS / "ignored-names.dawg"),
            "ignored_client_ips_file": str(LISTS / "ignored-clients"),
            "disable_mqtt": True,
            "disable_histogram_sender": True,
            "enable_manual_parquet_rotation": True,
            "metrics_address": f"127.0.0.1:{self.port}",
            "debug_address": "",
            **settings,
        }
        self._program = program
        self.startup_cpu = 0.0
        self.startup_seconds = 0.0

    def __enter__(self) -> Daemon:
        config = self.folder / "edm.toml"
        lines = (f"{key.replace('_', '-')} = {json.dumps(value)}\n" for key, value in self.settings.items())
        config.write_text("".join(lines))
        began = time.monotonic()
        with (self.folder / "log").open("wb") as log:
            self.child = Child([sys.executable, *self._program, "run", "--config-file", str(config)], log)
        try:
            self._wait_until_it_receives()
        except BaseException:
            self.__exit__()
            raise
        self.startup_seconds = time.monotonic() - began
        self.startup_cpu = cpu_of(self.child.pid)
        return self

    def _wait_until_it_receives(self) -> None:
        def receives() -> bool:
            if not self.child.running:
                raise RuntimeError(f"the daemon ended at its start:\n{self.log()}")
            return '"receiving dnstap"' in self.log()

        wait_for(receives, "the start of the daemon", START_TIMEOUT)

    def __exit__(self, *_: object) -> None:
        self.child.stop(signal.SIGKILL)
        self._folder.cleanup()

    def log(self) -> str:
        """Return all log lines so far."""
        return (self.folder / "log").read_text(errors="replace")

    def http(self, method: str, path: str) -> str:
        """Ask the metrics address; return the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{path}: {answer.status} {text}")
        return text

    def metric(self, name: str) -> float:
        """Return a metric that has no labels."""
        for line in self.http("GET", "/metrics").splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise KeyError(name)

    def stop(self) -> Ended:
        """Let it drain, write its files and end."""
        ended = self.child.stop()
        if ended.code:
            raise RuntimeError(f"the daemon ended with {ended.code}:\n{self.log()[-4000:]}")
        return ended


CAPTURE_TOOL = "fstrm_capture"


def capture_tool() -> str | None:
    """Return the path of ``fstrm_capture`` (Debian package fstrm-bin) if it is installed."""
    return shutil.which(CAPTURE_TOOL)


@contextlib.contextmanager
def capturing() -> Iterator[tuple[Child, str]]:
    """Run ``fstrm_capture``, which reads frames and throws them away; yields it and its socket."""
    tool = capture_tool()
    if tool is None:
        raise FileNotFoundError(CAPTURE_TOOL)
    with tempfile.TemporaryDirectory(prefix="edm-bench-") as folder:
        path = f"{folder}/capture.sock"
        command = [tool, "-t", "protobuf:dnstap.Dnstap", "-u", path, "-w", "/dev/null"]
        with Child(command) as child:
            wait_for(lambda: Path(path).exists(), f"the socket of {CAPTURE_TOOL}")
            yield child, path


class Scraper:
    """Asks a daemon for its metrics ``rate`` times a second, in a process of its own, while the context lasts."""

    def __init__(self, port: int, rate: float) -> None:
        self._command = [sys.executable, "-m", "benchmarks.processes", str(port), str(rate)]
        self.scrapes = 0

    def __enter__(self) -> Scraper:
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.terminate()
        out = self._process.communicate(timeout=30)[0]
        self.scrapes = int(out or 0)


def _scrape(port: int, rate: float) -> int:
    going = True

    def stop(*_: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    count = 0
    began = time.monotonic()
    while going:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.suppress(OSError):
            connection.request("GET", "/metrics")
            connection.getresponse().read()
            count += 1
        connection.close()
        time.sleep(max(0.0, began + count / rate - time.monotonic()))
    return count


if __name__ == "__main__":
    print(_scrape(int(sys.argv[1]), float(sys.argv[2])))
