"""``edm check-config``: problems, table, JSON and TOML; secrets are never printed."""

import json
import os
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from edm.cli import checks
from edm.cli.main import main
from edm.config import KEYS, Config
from edm.errors import ListFileError
from support import golden

SECRET = "Tr0ub4dor&3 and more"
SALT = "saltsaltsalt"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a good configuration."""
    monkeypatch.setattr(sys, "argv", ["edm"])
    for name in [n for n in os.environ if n.startswith("DNSTAPIR_EDM_")]:
        monkeypatch.delenv(name)
    shutil.copy(golden.LISTS / "well-known.dawg", tmp_path / "list.dawg")
    (tmp_path / "edm.toml").write_text(
        f'cryptopan-key = "{SECRET}"\ncryptopan-key-salt = "{SALT}"\ninput-unix = "{tmp_path}/s"\n'
        f'well-known-domains-file = "{tmp_path}/list.dawg"\ndata-dir = "{tmp_path}/data/deep"\n'
        "disable-mqtt = true\ndisable-histogram-sender = true\n"
    )
    (tmp_path / "edm.toml").chmod(0o600)
    return tmp_path


@pytest.fixture
def check(site: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, list[str]]]:
    def run(*flags: str) -> tuple[int, str, list[str]]:
        code = main(["check-config", "--config-file", str(site / "edm.toml"), *flags])
        out, err = capsys.readouterr()
        for secret in (SECRET, SALT, "another secret altogether"):
            assert secret not in out + err
        return code, out, err.splitlines()

    return run


def test_a_table_of_what_is_in_effect(
    site: Path, check: Callable[..., tuple[int, str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNSTAPIR_EDM_MQTT_KEEPALIVE", "0017")
    code, out, err = check("--minimiser-workers", "0x4", "--debug")
    assert (code, err) == (0, [])
    *table, _, verdict = out.splitlines()
    assert verdict == f"The configuration is valid ({site}/edm.toml)."
    rows = {line.split()[0]: line.split(None, 2)[1:] for line in table}
    assert list(rows) == list(KEYS)
    assert rows["minimiser-workers"] == ["4", "flag"]
    assert rows["debug"] == ["true", "flag"]
    assert rows["mqtt-keepalive"] == ["17", "environment"]
    assert rows["disable-mqtt"] == ["true", f"file {site}/edm.toml:6"]
    assert rows["log-format"] == ['"auto"', "default"]
    assert rows["cryptopan-key"] == ['"********"', f"file {site}/edm.toml:1"]
    assert len({line.index(" default") for line in table if line.endswith(" default")}) == 1


def test_nothing_is_created(site: Path, check: Callable[..., tuple[int, str, list[str]]]) -> None:
    before = sorted(site.rglob("*"))
    assert check()[0] == 0
    assert sorted(site.rglob("*")) == before


def test_json(site: Path, check: Callable[..., tuple[int, str, list[str]]]) -> None:
    code, out, _ = check("--format=json", "--debug-enable-blockprofiling")
    answer = json.loads(out)
    assert code == 0
    assert answer["valid"] is True
    assert answer["problems"] == []
    assert len(answer["warnings"]) == 1
    assert answer["configuration"]["data-dir"] == {
        "value": f"{site}/data/deep",
        "origin": f"file {site}/edm.toml:5",
    }
    code, out, err = check("--format=json", "--minimiser-workers=x")
    assert code == 1
    assert json.loads(out) == {
        "valid": False,
        "problems": ["--minimiser-workers: must be an integer (found 'x')"],
    }
    assert err == ["edm: --minimiser-workers: must be an integer (found 'x')"]


def test_toml_can_be_read_again(check: Callable[..., tuple[int, str, list[str]]]) -> None:
    code, out, _ = check("--format", "toml", "--debug-dnstap-filename", 'a"b\n\x7f')
    assert code == 0
    values = tomllib.loads(out)
    assert set(values) == {key.name for key in KEYS.values() if not key.secret}
    assert values["debug-dnstap-filename"] == 'a"b\n\x7f'


def test_warnings_go_to_standard_error(check: Callable[..., tuple[int, str, list[str]]]) -> None:
    code, _, err = check("--debug-enable-mutexprofiling", "--cryptopan-key", "another secret altogether")
    assert code == 0
    assert [line.split(": ")[1] for line in err] == ["warning", "warning"]


def test_violations(site: Path, check: Callable[..., tuple[int, str, list[str]]]) -> None:
    code, out, err = check("--input-tcp", ":1", "--cryptopan-key=", "--mqtt-qos=3")
    assert (code, out) == (1, "")
    assert len(err) == 3
    (site / "edm.toml").unlink()
    assert check() == (1, "", [f"edm: configuration file {site}/edm.toml does not exist"])


def test_what_a_start_would_miss(site: Path, check: Callable[..., tuple[int, str, list[str]]]) -> None:
    (site / "list.dawg").unlink()
    (site / "file").write_text("")
    code, out, err = check(
        "--ignored-client-ips-file",
        str(site),
        f"--data-dir={site}/file/data",
        f"--input-unix={site}/no/{'x' * 107}",
        "--disable-histogram-sender=false",
    )
    assert code == 1
    assert "cryptopan-key " in out
    assert "is valid" not in out
    assert err == [
        f"edm: {line}"
        for line in (
            f"well-known-domains-file: {site}/list.dawg: No such file or directory",
            f"ignored-client-ips-file: {site}: Is a directory",
            f"data-dir: {site}/file/data: Not a directory",
            f"input-unix: {site}/no/{'x' * 107}: longer than the 107 bytes a socket path may have",
            f"input-unix: {site}/no/{'x' * 107}: No such file or directory",
            "http-signing-key-file: edm-http-signer-key.pem: No such file or directory",
        )
    ]


def test_checks_that_others_add(
    site: Path, check: Callable[..., tuple[int, str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupt(cfg: Config) -> list[str]:
        raise ListFileError(f"{cfg.well_known_domains_file}: corrupt")

    monkeypatch.setattr(checks, "CHECKS", [corrupt, lambda cfg: ["a", "b"], lambda cfg: ["a"]])
    code, _, err = check()
    assert code == 1
    assert err == [f"edm: {site}/list.dawg: corrupt", "edm: a", "edm: b"]
    code, out, _ = check("--format=json")
    assert json.loads(out)["problems"] == [f"{site}/list.dawg: corrupt", "a", "b"]


def test_permissions_are_checked(
    site: Path, check: Callable[..., tuple[int, str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    code, _, err = check()
    assert code == 1
    assert err == [
        f"edm: data-dir: {site}/data/deep: Permission denied",
        f"edm: input-unix: {site}/s: Permission denied",
    ]


@pytest.mark.parametrize(("length", "fits"), [(107, True), (108, False)])
def test_length_of_socket_paths(length: int, fits: bool) -> None:
    assert (
        checks.socket_path_problem("/" + "å" * ((length - 1) // 2) + "x" * ((length - 1) % 2)) is None
    ) is fits
