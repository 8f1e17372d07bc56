"""A toy second implementation of each seam, through the real engine and the real daemon (docs/seams)."""

from __future__ import annotations

import ast
import inspect
import json
import re
import signal
import socket
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edm.config import Config, load
from edm.daemon import Daemon
from edm.engine import Engine
from edm.errors import EdmError
from edm.input.blocks import Intake
from edm.input.peers import Sender
from edm.input.reader import FrameReader
from edm.input.source import Source
from edm.kernel import columns as c
from edm.kernel.columns import Bytes, Fates, U32Columns, U64Columns
from edm.kernel.jit import JIT_DISABLED
from edm.observe.metrics import Metrics
from edm.output.sink import EventSink, Sinks
from edm.rotation.clock import MinuteClock
from edm.stages.new_qname.events import EventBlock
from edm.stages.pseudonyms.contract import Counts, Maker, Pseudonyms
from edm.startup.listening import ConnectionLog
from support import golden
from support.daemon import START
from support.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="60,000 frames take minutes without JIT")


class EventsIntoFile:
    """A sink of events: one JSON text a line. An event is safe when the file has it."""

    part = "events_file"
    section = "events"
    names = b""  # a killed run leaves no names behind that the store does not know
    stored = None  # no room that the disk budget could take back

    def __init__(self, path: Path, metrics: Metrics) -> None:
        self.path = path
        self.life: list[str] = []
        self._lock = threading.Lock()
        self._written = metrics.counter("toy_events_total", "Events written into the file")

    def start(self) -> None:
        self.life.append("start")
        try:
            self._file = self.path.open("ab")
        except OSError as error:
            raise EdmError(f"{self.path}: {error.strerror}") from error

    def put(self, block: EventBlock) -> tuple[int, int]:
        with self._lock:
            self._file.write(b"".join(payload + b"\n" for payload in block))
        self._written.inc(len(block))
        block.save_names()  # the acknowledgement
        return len(block), 0

    def reload(self, config: Config) -> None:
        self.life.append(f"reload workers={config.workers}")

    def status(self) -> dict[str, object]:
        return {"enabled": False, "file": str(self.path)}

    def certificates(self) -> list[tuple[str, float]]:
        return []

    def stop(self, grace: float) -> None:
        self.life.append("stop")
        if hasattr(self, "_file"):
            self._file.close()


class FrameList:
    """A source: frames that are there from the beginning."""

    address = "a list of frames"
    connections = 1
    listening = True
    certificate_ends = None  # it shows none to anybody

    def __init__(self, frames: list[bytes], intake: Intake, max_frame: int) -> None:
        self._stream = b"".join(frames)  # each behind its length of four bytes
        self._reader = FrameReader(intake, max_frame)
        self._thread = threading.Thread(target=self._fill)
        self.refreshed = 0

    def start(self) -> None:
        self._thread.start()

    def _fill(self) -> None:
        self._reader.prime(self._stream)

    def senders(self) -> tuple[list[Sender], list[Sender]]:
        sender = Sender("list", frames=self._reader.frames, bytes=self._reader.bytes)
        return [sender], [sender]

    def reload(self, config: Config) -> bool:
        return False

    def refresh(self) -> None:
        self.refreshed += 1

    def close(self, timeout: float) -> None:
        self._thread.join(timeout)


class Truncated:
    """A pseudonymisation: the first 16 bits of an IPv4 address, the first 32 of an IPv6 address, then zeros."""

    fingerprint = "none"  # there is no key

    def new_cache(self) -> Truncated:
        return self  # nothing is remembered, so that all workers may use one

    def pseudonymise(self, buf: Bytes, u32: U32Columns, u64: U64Columns, fate: Fates, n: int) -> Counts:
        odd = 0
        for i in np.flatnonzero(fate[:n] == c.PENDING):
            for side in range(2):
                present = int(u32[c.PRESENT, i]) & (c.HAS_QUERY_ADDRESS << side)
                start = int(u32[c.QUERY_ADDRESS_OFF + 2 * side, i])
                length = int(u32[c.QUERY_ADDRESS_LEN + 2 * side, i]) if present else 0
                address = buf[start : start + length].tobytes()
                kept = {4: address[:2] + bytes(2), 16: address[:4] + bytes(12)}.get(length, b"")
                odd += length not in (0, 4, 16)
                number = int.from_bytes(kept, "big")
                u32[c.SOURCE_LEN + side, i] = length
                u64[c.SOURCE_HIGH + 2 * side, i] = number >> 64
                u64[c.SOURCE_LOW + 2 * side, i] = number & (1 << 64) - 1
        return Counts(hits=0, evictions=0, odd_lengths=odd)


def configuration(folder: Path) -> Path:
    """Write a configuration without MQTT: another sink gets the events all the same."""
    return golden.golden_toml(folder, workers=2, disable_mqtt=True)


def members(protocol: type) -> set[str]:
    """Return the names that a Protocol asks for, those of the protocols it extends included."""
    named = {
        name for base in protocol.__mro__ for name in (*vars(base), *vars(base).get("__annotations__", ()))
    }
    return {name for name in named if not name.startswith("_")}


@pytest.mark.parametrize(
    ("page", "protocol", "toy"),
    [
        ("sink", EventSink, EventsIntoFile),
        ("source", Source, FrameList),
        ("pseudonyms", Pseudonyms, Truncated),
        ("pseudonyms", Maker, Truncated),
    ],
)
def test_the_page_s_example_is_whole_and_is_the_one_that_runs(page: str, protocol: type, toy: type) -> None:
    text = (ROOT / "docs" / "seams" / f"{page}.md").read_text()
    code = textwrap.dedent(
        re.search(r"\n((?:    .*\n|\n)*?    class (?:    .*\n|.*\n)(?:    .*\n|\n)*)", text)[1]
    )  # type: ignore[index]
    (shown,) = (node for node in ast.parse(code).body if isinstance(node, ast.ClassDef))
    assert shown.name == toy.__name__
    defined: dict[str, list[str] | None] = {}
    for node in shown.body:
        if isinstance(node, ast.FunctionDef):
            defined[node.name] = [argument.arg for argument in node.args.args]
        elif isinstance(node, ast.Assign):
            defined |= dict.fromkeys(target.id for target in node.targets if isinstance(target, ast.Name))
    for name in members(protocol):
        assert name in defined, f"docs/seams/{page}.md lacks {name}"
        assert hasattr(toy, name), name
        asked = getattr(protocol, name, None)
        if inspect.isfunction(asked):
            wanted = [*inspect.signature(asked).parameters]
            assert defined[name] == [*inspect.signature(getattr(toy, name)).parameters] == wanted, name


class OneMinute(MinuteClock):
    """A clock on which a minute ends whenever somebody says so."""

    ended = threading.Event()

    def wait(self) -> float:
        return 0.02

    def due(self) -> bool:
        due = self.ended.is_set()
        self.ended.clear()
        return due


@pytest.fixture
def as_before() -> Iterator[None]:
    """Restore what a daemon changes for the whole process."""
    interval = sys.getswitchinterval()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    sys.setswitchinterval(interval)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("as_before")
def test_a_daemon_with_another_source_and_another_sink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the events although MQTT is off, and the source lives on when the minute is full."""
    monkeypatch.setattr("edm.daemon.MinuteClock", OneMinute)
    frames = golden.frames("unbound")
    path = configuration(tmp_path)

    def read() -> Config:
        return load(path, {}, {})

    made: list[EventsIntoFile] = []

    def sinks(config: Config, engine: Engine) -> Sinks:
        made.append(EventsIntoFile(tmp_path / "events.jsonl", engine.metrics))
        return Sinks(made[0])

    opened: list[FrameList] = []

    def source(config: Config, intake: Intake, log: ConnectionLog) -> FrameList:
        opened.append(FrameList(frames, intake, config.max_frame_size))
        return opened[0]

    daemon = Daemon(read(), read, sinks=sinks, source=source)

    def drive() -> None:
        try:
            daemon.ready.wait(START)
            received = "edm_frames_received_total"
            wait_until(lambda: daemon.metrics.value(received) == len(frames), "all frames", patience=START)
            daemon.reloader.reload()
            OneMinute.ended.set()
            wait_until(lambda: opened[0].refreshed == 1, "the end of the minute", patience=START)
        finally:
            daemon.stop()

    driver = threading.Thread(target=drive)
    driver.start()
    assert daemon.run() == 0
    driver.join()

    assert made[0].life == ["start", "reload workers=2", "stop"]
    assert daemon.reloader.outcome.parts["events_file"].result == "reloaded"
    written = sorted(
        json.loads(line)["qname"] for line in (tmp_path / "events.jsonl").read_text().splitlines()
    )
    expected = (golden.CAPTURES / "unbound" / "new_qname.jsonl").read_text().splitlines()
    assert written == sorted(json.loads(line)["qname"] for line in expected)
    assert daemon.metrics.value("toy_events_total") == len(expected)


@pytest.mark.usefixtures("as_before")
def test_a_sink_that_cannot_start_ends_the_start_in_one_line(tmp_path: Path) -> None:
    path = configuration(tmp_path)
    made: list[EventsIntoFile] = []

    def sinks(config: Config, engine: Engine) -> Sinks:
        made.append(EventsIntoFile(tmp_path / "nowhere" / "events.jsonl", engine.metrics))
        return Sinks(made[0])

    config = load(path, {}, {})
    with pytest.raises(EdmError, match=r"nowhere/events\.jsonl: No such file"):
        Daemon(config, lambda: config, sinks=sinks).start()
    assert made[0].life == ["start", "stop"]


def test_another_pseudonymisation_reaches_the_rows(tmp_path: Path) -> None:
    engine = Engine(golden.golden_config(tmp_path, 1), Metrics(), events=True)
    frames = golden.frames("unbound")[:6000]
    engine.start()
    try:
        engine.publish(pseudonyms=Truncated())
        FrameReader(engine.intake, engine.config.max_frame_size).prime(b"".join(frames))
    finally:
        engine.stop()
    table = golden.read_all(tmp_path, "parquet/sessions/*.parquet")
    assert table.num_rows > 100
    # All queries of this capture came from 127.0.0.1 or ::1.
    (v4,) = {value for value in table["source_ipv4"].to_pylist() if value is not None} or {None}
    wanted = int.from_bytes(socket.inet_aton("127.0.0.0"), "big")
    assert v4 in (wanted, None)
    networks = {value for value in table["source_ipv6_network"].to_pylist() if value is not None}
    hosts = {value for value in table["source_ipv6_host"].to_pylist() if value is not None}
    assert networks | hosts <= {0}
    assert v4 is not None or networks
