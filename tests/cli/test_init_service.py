"""``edm init --service``: makes what the unit needs, and never overwrites existing files."""

import configparser
import os
import pwd
import stat
import sys
from pathlib import Path

import pytest

from edm.cli import init_service
from edm.cli.main import main
from edm.config import load

UNIT = Path(__file__).resolve().parents[2] / "packaging" / "systemd" / "edm.service"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["edm"])
    monkeypatch.setattr(init_service, "starter_list", lambda: b"a list")


def init(*arguments: str | Path) -> int:
    return main(["init", "--service", *map(str, arguments)])


def look(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return oct(stat.S_IMODE(found.st_mode)), found.st_uid, found.st_gid


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_what_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str], umask: int) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nedm:x:12345:23456::/:/usr/sbin/nologin\n")
    (tmp_path / "etc/group").write_text("edm:x:23456:\n")
    old = os.umask(umask)
    try:
        assert init("--root", tmp_path) == 0
    finally:
        os.umask(old)
    out, err = capsys.readouterr()
    assert err == ""
    mine = os.geteuid(), os.getegid()
    shared, own = ((0, 23456), (12345, 23456)) if os.geteuid() == 0 else (mine, mine)
    config = tmp_path / "etc/edm/edm.toml"
    assert look(config.parent) == ("0o750", *shared)
    assert look(config) == ("0o640", *shared)
    assert look(config.with_name("well-known-domains.dawg")) == ("0o644", *shared)
    assert look(config.with_name("ignored-clients")) == ("0o640", *shared)
    assert look(tmp_path / "var/lib/dnstapir/edm") == ("0o750", *own)
    assert look(tmp_path / "run/edm") == ("0o755", *own)
    assert ("Owners are not set" in out) is (os.geteuid() != 0)
    for command in (
        "check-config --config-file /etc/edm/edm.toml",
        "systemctl enable --now edm",
        "usermod -aG edm",
    ):
        assert command in out
    assert str(tmp_path) not in config.read_text()


def test_it_is_what_the_unit_says(tmp_path: Path) -> None:
    assert init("--root", tmp_path) == 0
    cfg = load(tmp_path / "etc/edm/edm.toml", {}, {})
    service = unit()
    assert service["ExecStart"].endswith("--config-file /etc/edm/edm.toml")
    assert cfg.data_dir == f"/var/lib/{service['StateDirectory']}"
    assert cfg.input_unix == f"/run/{service['RuntimeDirectory']}/dnstap.sock"
    assert cfg.input_unix_mode == "0660"
    assert service["User"] == service["Group"] == init_service.USER
    assert look(tmp_path / "var/lib" / service["StateDirectory"])[0] == oct(
        int(service["StateDirectoryMode"], 8)
    )
    assert look(tmp_path / "run" / service["RuntimeDirectory"])[0] == oct(
        int(service["RuntimeDirectoryMode"], 8)
    )
    assert cfg.well_known_domains_file.startswith("/etc/edm/")
    assert cfg.warnings == ()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init("--root", tmp_path) == 0
    config = tmp_path / "etc/edm/edm.toml"
    text = config.read_bytes()
    (tmp_path / "etc/edm/ignored-clients").write_text("192.0.2.0/24\n")
    capsys.readouterr()
    assert init("--root", tmp_path) == 1
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert config.read_bytes() == text
    config.unlink()
    assert init("--root", tmp_path) == 0
    assert (tmp_path / "etc/edm/ignored-clients").read_text() == "192.0.2.0/24\n"
    assert config.read_bytes() != text  # a secret of its own


def test_a_file_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/edm").write_text("")
    assert init("--root", tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot make directory" in line
    assert not (tmp_path / "etc/edm/edm.toml").exists()


def test_without_the_user_or_root(capsys: pytest.CaptureFixture[str]) -> None:
    if Path("/etc/edm/edm.toml").exists():
        pytest.skip("this machine runs the service")
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("edm")
        except KeyError:
            pass
        else:
            pytest.skip("this machine has the user")
    assert init() == 1
    assert ("only root" if os.geteuid() else "there is no user edm") in capsys.readouterr().err
    assert not Path("/etc/edm/edm.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--service", "x"], "--service knows its places"),
        (["--service", "--root="], "--root needs a folder"),
        (["--root", "x", "y"], "--root has no meaning without --service"),
        ([], "DIR is missing, or --service"),
        (["a", "b"], "unexpected argument 'b'"),
    ],
)
def test_mistakes(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", *arguments]) == 1
    assert text in capsys.readouterr().err
