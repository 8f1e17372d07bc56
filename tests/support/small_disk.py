"""A real file system of a few MiB that can be filled to the last byte, emptied, or made read-only."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BALLAST = "ballast"


def _mount(*words: str | Path) -> str:
    """Mount; return what is wrong, or nothing."""
    return subprocess.run(["mount", *map(str, words)], capture_output=True, text=True).stderr.strip()


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


class SmallDisk:
    """A mounted tmpfs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"

    @property
    def free(self) -> int:
        """Bytes that can be written."""
        room = os.statvfs(self.folder)
        return room.f_bavail * room.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Let somebody else's file take all the room but ``leave`` bytes."""
        with (self.folder / BALLAST).open("ab") as ballast:
            while (size := self.free - leave) > 0:
                try:
                    os.posix_fallocate(ballast.fileno(), ballast.tell(), size)
                except OSError as error:  # somebody else has taken room meanwhile
                    if error.errno != errno.ENOSPC:
                        raise
                ballast.seek(0, os.SEEK_END)

    def clear(self) -> None:
        """Remove what :meth:`fill` has made."""
        (self.folder / BALLAST).unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, size: int, *, inodes: int | None = None) -> Iterator[SmallDisk]:
    """Mount a file system of ``size`` bytes at ``folder``; skip the test where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},mode=0755" + (f",nr_inodes={inodes}" if inodes is not None else "")
    if reason := _mount("-t", "tmpfs", "-o", options, "tmpfs", folder):
        pytest.skip(f"no file system can be mounted here: {reason}")
    try:
        yield SmallDisk(folder)
    finally:
        _unmount(folder)


@contextmanager
def read_only(*folders: Path) -> Iterator[None]:
    """Make folders read-only, for root too, whatever is open in them."""
    mounted = []
    try:
        for folder in folders:
            for attempt in range(100):
                if reason := _mount("--bind", folder, folder):
                    pytest.skip(f"nothing can be mounted here: {reason}")
                # It fails if a file has been opened for writing since the line above.
                if not _mount("-o", "remount,bind,ro", folder):
                    mounted.append(folder)
                    break
                _unmount(folder)
                assert attempt < 99, f"{folder} does not become read-only"
        yield
    finally:
        for folder in mounted:
            _unmount(folder)
