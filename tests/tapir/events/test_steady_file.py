from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edm.errors import OutputError
from edm.tapir.events.queue_database import DiskError
from edm.tapir.events.queue_file import FILE_NAME, QueueFile
from edm.tapir.events.steady_file import SteadyFile
from support.events import payloads
from tapir.events.queues import BIG, all_events, balanced, chunk


def insert(file: SteadyFile, first: int, stop: int) -> None:
    file.attempt(lambda queue: queue.insert([chunk(first, stop)], 0, {}))


def test_without_a_path_nothing_can_be_done() -> None:
    file = SteadyFile(None, BIG)
    with pytest.raises(DiskError, match="no queue file"):
        file.attempt(all_events)
    file.close()


def test_what_was_known_last_can_be_asked_after_closing(tmp_path: Path) -> None:
    file = SteadyFile(tmp_path / FILE_NAME, BIG)
    file.open()
    insert(file, 0, 5)
    file.close()
    assert file.file is not None
    assert file.file.events == 5


def test_a_file_that_could_not_be_opened_is_opened_when_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise DiskError("database or disk is full", full=True)

    file = SteadyFile(tmp_path / FILE_NAME, BIG)
    with monkeypatch.context() as patch:
        patch.setattr(QueueFile, "__init__", full)
        with pytest.raises(DiskError):
            file.open()
        with pytest.raises(DiskError):
            insert(file, 0, 5)
        assert file.file is None
    insert(file, 0, 5)
    assert file.attempt(all_events) == payloads(0, 5)
    file.close()


def test_a_full_disk_leaves_the_file_open_and_other_trouble_opens_it_anew(tmp_path: Path) -> None:
    file = SteadyFile(tmp_path / FILE_NAME, BIG)
    insert(file, 0, 5)
    first = file.file

    def failing(full: bool) -> None:
        def action(_: QueueFile) -> None:
            raise DiskError("no luck", full=full)

        with pytest.raises(DiskError):
            file.attempt(action)

    failing(full=True)
    assert file.file is first
    failing(full=False)
    assert file.file is not first
    assert file.attempt(all_events) == payloads(0, 5)
    file.close()


def test_a_damaged_file_is_replaced_and_the_loss_counted(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    file = SteadyFile(path, BIG)
    for first in range(0, 400, 20):
        insert(file, first, first + 20)
    file.close()
    damaged = bytearray(path.read_bytes())
    middle = len(damaged) // 2 // 4096 * 4096
    damaged[middle : middle + 8192] = b"\xff" * 8192
    path.write_bytes(damaged)
    file = SteadyFile(path, BIG)
    with capture_logs() as logs:
        saved = len(file.attempt(all_events))
    assert [(line["saved"], line["lost"]) for line in logs] == [(saved, 400 - saved)]
    assert file.lost == 400 - saved > 0
    assert file.attempt(balanced)
    file.close()


def test_a_damaged_file_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(b"\xff" * 10_000)
    file = SteadyFile(path, BIG)
    with capture_logs() as logs:
        file.open()
    assert [(line["lost"], line["at_start"]) for line in logs] == [("unknown", True)]
    assert file.lost == 0
    file.close()


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / FILE_NAME, tmp_path):
        with pytest.raises(OutputError, match=str(path.parent)):
            SteadyFile(path, BIG).open()
