"""Keeps a queue file usable while the program runs: reopens it if it vanished, replaces it if damaged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from edm.errors import OutputError
from edm.tapir.events.queue_database import DamagedFileError, DiskError, InUseError
from edm.tapir.events.queue_file import QueueFile
from edm.tapir.events.rescue import replace_damaged

T = TypeVar("T")


class SteadyFile:
    """A queue file that outlives trouble with it. Nothing here is thread-safe.

    Parameters
    ----------
    path : Path or None
        None is a file that cannot ever be opened.
    limit : int
        See :class:`edm.tapir.events.queue_file.QueueFile`.

    Attributes
    ----------
    file : QueueFile or None
        None while it cannot be opened.
    lost : int
        Waiting events that were lost with a damaged file.
    """

    def __init__(self, path: Path | None, limit: int) -> None:
        self.path = path
        self.file: QueueFile | None = None
        self.lost = 0
        self._limit = limit
        self._log = structlog.get_logger()

    def open(self) -> None:
        """Open the file for the first time.

        Raises
        ------
        DiskError
            The disk is full.
        OutputError
            The file cannot be used for another reason.
        """
        try:
            self._attempt(lambda _: None, at_start=True)
        except InUseError as error:
            raise OutputError(f"{self.path}: {error}") from None
        except DiskError as error:
            if not error.full:
                raise OutputError(f"{self.path}: {error}") from None
            raise
        except OSError as error:
            raise OutputError(f"{self.path}: {error.strerror}") from None

    def attempt(self, action: Callable[[QueueFile], T]) -> T:
        """Do something with the file, which is opened if need be and replaced if it is damaged.

        Raises
        ------
        DiskError, InUseError, OutputError, OSError
            It cannot be done now.
        """
        return self._attempt(action, at_start=False)

    def _attempt(self, action: Callable[[QueueFile], T], *, at_start: bool) -> T:
        if self.path is None:
            raise DiskError("there is no queue file")
        try:
            if self.file is None:
                self.file = QueueFile(self.path, self._limit)
            return action(self.file)
        except DamagedFileError as error:
            return action(self._replaced(self.path, str(error), at_start))
        except DiskError as error:
            if self.file is not None and not error.full:
                # A file that vanished or became read-only can be used only after it is opened again.
                self._reopen(self.file, self.path)
            raise

    def _reopen(self, before: QueueFile, path: Path) -> None:
        before.close()
        self.file = None
        with contextlib.suppress(DiskError, DamagedFileError, InUseError, OutputError):
            self.file = QueueFile(path, self._limit)

    def _replaced(self, path: Path, reason: str, at_start: bool) -> QueueFile:
        known = self.file.events if self.file is not None else None
        if self.file is not None:
            self.file.close()
            self.file = None
        self.file, rescue = replace_damaged(path, self._limit)
        lost = rescue.lost if known is None else max(0, known - rescue.saved)
        self.lost += lost or 0
        self._log.error(
            "queue of new names is damaged and was set aside",
            reason=reason,
            filename=str(rescue.path),
            saved=rescue.saved,
            lost="unknown" if lost is None else lost,
            at_start=at_start,
        )
        return self.file

    def close(self) -> None:
        """Close the file; what it told last can still be asked."""
        if self.file is not None:
            self.file.close()


__all__ = ["SteadyFile"]
