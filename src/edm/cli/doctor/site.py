"""Checks of the machine itself: files, rights, limits, memory, clock, disk, compiled kernels."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

from edm.cli.checks import problems, useless
from edm.cli.doctor.catalogue import Found
from edm.config import Config
from edm.input.descriptors import SPARE
from edm.startup.safety import exposures

DNS_USERS = ("unbound", "bind", "named", "knot", "knot-resolver", "nsd", "pdns", "_dnsdist", "dnsdist")
"""Users as which packages of Debian and other systems run DNS servers."""
MEMORY_LEAST = 512 << 20
DISK_LEAST = 1 << 30

_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 256  # struct timex has 208 on Linux


def look(config: Config) -> Iterator[Found]:
    """Yield the findings."""
    refused = list(problems(config))
    yield from (Found("EDM002", line) for line in refused)
    yield from (Found("EDM003", line) for line in useless(config))
    yield from (Found("EDM004", line) for line in (*config.warnings, *exposures(config)))
    yield from _socket(config)
    yield from _kernels()
    yield from _limits(config)
    yield from _memory()
    yield from _clock()
    yield from _disk(config)


def _socket(config: Config) -> Iterator[Found]:
    if not config.input_unix:
        return
    path = Path(config.input_unix)
    try:
        found = path.lstat()
    except OSError:
        return  # no daemon runs; the checks of the files say whether the socket can be made
    if not stat.S_ISSOCK(found.st_mode):
        return
    there = [name for name in DNS_USERS if _exists(name)]
    able = [name for name in there if not (obstacle := unreachable(path, name))]
    if there and not able:
        yield Found("EDM010", f"{path}: {obstacle}")


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def unreachable(path: Path, user: str) -> str:
    """Return why a user cannot connect to the socket at ``path``, or ""; access control lists are not checked."""
    entry = pwd.getpwnam(user)
    groups = {entry.pw_gid, *(group.gr_gid for group in grp.getgrall() if user in group.gr_mem)}
    for folder in reversed(path.absolute().parents):
        if not _may(folder.stat(), entry.pw_uid, groups, stat.S_IXUSR):
            return f"the user {user} may not enter {folder}"
    if not _may(path.stat(), entry.pw_uid, groups, stat.S_IWUSR):
        return f"the user {user} may not write to it (mode {stat.S_IMODE(path.stat().st_mode):04o})"
    return ""


def _may(found: os.stat_result, uid: int, groups: set[int], right: int) -> bool:
    if uid == 0:
        return True
    if found.st_uid == uid:
        return bool(found.st_mode & right)
    if found.st_gid in groups:
        return bool(found.st_mode & right >> 3)
    return bool(found.st_mode & right >> 6)


def _kernels() -> Iterator[Found]:
    from edm.kernel.cache import Store

    store = Store.choose()
    if not store.warm:
        yield Found("EDM011", f"nothing for this machine in {store.folder or 'any folder'}")


def _limits(config: Config) -> Iterator[Found]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = config.input_max_connections + SPARE
    if hard not in (resource.RLIM_INFINITY, -1) and hard < needed:
        yield Found("EDM012", f"{hard} open files allowed here, {needed} needed for all connections")


def _memory() -> Iterator[Found]:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        lines = dict(line.split(":", 1) for line in text.splitlines())
        free = int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return
    if free < MEMORY_LEAST:
        yield Found("EDM013", f"{free >> 20} MiB available")


def _clock() -> Iterator[Found]:
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return
    if state == _TIME_ERROR:
        yield Found("EDM014", "the system says that its clock is not synchronised")


def _disk(config: Config) -> Iterator[Found]:
    folder = Path(config.data_dir)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        room = os.statvfs(folder)
    except OSError:
        return
    free = room.f_bavail * room.f_frsize
    least = max(config.disk_min_free_bytes, DISK_LEAST)
    if free < least:
        yield Found("EDM015", f"{free >> 20} MiB free at {folder}, at least {least >> 20} MiB are advised")
    elif room.f_files and room.f_favail < 1000:
        yield Found("EDM015", f"only {room.f_favail} files can still be made at {folder}")


__all__ = ["DISK_LEAST", "DNS_USERS", "MEMORY_LEAST", "look", "unreachable"]
