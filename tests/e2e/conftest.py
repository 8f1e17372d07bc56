"""Fixtures that the end-to-end tests share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.processes import need
from support.traffic import write_lists


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder for Unix sockets, whose paths may not be long."""
    folder = Path(tempfile.mkdtemp(prefix="edm-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def lists(tmp_path: Path) -> dict[str, Any]:
    """Settings for domain lists and ignored clients that fit :mod:`support.traffic`."""
    return write_lists(tmp_path / "lists")


@pytest.fixture
def resolver_tools() -> None:
    """Demand unbound and dnsperf."""
    need("unbound", "dnsperf")
