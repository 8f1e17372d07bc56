"""The daemon as a child process: configured, started, asked, reloaded, rotated, stopped."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edm.captures.replay import Sender, connect
from support.processes import end_child, free_port, start_child, wait_until

SECRET = "mysecret"
SECRET_KEY = bytes.fromhex("eec5b10e13f56d4aa0a5ca35625cb2fd7a4c00d856448765511b67535efc6f09")
"""The Crypto-PAn key that Argon2id makes of :data:`SECRET` and the default salt."""

START = 600.0
"""Seconds for a start that may have to compile all kernels, on a machine with other things to do.

A daemon that ends meanwhile is noticed at once.
"""

HISTOGRAMS = "parquet/histograms/*/*.parquet"
SESSIONS = "parquet/sessions/*.parquet"


def to_toml(settings: Mapping[str, object]) -> str:
    """Return settings, named with ``_`` for ``-``, as a configuration file."""
    lines = []
    for key, value in settings.items():
        text = json.dumps(str(value) if isinstance(value, Path) else value)
        lines.append(f"{key.replace('_', '-')} = {text}\n")
    return "".join(lines)


class Daemon:
    """A daemon with everything under ``folder``; a context that leaves no child behind.

    Parameters
    ----------
    folder : Path
    environment : mapping, optional
        The child's whole environment; that of the tests if not given.
    settings
        Configuration, named with ``_`` for ``-``, over what :attr:`settings` begins with. An input and the
        well-known domains must be among them.
    """

    def __init__(
        self, folder: Path, *, environment: Mapping[str, str] | None = None, **settings: Any
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.metrics_port = free_port()
        self.settings: dict[str, object] = {
            "cryptopan_key": SECRET,
            "data_dir": folder / "data",
            "disable_mqtt": True,
            "disable_histogram_sender": True,
            "enable_manual_parquet_rotation": True,
            "metrics_address": f"127.0.0.1:{self.metrics_port}",
            "debug_address": "",
            **settings,
        }
        self.data = Path(str(self.settings["data_dir"]))
        self.config = folder / "edm.toml"
        self.log: list[dict[str, Any]] = []
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    # Life

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The child."""
        assert self._process is not None, "the daemon was not started"
        return self._process

    @property
    def running(self) -> bool:
        """Whether the child lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Write the configuration and start the child; wait until it receives dnstap."""
        assert not self.running
        self.config.touch(0o600)
        self.config.write_text(to_toml(self.settings))
        self.log = []
        command = [sys.executable, "-m", "edm.cli.main", "run", "--config-file", str(self.config)]
        self._process = start_child(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=self._environment
        )
        self._reader = threading.Thread(target=self._read_log, args=(self._process, self.log), daemon=True)
        self._reader.start()
        if wait:
            self.wait_for_log("receiving dnstap", patience=START)

    def _read_log(self, process: subprocess.Popen[bytes], log: list[dict[str, Any]]) -> None:
        assert process.stderr is not None
        with process.stderr as stderr:
            for line in stderr:
                text = line.decode("utf-8", "replace").rstrip("\n")
                try:
                    entry = json.loads(text)
                except ValueError:
                    entry = None
                log.append(entry if isinstance(entry, dict) else {"level": "", "msg": "", "text": text})

    def stop(self, patience: float = 60.0) -> int:
        """Tell the daemon to end (SIGTERM) and wait for that; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the daemon did not stop within {patience:.0f} s:\n{self.tail()}")
        return self._gone()

    def kill(self) -> None:
        """Kill the daemon (SIGKILL), which leaves it no time for anything."""
        self.process.kill()
        self._gone()

    def wait(self, patience: float = START) -> int:
        """Wait for an end that comes by itself; return the exit code."""
        self.process.wait(patience)
        return self._gone()

    def _gone(self) -> int:
        code = self.process.wait()
        assert self._reader is not None
        self._reader.join(10)
        return code

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean_up()

    def _clean_up(self) -> None:
        if self._process is not None:
            end_child(self._process)
            self._gone()

    # Log

    def messages(self, message: str) -> list[dict[str, Any]]:
        """Return the log lines whose ``msg`` is ``message``."""
        return [entry for entry in list(self.log) if entry.get("msg") == message]

    def errors(self) -> list[dict[str, Any]]:
        """Return the log lines of level ERROR, and the lines that are no JSON at all."""
        return [entry for entry in list(self.log) if entry.get("level") in ("ERROR", "")]

    def tail(self) -> str:
        """Return the last log lines, to show in a failure."""
        return "\n".join(json.dumps(entry) for entry in self.log[-20:])

    def wait_for_log(self, message: str, *, count: int = 1, patience: float = 60.0) -> dict[str, Any]:
        """Wait until ``message`` has been logged ``count`` times; return that line."""
        self._wait(lambda: len(self.messages(message)) >= count, f"log line {message!r}", patience)
        return self.messages(message)[count - 1]

    def _wait(self, condition: Callable[[], bool], what: str, patience: float = 60.0) -> None:
        def holds() -> bool:
            running = self.running  # before looking, so that what a dead daemon did last still counts
            try:
                if condition():
                    return True
            except OSError:  # no answer over HTTP: perhaps it is just about to end
                if running and self.running:
                    raise
            if not running:
                pytest.fail(f"the daemon ended with {self._gone()} before {what}:\n{self.tail()}")
            return False

        wait_until(holds, lambda: f"{what}:\n{self.tail()}", patience)

    # HTTP

    def http(self, method: str, path: str) -> tuple[int, str]:
        """Ask the metrics address; return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=30)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Scrape; return the values by name and labels."""
        status, text = self.http("GET", "/metrics")
        assert status == 200, text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """Return one metric; 0 if it has not been counted yet."""
        return self.metrics().get((name, frozenset(labels.items())), 0.0)

    def wait_for_metric(self, name: str, value: float, *, patience: float = 60.0, **labels: str) -> None:
        """Wait until a metric has reached ``value``."""
        self._wait(
            lambda: self.metric(name, **labels) >= value,
            f"{name}{labels or ''} has reached {value:g}",
            patience,
        )

    # What it does on request

    def send(self, frames: Sequence[bytes]) -> None:
        """Send frames over a connection of their own to the Unix socket; wait until they have been processed."""
        before = self.metric("edm_processed_dnstap_total")
        with connect(unix=str(self.settings["input_unix"])) as sock:
            sender = Sender(sock)
            sender.send(b"".join(frames))
            sender.finish()
        self.wait_for_metric("edm_processed_dnstap_total", before + len(frames))

    def rotate(self, *, settle: bool = True) -> None:
        """Rotate on request; then wait, while no more frames come, until all files are written."""
        status, text = self.http("POST", "/debug/rotate-parquet")
        assert status == 202, text
        if settle:
            self._wait(self._settled, "all files of the interval are written")

    def _settled(self) -> bool:
        metrics = self.metrics()
        none: frozenset[tuple[str, str]] = frozenset()
        rows = metrics[("edm_frames_total", frozenset({("fate", "session")}))]
        return (
            metrics[("edm_session_rows_written_total", none)] == rows
            and metrics[("edm_pending_intervals", none)] == 0
        )

    def reload(self, **settings: Any) -> None:
        """Change settings in the file, send SIGHUP, and wait until the reload is done and went well."""
        done = len(self.messages("reloaded"))
        self.settings.update(settings)
        self.config.write_text(to_toml(self.settings))
        self.process.send_signal(signal.SIGHUP)
        self.wait_for_log("reloaded", count=done + 1)

    def files(self, pattern: str) -> list[Path]:
        """Return the files below the data directory that match ``pattern``, in order of their names."""
        return sorted(self.data.glob(pattern))

    def interval(self, act: Callable[[], object], tries: int = 3) -> Interval:
        """Let ``act`` have an interval of its own: rotate, act, rotate; return what was written.

        ``act`` returns when its frames have been counted. If a full minute comes in between, which ends the
        interval too, it acts again.
        """
        for _ in range(tries):
            self.rotate()
            rotations = self.metric("edm_rotations_total", result="ok")
            before = {*self.files(HISTOGRAMS), *self.files(SESSIONS)}
            act()
            self.rotate()
            # Not by the number of files: what came before or after the minute may have left no rows.
            if self.metric("edm_rotations_total", result="ok") == rotations + 1:
                return Interval(
                    [path for path in self.files(HISTOGRAMS) if path not in before],
                    [path for path in self.files(SESSIONS) if path not in before],
                )
        pytest.fail(f"{tries} times in a row a full minute came in between")


class Interval:
    """The files of one interval; at most one of each kind."""

    def __init__(self, histograms: list[Path], sessions: list[Path]) -> None:
        self.histograms = histograms
        self.sessions = sessions

    def histogram(self) -> list[dict[str, Any]]:
        """Return the rows of the histogram."""
        return [row for path in self.histograms for row in pq.read_table(path).to_pylist()]

    def session(self) -> list[dict[str, Any]]:
        """Return the session rows in the order of the file."""
        return [row for path in self.sessions for row in pq.read_table(path).to_pylist()]

    def ledgers(self) -> list[dict[str, str]]:
        """Return the ledger in each file's metadata, without the prefix of its keys."""
        ledgers = []
        for path in [*self.histograms, *self.sessions]:
            metadata = pq.ParquetFile(path).metadata.metadata or {}
            ledgers.append(
                {
                    key.decode().removeprefix("edm.ledger."): value.decode()
                    for key, value in metadata.items()
                    if key.startswith(b"edm.ledger.")
                }
            )
        return ledgers


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Daemon]:
    """Run a daemon that is expected to end well: SIGTERM at the end, exit code 0, no error in its log."""
    with Daemon(folder, **settings) as daemon:
        yield daemon
        assert daemon.stop() == 0, daemon.tail()
        assert daemon.errors() == [], daemon.tail()
