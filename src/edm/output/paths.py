"""Where output files lie below the data directory, and how they are named."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog

from edm.errors import OutputError
from edm.files.own import make_new

SESSION_PREFIX = "dns_session_block-"
HISTOGRAM_PREFIX = "dns_histogram-"
NEW_NAMES_PREFIX = "new_qname-"
SUFFIX = ".parquet"
LINES_SUFFIX = ".jsonl"
TMP_SUFFIX = ".tmp"
FOLDER_MODE = 0o750

UNFINISHED = "unfinished"
"""Folder for files that are being written. Not every program that reads a folder of Parquet files skips names that
begin with a dot, so unfinished files are kept out of the folders of the finished ones."""

_SECOND_US = 1_000_000


def file_time(us: int) -> str:
    """Return ``us`` (microseconds since 1970, UTC) as file names have it: ``2023-11-29T13-50-00Z``."""
    return datetime.fromtimestamp(us // _SECOND_US, UTC).strftime("%Y-%m-%dT%H-%M-%SZ")


class DataDirectory:
    """The folders below the data directory.

    Raises
    ------
    OutputError
        The directory or one of its folders cannot be made or written; names it and the reason.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sessions = root / "parquet" / "sessions"
        self.outbox = root / "parquet" / "histograms" / "outbox"
        self.sent = root / "parquet" / "histograms" / "sent"
        self.refused = root / "parquet" / "histograms" / "refused"
        self.new_names = root / "new_qname"
        self.queue = root / "mqtt"
        self.seen_names = root / "seen-names"
        self.unfinished = root / UNFINISHED
        for folder in (root, self.sessions, self.outbox, self.unfinished):
            make_folder(folder)
        probe = root / f".write-test{TMP_SUFFIX}"
        try:
            os.close(make_new(probe, 0o600))
            probe.unlink()
        except OSError as error:
            raise OutputError(f"data-dir: {root}: not writable ({error.strerror})") from error

    def clean(self) -> None:
        """Remove what a killed process left half-written; whole files are never touched."""
        log = structlog.get_logger()
        for folder in (self.sessions, self.outbox, self.unfinished):
            for path in unfinished(folder):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    log.warning(
                        "unfinished file cannot be removed", filename=str(path), reason=error.strerror
                    )
                else:
                    log.warning("removed an unfinished file of an earlier run", filename=str(path))


def unfinished(folder: Path, prefix: str = "") -> list[Path]:
    """Return the files in ``folder`` that are being written, or that somebody left half-written.

    Parameters
    ----------
    prefix : str
        Only files whose final name would begin like this.
    """
    names = (f"{prefix}*", f".{prefix}*") if prefix else ("*",)
    return [path for name in names for path in folder.glob(f"{name}{SUFFIX}{TMP_SUFFIX}")]


class Workshop:
    """Where the unfinished files of one writer lie. The writer is the only one with this prefix.

    Parameters
    ----------
    folder : Path
        Where the finished files go.
    prefix : str
        What their names begin with.
    place : Path
        The folder for unfinished files. If a file cannot be renamed from there into ``folder``, which may lie on
        another file system, ``folder`` itself is used.
    """

    def __init__(self, folder: Path, prefix: str, place: Path | None = None) -> None:
        self.folder = folder
        self._prefix = prefix
        self._place = place or folder

    def path(self, name: str) -> Path:
        """Return where to write what will be called ``name`` when it is finished; folders are made.

        Raises
        ------
        OutputError
            A folder cannot be made.
        """
        make_folder(self.folder)
        hidden = f".{name}{TMP_SUFFIX}"
        if self._place != self.folder:
            make_folder(self._place)
            if self._leads_to_folder():
                return self._place / hidden
        return self.folder / hidden

    def tidy(self, in_use: Collection[Path] = ()) -> bool:
        """Remove unfinished files that are not in use; tell whether none is left.

        To be called after the writer could not remove a file of its own: it would take room until the next start.
        """
        with suppress(OSError):
            for folder in {self.folder, self._place}:
                for path in unfinished(folder, self._prefix):
                    if path not in in_use:
                        path.unlink(missing_ok=True)
            return True
        return False

    def _leads_to_folder(self) -> bool:
        # Comparing the file systems is not enough: a bind mount has the same one, and nothing is renamed into it.
        name = f".{self._prefix}write-test{SUFFIX}{TMP_SUFFIX}"
        here, there = self._place / name, self.folder / name
        try:
            os.close(make_new(here, 0o600))
            here.rename(there)
            there.unlink()
        except OSError:
            with suppress(OSError):
                here.unlink(missing_ok=True)
            return False
        return True


def make_folder(folder: Path) -> None:
    """Make ``folder``, and what is missing of the path to it, with mode 0750; what is there keeps its mode.

    Raises
    ------
    OutputError
        It cannot be made.
    """
    try:
        # mkdir(parents=True) would give all but the last one the mode that the umask allows.
        missing = [path for path in folder.parents if not path.exists()]
        for path in (*reversed(missing), folder):
            path.mkdir(mode=FOLDER_MODE, exist_ok=True)
    except OSError as error:
        raise OutputError(f"data-dir: {folder}: {error.strerror}") from error


def publish(
    write: Callable[[Path], object],
    folder: Path,
    prefix: str,
    start_us: int,
    stop_us: int,
    suffix: str = SUFFIX,
) -> Path:
    """Let ``write`` make the file ``<prefix><start>_<stop><suffix>``; never over an existing file.

    Two rotations within the same second would give the same name; the later file's stop time is then moved
    on by seconds until the name is free, which keeps the name in the form that other programs parse.
    ``write`` gets the final path and raises FileExistsError if it is taken.
    """
    while True:
        path = folder / f"{prefix}{file_time(start_us)}_{file_time(stop_us)}{suffix}"
        try:
            write(path)
        except FileExistsError:
            stop_us += _SECOND_US
        else:
            return path
