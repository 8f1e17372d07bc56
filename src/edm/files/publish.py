"""Giving a finished file its final name, without ever replacing another file."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

COMPRESSION = "snappy"
"""Compression of both output files, as the Go daemon has it; Core must be able to read it."""
FILE_MODE = 0o640
"""Mode of new files. The umask may remove permissions; other users never get any."""

_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_PARQUET_ROOT = b"\x06schema"
_TAIL = 8  # little-endian footer length and magic
_MAGIC = b"PAR1"


def publish(temporary: Path, final: Path) -> None:
    """Rename ``temporary``, which is on disk already, to ``final`` on the same file system.

    Raises
    ------
    FileExistsError
        ``final`` exists; ``temporary`` stays.
    OSError
        The renaming failed; ``temporary`` stays.
    """
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # Without hard links there is a gap between check and renaming; nobody else writes to the directory.
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from error
        temporary.rename(final)
    # The file is there and whole: an error from here on must not make the caller write the rows again.
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Sync the names in ``folder`` to disk; do nothing on a file system that cannot."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def name_parquet_root(tail: bytes, name: bytes) -> tuple[int, bytes]:
    """Give the root of a Parquet schema its name; Arrow always calls it "schema".

    The root is the first element of the schema, which begins the footer. Its name is a string of the Thrift
    compact protocol: length, bytes. Nothing points into a footer, so its length is free.

    Parameters
    ----------
    tail : bytes
        The end of the file, from the footer's beginning or earlier.

    Returns
    -------
    (int, bytes)
        Where in ``tail`` the footer begins, and what must stand from there to the end of the file.
    """
    start = len(tail) - _TAIL - int.from_bytes(tail[-_TAIL:-4], "little")
    footer = tail[start:-_TAIL].replace(_PARQUET_ROOT, bytes([len(name)]) + name, 1)
    return start, footer + len(footer).to_bytes(4, "little") + _MAGIC
