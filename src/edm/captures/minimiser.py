"""Minimising capture files: the daemon's engine, fed from files instead of sockets."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from edm.captures.reading import CaptureReader, open_all
from edm.config import Config
from edm.engine import Engine
from edm.errors import EdmError, InputError, OutputError
from edm.files.publish import FILE_MODE
from edm.files.visible import visible
from edm.input.reader import FrameReader
from edm.observe.faults import EVENTS, Faults
from edm.observe.ledger import FATE_NAMES
from edm.observe.metrics import Metrics
from edm.stages.new_qname.events import EventBlock

EVENTS_FILE = "new_qname.jsonl"

Progress = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes read so far, and its size in bytes if known."""


@dataclasses.dataclass
class Summary:
    """The result of a run over files.

    Attributes
    ----------
    frames : dict of str to int
        Frames by fate (see the ledger), and ``frames_received``.
    new_names, histogram_rows, session_rows : int
        Events and rows written.
    seconds : float
        Duration of the run.
    input_bytes : int
        Uncompressed bytes read.
    files : list of Path
        Output files written, in the order of writing.
    problems : list of str
        A line for each damaged or truncated input file; its complete frames were minimised.
    faults : list of str
        A line for each kind of loss, because of a defect or of a file that could not be written.
    """

    frames: dict[str, int]
    new_names: int
    histogram_rows: int
    session_rows: int
    seconds: float
    input_bytes: int
    files: list[Path]
    problems: list[str]
    faults: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as values that can be written as JSON."""
        return dataclasses.asdict(self) | {"files": [str(path) for path in self.files]}

    def as_text(self) -> str:
        """Return the summary as lines of text."""
        received = self.frames["frames_received"]
        rate = f"{received / self.seconds:,.0f} frames/s" if self.seconds > 0 else ""
        lines = [f"{received:>14,}  frames in {self.seconds:.2f} s ({rate})"]
        for name in ("frames_oversized", *FATE_NAMES):
            if count := self.frames.get(name, 0):
                lines.append(f"{count:>14,}    {name.replace('_', ' ')}")
        lines += [
            f"{self.histogram_rows:>14,}  histogram rows",
            f"{self.session_rows:>14,}  session rows",
            f"{self.new_names:>14,}  new names",
        ]
        lines += [f"         FAULT  {fault}" for fault in self.faults]
        return "\n".join([*lines, *(f"wrote {visible(path)}" for path in self.files)])


class _EventFile:
    """Writes the payloads of new_qname events, one per line.

    It is an :class:`edm.output.sink.EventTaker`. The workers write the events themselves, so none is discarded.
    """

    def __init__(self, path: Path, faults: Faults) -> None:
        self.path = path
        self._faults = faults
        self.count = 0
        self._error: OSError | None = None
        self._lock = threading.Lock()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
            self._file = os.fdopen(descriptor, "ab")
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}") from error

    def put(self, block: EventBlock) -> tuple[int, int]:
        lines = b"".join(payload + b"\n" for payload in block)
        with self._lock:
            if self._error is None:
                try:
                    self._file.write(lines)
                    self._file.flush()
                except OSError as error:
                    self._fail(error)
            if self._error is not None:
                # The names are not saved, so that the next run finds them new again.
                self._faults.report(EVENTS, len(block))
                return len(block), 0
            self.count += len(block)
        block.save_names()
        return len(block), 0

    def _fail(self, error: OSError) -> None:
        self._error = error
        structlog.get_logger().error(
            "new names cannot be written", path=str(self.path), reason=error.strerror
        )

    def close(self) -> None:
        """Close the file; remove it if it is empty."""
        try:
            self._file.close()
        except OSError as error:
            if self._error is None:
                self._fail(error)
                self._faults.report(EVENTS, self.count)
        with suppress(OSError):
            if not self.path.stat().st_size:
                self.path.unlink()


def minimise(
    config: Config, files: Sequence[str], progress: Progress, metrics: Metrics | None = None
) -> Summary:
    """Minimise ``files`` in order, as one interval.

    The counters go into ``metrics``, if it is given.

    Raises
    ------
    EdmError
        The run could not start. A damaged input file does not raise; it becomes a line in ``Summary.problems``. An
        output that could not be written becomes a line in ``Summary.faults``.
    """
    began = time.monotonic()
    metrics = metrics or Metrics()
    readers = open_all(files)  # all must open before anything is written
    try:
        engine = Engine(config, metrics, events=True, live=False)
        written: list[Path] = []
        engine.session_writer.on_written = engine.histogram_writer.on_written = written.append
        events = _EventFile(engine.data.root / EVENTS_FILE, metrics.faults)
        engine.event_taker = events
        engine.start()
        problems: list[str] = []
        try:
            for reader in readers:
                problems += _read(engine, reader, progress)
        finally:
            balance = engine.stop()
            events.close()
    finally:
        for reader in readers:
            reader.close()
    if events.count:
        written.append(events.path)
    return Summary(
        frames=balance,
        new_names=events.count,
        histogram_rows=engine.histogram_writer.rows_written,
        session_rows=engine.session_writer.rows_written,
        seconds=time.monotonic() - began,
        input_bytes=engine.intake.bytes_total,
        files=written,
        problems=problems,
        faults=metrics.faults.lines(),
    )


def _read(engine: Engine, capture: CaptureReader, progress: Progress) -> list[str]:
    frames = FrameReader(engine.intake, engine.config.max_frame_size, until_stop=False)
    try:
        while frames.pump_block(capture.readinto) > 0:
            progress(capture.name, capture.compressed_position, capture.size)
        capture.check_end(frames.unconsumed)
    except InputError as error:
        return [str(error)]
    except EdmError as error:
        return [f"{capture.name}: {error}"]
    return []
