"""Where unfinished files are: never where finished ones are read, and always where they can be renamed from."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edm.output.paths import SESSION_PREFIX, DataDirectory, Workshop
from edm.output.usage import Disk

NAME = "dns_session_block-2026-11-23T08-59-00Z-7.parquet"


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK) or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to write to")
    folder = Path(tempfile.mkdtemp(dir=shared))
    yield folder
    shutil.rmtree(folder)


def test_they_lie_apart_under_a_name_that_is_skipped(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    path = Workshop(data.sessions, SESSION_PREFIX, data.unfinished).path(NAME)
    assert path == tmp_path / "unfinished" / f".{NAME}.tmp"
    assert not list(data.sessions.iterdir())
    assert not list(data.unfinished.iterdir())


def test_a_folder_on_another_file_system_keeps_its_own(tmp_path: Path, other_disk: Path) -> None:
    data = DataDirectory(tmp_path)
    data.sessions.rmdir()
    data.sessions.symlink_to(other_disk)
    workshop = Workshop(data.sessions, SESSION_PREFIX, data.unfinished)
    path = workshop.path(NAME)
    assert path == data.sessions / f".{NAME}.tmp"
    assert not list(other_disk.iterdir())
    assert not list(data.unfinished.iterdir())
    path.write_bytes(b"half")
    assert workshop.tidy()
    assert not path.exists()


def test_what_a_killed_process_left_is_removed_wherever_it_lies(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    histogram = "dns_histogram-2026-11-23T08-59-00Z_2026-11-23T09-00-00Z.parquet"
    left = [
        data.sessions / f"{NAME}.tmp",  # by an earlier version
        data.outbox / f"{histogram}.tmp",
        data.sessions / f".{NAME}.tmp",
        data.unfinished / f".{NAME}.tmp",
        data.unfinished / f".{histogram}.tmp",
    ]
    others = [data.unfinished / "notes", data.sessions / f".{histogram}"]
    for path in (*left, *others):
        path.write_bytes(b"half")
    usage = Disk(data).look()
    counted = {file.path for kind in ("session", "outbox") for file in usage.files[kind]}
    assert counted == set(left)
    assert usage.size("session") == 12
    data.clean()
    assert [path.exists() for path in left] == [False] * 5
    assert [path.exists() for path in others] == [True] * 2


def test_a_writer_tidies_up_its_own_files_only(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    ours, in_use = data.unfinished / f".{NAME}.tmp", data.unfinished / f".{SESSION_PREFIX}x.parquet.tmp"
    other = data.unfinished / ".dns_histogram-x.parquet.tmp"
    for path in (ours, in_use, other):
        path.touch()
    assert Workshop(data.sessions, SESSION_PREFIX, data.unfinished).tidy([in_use])
    assert (ours.exists(), in_use.exists(), other.exists()) == (False, True, True)
