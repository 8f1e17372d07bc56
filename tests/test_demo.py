"""``make demo`` shows what it promises, and the commands that it prints at the end run unchanged."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edm.kernel.jit import JIT_DISABLED

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo" / "demo.py"

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="the daemon is tested with JIT")


def test_it_needs_only_what_running_needs() -> None:
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(ast.parse(DEMO.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        str(node.module).partition(".")[0]
        for node in ast.walk(ast.parse(DEMO.read_text()))
        if isinstance(node, ast.ImportFrom)
    }
    locked = set(re.findall(r"^([\w-]+)==", (ROOT / "requirements.lock").read_text(), re.M))
    assert imported - set(sys.stdlib_module_names) - locked == set()


def test_tables_and_hints(tmp_path: Path) -> None:
    # Everything into one pipe, as in "make demo | less".
    done = subprocess.run(
        [sys.executable, str(DEMO)],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    said = done.stdout
    assert re.search(r"^. norhubtata\.com +. +385 ", said, re.M)
    assert re.search(r"^. co\.uk +. +260 ", said, re.M)
    assert re.search(r"^. session +. +9,117 ", said, re.M)
    # No log lines, no lines for operators of "edm init" in between.
    assert '"level"' not in said
    assert "duckdb" not in said

    hints = said.split("Look into them:\n")[1].split("\n\n")[0].splitlines()
    assert len(hints) == 2
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if name in ("HOME", "PYTHONPATH", "TMPDIR")
    }
    shown = [
        subprocess.run(
            ["/bin/sh", "-c", hint],
            cwd=elsewhere,
            env=environment | {"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        for hint in hints
    ]
    assert [(result.returncode, result.stderr) for result in shown] == [(0, ""), (0, "")]
    assert "norhubtata.com" in shown[0].stdout
    assert "source_ipv4" in shown[1].stdout
