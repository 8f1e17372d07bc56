"""What EDM has stored below the data directory, by kind, and how much room there is beside it.

Only regular files with names that EDM makes are looked at: whatever else lies in these folders belongs to
another user, counts for nothing and is never removed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from edm.output.paths import (
    HISTOGRAM_PREFIX,
    LINES_SUFFIX,
    NEW_NAMES_PREFIX,
    SESSION_PREFIX,
    SUFFIX,
    TMP_SUFFIX,
    DataDirectory,
)

KINDS = ("sent", "damaged", "session", "new_qname", "refused", "outbox", "queue", "seen")
"""What is stored, in the order of removal: copies of histograms that Core has, files that were set
aside because they are damaged, session files, files of new names, histograms that Core refused, histograms that wait
for upload, events that wait to be sent, and the seen names."""

_TIME = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ"
_UNFINISHED = re.escape(TMP_SUFFIX)


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.ASCII | re.DOTALL)


# Unfinished files of earlier versions have no dot in front.
_HISTOGRAM = _pattern(
    rf"{HISTOGRAM_PREFIX}{_TIME}_{_TIME}(?:~\d+)?{re.escape(SUFFIX)}"
    rf"|\.?{HISTOGRAM_PREFIX}{_TIME}_{_TIME}{re.escape(SUFFIX)}{_UNFINISHED}"
)
_SESSION = _pattern(
    rf"{SESSION_PREFIX}{_TIME}_{_TIME}{re.escape(SUFFIX)}"
    rf"|\.?{SESSION_PREFIX}{_TIME}-\d+{re.escape(SUFFIX)}{_UNFINISHED}"
)
_NEW_NAMES = _pattern(
    rf"{NEW_NAMES_PREFIX}{_TIME}_{_TIME}{re.escape(LINES_SUFFIX)}"
    rf"|\.{NEW_NAMES_PREFIX}{_TIME}-\d+{re.escape(LINES_SUFFIX)}{_UNFINISHED}"
)
_QUEUE = _pattern(r"queue\.sqlite3(?:-wal|-shm)?")
_QUEUE_DAMAGED = _pattern(r"queue\.sqlite3\.corrupt-\d+(?:-wal|-shm)?")
_SEEN = _pattern(r"names-\d+\.seen")
_SEEN_DAMAGED = _pattern(r"names-\d+\.seen\.corrupt")
_DAMAGED = ".corrupt"
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of ours.

    Attributes
    ----------
    size : int
        Bytes.
    device : int
        The file system it lies on.
    unfinished : bool
        It is being written and has no final name yet.
    """

    path: Path
    size: int
    device: int
    unfinished: bool


@dataclass
class Usage:
    """A look at the disk.

    Attributes
    ----------
    files : dict of str to list of StoredFile
        By kind, the oldest first by the time in their names.
    devices : dict of str to int
        File system of the folder of each kind.
    free : dict of int to int
        Bytes that an ordinary user may still take, by file system.
    """

    files: dict[str, list[StoredFile]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    devices: dict[str, int] = field(default_factory=dict)
    free: dict[int, int] = field(default_factory=dict)

    def size(self, kind: str) -> int:
        """Return the bytes of one kind."""
        return sum(file.size for file in self.files[kind])

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every kind."""
        return {kind: self.size(kind) for kind in KINDS}

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return sum(self.size(kind) for kind in KINDS)

    def free_beside(self, kind: str) -> int:
        """Return the free bytes on the file system where files of this kind lie."""
        return self.free[self.devices[kind]]


@dataclass
class _Folder:
    """What is remembered of a folder, so that a look at many files that have not changed costs next to nothing."""

    changed_ns: int = -1
    finished: list[StoredFile] = field(default_factory=list)
    growing: list[Path] = field(default_factory=list)


class Disk:
    """Looks at the disk. For the use of one thread.

    Parameters
    ----------
    data : DataDirectory
    """

    def __init__(self, data: DataDirectory) -> None:
        self._places = (
            ("sent", data.sent, _HISTOGRAM),
            ("session", data.sessions, _SESSION),
            ("new_qname", data.new_names, _NEW_NAMES),
            ("refused", data.refused, _HISTOGRAM),
            ("outbox", data.outbox, _HISTOGRAM),
            ("queue", data.queue, _QUEUE),
            ("damaged", data.queue, _QUEUE_DAMAGED),
            ("seen", data.seen_names, _SEEN),
            ("damaged", data.seen_names, _SEEN_DAMAGED),
            ("session", data.unfinished, _SESSION),
            ("new_qname", data.unfinished, _NEW_NAMES),
            ("outbox", data.unfinished, _HISTOGRAM),
        )
        self._remembered = [_Folder() for _ in self._places]

    def look(self) -> Usage:
        """Look at all folders. A folder that is not there holds nothing.

        Raises
        ------
        OSError
            A folder cannot be read.
        """
        usage = Usage()
        for (kind, folder, pattern), known in zip(self._places, self._remembered, strict=True):
            place = _nearest(folder)
            device = place.stat().st_dev
            usage.devices.setdefault(kind, device)
            if device not in usage.free:
                room = os.statvfs(place)
                usage.free[device] = room.f_bavail * room.f_frsize
            if place == folder:
                _list(folder, pattern, device, known)
                usage.files[kind] += known.finished
                usage.files[kind] += _sizes(known.growing, device)
        return usage


def _list(folder: Path, pattern: re.Pattern[str], device: int, known: _Folder) -> None:
    """Bring what is known of a folder up to date."""
    changed_ns = folder.stat().st_mtime_ns
    if changed_ns == known.changed_ns:
        return
    # A change in the same moment would not show in the folder's time: only what is a while ago is believed.
    known.changed_ns = changed_ns if abs(time.time_ns() - changed_ns) > _SETTLED_NS else -1
    sizes = {file.path.name: file for file in known.finished}
    known.finished, known.growing = [], []
    with os.scandir(folder) as entries:
        ours = sorted((e for e in entries if pattern.fullmatch(e.name)), key=lambda e: e.name)
        for entry in ours:
            if not entry.is_file(follow_symlinks=False):
                continue
            if not entry.name.endswith((SUFFIX, LINES_SUFFIX, _DAMAGED)):
                known.growing.append(Path(entry.path))
            elif (file := sizes.get(entry.name)) is not None:
                known.finished.append(file)
            else:
                with suppress(FileNotFoundError):
                    size = entry.stat(follow_symlinks=False).st_size
                    known.finished.append(StoredFile(Path(entry.path), size, device, False))


def _sizes(paths: Iterable[Path], device: int) -> Iterator[StoredFile]:
    for path in paths:
        with suppress(FileNotFoundError):
            yield StoredFile(path, path.lstat().st_size, device, path.name.endswith(TMP_SUFFIX))


def _nearest(folder: Path) -> Path:
    """Return the folder, or where it will be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


__all__ = ["KINDS", "Disk", "StoredFile", "Usage"]
