"""The durable queue of events: one SQLite file, written in batches.

The file is in WAL mode with ``synchronous=NORMAL``: what was committed survives the death of the process in any
way; a power cut may cost the last moments, never the file. Every transaction that changes entries also changes
the totals, so the account of what became of all events ever queued is exact whenever the process dies.

Nothing here is thread-safe; :class:`edm.core.backlog.Backlog` sees to that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edm.core.chunks import Chunk
from edm.output.paths import make_folder

VERSION = 1
FILE_NAME = "queue.sqlite3"
TOTALS = ("queued", "sent", "failed", "dropped", "damaged")
"""What is counted over the life of the file. Always: queued = sent + failed + dropped + damaged + waiting."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY, events INTEGER NOT NULL, done INTEGER NOT NULL, bytes INTEGER NOT NULL,
    topic TEXT, crc INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS damaged (
    id INTEGER, events INTEGER, reason TEXT, topic TEXT, body BLOB,
    set_aside TEXT DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS last_names (one INTEGER PRIMARY KEY CHECK (one = 1), record BLOB NOT NULL);
"""
_ENTRY = "SELECT id, done, topic, crc, body FROM entries WHERE id > ? ORDER BY id LIMIT 64"
_COLUMNS = {
    "entries": ("id", "events", "done", "bytes", "topic", "crc", "body"),
    "damaged": ("id", "events", "reason", "topic", "body", "set_aside"),
    "totals": ("name", "value"),
    "last_names": ("one", "record"),
}
_INSERT = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)"
_DAMAGED_KEPT = 1000
_FREE_PAGES = 4096
_LOCK_SECONDS = 5.0


class DiskError(Exception):
    """The file cannot be used now. Trying again later may help.

    Attributes
    ----------
    full : bool
        It is because the disk is full.
    """

    def __init__(self, reason: str, *, full: bool = False) -> None:
        super().__init__(reason)
        self.full = full


class DamagedFileError(Exception):
    """The file is damaged as a whole, or no file of ours."""


class InUseError(Exception):
    """Another process has the file open."""


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
        What waits, whether fetched or not.
    totals : dict[str, int]
        See :data:`TOTALS`.
    names : bytes
        As the file was opened: the names that came with the last insertion that had any.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        make_folder(path.parent)
        self._db = self._connect()
        try:
            with self._errors():
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        try:
            # SQLite gives its side files the mode of the main file.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            db = sqlite3.connect(
                self.path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            raise DiskError(getattr(error, "strerror", None) or str(error), full=full) from error
        db.text_factory = lambda text: text.decode("utf-8", "replace")
        return db

    def _prepare(self) -> None:
        db = self._db
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA journal_size_limit = 16777216")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            raise DamagedFileError(f"it has the unknown version {version}")
        with self._transaction():
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")
        for table, columns in _COLUMNS.items():
            found = tuple(row[1] for row in db.execute(f"PRAGMA table_info({table})"))
            if found != columns:
                raise DamagedFileError(f"its table {table} is not as expected")
        self.events, self.bytes, self._last_id = db.execute(
            "SELECT ifnull(sum(events - done), 0), ifnull(sum(bytes), 0), ifnull(max(id), 0) FROM entries"
        ).fetchone()
        self.totals = dict.fromkeys(TOTALS, 0)
        self.totals.update(db.execute("SELECT name, value FROM totals").fetchall())
        row = db.execute("SELECT record FROM last_names").fetchone()
        self.names = row[0] if row is not None and isinstance(row[0], bytes) else b""

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise DamagedFileError(str(error)) from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise InUseError("another process uses it") from error
            raise DiskError(str(error), full=code == sqlite3.SQLITE_FULL) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

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
        with self._errors(), self._transaction():
            dropped_bytes, dropped = self._drop(self.bytes + size - self.limit, protected)
            self._db.executemany(_INSERT, rows)
            if names:
                self._db.execute("INSERT OR REPLACE INTO last_names VALUES (1, ?)", (names,))
            added = self._add(totals, {"queued": events, "dropped": dropped})
        self._last_id += len(rows)
        self.bytes += size - dropped_bytes
        self.events += events - dropped
        self.totals = added
        return dropped

    def restore(self, entries: Sequence[Entry], totals: Mapping[str, int]) -> None:
        """Put entries of another file in under their old numbers, and make its totals this file's."""
        with self._errors(), self._transaction():
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

        Broken entries are moved to the table ``damaged`` for somebody to look at.
        """
        entries: list[Entry] = []
        bad: list[tuple[int, str]] = []
        events = 0
        with self._errors(), contextlib.closing(self._db.execute(_ENTRY, (after,))) as rows:
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
        with self._errors(), self._transaction():
            events, size = self._db.execute(
                "SELECT max(0, events - done), bytes FROM entries WHERE id = ?", (number,)
            ).fetchone()
            self._db.execute(
                "INSERT INTO damaged (id, events, reason, topic, body)"
                " SELECT id, events - done, ?, topic, body FROM entries WHERE id = ?",
                (reason, number),
            )
            self._db.execute(
                "DELETE FROM damaged WHERE rowid <= (SELECT max(rowid) FROM damaged) - ?", (_DAMAGED_KEPT,)
            )
            self._db.execute("DELETE FROM entries WHERE id = ?", (number,))
            totals = self._add({"damaged": events})
        self.events -= events
        self.bytes -= size
        self.totals = totals
        return Broken(number, events, reason)

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
        with self._errors(), self._transaction():
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
        self.events -= events
        self.bytes -= size
        self.totals = added

    def give_back(self) -> None:
        """Return some of the space of removed entries to the file system, if there is much of it."""
        with self._errors():
            (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
            if free > _FREE_PAGES:
                # Not execute(): it would stop after the first page.
                self._db.executescript(f"PRAGMA incremental_vacuum({_FREE_PAGES})")

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
        with self._errors():
            # What the log holds twice may be enough already, or the room of entries that are gone.
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            (page,) = self._db.execute("PRAGMA page_size").fetchone()
            (unused,) = self._db.execute("PRAGMA freelist_count").fetchone()
            excess = size - (before - self._stored_bytes()) - unused * page
            with self._transaction():
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
    "FILE_NAME",
    "TOTALS",
    "Broken",
    "DamagedFileError",
    "DiskError",
    "Entry",
    "InUseError",
    "QueueFile",
]
