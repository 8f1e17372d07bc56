"""Fixtures of the tests of outputs."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from edm.output import usage
from output.budgets import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setattr(usage, "os", SimpleNamespace(**{**vars(os), "statvfs": made.statvfs}))
    return made
