"""What is in a queue file of events, for people: ``edm inspect``. The file is never changed."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tempfile
import zlib
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edm.errors import InputError
from edm.tapir.events.chunks import Chunk
from edm.tapir.events.queue_file import ASIDE, TOTALS

MAGIC = b"SQLite format 3\0"
COPY_MAX = 256 << 20
"""Bytes of the largest file that is copied; a larger one is looked at where it is, without what is still in its log."""

_SHOWN_MAX = 1000
_TEXT_MAX = 300
_ATTEMPTS = 3


def inspect_queue(path: str, top: int = 10) -> dict[str, Any]:
    """Return the events in a queue file, the fates of all events, and the youngest of those set aside.

    Parameters
    ----------
    path : str
        The daemon may be using the file.
    top : int
        Events set aside to return.

    Returns
    -------
    dict
        ``file``, ``kind`` (``queue``), ``waiting_events``, ``waiting_bytes``, ``totals``, ``set_aside`` (how many
        events) and ``shown``, a list with ``when``, ``reason``, ``events``, ``bytes``, ``topic`` and ``payload`` of
        each; all of it fits into JSON.

    Raises
    ------
    InputError
        It is no queue file, or cannot be read.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with _opened(Path(path)) as database:
                return {"file": path, "kind": "queue", **_facts(database, min(top, _SHOWN_MAX))}
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (sqlite3.Error, TypeError) as error:
            # The daemon may have been moving its log into the file just then.
            if attempt == _ATTEMPTS:
                raise InputError(f"{path}: no queue of new names, or a damaged one: {error}") from None
    raise AssertionError


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory(prefix="edm-inspect-") as folder:
        place, options = path.absolute(), "?mode=ro&immutable=1"
        if path.stat().st_size <= COPY_MAX:
            place, options = Path(folder) / "queue", "?mode=rw"
            shutil.copyfile(path, place)
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{path}-wal", f"{place}-wal")
        with contextlib.closing(sqlite3.connect(place.as_uri() + options, uri=True)) as database:
            database.text_factory = lambda text: text.decode("utf-8", "replace")
            yield database


def _facts(database: sqlite3.Connection, top: int) -> dict[str, Any]:
    events, size = database.execute(
        "SELECT ifnull(sum(events - done), 0), ifnull(sum(bytes), 0) FROM entries"
    ).fetchone()
    totals = dict(database.execute("SELECT name, value FROM totals").fetchall())
    (aside,) = database.execute("SELECT ifnull(sum(events), 0) FROM damaged").fetchone()
    rows = database.execute(
        "SELECT set_aside, substr(reason, 1, ?), events, length(body), substr(topic, 1, ?), body FROM damaged"
        " ORDER BY rowid DESC LIMIT ?",
        (_TEXT_MAX, _TEXT_MAX, top),
    )
    return {
        "waiting_events": int(events),
        "waiting_bytes": int(size),
        "totals": {name: int(totals.get(name, 0)) for name in TOTALS},
        "set_aside": int(aside),
        "shown": [
            {
                "when": str(when),
                "reason": str(reason),
                "events": int(count or 0),
                "bytes": int(length or 0),
                "topic": None if topic is None else str(topic),
                "payload": _payload(str(reason), body),
            }
            for when, reason, count, length, topic, body in rows
        ],
    }


def _payload(reason: str, body: object) -> str | None:
    """Return the beginning of an event that is whole; None of others."""
    if not reason.startswith(ASIDE) or not isinstance(body, bytes):
        return None
    try:
        (message,) = Chunk.decode(body, zlib.crc32(body), None, 0).messages(0, 1)
        encoded = json.loads(message)["payload"]
        return _decoded(encoded)[:_TEXT_MAX]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _decoded(encoded: str) -> str:
    return urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode("utf-8", "replace")


__all__ = ["COPY_MAX", "MAGIC", "inspect_queue"]
