"""Inspects what a killed daemon has left: every file, every row and every event."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from crash.traffic import FIRST_SECOND, I64Array
from edm.output.paths import UNFINISHED
from edm.tapir.events.chunks import Chunk
from edm.tapir.events.queue_file import FILE_NAME

SESSION_FOLDER = "parquet/sessions"
OUTBOX = "parquet/histograms/outbox"
SENT = "parquet/histograms/sent"

_OUTPUT_NAME = re.compile(r"dns_(session_block|histogram)-[\dTZ-]+_[\dTZ-]+(~\d+)?\.parquet")
_EVENT = re.compile(rb'"qname":"n(\d+)\.example\."')
_ALWAYS = b'"qname":"again.example."'
_COUNTS = ("ok_count", "nx_count", "fail_count", "other_rcode_count")


class Output:
    """A Parquet file under its final name, read as a whole.

    Attributes
    ----------
    interval : str
        Kind and interval, by the footer.
    stop : str
        End of the interval, RFC 3339.
    numbers : int64[:]
        Of a session file: the numbers of the frames in it, in order.
    counted : int
        Of a histogram: answers counted.
    """

    def __init__(self, content: bytes, kind: str) -> None:
        table = pq.read_table(io.BytesIO(content))
        table.validate(full=True)
        metadata = {
            key.decode(): value.decode() for key, value in table.schema.metadata.items() if key[:4] == b"edm."
        }
        assert metadata["edm.ledger.closed"] == "true", metadata
        self.interval = f"{kind} {metadata['edm.interval.start']}"
        self.stop = metadata["edm.interval.stop"]
        self.numbers: I64Array = np.zeros(0, np.int64)
        self.counted = 0
        if kind == "session":
            assert metadata["edm.session_rows_shed"] == "0", metadata
            assert table.num_rows == int(metadata["edm.ledger.session"]), metadata
            times = table["response_time"].cast("int64").to_numpy()
            self.numbers = times - FIRST_SECOND * 1_000_000
        else:
            self.counted = int(sum(table[name].to_numpy().sum() for name in _COUNTS))
            assert self.counted == int(metadata["edm.ledger.well_known"]), metadata


class Remains:
    """The data directory of a daemon that does not run.

    Attributes
    ----------
    sessions, histograms : list of Output
        New since the last look. Session files are removed, as those who read them do.
    leftovers : list of Path
        Files under a name that is not final.
    """

    def __init__(self, data: Path, known: set[str]) -> None:
        self.data = data
        self.sessions: list[Output] = []
        self.histograms: list[Output] = []
        self.leftovers: list[Path] = []
        for folder in (SESSION_FOLDER, OUTBOX, SENT, Path(UNFINISHED)):
            for path in sorted((data / folder).glob("*")):
                self._look(path, known)

    def _look(self, path: Path, known: set[str]) -> None:
        if _OUTPUT_NAME.fullmatch(path.name) is None:
            assert path.name.endswith(".parquet.tmp"), path
            self.leftovers.append(path)
            return
        kind = "session" if path.parent.name == "sessions" else "histogram"
        output = Output(path.read_bytes(), kind)
        if kind == "session":
            path.unlink()
        elif path.name in known:
            return
        known.add(path.name)
        (self.sessions if kind == "session" else self.histograms).append(output)

    @property
    def waiting(self) -> int:
        """Histograms that are still to be uploaded."""
        return len(list((self.data / OUTBOX).glob("*.parquet")))


class Queue:
    """The queue of events as it lies on disk, read from a copy so that nothing is changed.

    Attributes
    ----------
    names : list of int
        Numbers of the names that wait, oldest first.
    queued : int
        Events put into it over its whole life.
    """

    def __init__(self, data: Path) -> None:
        self.names: list[int] = []
        self.queued = 0
        if not (data / "mqtt" / FILE_NAME).exists():
            return
        with _copied(data / "mqtt") as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'totals'").fetchone():
                return  # killed while it was made
            totals = dict(db.execute("SELECT name, value FROM totals").fetchall())
            assert db.execute("SELECT count(*) FROM damaged").fetchone() == (0,)
            for done, topic, crc, body in db.execute(
                "SELECT done, topic, crc, body FROM entries ORDER BY id"
            ):
                chunk = Chunk.decode(body, crc, topic, done)
                self.names += [number_of(event) for event in chunk.messages(chunk.done, len(chunk))]
        self.queued = totals.pop("queued", 0)
        assert self.queued == sum(totals.values()) + len(self.names), totals


def number_of(event: bytes) -> int:
    """Return the number in the name of an event; -1 for the name that comes again and again."""
    match = _EVENT.search(event)
    if match is not None:
        return int(match[1])
    assert _ALWAYS in event, event
    return -1


@contextlib.contextmanager
def _copied(folder: Path) -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory(dir=folder.parent.parent) as copy:
        for path in folder.glob(f"{FILE_NAME}*"):
            shutil.copy(path, copy)
        with contextlib.closing(sqlite3.connect(Path(copy) / FILE_NAME)) as db:
            yield db
