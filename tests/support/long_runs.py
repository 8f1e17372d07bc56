"""Shared code of tests that run briefly by default and for hours on request."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edm.kernel.jit import JIT_DISABLED

MARKS = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(JIT_DISABLED, reason="the daemon is tested with JIT"),
]


def report(figures: Mapping[str, Any], variable: str) -> None:
    """Print what was measured, and write it to the file that an environment variable names."""
    text = json.dumps(figures, indent=2)
    print(text)
    if file := os.environ.get(variable):
        Path(file).write_text(text + "\n")
