"""The histogram files on disk: those that wait for upload, those that Core has, those that it refuses."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from edm.output.paths import HISTOGRAM_PREFIX, SUFFIX, DataDirectory, make_folder

KEEP_SENT = 86400.0
"""Age in seconds by modification time at which a file that was sent is removed."""

_TIME = r"(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ)"
_NAME = re.compile(
    rf"{re.escape(HISTOGRAM_PREFIX)}{_TIME}_{_TIME}(?:~\d+)?{re.escape(SUFFIX)}", re.ASCII | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class HistogramFile:
    """A file in the outbox.

    Attributes
    ----------
    start, stop : datetime
        The interval that its name tells, UTC.
    size : int
        Bytes.
    identity : tuple of int
        Differs for another file that takes the same name later.
    """

    path: Path
    start: datetime
    stop: datetime
    size: int
    identity: tuple[int, int]


def interval_of(name: str) -> tuple[datetime, datetime]:
    """Return start and stop that a file's name tells.

    Raises
    ------
    ValueError
        The name has another form.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError("no two times in the name")
    start, stop = (datetime.strptime(t, "%Y-%m-%dT%H-%M-%SZ").replace(tzinfo=UTC) for t in match.groups())
    return start, stop


class Outbox:
    """Lists the outbox and moves files out of it. Files that vanish meanwhile are no error."""

    def __init__(self, data: DataDirectory) -> None:
        self.folder = data.outbox
        self.sent = data.sent
        self.refused = data.refused
        self._strange: set[str] = set()

    def scan(self) -> list[HistogramFile]:
        """Return the files to upload, oldest first. A name without times is logged once and left alone.

        Raises
        ------
        OSError
            The folder cannot be read.
        """
        found = []
        strange = set()
        for entry in sorted(_histograms(self.folder), key=lambda entry: entry.name):
            try:
                start, stop = interval_of(entry.name)
            except ValueError:
                strange.add(entry.name)
                if entry.name not in self._strange:
                    structlog.get_logger().warning(
                        "file in the outbox is not uploaded: its name tells no interval", filename=entry.path
                    )
                continue
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                identity = (status.st_ino, status.st_mtime_ns)
                found.append(HistogramFile(Path(entry.path), start, stop, status.st_size, identity))
        self._strange = strange
        return found

    def move_to_sent(self, file: HistogramFile) -> Path:
        """Move a file that Core has; return where to."""
        return self._move(file, self.sent)

    def set_aside(self, file: HistogramFile) -> Path:
        """Move a file that Core refuses; return where to."""
        return self._move(file, self.refused)

    def bring_back(self) -> list[HistogramFile]:
        """Move the files that were set aside back into the outbox; return them as they lie there.

        Raises
        ------
        OSError, OutputError
            One cannot be moved; it and those after it stay.
        """
        try:
            names = sorted(entry.name for entry in _histograms(self.refused))
        except FileNotFoundError:
            return []
        moved = set()
        for name in names:
            with suppress(FileNotFoundError, ValueError):
                aside = HistogramFile(self.refused / name, *interval_of(name), 0, (0, 0))
                moved.add(self._move(aside, self.folder).name)
        return [file for file in self.scan() if file.path.name in moved]

    def clean(self, now: float) -> int:
        """Remove sent files older than :data:`KEEP_SENT`; return how many. Other files stay.

        Parameters
        ----------
        now : float
            Seconds since 1970.
        """
        removed = 0
        with suppress(FileNotFoundError):
            for entry in _histograms(self.sent):
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < now - KEEP_SENT:
                        Path(entry.path).unlink()
                        removed += 1
        return removed

    def _move(self, file: HistogramFile, folder: Path) -> Path:
        # Nothing else puts files there, so what is free here is still free when the file is renamed. (Into the outbox
        # the writer does too, but never under the name of an interval that is long over.)
        make_folder(folder)
        target = folder / file.path.name
        number = 1
        while os.path.lexists(target):
            number += 1
            stem = file.path.stem.partition("~")[0]
            target = folder / f"{stem}~{number}{SUFFIX}"
        file.path.rename(target)
        for changed in (folder, file.path.parent):
            _sync(changed)
        return target


def _histograms(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [
            entry
            for entry in entries
            if entry.name.startswith(HISTOGRAM_PREFIX)
            and entry.name.endswith(SUFFIX)
            and entry.is_file(follow_symlinks=False)
        ]


def _sync(folder: Path) -> None:
    # The rename has happened; where a folder cannot be synchronised, that is all one can have.
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


__all__ = ["KEEP_SENT", "HistogramFile", "Outbox", "interval_of"]
