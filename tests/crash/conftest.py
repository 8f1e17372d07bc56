"""Fixtures of the crash tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder for Unix sockets, whose paths may not be long."""
    folder = Path(tempfile.mkdtemp(prefix="edm-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """A folder in memory, where there is one: what is synced there costs no time, and a kill spares it all the same."""
    folder = Path(tempfile.mkdtemp(prefix="edm-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
