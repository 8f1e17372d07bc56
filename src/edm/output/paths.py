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
SUFFIX = ".parquet"
TMP_SUFFIX = ".tmp"
FOLDER_MODE = 0o750

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
        self.queue = root / "mqtt"
        self.seen_names = root / "seen-names"
        for folder in (root, self.sessions, self.outbox):
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
        for folder in (self.sessions, self.outbox):
            for path in unfinished(folder):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    log.warning(
                        "unfinished file cannot be removed", filename=str(path), reason=error.strerror
                    )
                else:
                    log.warning("removed an unfinished file of an earlier run", filename=str(path))


def unfinished(folder: Path) -> list[Path]:
    """Return the files in ``folder`` that are being written, or that somebody left half-written."""
    return list(folder.glob(f"*{SUFFIX}{TMP_SUFFIX}"))


def tidy(folder: Path, in_use: Collection[Path] = ()) -> bool:
    """Remove unfinished files that are not in use; tell whether none is left.

    To be called by the only writer in the folder, after it could not remove a file of its own: it would take
    room until the next start.
    """
    with suppress(OSError):
        for path in unfinished(folder):
            if path not in in_use:
                path.unlink(missing_ok=True)
        return True
    return False


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


def publish(write: Callable[[Path], object], folder: Path, prefix: str, start_us: int, stop_us: int) -> Path:
    """Let ``write`` make the file ``<prefix><start>_<stop>.parquet``; never over an existing file.

    Two rotations within the same second would give the same name; the later file's stop time is then moved
    on by seconds until the name is free, which keeps the name in the form that other programs parse.
    ``write`` gets the final path and raises FileExistsError if it is taken.
    """
    while True:
        path = folder / f"{prefix}{file_time(start_us)}_{file_time(stop_us)}{SUFFIX}"
        try:
            write(path)
        except FileExistsError:
            stop_us += _SECOND_US
        else:
            return path
