"""Opening and checking EDM's own files and folders, without following links that another user made."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

_IS_LINK = "is a symbolic link, which is not followed here"
_ROOT = 0


def open_own(path: Path | str, flags: int, mode: int = 0o600) -> int:
    """Open a file with ``flags`` (see :func:`os.open`), without following a link or waiting; return its descriptor.

    Raises
    ------
    OSError
        It cannot be opened; a symbolic link is named as such.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, _IS_LINK, str(path)) from None
        raise


def make_new(path: Path, mode: int) -> int:
    """Make a new file, replacing any file that is there; return a descriptor for writing.

    Raises
    ------
    OSError
        It cannot be made.
    """
    with suppress(FileNotFoundError):
        path.unlink()
    return open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)


def shared_reason(folder: Path | str) -> str | None:
    """Return why other users could replace what is in ``folder``, or None if they cannot.

    All folders above it are checked too, as far as they exist. A folder that every user can write to is allowed only if
    it is sticky and belongs to root or to the user of this process.
    """
    path = Path(
        os.path.realpath(folder)
    )  # of links in a circle the way to them: whoever uses them will say so
    for part in (path, *path.parents):
        try:
            found = part.stat()
        except OSError:
            continue
        sticky = bool(found.st_mode & stat.S_ISVTX) and found.st_uid in (_ROOT, os.geteuid())
        if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_IWOTH and not sticky:
            return f"every user can write to {part}"
    return None


def group_reason(folder: Path | str) -> str | None:
    """Return which user or group, other than those of this process, can write to ``folder``, or None."""
    try:
        found = Path(folder).stat()
    except OSError:
        return None
    if found.st_uid not in (_ROOT, os.geteuid()):
        return f"{folder} belongs to another user ({found.st_uid})"
    if found.st_mode & stat.S_IWGRP and found.st_gid not in (_ROOT, os.getegid(), *os.getgroups()):
        return f"a group that EDM is not in ({found.st_gid}) can write to {folder}"
    return None


__all__ = ["group_reason", "make_new", "open_own", "shared_reason"]
