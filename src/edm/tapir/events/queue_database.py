"""The SQLite file of the queue of events: how it is opened, and what its errors mean."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from edm.files.own import open_own

VERSION = 1

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
_COLUMNS = {
    "entries": ("id", "events", "done", "bytes", "topic", "crc", "body"),
    "damaged": ("id", "events", "reason", "topic", "body", "set_aside"),
    "totals": ("name", "value"),
    "last_names": ("one", "record"),
}
_LOCK_SECONDS = 5.0
_SIDE_FILES = ("-journal", "-wal", "-shm")


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
    """The whole file is damaged, or it is not a queue file."""


class InUseError(Exception):
    """Another process has the file open."""


def open_database(path: Path) -> sqlite3.Connection:
    """Open the file, which is made if it is not there, and its tables.

    Raises
    ------
    DiskError, DamagedFileError, InUseError
    """
    db = _connect(path)
    try:
        with sqlite_errors():
            _prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def _connect(path: Path) -> sqlite3.Connection:
    try:
        # SQLite gives its side files the mode of the main file.
        os.close(open_own(path, os.O_RDWR | os.O_CREAT))
        for suffix in _SIDE_FILES:
            if (side := Path(f"{path}{suffix}")).is_symlink():
                raise OSError(errno.ELOOP, f"{side.name} is a symbolic link, which is not followed here")
        db = sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        raise DiskError(getattr(error, "strerror", None) or str(error), full=full) from error
    db.text_factory = lambda text: text.decode("utf-8", "replace")
    return db


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA journal_size_limit = 16777216")
    db.execute("PRAGMA secure_delete = ON")  # what is removed is overwritten: names that people asked for
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version not in (0, VERSION):
        raise DamagedFileError(f"it has the unknown version {version}")
    with transaction(db):
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {VERSION}")
    for table, columns in _COLUMNS.items():
        found = tuple(row[1] for row in db.execute(f"PRAGMA table_info({table})"))
        if found != columns:
            raise DamagedFileError(f"its table {table} is not as expected")


@contextlib.contextmanager
def sqlite_errors() -> Iterator[None]:
    """Turn SQLite's errors into the three above."""
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
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit the changes of the body, or roll them back if it fails."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


__all__ = ["DamagedFileError", "DiskError", "InUseError", "open_database", "sqlite_errors", "transaction"]
