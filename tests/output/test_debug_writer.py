"""The writer of the debug file: all lines in order, no waiting for others, and dropped lines are counted."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edm.observe.metrics import Metrics
from edm.output import debug_writer
from edm.output.debug_writer import DebugWriter
from support.processes import wait_until


def lost(metrics: Metrics) -> float:
    return metrics.value("edm_debug_lines_lost_total") or 0.0


@contextmanager
def gate() -> Iterator[threading.Event]:
    """An event that is set at the end, so that no thread waits for it for ever."""
    event = threading.Event()
    yield event
    event.set()


def test_all_lines_come_in_order(tmp_path: Path) -> None:
    metrics, path = Metrics(), tmp_path / "debug"
    writer = DebugWriter(path, metrics, lambda frame: frame.decode())
    for start in range(0, 10_000, 100):
        writer.put([str(n).encode() for n in range(start, start + 100)])
    writer.close()
    assert path.read_text().splitlines() == list(map(str, range(10_000)))
    assert lost(metrics) == 0


def test_frames_without_a_line_and_frames_that_fail_do_not_end_it(tmp_path: Path) -> None:
    metrics, path = Metrics(), tmp_path / "debug"

    def render(frame: bytes) -> str | None:
        if frame == b"bad":
            raise RuntimeError("no")
        return None if frame == b"none" else frame.decode()

    writer = DebugWriter(path, metrics, render)
    writer.put([b"a", b"none", b"bad", b"b"])
    writer.close()
    assert path.read_text() == "a\nb\n"
    assert metrics.faults.counts() == {"defect": 1}


def test_a_worker_waits_once_and_what_is_left_out_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debug_writer, "MOST_BYTES", 1000)
    metrics, path = Metrics(), tmp_path / "debug"
    with gate() as go:

        def render(frame: bytes) -> str:
            go.wait(60)
            return frame.decode()

        writer = DebugWriter(path, metrics, render)
        began = time.monotonic()
        for _ in range(1000):
            writer.put([b"x" * 100] * 3)
        assert time.monotonic() - began < 5  # the patience is for one time, not for each
        assert lost(metrics) > 2900
        go.set()
        assert writer.drain(60)
        before = lost(metrics)
        writer.put([b"later"])
        writer.close()
    lines = path.read_text().splitlines()
    assert lines[-1] == "later"
    assert lost(metrics) == before
    assert len(lines) - 1 + before == 3000


def test_captures_wait_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug_writer, "MOST_BYTES", 100)
    metrics, path = Metrics(), tmp_path / "debug"
    writer = DebugWriter(path, metrics, lambda frame: frame.decode(), math.inf)
    for n in range(500):
        writer.put([str(n).encode() * 10])
    writer.close()
    assert len(path.read_text().splitlines()) == 500
    assert lost(metrics) == 0


def test_a_stop_does_not_wait_for_costly_frames(tmp_path: Path) -> None:
    metrics, path = Metrics(), tmp_path / "debug"
    with gate() as go:
        entered = threading.Event()

        def render(frame: bytes) -> str:
            entered.set()
            go.wait(60)
            return frame.decode()

        writer = DebugWriter(path, metrics, render)
        writer.put([b"x"] * 10)
        wait_until(entered.is_set, "it is at work")
        began = time.monotonic()
        writer.close()
        assert time.monotonic() - began < debug_writer.STOP + 2
    assert lost(metrics) == 10
    assert path.read_text() == ""
