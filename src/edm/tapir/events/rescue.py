"""Replaces a damaged queue file: sets it aside and saves the events that can still be read."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from edm.tapir.events.chunks import Chunk
from edm.tapir.events.queue_file import TOTALS, Entry, QueueFile

KEPT = 3
"""Most damaged files kept for inspection."""

_SIDE_FILES = ("", "-wal", "-shm")
_SELECT = "SELECT id, done, topic, crc, body FROM entries ORDER BY id"
_SLICE = 64


@dataclass(frozen=True, slots=True)
class Rescue:
    """What became of a damaged file.

    Attributes
    ----------
    path : Path
        Where it is now.
    saved : int
        Events found intact and put into the new file.
    lost : int or None
        Events that were waiting and could not be read; None if that is unknown.
    """

    path: Path
    saved: int
    lost: int | None


def replace_damaged(path: Path, limit: int) -> tuple[QueueFile, Rescue]:
    """Set the file at ``path`` aside as ``*.corrupt-<n>`` and return a new one with what could be saved.

    Raises
    ------
    DiskError, DamagedFileError, InUseError
        The new file cannot be made.
    OSError
        The old one cannot be renamed.
    """
    aside = _set_aside(path)
    new = QueueFile(path, limit)
    saved = 0
    totals: dict[str, int] | None = None
    with contextlib.closing(sqlite3.connect(aside)) as old:
        for entries in _slices(old):
            new.restore(entries, {})
            saved += sum(entry.chunk.waiting for entry in entries)
        with contextlib.suppress(sqlite3.Error):
            totals = dict(old.execute("SELECT name, value FROM totals").fetchall())
    if totals is None or set(totals) - set(TOTALS) or not all(isinstance(v, int) for v in totals.values()):
        new.restore([], {"queued": saved})
        return new, Rescue(aside, saved, None)
    gone = sum(value for name, value in totals.items() if name != "queued")
    lost = max(0, totals.get("queued", 0) - gone - saved)
    totals["damaged"] = totals.get("damaged", 0) + lost
    # Whatever the old totals said, the account of the new file starts balanced.
    totals["queued"] = saved + lost + gone
    new.restore([], totals)
    return new, Rescue(aside, saved, lost)


def _set_aside(path: Path) -> Path:
    pattern = re.compile(re.escape(path.name) + r"\.corrupt-(\d+)")
    numbers = [int(m[1]) for p in path.parent.iterdir() if (m := pattern.fullmatch(p.name))]
    for number in sorted(numbers)[: 1 - KEPT]:
        for suffix in _SIDE_FILES:
            Path(f"{path}.corrupt-{number}{suffix}").unlink(missing_ok=True)
    aside = Path(f"{path}.corrupt-{max(numbers, default=0) + 1}")
    for suffix in _SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    return aside


def _slices(old: sqlite3.Connection) -> Iterator[list[Entry]]:
    """Yield the intact entries: from the front as far as it can be read, then from the back."""
    seen: set[int] = set()
    for order in ("ASC", "DESC"):
        intact: list[Entry] = []
        rows = _rows(old, order)
        for number, done, topic, crc, body in rows:
            if number in seen:
                break
            seen.add(number)
            with contextlib.suppress(TypeError, ValueError):
                intact.append(Entry(number, Chunk.decode(body, crc, topic, done)))
            if len(intact) == _SLICE:
                yield intact
                intact = []
        rows.close()
        yield intact


def _rows(
    old: sqlite3.Connection, order: str
) -> Generator[tuple[int, int, str | None, int, bytes], None, None]:
    with contextlib.suppress(sqlite3.Error):
        yield from old.execute(f"{_SELECT} {order}")


__all__ = ["KEPT", "Rescue", "replace_damaged"]
