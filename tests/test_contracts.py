"""The import contracts in pyproject.toml: each is broken on purpose, and the check must fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
NAMES = {contract["name"]: contract["id"] for contract in CONTRACTS}
NEEDED = ("pyproject.toml", "tests/support/import_contracts.py")

pytest.importorskip("importlinter", reason="import-linter is not installed")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the package and of what the check needs."""
    shutil.copytree(
        ROOT / "src" / "edm", tmp_path / "src" / "edm", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in NEEDED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def broken_in(folder: Path) -> tuple[set[str], str]:
    """Return the contracts that the check calls broken in a copy, and all that it said."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as check; check()",
            *("--no-logo", "--no-cache"),
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "src"), "COLUMNS": "500"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    verdicts = dict(re.findall(r"^(.+?) (KEPT|BROKEN)\b", done.stdout, re.M))
    assert set(verdicts) == set(NAMES), done.stdout + done.stderr
    broken = {NAMES[name] for name, verdict in verdicts.items() if verdict == "BROKEN"}
    assert done.returncode == (1 if broken else 0)
    return broken, done.stdout


def test_all_contracts_are_kept(copy: Path) -> None:
    assert broken_in(copy) == (set(), broken_in(copy)[1])


CASES = [
    # Each layer but the lowest, against one above it.
    ("layers", "daemon.py", "from edm.cli import main"),
    ("layers", "reload/t.py", "import edm.daemon"),
    ("layers", "captures/t.py", "import edm.reload.pace"),
    ("layers", "startup/t.py", "import edm.captures.reading"),
    ("layers", "engine.py", "import edm.startup.warmup"),
    ("layers", "worker.py", "import edm.engine"),
    ("layers", "pipeline.py", "import edm.worker"),
    ("layers", "snapshot/t.py", "from edm.reload import reload"),
    ("layers", "tapir/t.py", "import edm.snapshot.cell"),
    ("layers", "rotation/t.py", "import edm.tapir.events"),
    ("layers", "output/t.py", "import edm.rotation.clock"),
    ("layers", "observe/t.py", "import edm.output.paths"),
    ("layers", "input/t.py", "import edm.observe.logs"),
    ("layers", "config/t.py", "import edm.input.blocks"),
    ("layers", "stages/dns/t.py", "import edm.config.schema"),
    ("layers", "files/t.py", "import edm.stages.names"),
    ("layers", "errors.py", "import edm.files.reading"),
    ("layers", "errors.py", "import edm.service"),
    ("layers", "service.py", "def later() -> None:\n    import edm.files.reading"),
    ("layers", "drawer.py", "x = 1"),
    ("stages", "stages/clients/t.py", "import edm.stages.domains"),
    ("stages", "stages/names.py", "import edm.stages.dns.name"),
    ("stages", "stages/another/__init__.py", "from edm.stages.session import rows"),
    ("network", "daemon.py", "import http.client"),
    ("network", "daemon.py", "from urllib import parse, request"),
    ("network", "captures/t.py", "import urllib.request"),
    ("network", "captures/t.py", "from urllib.request import (\n    urlopen,\n)"),
    ("network", "captures/t.py", "from urllib import (\n    request,\n)"),
    ("network", "config/t.py", "def late():\n    from urllib.request import urlopen"),
    ("network", "output/t.py", "import asyncio"),
    ("network", "rotation/t.py", "import socketserver"),
    ("network", "engine.py", "from paho.mqtt import client"),
    ("network", "reload/t.py", "import uvicorn"),
    ("network", "snapshot/t.py", "from starlette.applications import Starlette"),
    ("network", "startup/t.py", "from http.server import HTTPServer"),
    ("network", "stages/dns/t.py", "import requests"),
    ("network", "worker.py", "import xmlrpc.client as x"),
    ("sockets", "worker.py", "import socket"),
    ("sockets", "output/t.py", "from ssl import SSLContext"),
    ("kernels", "stages/dns/t.py", "from edm.kernel.jit import kernel\nimport pyarrow"),
    ("kernels", "stages/histogram/kernels.py", "import structlog"),
    ("kernels", "stages/histogram/kernels.py", "import numba"),
    ("kernels", "stages/clients/matching.py", "from edm.stages.clients import prefixes"),
    ("kernels", "stages/dns/walk.py", "import edm.errors"),
    ("kernels", "stages/dns/walk.py", "import os"),
    ("kernel", "kernel/jit.py", "import pyarrow"),
    ("kernel", "kernel/t.py", "from edm.errors import EdmError"),
    ("kernel", "kernel/t.py", "import structlog"),
]


@pytest.mark.parametrize(("contract", "module", "source"), CASES)
def test_a_broken_contract_is_seen(copy: Path, contract: str, module: str, source: str) -> None:
    path = copy / "src" / "edm" / module
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(f"\n{source}\n")
    broken, said = broken_in(copy)
    assert broken == {contract}
    where = "edm." + module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert where in said or module == "drawer.py"


def test_every_contract_is_broken_once() -> None:
    assert {contract for contract, _, _ in CASES} == set(NAMES.values())


def test_what_only_looks_like_a_network_library_is_allowed(copy: Path) -> None:
    (copy / "src" / "edm" / "captures" / "t.py").write_text(
        "from urllib.parse import urlsplit\nimport urllib.error\n"
    )
    assert broken_in(copy)[0] == set()


def test_an_exception_that_nobody_needs_is_named(copy: Path) -> None:
    path = copy / "pyproject.toml"
    path.write_text(
        path.read_text().replace("exceptions = [", 'exceptions = [\n  "edm.stages.names -> json",')
    )
    broken, said = broken_in(copy)
    assert broken == {"kernels"}
    assert "the exception is not needed any more: edm.stages.names -> json" in said
