"""Reading files that are written, replaced or removed meanwhile, and paths that are not files."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from edm.files import reading
from edm.files.reading import UnreadableError, read_whole


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "list"


def test_content_and_padding(path: Path) -> None:
    path.write_bytes(b"10.0.0.0/8\n")
    assert read_whole(path, 100) == b"10.0.0.0/8\n"
    assert read_whole(str(path), 11, padding=3) == b"10.0.0.0/8\n\0\0\0"


def test_the_bound_names_the_setting(path: Path) -> None:
    path.write_bytes(b"x" * 11)
    with pytest.raises(UnreadableError, match=r"^11 bytes are more than the 10 allowed \(a-key\)$"):
        read_whole(path, 10, "a-key")


def test_an_enormous_file_costs_nothing(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableError, match=r"107,374,182,400 bytes are more than"):
            read_whole(path, 1 << 28)
        # Within the bound, but its head says that it is something else.
        with pytest.raises(UnreadableError, match="no such thing"):
            read_whole(path, 1 << 40, refuse=lambda head, size: "no such thing" if head == bytes(16) else "")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_memory_that_cannot_be_had(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 42)  # more than an address space has room for
    with pytest.raises(UnreadableError, match="not enough memory"):
        read_whole(path, 1 << 62, padding=1 << 61)


def loop(path: Path) -> None:
    path.symlink_to(path)


WHAT_IS_NO_FILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "No such file or directory"),
    "directory": (Path.mkdir, "Is a directory"),
    "pipe": (os.mkfifo, "not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
    "loop of links": (loop, "Too many levels of symbolic links"),
    "file as folder": (lambda path: path.symlink_to("/dev/null/x"), "Not a directory"),
    "read error": (lambda path: path.symlink_to("/proc/self/mem"), "Input/output error"),
    "size that is none": (lambda path: path.symlink_to("/proc/self/status"), "is being written"),
}


@pytest.mark.parametrize("what", WHAT_IS_NO_FILE)
def test_what_cannot_be_read_is_refused_at_once(
    path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 0.1)
    monkeypatch.setattr(reading, "DOUBT", 0.0)
    make, reason = WHAT_IS_NO_FILE[what]
    make(path)
    with pytest.raises(UnreadableError, match=reason):
        read_whole(path, 1 << 20)


def test_a_pipe_that_took_the_files_place_is_not_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(path)
    regular = Path(__file__).stat()
    monkeypatch.setattr(reading.os, "stat", lambda path: regular)
    with pytest.raises(UnreadableError, match="not a regular file"):
        read_whole(path, 100)


def test_an_unreadable_path_leaves_no_descriptor_open(path: Path) -> None:
    os.mkfifo(path)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        with pytest.raises(UnreadableError):
            read_whole(path, 100)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# Somebody writes

OLD = b"10.0.0.0/16\n" * 2000
NEW = b"192.0.2.0/24\n" * 3000


def in_place(path: Path) -> None:
    path.write_bytes(NEW)


def overwrite_without_changing_the_size(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(NEW[: len(OLD)])


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(NEW)


def by_rename(path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(NEW)
    new.rename(path)


@pytest.mark.parametrize("tick", [False, True], ids=["later tick", "same tick"])
@pytest.mark.parametrize(
    ("change", "after"),
    [
        (in_place, NEW),
        (overwrite_without_changing_the_size, NEW[: len(OLD)]),
        (append, OLD + NEW),
        (by_rename, OLD),  # what was opened keeps its content
        (Path.unlink, OLD),
    ],
)
def test_a_change_in_the_middle_gives_old_or_new_but_no_mix(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    after: bytes,
    tick: bool,
) -> None:
    path.write_bytes(OLD)
    changed: list[bool] = []
    preadv = os.preadv

    def half(descriptor: int, rooms: list[memoryview], offset: int) -> int:
        count = preadv(descriptor, [rooms[0][: len(OLD) // 2]], offset)
        if not changed:
            changed.append(True)
            if not tick:
                time.sleep(reading.TICK)
            change(path)
        return count

    monkeypatch.setattr(reading.os, "preadv", half)
    assert read_whole(path, 1 << 20, lines=True) == after


def test_a_file_that_never_keeps_still_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 0.3)
    path.write_bytes(OLD)
    sleep, preadv = time.sleep, os.preadv

    def write() -> None:
        with path.open("ab") as file:
            file.write(b"x")

    def sleep_and_write(seconds: float) -> None:
        sleep(seconds)
        write()

    def read_and_write(descriptor: int, rooms: list[memoryview], offset: int) -> int:
        count = preadv(descriptor, rooms, offset)
        write()
        return count

    monkeypatch.setattr(reading.time, "sleep", sleep_and_write)
    monkeypatch.setattr(reading.os, "preadv", read_and_write)
    with pytest.raises(
        UnreadableError, match="is being written; put a finished file in its place by renaming"
    ):
        read_whole(path, 1 << 20)


@pytest.mark.parametrize("half", [b"", b"10.0.0.0/8\n192.168.0.0/1"], ids=["empty", "within a line"])
def test_a_doubtful_end_is_waited_for(path: Path, half: bytes) -> None:
    path.write_bytes(half)

    def finish() -> None:
        time.sleep(0.3)
        path.write_bytes(b"10.0.0.0/8\n192.168.0.0/16\n")

    writer = threading.Thread(target=finish)
    writer.start()
    assert read_whole(path, 100, lines=True) == b"10.0.0.0/8\n192.168.0.0/16\n"
    writer.join()


@pytest.mark.parametrize("content", [b"", b"10.0.0.0/8"])
def test_a_doubtful_end_that_is_meant_so_is_accepted(
    path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(content)
    stamp = path.stat().st_ctime
    for age, wait in ((0.1, reading.DOUBT - 0.1), (5.0, 0.0), (-5.0, 0.0)):
        # When it is old there is nothing to wait for; nor when it comes from a clock that is ahead.
        monkeypatch.setattr(reading.time, "time", lambda age=age: stamp + age)
        waits: list[float] = []
        monkeypatch.setattr(reading.time, "sleep", waits.append)
        assert read_whole(path, 100, lines=True) == content
        assert sum(waits) == pytest.approx(wait, abs=0.01)
        monkeypatch.undo()
