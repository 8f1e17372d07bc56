"""The unit file: systemd accepts it, all that it names exists, and the service has few privileges."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from edm.cli.arguments import Spec, parse
from edm.cli.main import COMMANDS
from edm.config import KEYS, Settings

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "packaging" / "systemd" / "edm.service"
EXPOSURE = 2.0
"""Of 10; systemd calls everything below 2.5 OK."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="not installed: systemd-analyze (package systemd)"
)


def settings() -> Iterator[tuple[str, str]]:
    for line in UNIT.read_text().splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            yield match[1], match[2]


def setting(name: str) -> str:
    (value,) = (value for key, value in settings() if key == name)
    return value


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit as it would be installed; its program is one that is there."""
    path = tmp_path / "edm.service"
    path.write_text(UNIT.read_text().replace("/opt/edm/bin/edm", shutil.which("true") or "/bin/true"))
    return path


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False
    )


@needs_systemd
def test_systemd_accepts_it(unit: Path) -> None:
    answer = analyze("verify", "--man=no", unit)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHoem=yes"))
    assert "ProtectHoem" in analyze("verify", "--man=no", unit).stderr  # so it does look at this file


@needs_systemd
def test_what_the_service_could_do_if_it_were_taken_over_is_little(unit: Path) -> None:
    answer = analyze("security", "--offline=true", "--no-pager", unit)
    match = re.search(r"Overall exposure level for edm\.service: ([0-9.]+)", answer.stdout)
    assert match, answer.stderr
    assert float(match[1]) < EXPOSURE, answer.stdout


@pytest.mark.parametrize(("name", "command"), [("ExecStart", "run"), ("ExecReload", "reload")])
def test_its_commands_exist(name: str, command: str) -> None:
    program, found, *flags = shlex.split(setting(name))
    assert program == "/opt/edm/bin/edm"
    assert found == command
    spec: Spec = import_module(COMMANDS[command].module).SPEC
    assert parse("edm", command, spec, flags).config_file == Path("/etc/edm/edm.toml")


def test_it_agrees_with_the_program() -> None:
    assert f"/var/lib/{setting('StateDirectory')}" == Settings().data_dir
    assert setting("Type") == "notify"
    assert setting("StateDirectoryMode") == "0750"
    assert setting("UMask") == "0027"
    assert setting("CapabilityBoundingSet") == ""
    text = UNIT.read_text()
    named = set(re.findall(r"\b(?:input|shutdown|disable)(?:-[a-z]+)+\b", text))
    assert named
    assert named <= set(KEYS)


def test_time_to_stop_covers_the_drain() -> None:
    """The parts of a stop are bounded; see Daemon.shut_down and Engine.stop."""
    minutes = int(setting("TimeoutStopSec").removesuffix("min"))
    readers, engine, uploads, servers = 5, 60, Settings().shutdown_upload_grace + 1, 10
    assert 60 * minutes > readers + 2 * engine + uploads + servers


def test_the_user_is_declared() -> None:
    lines = (ROOT / "packaging" / "systemd" / "edm.sysusers").read_text().splitlines()
    (entry,) = (shlex.split(line) for line in lines if line and not line.startswith("#"))
    assert entry[0] == "u"
    assert entry[1] == setting("User") == setting("Group")
    assert entry[4] == f"/var/lib/{setting('StateDirectory')}"
