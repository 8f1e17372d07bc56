"""Caches of compiled kernels for tests: copies of the session's cache, and ways to damage a file."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from edm.kernel.cache import store

_NAMED = ("EDM_KERNEL_CACHE", "NUMBA_CACHE_DIR", "CACHE_DIRECTORY", "XDG_CACHE_HOME")


def environment(cache: Path | str, **more: str) -> dict[str, str]:
    """Return an environment for a child that keeps its kernels in ``cache`` or nowhere."""
    kept = {name: value for name, value in os.environ.items() if name not in _NAMED}
    return kept | {"EDM_KERNEL_CACHE": str(cache), "HOME": "/nonexistent"} | more


def warm_copy(folder: Path) -> Path:
    """Copy the session's kernels, all of them, to ``folder``; return where exactly the files are."""
    session = store()
    assert session.folder is not None, "no folder for kernels here"
    if not session.warm:
        warm_up = "from edm.startup.warmup import warm_up; warm_up()"
        subprocess.run([sys.executable, "-c", warm_up], check=True, stdout=subprocess.DEVNULL)
    copy = folder / session.folder.name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copytree(session.folder, copy)
    copy.chmod(0o700)
    return copy


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def _one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def _other_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"not": "a kernel"}))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")


def _link(path: Path) -> None:
    other = path.with_name("elsewhere")
    path.rename(other)
    path.symlink_to(other)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _writable_by_others(path: Path) -> None:
    path.chmod(0o666)


def _unreadable(path: Path) -> None:
    path.chmod(0)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "emptied": _empty,
    "cut off": _cut_off,
    "garbage": _garbage,
    "one bit": _one_bit,
    "another pickle": _other_pickle,
    "a folder": _folder,
    "a link": _link,
    "a pipe": _pipe,
    "writable by others": _writable_by_others,
    "unreadable": _unreadable,
}
"""What may have become of a file; the last one is no damage for root."""
