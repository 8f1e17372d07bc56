"""The folder of the seen-name store: its lock, and reading its files at opening."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

import structlog

from edm.errors import StoreError
from edm.files.own import open_own
from edm.stages.new_qname.seen.log import KEY_BYTES, SUFFIX, DamagedLog, NameLog, sync_folder

LOCK_NAME = "lock"
"""File that a process with the store keeps open and locked; it holds the process's number."""

_log = structlog.get_logger()


def lock_folder(directory: Path) -> int:
    """Take the folder's lock and return its descriptor; the lock ends with the process, however that ends."""
    descriptor = open_own(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreError(f"{directory}: in use by process {holder}") from None
    except BaseException:
        os.close(descriptor)
        raise
    with suppress(OSError):  # on a full disk the lock must do without the number
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor


def open_logs(directory: Path) -> list[NameLog]:
    """Open the logs of the two newest generations, newest first; begin the first one if there is none.

    Raises
    ------
    StoreError
        A log has another format version.
    OSError
        The folder or a file in it cannot be used.
    """
    logs: list[NameLog] = []
    try:
        for path in sorted(directory.glob(f"*{SUFFIX}"), reverse=True):
            if path.stat().st_size == 0:  # begun just before a power cut
                path.unlink()
                continue
            try:
                log = NameLog.load(path)
            except DamagedLog as damage:
                _set_aside(path, str(damage))
                continue
            if logs and log.key != logs[0].key:
                log.abandon()
                _set_aside(path, "its key is not that of the newest file")
            elif len(logs) == 2:
                log.discard()
            else:
                logs.append(log)
        if not logs:
            logs.append(NameLog.create(directory, 1, os.urandom(KEY_BYTES)))
    except BaseException:
        for log in logs:
            log.abandon()
        raise
    return logs


def _set_aside(path: Path, reason: str) -> None:
    aside = path.with_name(path.name + ".corrupt")
    path.replace(aside)
    sync_folder(path.parent)
    _log.warning("a file of seen names is damaged and was set aside", path=str(aside), reason=reason)


__all__ = ["LOCK_NAME", "lock_folder", "open_logs"]
