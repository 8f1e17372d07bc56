from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edm.tapir.events import queue_file
from edm.tapir.events.chunks import chunk_of_messages
from edm.tapir.events.queue_database import DiskError
from edm.tapir.events.queue_file import FILE_NAME, QueueFile
from support.events import payloads
from tapir.events.queues import BIG, all_events, balanced, chunk, opened


def test_entries_come_back_in_order_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        assert file.insert([chunk(0, 3), chunk(3, 5)], 0, {}) == 0
        file.insert([chunk_of_messages([b"ready"], "a/b")], 0, {})
        assert file.events == 6
    with opened(tmp_path) as file:
        assert file.events == 6
        entries, broken = file.read(0, 100)
        assert [entry.id for entry in entries] == [1, 2, 3]
        assert [entry.chunk.topic for entry in entries] == [None, None, "a/b"]
        assert all_events(file) == [*payloads(0, 5), b"ready"]
        assert file.bytes == sum(entry.chunk.size for entry in entries)
        assert balanced(file)
        assert not broken


def test_reading_stops_when_there_is_enough(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        file.insert([chunk(n, n + 10) for n in range(0, 100, 10)], 0, {})
        assert [entry.id for entry in file.read(0, 15)[0]] == [1, 2]
        assert [entry.id for entry in file.read(2, 1)[0]] == [3]
        assert file.read(10, 1) == ([], [])


def test_acknowledging(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        file.insert([chunk(0, 10), chunk(10, 20), chunk(20, 30)], 0, {})
        file.acknowledge([1], (2, 4), {"sent": 13, "failed": 1})
        assert file.events == 16
        file.acknowledge([], (2, 3), {})  # an older word on it changes nothing
        assert balanced(file)
    with opened(tmp_path) as file:
        assert file.events == 16
        assert file.totals == {"queued": 30, "sent": 13, "failed": 1, "dropped": 0, "damaged": 0}
        assert all_events(file) == payloads(14, 30)
        file.acknowledge([2, 3, 99], None, {"sent": 16})
        assert (file.events, file.bytes) == (0, 0)
        assert balanced(file)


def test_the_oldest_are_dropped_when_it_is_full(tmp_path: Path) -> None:
    size = chunk(100, 110).size
    with opened(tmp_path, limit=5 * size) as file:
        assert file.insert([chunk(n, n + 10) for n in range(100, 150, 10)], 0, {}) == 0
        assert file.insert([chunk(150, 160)], 0, {}) == 10
        assert all_events(file) == payloads(110, 160)
        # What is being sent is spared.
        assert file.insert([chunk(160, 170), chunk(170, 180)], 3, {}) == 20
        assert all_events(file) == [*payloads(110, 130), *payloads(150, 180)]
        assert file.totals["dropped"] == 30
        assert file.bytes <= 5 * size
        assert balanced(file)


def test_numbers_are_not_used_twice_in_a_run(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        file.insert([chunk(0, 1)], 0, {})
        file.acknowledge([1], None, {"sent": 1})
        file.insert([chunk(1, 2)], 0, {})
        assert [entry.id for entry in file.read(1, 9)[0]] == [2]


def test_modes(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        file.insert([chunk(0, 1)], 0, {})
        assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o750
        for path in file.path.parent.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_damaged_entry_is_set_aside(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        file.insert([chunk(0, 5), chunk(5, 12), chunk(12, 20)], 0, {})
        path = file.path
    with contextlib.closing(sqlite3.connect(path)) as db:
        (body,) = db.execute("SELECT body FROM entries WHERE id = 2").fetchone()
        db.execute("UPDATE entries SET body = ? WHERE id = 2", (body[:50] + b"?" + body[51:],))
        db.execute("UPDATE entries SET body = 'text' WHERE id = 3")
        db.commit()
    with opened(tmp_path) as file:
        entries, broken = file.read(0, 100)
        assert [entry.id for entry in entries] == [1]
        assert [(b.id, b.events) for b in broken] == [(2, 7), (3, 8)]
        assert "checksum" in broken[0].reason
        assert file.events == 5
        assert file.totals["damaged"] == 15
        assert balanced(file)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT id, events FROM damaged").fetchall() == [(2, 7), (3, 8)]


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        file.insert([chunk(0, 10)], 0, {})
        (pages,) = file._db.execute("PRAGMA page_count").fetchone()
        file._db.execute(f"PRAGMA max_page_count = {pages}")
        before = file.events, file.bytes, dict(file.totals)
        with pytest.raises(DiskError) as caught:
            file.insert([chunk(10, 500)], 0, {"failed": 1})
        assert caught.value.full
        assert (file.events, file.bytes, file.totals) == before
        file._db.execute("PRAGMA max_page_count = 1000000")
        file.insert([chunk(10, 20)], 0, {})
        assert all_events(file) == payloads(0, 20)


def test_space_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_file, "_FREE_PAGES", 10)
    with opened(tmp_path) as file:
        file.insert([chunk(n, n + 500) for n in range(0, 5000, 500)], 0, {})
        file.acknowledge(list(range(1, 11)), None, {"sent": 5000})
        (before,) = file._db.execute("PRAGMA page_count").fetchone()
        for _ in range(before // 10):
            file.give_back()
        (after,) = file._db.execute("PRAGMA page_count").fetchone()
        assert after < before / 2


_KILLED = """
import os, signal, sys
from pathlib import Path
from edm.tapir.events.queue_file import QueueFile
from edm.tapir.events.chunks import chunks_of
from support.events import block_of, payloads
file = QueueFile(Path(sys.argv[1]), 1 << 30)
for n in range(0, 1000, 10):
    file.insert(list(chunks_of([block_of(payloads(n, n + 10))])), 0, {})
    if n >= 100 and n % 50 == 0:
        file.acknowledge([file.read(0, 1)[0][0].id], None, {"sent": 10})
    print(n + 10, file.totals["sent"], flush=True)
    if n >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_committed_is_lost_by_kill_9(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    for round_, limit in enumerate((230, 510), 1):
        run = subprocess.run(
            [sys.executable, "-c", _KILLED, str(path), str(limit)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == -9, run.stderr
        queued, sent = map(int, run.stdout.split("\n")[-2].split())
        file = QueueFile(path, BIG)
        assert balanced(file)
        assert file.totals["sent"] == sent
        if round_ == 1:
            assert file.totals["queued"] == queued
            assert all_events(file) == payloads(sent, queued)
        assert file.events == file.totals["queued"] - sent
        file.close()


def test_the_names_of_the_last_insertion_come_back(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        assert file.names == b""
        first, second, third = chunk(0, 3), chunk(3, 5), chunk(5, 6)
        first.names, second.names = b"one", b"two"
        file.insert([first], 0, {})
        file.insert([second, third], 0, {})
        file.insert([chunk(6, 7)], 0, {})
    with opened(tmp_path) as file:
        assert file.names == b"two"
        file.acknowledge([1, 2, 3, 4], None, {"sent": 7})
    with opened(tmp_path) as file:  # also when their events have been sent
        assert file.names == b"two"


def test_names_go_with_their_events_or_not_at_all(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        first = chunk(0, 3)
        first.names = b"one"
        file.insert([first], 0, {})
        second = chunk(3, 5)
        second.names = b"two"
        with pytest.raises(KeyError):
            file.insert([second], 0, {"no such total": 1})
    with opened(tmp_path) as file:
        assert file.names == b"one"
        assert all_events(file) == payloads(0, 3)


def test_a_file_from_before_there_were_names(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        file.insert([chunk(0, 3)], 0, {})
    with contextlib.closing(sqlite3.connect(tmp_path / "mqtt" / FILE_NAME)) as db:
        db.execute("DROP TABLE last_names")
        db.commit()
    with opened(tmp_path) as file:
        assert file.names == b""
        assert all_events(file) == payloads(0, 3)


def stored(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def secret(number: int) -> bytes:
    return b'{"qname":"what-somebody-asked-for-%04d.example."}' % number


def test_what_was_sent_cannot_be_read_in_the_files(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        for first in range(0, 200, 50):
            file.insert([chunk_of_messages([secret(n) for n in range(first, first + 50)], "t")], 0, {})
        assert secret(0) in stored(tmp_path)
        file.give_back()  # moves it from the log into the file itself
        file.acknowledge([1, 2, 3], (4, 10), {"sent": 160})
        assert secret(0) in stored(tmp_path)
        file.acknowledge([4], None, {"sent": 40})
        assert file.events == 0
        file.give_back()
        assert b"what-somebody-asked-for" not in stored(tmp_path)
        assert file.path.with_name(FILE_NAME + "-wal").stat().st_size == 0
        assert balanced(file)


def test_a_queue_that_is_never_empty_forgets_what_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as file:
        file.insert([chunk_of_messages([secret(1)], "t"), chunk_of_messages([secret(2)], "t")], 0, {})
        file.acknowledge([1], None, {"sent": 1})
        file.give_back()
        assert secret(1) in stored(tmp_path)
        monkeypatch.setattr(queue_file, "FORGET_SECONDS", 0.0)
        file.give_back()
        assert secret(1) not in stored(tmp_path)
        assert secret(2) in stored(tmp_path)
        assert all_events(file) == [secret(2)]


def test_what_an_earlier_process_left_behind_goes_at_the_start(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        file._db.execute("PRAGMA secure_delete = OFF")
        file.insert([chunk_of_messages([secret(n) for n in range(500)], "t")], 0, {})
        file.acknowledge([1], None, {"sent": 500})
    assert b"what-somebody-asked-for" in stored(tmp_path)
    with opened(tmp_path) as file:
        file.give_back()
        assert b"what-somebody-asked-for" not in stored(tmp_path)
