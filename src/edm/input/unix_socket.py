"""The Unix socket and its file: never open to the wrong users, watched, and removed only if EDM made it."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import time
from pathlib import Path

from edm.errors import InputError

BACKLOG = 1024
"""Connections that the system queues until they are accepted; the system's own limit may be lower."""

UNIX_PATH_MAX = 107
"""Longest path of a Unix socket, bytes (``sun_path`` of Linux less its final NUL)."""

DEFAULT_MODE = 0o660
"""Mode of the file if none is configured, before the umask is applied."""

_BIND_TO_LISTEN = 0.1  # seconds that a process may take from one to the other
_DEAD = (errno.ECONNREFUSED, errno.ENOENT)
_LOOK_AGAIN = 10.0  # seconds between two checks of a file in the way

Identity = tuple[int, int]
"""Device and inode of a file."""


def open_unix(path: str, mode: str = "", owner: str = "") -> socket.socket:
    """Listen on the Unix socket ``path``; a stale socket file is removed first.

    Parameters
    ----------
    path : str
    mode : str
        Octal digits; empty is :data:`DEFAULT_MODE` less the umask.
    owner : str
        ``USER:GROUP``, ``USER`` or ``:GROUP``; empty leaves it unchanged.

    Raises
    ------
    InputError
        The path is too long, is not a socket, is in use by another process, or cannot be bound.
    """
    if len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise InputError(f"input-unix: {path}: longer than the {UNIX_PATH_MAX} bytes a socket path may have")
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise InputError(f"input-unix: {path}: exists and is not a socket")
        _refuse_living(path)
        Path(path).unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"input-unix: {path}: {error.strerror}") from error
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # bind() makes the file with the socket's mode, less the umask. Nobody can connect before listen(), so nobody
        # connects before owner and mode are set.
        os.fchmod(sock.fileno(), int(mode, 8) if mode else DEFAULT_MODE)
        sock.bind(path)
        _set_rights(path, mode, owner)
        sock.listen(BACKLOG)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise InputError(f"input-unix: {path}: {error.strerror}") from error
        raise
    return sock


def _refuse_living(path: str) -> None:
    if _listens(path):
        raise InputError(f"input-unix: {path}: in use by another process")
    # Another process may have made the file just now and not listen yet.
    time.sleep(_BIND_TO_LISTEN)
    if _listens(path):
        raise InputError(f"input-unix: {path}: in use by another process")


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except OSError as error:
            # After any other error, such as a full backlog, a process still listens.
            return error.errno not in _DEAD
    return True


def _set_rights(path: str, mode: str, owner: str) -> None:
    """Set mode and owner of the file that was made, and of no other that may have replaced it at its path."""
    if not mode and not owner:
        return
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            raise InputError(f"input-unix: {path}: was replaced while it was being made")
        # The link leads to the open file, whatever is at its path by now.
        link = f"/proc/self/fd/{file}"
        if mode and stat.S_IMODE(found.st_mode) != int(mode, 8):
            Path(link).chmod(int(mode, 8))
        user, _, group = owner.partition(":")
        try:
            if user:
                shutil.chown(link, user=user)
            if group:
                shutil.chown(link, group=group)
        except LookupError as error:
            raise InputError(f"input-unix-owner: {error}") from error
    finally:
        os.close(file)


def identity(path: str) -> Identity | None:
    """Return device and inode of the file at ``path`` (a link is not followed); None if they cannot be read."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class UnixSocket:
    """A listening Unix socket with its file.

    While the socket is open, the system gives its file's inode to no other file. So device and inode distinguish the
    file from any that replaces it.

    Parameters
    ----------
    path, mode, owner : str
        See :func:`open_unix`; this raises the same errors.
    """

    def __init__(self, path: str, mode: str = "", owner: str = "") -> None:
        self.path = path
        self._mode = mode
        self._owner = owner
        self.sock = open_unix(path, mode, owner)
        self._ours = identity(path)
        self._in_the_way: tuple[Identity | None, float] = (None, 0.0)

    def is_there(self) -> bool:
        """Return whether the file that this socket made is still at its path."""
        return self._ours is not None and identity(self.path) == self._ours

    def make_again(self) -> socket.socket | None:
        """Make socket and file again. Only to be called while the file is gone.

        Returns
        -------
        socket or None
            The old socket. The caller accepts the connections that still wait there and closes it. None if another
            file is in the way and was checked a few seconds ago.

        Raises
        ------
        InputError
            Another process owns the path now, or the file cannot be made.
        """
        other = identity(self.path)
        before, again = self._in_the_way
        if other is not None and other == before and time.monotonic() < again:
            return None
        self._in_the_way = other, time.monotonic() + _LOOK_AGAIN
        sock = open_unix(self.path, self._mode, self._owner)
        old, self.sock, self._ours = self.sock, sock, identity(self.path)
        return old

    def remove(self) -> None:
        """Remove the file if this socket made it."""
        if self.is_there():
            Path(self.path).unlink(missing_ok=True)


__all__ = ["BACKLOG", "DEFAULT_MODE", "UNIX_PATH_MAX", "UnixSocket", "identity", "open_unix"]
