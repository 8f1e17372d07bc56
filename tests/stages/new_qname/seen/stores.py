"""Stores of seen names for the tests of this folder."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edm.stages.new_qname.seen.store import SeenStore
from stages.new_qname.batches import wire

PLENTY = 1 << 20
FIRST = "names-00000001.seen"


def names(*numbers: int) -> list[bytes]:
    return [wire(f"host{number}.example.com") for number in numbers]


def open_store(folder: Path, limit: int = PLENTY, first_slots: int = 64, sync: bool = False) -> SeenStore:
    return SeenStore.open(folder, limit_entries=limit, sync=sync, first_slots=first_slots)


def kill(store: SeenStore) -> None:
    """Leave the store as a killed process would: nothing more is written or deleted."""
    store._generations.close()
    for log in store._generations.logs:
        log.abandon()
    os.close(store._lock_fd)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size`` bytes: the nearest thing to a full disk that needs no privileges."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
