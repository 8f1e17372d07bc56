"""Log lines never wait for a reader: tested with real pipes that are not read."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

import pytest
import structlog

from edm.observe import logs
from edm.observe.log_writer import LineWriter
from edm.observe.metrics import Metrics
from support.processes import wait_until


class Pipe:
    """A small pipe: a text stream that writes to it, and the other end."""

    def __init__(self) -> None:
        self.reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        self.stream: TextIO = os.fdopen(writing, "w")

    def read_lines(self, last: str) -> list[str]:
        """Read until a line holds ``last``."""
        data = b""
        while last.encode() not in data:
            data += os.read(self.reading, 65536)
        while not data.endswith(b"\n"):
            data += os.read(self.reading, 65536)
        return data.decode().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.reading)  # ends a write that still waits
    pipe.stream.close()


@pytest.fixture
def configured() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = threading.excepthook, sys.unraisablehook, sys.excepthook
    yield
    threading.excepthook, sys.unraisablehook, sys.excepthook = hooks
    logs.configure("json", stream=io.StringIO())
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_lines_come_out_in_their_order(pipe: Pipe) -> None:
    writer = LineWriter(pipe.stream, lambda _lost: None)
    for number in range(100):
        writer.msg(f"line {number}")
    assert pipe.read_lines("line 99") == [f"line {number}" for number in range(100)]
    assert writer.flush(5)
    assert writer.dropped == 0


def test_nobody_waits_for_a_reader_that_stands_still_and_what_was_dropped_is_told(pipe: Pipe) -> None:
    told: list[int] = []

    def tell(lost: int) -> None:
        told.append(lost)
        writer.msg(f"dropped {lost}")

    writer = LineWriter(pipe.stream, tell, most_lines=10)
    line = "x" * 500
    began = time.monotonic()
    for _ in range(1000):
        writer.msg(line)
    assert not writer.flush(0.05)
    assert time.monotonic() - began < 5
    dropped = writer.dropped
    assert 970 <= dropped <= 990  # what is in the pipe, ten that wait, and the one being written
    got = pipe.read_lines("dropped")
    while sum(told) < dropped:  # more than one line tells, if the writer's thread had its first turn late
        got += pipe.read_lines("dropped")
    assert got.count(line) == 1000 - dropped
    assert got[-1] == f"dropped {told[-1]}"
    assert sum(told) == dropped
    assert writer.flush(5)


def test_long_lines_fill_the_queue_as_well(pipe: Pipe) -> None:
    writer = LineWriter(pipe.stream, lambda _lost: None, most_characters=100_000)
    for _ in range(100):
        writer.msg("y" * 10_000)
    assert writer.dropped >= 89


def test_a_stream_that_is_gone_takes_nobody_down() -> None:
    pipe = Pipe()
    os.close(pipe.reading)
    writer = LineWriter(pipe.stream, lambda _lost: None)
    for _ in range(20):
        writer.msg("lost")
    assert writer.flush(5)
    wait_until(lambda: writer.dropped == 20, "all lines to be counted")
    pipe.stream.close()


def test_a_pipe_that_somebody_made_not_wait_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.stream.fileno(), False)
    writer = LineWriter(pipe.stream, lambda _lost: None)
    for number in range(100):
        writer.msg(f"{number} " + "z" * 300)
    assert len(pipe.read_lines("\n99 ")) == 100
    assert writer.dropped == 0


def test_what_is_no_file_is_written_to_as_well() -> None:
    stream = io.StringIO()
    writer = LineWriter(stream, lambda _lost: None)
    writer.msg("one")
    assert writer.flush(5)
    assert stream.getvalue() == "one\n"


@pytest.mark.usefixtures("configured")
def test_the_log_goes_on_with_a_line_and_the_metric_counts(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edm.observe.log_writer.MOST_LINES", 10)
    logs.configure("json", stream=pipe.stream, background=True)
    log = structlog.get_logger()
    for _ in range(20_000):
        log.info("again", text="x" * 200)
    dropped = logs.dropped_lines()
    assert dropped > 0
    assert Metrics().value("edm_log_dropped_total") == dropped
    lines = [json.loads(line) for line in pipe.read_lines("dropped")]
    (told,) = (line for line in lines if line["msg"] == "log lines were dropped, since nobody read the log")
    assert told["level"] == "WARN"
    assert 0 < told["dropped"] <= dropped


@pytest.mark.usefixtures("configured")
def test_what_nobody_catches_goes_to_the_log(pipe: Pipe) -> None:
    logs.configure("json", stream=pipe.stream, background=True)
    thread = threading.Thread(target=lambda: 1 / 0, name="unlucky")
    thread.start()
    thread.join()
    (line,) = pipe.read_lines("unlucky")
    assert json.loads(line)["msg"] == "a thread failed"
    assert "ZeroDivisionError" in json.loads(line)["exception"]
