from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from edm.tapir.events.queue_file import FILE_NAME
from edm.tapir.events.rescue import KEPT, replace_damaged
from support.events import payloads
from tapir.events.queues import BIG, balanced, chunk, opened


@pytest.mark.parametrize("content", [b"no database at all" * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    new, rescue = replace_damaged(path, BIG)
    new.insert([chunk(0, 1)], 0, {})
    new.close()
    assert (rescue.path.name, rescue.saved, rescue.lost) == (FILE_NAME + ".corrupt-1", 0, None)
    assert rescue.path.read_bytes() == content


def test_what_is_intact_in_a_damaged_file_is_saved(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        for first in range(0, 400, 20):
            file.insert([chunk(first, first + 20)], 0, {})
        file.acknowledge([1], (2, 5), {"sent": 25})
        path = file.path
    data = bytearray(path.read_bytes())
    # Wipe out the pages in the middle.
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 8192] = b"\xff" * 8192
    path.write_bytes(data)
    new, rescue = replace_damaged(path, BIG)
    with contextlib.closing(new):
        assert rescue.lost is not None
        assert rescue.saved + rescue.lost == 375
        assert rescue.saved >= 200
        assert new.events == rescue.saved
        assert new.totals["sent"] == 25
        assert new.totals["damaged"] == rescue.lost
        assert balanced(new)
        entries, _ = new.read(0, 10**9)
        assert entries[0].id == 2
        assert entries[0].chunk.done == 5
        assert entries[-1].chunk.messages(0, 20) == payloads(380, 400)


def test_only_some_damaged_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    for _ in range(KEPT + 2):
        path.write_bytes(b"damaged" * 100)
        replace_damaged(path, BIG)[0].close()
    numbers = sorted(int(p.name.rpartition("-")[2]) for p in tmp_path.glob("*.corrupt-?"))
    assert numbers == list(range(3, 3 + KEPT))
