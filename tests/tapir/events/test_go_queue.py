from __future__ import annotations

import os
from pathlib import Path

import pytest

from edm.tapir.events.backlog import Backlog
from edm.tapir.events.go_queue import SLICE, GoQueue
from edm.tapir.mqtt.packets import publish_packets

TOPIC = "events/up/site/new_qname"


def publish(topic: str, payload: bytes) -> bytes:
    return b"".join(publish_packets(topic, [payload]))


def write(folder: Path, name: str, packet: bytes, mtime: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(packet)
    os.utime(path, (mtime, mtime))
    return path


def taken(backlog: Backlog) -> list[tuple[str | None, bytes]]:
    return [(e.chunk.topic, m) for e in backlog.take(10_000) for m in e.chunk.messages(0, len(e.chunk))]


def test_left_over_messages_are_taken_over_oldest_first(tmp_path: Path) -> None:
    folder = tmp_path / "queue"
    write(folder, "queue2.msg", publish(TOPIC, b"second"), 2000)
    write(folder, "queue9.msg", publish(TOPIC, b"first"), 1000)
    write(folder, "queue1.msg", publish("events/up/old/new_qname", b"third"), 3000)
    broken = write(folder, "queue0.msg", b"garbage", 500)
    other = write(folder, "note.txt", b"", 1)
    backlog = Backlog(tmp_path / "queue.sqlite3", 1 << 20)
    importer = GoQueue(folder, backlog)
    while importer.pending:
        importer.take_over()
    assert taken(backlog) == [
        (TOPIC, b"first"),
        (TOPIC, b"second"),
        ("events/up/old/new_qname", b"third"),
    ]
    assert backlog.imported == backlog.queued == 3
    assert sorted(folder.iterdir()) == [other, broken.with_name("queue0.msg.CORRUPT")]
    backlog.close()


def test_slices(tmp_path: Path) -> None:
    folder = tmp_path / "queue"
    for number in range(SLICE + 5):
        write(folder, f"queue{number}.msg", publish(TOPIC, b"%d" % number), 1000 + number)
    backlog = Backlog(tmp_path / "queue.sqlite3", 1 << 20)
    importer = GoQueue(folder, backlog)
    assert importer.take_over()
    assert backlog.imported == SLICE
    assert importer.take_over()
    assert not importer.take_over()
    assert not importer.pending
    assert [message for _, message in taken(backlog)] == [b"%d" % n for n in range(SLICE + 5)]
    backlog.close()


def test_files_stay_until_their_messages_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "queue"
    path = write(folder, "queue1.msg", publish(TOPIC, b"x"), 1000)
    backlog = Backlog(tmp_path / "queue.sqlite3", 1 << 20)
    importer = GoQueue(folder, backlog)
    real = Backlog.put
    monkeypatch.setattr(Backlog, "put", lambda *args, **kwargs: real(*args, **kwargs) and False)
    assert not importer.take_over()
    assert not importer.take_over()
    assert path.exists()
    assert backlog.imported == 1
    monkeypatch.undo()
    importer.take_over()
    assert not path.exists()
    assert backlog.imported == 1
    backlog.close()


def test_without_a_folder(tmp_path: Path) -> None:
    backlog = Backlog(None, 1 << 20)
    assert not GoQueue(tmp_path / "queue", backlog).pending
