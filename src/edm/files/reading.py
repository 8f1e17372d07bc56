"""Reading a small file as a whole while another program may be replacing it.

Lists, configuration, keys and certificates are read here, at the start and at a reload. Reading always ends soon: pipes
and devices are refused, and a file that is too large is refused before anything of it is read.

A file that is replaced by a rename is read as it was before or after. A file that is written in place could be read
half written. So its size and times must not change while it is read. At the beginning they must be older than a tick of
the clock that stamps files, since a second write in the same tick would not show. A file that is empty, or whose last
line has no line feed, may not be finished. It must not have changed for a second. A writer that pauses for longer in
the middle of a file cannot be told from one that has finished. So operators are advised to replace files by renaming.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edm.errors import EdmError

TICK = 0.02
"""Seconds; the kernel stamps files with a clock that moves on every 1 to 10 ms."""
DOUBT = 1.0
"""Seconds for which a file with a doubtful end must not have been touched."""
PATIENCE = 3.0
"""Seconds after which a file that keeps changing is given up."""

HEAD_BYTES = 16
LIMIT_SETTING = "list-file-bytes"
"""The configuration key that bounds the size of lists."""
LIST_FILE_BYTES = 256 << 20
"""Its default."""

_LINE_FEED = 0x0A
_CHANGING = "it is being written; put a finished file in its place by renaming"


class UnreadableError(EdmError):
    """A file cannot be read; the text is the reason, without the path.

    Attributes
    ----------
    errno : int or None
        The system's number for it, if it comes from there.
    """

    def __init__(self, reason: str, number: int | None = None) -> None:
        super().__init__(reason)
        self.errno = number


class _State(NamedTuple):
    """The size, times and identity of a file, which change with its content."""

    size: int
    mtime_ns: int
    ctime_ns: int
    links: int

    def is_content_of(self, before: _State) -> bool:
        # A rename over the file, which takes away its name, changes ctime but not the content.
        renamed = self.links != before.links
        return self[:2] == before[:2] and (renamed or self.ctime_ns == before.ctime_ns)

    def age(self) -> float:
        """Return for how many seconds nothing was changed; infinite for a time that has yet to come."""
        age = time.time() - max(self.mtime_ns, self.ctime_ns) / 1e9
        return age if age > -TICK else float("inf")


class Stamp(NamedTuple):
    """The state of a file without its content, to see whether it has changed; see :func:`stamp`."""

    path: str
    limit: int
    device: int
    inode: int
    state: _State


def stamp(path: Path | str, limit: int) -> Stamp | None:
    """Return a stamp that changes when the file changes, without opening the file.

    If the stamp is the same before and after a file is read, and again later, its content is still the same. A write or
    a rename in between would change the stamp: a file that was changed within the last tick of the clock that stamps
    files has none.

    Parameters
    ----------
    path : path
    limit : int
        What else decides whether the file can be read: it is part of the stamp.

    Returns
    -------
    Stamp or None
        ``None`` if the file was changed just now or cannot be looked at.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - the path may also be text
    except (OSError, ValueError):
        return None
    state = _State(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_nlink)
    if not TICK <= state.age() < float("inf"):
        return None
    return Stamp(str(path), limit, found.st_dev, found.st_ino, state)


def printable(path: Path | str) -> str:
    """Return a path for a message."""
    text = str(path)
    return text if "\0" not in text else repr(text)


def open_regular(path: Path | str) -> int:
    """Open a regular file for reading and return its descriptor; never waits.

    Raises
    ------
    UnreadableError
        It is not there, may not be read, or is no regular file.
    """
    try:
        # Opening a device or the end of a pipe may do something, so look first; and look again, at what was opened.
        _must_be_regular(os.stat(path))  # noqa: PTH116 - the path may also be text
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            _must_be_regular(os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise UnreadableError(error.strerror or str(error), error.errno) from None
    except ValueError:  # in Python's words, which differ by its version
        raise UnreadableError("there is a null byte in its path") from None
    return descriptor


def _must_be_regular(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise UnreadableError(os.strerror(errno.EISDIR), errno.EISDIR)
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableError("not a regular file")


def read_whole(
    path: Path | str,
    limit: int,
    setting: str = "",
    *,
    lines: bool = False,
    refuse: Callable[[bytes, int], str] | None = None,
    padding: int = 0,
) -> bytearray:
    """Read a file as a whole.

    Parameters
    ----------
    path : path
    limit : int
        Largest size in bytes.
    setting : str
        Configuration key that sets the limit, for the message.
    lines : bool
        Whether an end within a line is doubtful.
    refuse : callable, optional
        Given the first :data:`HEAD_BYTES` bytes and the size, returns why such a file need not be read any further, or
        nothing. So a large file of quite another kind costs nothing.
    padding : int
        Zero bytes to append.

    Raises
    ------
    UnreadableError
        It cannot be read, is too large, is refused, or does not keep still.
    """
    give_up = time.monotonic() + PATIENCE
    while True:
        descriptor = open_regular(path)
        try:
            before = _settle(descriptor, give_up)
            if before.size > limit:
                by = f" ({setting})" if setting else ""
                raise UnreadableError(f"{before.size:,} bytes are more than the {limit:,} allowed{by}")
            reason = refuse(os.pread(descriptor, HEAD_BYTES, 0), before.size) if refuse else ""
            data = None if reason else _read(descriptor, before.size, padding)
            if not before.size or (lines and data and data[before.size - 1] != _LINE_FEED):
                time.sleep(max(0.0, DOUBT - before.age()))
            still = _state(descriptor).is_content_of(before)
        except OSError as error:
            raise UnreadableError(error.strerror or str(error), error.errno) from None
        except MemoryError:
            raise UnreadableError("there is not enough memory to read it") from None
        finally:
            os.close(descriptor)
        if still and reason:
            raise UnreadableError(reason)
        if still and data is not None:
            return data
        if time.monotonic() > give_up:
            raise UnreadableError(_CHANGING)


def _state(descriptor: int) -> _State:
    found = os.fstat(descriptor)
    return _State(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_nlink)


def _settle(descriptor: int, give_up: float) -> _State:
    """Wait until the last change is older than a tick of the clock that stamps files."""
    while (state := _state(descriptor)).age() < TICK:
        if time.monotonic() > give_up:
            raise UnreadableError(_CHANGING)
        time.sleep(max(0.001, TICK - state.age()))
    return state


def _read(descriptor: int, size: int, padding: int) -> bytearray | None:
    """Return the content, or None if it is not as long as the file's size says."""
    data = bytearray(size + padding)
    got = 0
    with memoryview(data) as whole, whole[:size] as room:
        while got < size:
            with room[got:] as rest:
                if not (count := os.preadv(descriptor, [rest], got)):
                    return None
                got += count
    return None if os.pread(descriptor, 1, size) else data


__all__ = [
    "DOUBT",
    "HEAD_BYTES",
    "LIMIT_SETTING",
    "LIST_FILE_BYTES",
    "PATIENCE",
    "TICK",
    "Stamp",
    "UnreadableError",
    "open_regular",
    "printable",
    "read_whole",
    "stamp",
]
