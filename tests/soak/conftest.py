"""Fixtures of the soak test; its load comes from the benchmarks, a package next to the tests."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder for Unix sockets, whose paths may not be long."""
    folder = Path(tempfile.mkdtemp(prefix="edm-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
