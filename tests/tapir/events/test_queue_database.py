from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edm.tapir.events import queue_database
from edm.tapir.events.queue_database import (
    DamagedFileError,
    DiskError,
    InUseError,
    open_database,
    sqlite_errors,
    transaction,
)


def test_a_second_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_database, "_LOCK_SECONDS", 0.05)
    with closing(open_database(tmp_path / "queue")), pytest.raises(InUseError):
        open_database(tmp_path / "queue")
    open_database(tmp_path / "queue").close()


@pytest.mark.parametrize("content", [b"no database at all" * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "queue"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError):
        open_database(path)
    assert path.read_bytes() == content


def test_other_tables(tmp_path: Path) -> None:
    path = tmp_path / "queue"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, text TEXT)")
    with pytest.raises(DamagedFileError, match="table entries"):
        open_database(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(DamagedFileError, match="unknown version 99"):
        open_database(path)


def test_a_place_where_no_file_can_be(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="Is a directory") as caught:
        open_database(tmp_path)
    assert not caught.value.full


def test_a_transaction_that_fails_changes_nothing(tmp_path: Path) -> None:
    with closing(open_database(tmp_path / "queue")) as db:
        with pytest.raises(sqlite3.OperationalError), transaction(db):  # noqa: PT012 - two statements are the point
            db.execute("INSERT INTO totals VALUES ('sent', 1)")
            db.execute("SELECT * FROM nothing")
        assert db.execute("SELECT * FROM totals").fetchall() == []
        with transaction(db):
            db.execute("INSERT INTO totals VALUES ('sent', 2)")
        assert db.execute("SELECT * FROM totals").fetchall() == [("sent", 2)]


@pytest.mark.parametrize(
    ("code", "kind", "full"),
    [
        (sqlite3.SQLITE_CORRUPT, DamagedFileError, None),
        (sqlite3.SQLITE_CORRUPT_VTAB, DamagedFileError, None),
        (sqlite3.SQLITE_NOTADB, DamagedFileError, None),
        (sqlite3.SQLITE_BUSY, InUseError, None),
        (sqlite3.SQLITE_LOCKED, InUseError, None),
        (sqlite3.SQLITE_FULL, DiskError, True),
        (sqlite3.SQLITE_IOERR_READ, DiskError, False),
        (None, DiskError, False),
    ],
)
def test_errors_are_told_apart(code: int | None, kind: type[Exception], full: bool | None) -> None:
    error = sqlite3.OperationalError("for a reason")
    if code is not None:
        error.sqlite_errorcode = code
    with pytest.raises(kind) as caught, sqlite_errors():
        raise error
    assert getattr(caught.value, "full", None) is full
