"""Steps of output files: write, name, upload, move; in one thread, so that their order is fixed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa

from crash.forks import Steps
from edm.output.histogram_file import write_histogram
from edm.output.paths import HISTOGRAM_PREFIX, SESSION_PREFIX, DataDirectory, Workshop, publish
from edm.output.session_file import SessionFile
from edm.stages.histogram.schema import SCHEMA
from edm.tapir.upload.outbox import Outbox

ROWS = 30
MINUTE = 60_000_000
UPLOADED = "uploaded"


def write_files(folder: Path, steps: Steps, *, first: int, count: int) -> None:
    """Write and upload the files of ``count`` minutes from minute ``first`` on.

    What is uploaded is noted in a file, as Core would store it.
    """
    data = DataDirectory(folder)
    data.clean()
    outbox = Outbox(data)
    sessions = Workshop(data.sessions, SESSION_PREFIX, data.unfinished)
    histograms = Workshop(data.outbox, HISTOGRAM_PREFIX, data.unfinished)
    for minute in range(first, first + count):
        start, stop = minute * MINUTE, (minute + 1) * MINUTE
        file = SessionFile(sessions.path(f"{SESSION_PREFIX}{minute}.parquet"), row_group_rows=10)
        for begin in range(0, ROWS, 10):
            numbers = pa.array(range(minute * ROWS + begin, minute * ROWS + begin + 10))
            file.write(pa.RecordBatch.from_arrays([numbers], ["number"]))
        metadata = {"minute": str(minute)}
        publish(partial(file.close, metadata=metadata), data.sessions, SESSION_PREFIX, start, stop)

        def write(final: Path, minute: int = minute, metadata: dict[str, str] = metadata) -> int:
            return write_histogram(_histogram(minute), final, metadata, histograms.path(final.name))

        publish(write, data.outbox, HISTOGRAM_PREFIX, start, stop)
        for waiting in outbox.scan():
            with (folder / UPLOADED).open("ab", buffering=0) as uploaded:
                uploaded.write(f"{waiting.start.timestamp() // 60:.0f}\n".encode())
            if steps.pass_one():
                steps.die()
            outbox.move_to_sent(waiting)


def _histogram(minute: int) -> pa.Table:
    columns = []
    for field in SCHEMA:
        if field.nullable:
            columns.append(pa.nulls(ROWS, field.type))
        else:
            columns.append(pa.array([minute] * ROWS, pa.int64()).cast(field.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)
