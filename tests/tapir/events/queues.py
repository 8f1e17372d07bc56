"""Queue files for the tests of this folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from edm.tapir.events.chunks import Chunk, chunks_of
from edm.tapir.events.queue_file import FILE_NAME, QueueFile
from support.events import block_of, payloads

BIG = 1 << 30


def chunk(first: int, stop: int) -> Chunk:
    (only,) = chunks_of([block_of(payloads(first, stop))])
    return only


@contextlib.contextmanager
def opened(folder: Path, limit: int = BIG) -> Iterator[QueueFile]:
    file = QueueFile(folder / "mqtt" / FILE_NAME, limit)
    try:
        yield file
    finally:
        file.close()


def balanced(file: QueueFile) -> bool:
    t = file.totals
    return t["queued"] == t["sent"] + t["failed"] + t["dropped"] + t["damaged"] + file.events


def all_events(file: QueueFile) -> list[bytes]:
    entries, broken = file.read(0, 10**9)
    assert not broken
    return [m for entry in entries for m in entry.chunk.messages(entry.chunk.done, len(entry.chunk))]
