"""Checking the folder of compiled kernels. They are unpickled, so a user who can put a file there can run code as EDM.

Every component of its path must belong to root or to the user that runs EDM, and nobody else may be able to write to
it. A folder like ``/tmp`` is protected by its sticky bit instead: what is below belongs to us or to root, so others can
neither replace nor rename it.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
from contextlib import suppress
from pathlib import Path

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_BYTES = 256 << 20


class UnusableError(Exception):
    """A folder or file cannot be used; the message gives the reason and the component of the path."""


def trusted_owner(uid: int) -> bool:
    """Tell whether what belongs to ``uid`` can be trusted as much as this process."""
    return uid in (0, os.geteuid())


def prepare_folder(path: Path) -> bool:
    """Check a folder, making what is missing of it with mode 0700; tell whether it can be written.

    Links are not followed.

    Parameters
    ----------
    path : Path
        Absolute and without ``..``.

    Raises
    ------
    UnusableError
        It cannot be made, is a link or no folder, or others could write to it or to a component of its path.
    """
    at = Path(path.anchor)
    fd = os.open(at, _OPEN)
    try:
        _check_component(at, os.fstat(fd), last=False)
        for number, name in enumerate(path.parts[1:], 2):
            at = at / name
            below = _enter(fd, name, at)
            os.close(fd)
            fd = below
            _check_component(at, os.fstat(fd), last=number == len(path.parts))
    finally:
        os.close(fd)
    return os.access(path, os.W_OK | os.X_OK, effective_ids=True)


def _enter(fd: int, name: str, at: Path) -> int:
    try:
        try:
            return os.open(name, _OPEN, dir_fd=fd)
        except FileNotFoundError:
            with suppress(FileExistsError):  # another process was faster
                os.mkdir(name, 0o700, dir_fd=fd)
            below = os.open(name, _OPEN, dir_fd=fd)
            if os.fstat(below).st_uid == os.geteuid():
                # Exactly this mode, whatever the umask is.
                with suppress(OSError):
                    Path(f"/proc/self/fd/{below}").chmod(0o700)
            return below
    except OSError as error:
        reason = error.strerror or "cannot be opened"
        with suppress(OSError):
            if stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                reason = "is a symbolic link, which is not followed"
        raise UnusableError(f"{at}: {reason}") from error


def _check_component(at: Path, found: os.stat_result, *, last: bool) -> None:
    if not trusted_owner(found.st_uid):
        raise UnusableError(
            f"{at}: belongs to user {found.st_uid}, neither to root nor to user {os.geteuid()}"
        )
    if found.st_mode & _WRITABLE_BY_OTHERS and (last or not found.st_mode & stat.S_ISVTX):
        raise UnusableError(f"{at}: others can write to it (mode {stat.S_IMODE(found.st_mode):04o})")


def read_trusted(path: Path) -> bytes | None:
    """Return the content of a file that nobody but root and this user can have written; None if there is none.

    Raises
    ------
    UnusableError
        It is no plain file, cannot be read, or another user could have written it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnusableError(error.strerror or "cannot be opened") from error
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise UnusableError("is no plain file")
        if not trusted_owner(found.st_uid):
            raise UnusableError(f"belongs to user {found.st_uid}")
        if found.st_mode & _WRITABLE_BY_OTHERS:
            raise UnusableError("others can write to it")
        if found.st_size > _MOST_BYTES:
            raise UnusableError("is too large")
        try:
            return file.read()
        except OSError as error:
            raise UnusableError(error.strerror or "cannot be read") from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, over whatever has its name.

    Several processes may write the same ``path`` at once: each has a temporary file of its own.

    Raises
    ------
    OSError
        It cannot be written; nothing is left of it.
    """
    temporary = temporary_name(path)
    remove(temporary)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        if path.is_dir():
            remove(path)
        temporary.replace(path)
    except OSError:
        remove(temporary)
        raise


def temporary_name(path: Path) -> Path:
    """Return the name under which :func:`write_whole` begins a file: another one for each process and thread."""
    return path.with_name(f"{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")


def remove(path: Path) -> bool:
    """Remove a file, a link, or a folder with its content; return whether nothing is left."""
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return False
    return not os.path.lexists(path)


__all__ = [
    "UnusableError",
    "prepare_folder",
    "read_trusted",
    "remove",
    "temporary_name",
    "trusted_owner",
    "write_whole",
]
