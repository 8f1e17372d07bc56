"""The durable queue of events: one SQLite file, written in batches.

The file is in WAL mode with ``synchronous=NORMAL``: what was committed survives the death of the process in any
way; a power cut may cost the last moments, never the file. Every transaction that changes entries also changes
the totals, so the account of what became of all events ever queued is exact whenever the process dies.

Nothing here is thread-safe; :class:`edm.tapir.events.backlog.Backlog` takes care of that.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edm.output.paths import make_folder
from edm.tapir.events.chunks import Chunk
from edm.tapir.events.queue_database import open_database, sqlite_errors, transaction

FILE_NAME = "queue.sqlite3"
TOTALS = ("queued", "sent", "failed", "dropped", "damaged")
"""What is counted over the life of the file. Always: queued = sent + failed + dropped + damaged + waiting."""

ASIDE = "not taken by the broker: "
"""How the reason of an entry of the table ``damaged`` begins that is whole, but that the broker does not take."""

_ENTRY = "SELECT id, done, topic, crc, body FROM entries WHERE id > ? ORDER BY id LIMIT 64"
_INSERT = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)"
_DAMAGED_KEPT = 1000
_FREE_PAGES = 4096

FORGET_SECONDS = 60.0
"""Longest time for which sent names stay readable in the log of a queue that is never empty."""


@dataclass(slots=True)
class Entry:
    """A chunk with its place in the queue: positive for the file, negative for memory."""

    id: int
    chunk: Chunk


@dataclass(slots=True)
class Broken:
    """An entry that was set aside."""

    id: int
    events: int
    reason: str


def _row(entry: Entry) -> tuple[int, int, int, int, str | None, int, bytes]:
    chunk = entry.chunk
    body, crc = chunk.encode()
    return entry.id, len(chunk), chunk.done, chunk.size, chunk.topic, crc, body


class QueueFile:
    """An open queue file.

    Parameters
    ----------
    path : Path
        Made, with its folder, if it is not there.
    limit : int
        Most bytes of waiting events; beyond it the oldest are dropped.

    Raises
    ------
    OutputError
        The folder cannot be made.
    DiskError, DamagedFileError, InUseError

    Attributes
    ----------
    events, bytes : int
        Queued events, whether fetched or not.
    totals : dict[str, int]
        See :data:`TOTALS`.
    names : bytes
        As the file was opened: the names that came with the last insertion that had any.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        self._logged = True  # an earlier process may have been killed
        self._forgotten = time.monotonic()
        make_folder(path.parent)
        self._db = open_database(path)
        try:
            with sqlite_errors():
                self._count()
                if not self.events:
                    # What versions that did not overwrite have left in pages that are free by now.
                    self._db.executescript("PRAGMA incremental_vacuum")
        except BaseException:
            self._db.close()
            raise

    def _count(self) -> None:
        db = self._db
        self.events, self.bytes, self._last_id = db.execute(
            "SELECT ifnull(sum(events - done), 0), ifnull(sum(bytes), 0), ifnull(max(id), 0) FROM entries"
        ).fetchone()
        self.totals = dict.fromkeys(TOTALS, 0)
        self.totals.update(db.execute("SELECT name, value FROM totals").fetchall())
        row = db.execute("SELECT record FROM last_names").fetchone()
        self.names = row[0] if row is not None and isinstance(row[0], bytes) else b""

    def insert(self, chunks: Sequence[Chunk], protected: int, totals: Mapping[str, int]) -> int:
        """Append chunks, dropping the oldest entries first where room is needed.

        Parameters
        ----------
        chunks : sequence of Chunk
        protected : int
            Entries up to this one are being sent and are not dropped.
        totals : mapping
            What to add to the totals, beyond what this call queues and drops.

        Returns
        -------
        int
            Number of events dropped.
        """
        rows = [_row(Entry(number, chunk)) for number, chunk in enumerate(chunks, self._last_id + 1)]
        # Those of chunks that had to wait in memory have been saved meanwhile: only the last ones matter.
        names = next((chunk.names for chunk in reversed(chunks) if chunk.names), b"")
        size = sum(chunk.size for chunk in chunks)
        events = sum(chunk.waiting for chunk in chunks)
        with sqlite_errors(), transaction(self._db):
            dropped_bytes, dropped = self._drop(self.bytes + size - self.limit, protected)
            self._db.executemany(_INSERT, rows)
            if names:
                self._db.execute("INSERT OR REPLACE INTO last_names VALUES (1, ?)", (names,))
            added = self._add(totals, {"queued": events, "dropped": dropped})
        self._logged = True
        self._last_id += len(rows)
        self.bytes += size - dropped_bytes
        self.events += events - dropped
        self.totals = added
        return dropped

    def restore(self, entries: Sequence[Entry], totals: Mapping[str, int]) -> None:
        """Put entries of another file in under their old numbers, and make its totals this file's."""
        with sqlite_errors(), transaction(self._db):
            self._db.executemany(_INSERT, [_row(entry) for entry in entries])
            self.totals = self._add(totals)
        self._last_id = max([self._last_id, *(entry.id for entry in entries)])
        self.bytes += sum(entry.chunk.size for entry in entries)
        self.events += sum(entry.chunk.waiting for entry in entries)

    def _drop(self, excess: int, protected: int) -> tuple[int, int]:
        size = events = 0
        last = protected
        while size < excess:
            oldest = self._db.execute(
                "SELECT id, bytes, events - done FROM entries WHERE id > ? ORDER BY id LIMIT 64", (last,)
            ).fetchall()
            if not oldest:
                break
            for number, row_size, row_events in oldest:
                size += row_size
                events += row_events
                last = number
                if size >= excess:
                    break
        if last > protected:
            self._db.execute("DELETE FROM entries WHERE id > ? AND id <= ?", (protected, last))
        return size, events

    def _add(self, *amounts: Mapping[str, int]) -> dict[str, int]:
        totals = dict(self.totals)
        for part in amounts:
            for name, amount in part.items():
                totals[name] += amount
        changed = [(name, value) for name, value in totals.items() if value != self.totals.get(name)]
        if changed:
            self._db.executemany("INSERT OR REPLACE INTO totals VALUES (?, ?)", changed)
        return totals

    def read(self, after: int, most_events: int) -> tuple[list[Entry], list[Broken]]:
        """Return the oldest entries after the one numbered ``after``, and those found broken on the way.

        Broken entries are moved to the table ``damaged`` for inspection.
        """
        entries: list[Entry] = []
        bad: list[tuple[int, str]] = []
        events = 0
        with sqlite_errors(), contextlib.closing(self._db.execute(_ENTRY, (after,))) as rows:
            for number, done, topic, crc, body in rows:
                try:
                    entry = Entry(number, Chunk.decode(body, crc, topic, done))
                except (TypeError, ValueError) as error:
                    bad.append((number, str(error)))
                    continue
                entries.append(entry)
                events += entry.chunk.waiting
                if events >= most_events:
                    break
        return entries, [self._set_aside(number, reason) for number, reason in bad]

    def _set_aside(self, number: int, reason: str) -> Broken:
        with sqlite_errors(), transaction(self._db):
            events, size = self._db.execute(
                "SELECT max(0, events - done), bytes FROM entries WHERE id = ?", (number,)
            ).fetchone()
            self._db.execute(
                "INSERT INTO damaged (id, events, reason, topic, body)"
                " SELECT id, events - done, ?, topic, body FROM entries WHERE id = ?",
                (reason, number),
            )
            self._bound_damaged()
            self._db.execute("DELETE FROM entries WHERE id = ?", (number,))
            totals = self._add({"damaged": events})
        self.events -= events
        self.bytes -= size
        self.totals = totals
        return Broken(number, events, reason)

    def keep(self, chunk: Chunk, reason: str) -> None:
        """Put a chunk that is not to be sent again into the table ``damaged``, for inspection."""
        body, _ = chunk.encode()
        with sqlite_errors(), transaction(self._db):
            self._db.execute(
                "INSERT INTO damaged (events, reason, topic, body) VALUES (?, ?, ?, ?)",
                (len(chunk), f"{ASIDE}{reason}", chunk.topic, body),
            )
            self._bound_damaged()

    def _bound_damaged(self) -> None:
        self._db.execute(
            "DELETE FROM damaged WHERE rowid <= (SELECT max(rowid) FROM damaged) - ?", (_DAMAGED_KEPT,)
        )

    def acknowledge(
        self, finished: Sequence[int], partial: tuple[int, int] | None, totals: Mapping[str, int]
    ) -> None:
        """Remove entries that are finished, and note the progress of one that is not.

        Parameters
        ----------
        finished : sequence of int
            Numbers of entries.
        partial : tuple[int, int] or None
            Number of an entry, and how many of its events are done.
        totals : mapping
            What to add to the totals.
        """
        events = size = 0
        with sqlite_errors(), transaction(self._db):
            for number in finished:
                row = self._db.execute(
                    "SELECT events - done, bytes FROM entries WHERE id = ?", (number,)
                ).fetchone()
                if row is not None:
                    self._db.execute("DELETE FROM entries WHERE id = ?", (number,))
                    events += row[0]
                    size += row[1]
            if partial is not None:
                number, done = partial
                row = self._db.execute("SELECT done FROM entries WHERE id = ?", (number,)).fetchone()
                if row is not None and row[0] < done:
                    self._db.execute("UPDATE entries SET done = ? WHERE id = ?", (done, number))
                    events += done - row[0]
            added = self._add(totals)
        self._logged = True
        self.events -= events
        self.bytes -= size
        self.totals = added

    def give_back(self) -> None:
        """Return some of the space of removed entries to the file system, and forget what was sent.

        Removed entries are overwritten, but stay readable in the log until it is cut off: as soon as the queue is
        empty, and once a minute while it is not.
        """
        with sqlite_errors():
            (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
            if free > _FREE_PAGES:
                # Not execute(): it would stop after the first page.
                self._db.executescript(f"PRAGMA incremental_vacuum({_FREE_PAGES})")
            now = time.monotonic()
            if self._logged and (not self.events or now >= self._forgotten + FORGET_SECONDS):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                self._logged, self._forgotten = False, now

    def shed(self, size: int, protected: int) -> tuple[int, int]:
        """Make the file smaller by ``size`` bytes if possible; the oldest entries go if need be.

        Parameters
        ----------
        size : int
        protected : int
            Entries up to this one are being sent and are not dropped.

        Returns
        -------
        tuple[int, int]
            Events dropped, and bytes by which the file and its log became smaller.
        """
        before = self._stored_bytes()
        with sqlite_errors():
            # What the log holds twice may be enough already, or the room of entries that are gone.
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            (page,) = self._db.execute("PRAGMA page_size").fetchone()
            (unused,) = self._db.execute("PRAGMA freelist_count").fetchone()
            excess = size - (before - self._stored_bytes()) - unused * page
            with transaction(self._db):
                dropped_bytes, dropped = self._drop(excess, protected)
                totals = self._add({"dropped": dropped})
            self.totals = totals
            self.bytes -= dropped_bytes
            self.events -= dropped
            self._db.executescript(f"PRAGMA incremental_vacuum({max(0, size) // page + 1})")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return dropped, max(0, before - self._stored_bytes())

    def _stored_bytes(self) -> int:
        size = 0
        for suffix in ("", "-wal"):
            with contextlib.suppress(OSError):
                size += Path(f"{self.path}{suffix}").stat().st_size
        return size

    def close(self) -> None:
        """Close the file; what it holds stays."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()


__all__ = [
    "ASIDE",
    "FILE_NAME",
    "TOTALS",
    "Broken",
    "Entry",
    "QueueFile",
]
