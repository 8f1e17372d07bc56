"""Fixtures of the crash tests."""

from __future__ import annotations

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
