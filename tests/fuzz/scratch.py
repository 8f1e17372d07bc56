"""A temporary file for code that reads only from files."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

_FUTURE = 1 << 32  # in the year 2106


@cache
def _folder() -> Path:
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="edm-fuzz-", dir=memory if os.access(memory, os.W_OK) else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def scratch_file(name: str, content: bytes) -> Path:
    """Write a file that lasts until the next one of this name, or the end of the process."""
    path = _folder() / name
    path.write_bytes(content)
    # A file of the last moments may still be being written, so that reading it would wait; not one of the future.
    os.utime(path, (_FUTURE, _FUTURE))
    return path


__all__ = ["scratch_file"]
