"""``edm init``: the configuration works at once, and an existing one is never overwritten."""

import os
import stat
import sys
import tomllib
from pathlib import Path

import pytest

from edm.cli import init
from edm.cli.main import main
from edm.config import load
from edm.errors import OutputError


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["edm"])


@pytest.fixture
def fake_list(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(init, "starter_list", lambda: b"a list")
    return b"a list"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_made(tmp_path: Path, fake_list: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "site"
    assert main(["init", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"edm run --config-file {folder}/edm.toml" in out
    assert f'dnstap-socket-path: "{folder}/dnstap.sock"' in out
    assert sorted(p.name for p in folder.iterdir()) == [
        "data",
        "edm.toml",
        "ignored-clients",
        "well-known-domains.dawg",
    ]
    assert mode(folder / "edm.toml") == 0o600
    assert mode(folder / "data") & 0o777 == 0o750 & ~_umask()
    assert (folder / "well-known-domains.dawg").read_bytes() == fake_list
    cfg = load(folder / "edm.toml", {}, {})
    assert cfg.warnings == ()
    assert cfg.input_unix == f"{folder}/dnstap.sock"
    assert cfg.data_dir == f"{folder}/data"
    assert cfg.well_known_domains_file == f"{folder}/well-known-domains.dawg"
    assert (cfg.disable_mqtt, cfg.disable_histogram_sender) == (True, True)
    assert cfg.new_qname_file
    assert all(
        not line or line.startswith("#")
        for line in Path(cfg.ignored_client_ips_file).read_text().splitlines()
    )
    assert cfg.cryptopan_key not in out
    assert cfg.cryptopan_key_salt not in out


def _umask() -> int:
    mask = os.umask(0o22)
    os.umask(mask)
    return mask


def test_secrets_are_random_and_long(tmp_path: Path, fake_list: bytes) -> None:
    found = [tomllib.loads(init.create(tmp_path / name).read_text()) for name in ("a", "b")]
    keys = {values["cryptopan-key"] for values in found} | {values["cryptopan-key-salt"] for values in found}
    assert len(keys) == 4
    # 6 bits a character: at least 128 bits each.
    assert all(len(key) * 6 >= 128 for key in keys)


def test_an_existing_configuration_stays(
    tmp_path: Path, fake_list: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "edm.toml"
    config.write_text("# mine\n")
    assert main(["init", str(tmp_path)]) == 1
    assert (
        capsys.readouterr().err
        == f"edm: {config} exists already and is not overwritten; remove it to start anew\n"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["edm.toml"]
    assert config.read_text() == "# mine\n"


def test_a_dangling_link_counts_as_existing(tmp_path: Path, fake_list: bytes) -> None:
    (tmp_path / "edm.toml").symlink_to("nowhere")
    with pytest.raises(OutputError, match="exists already"):
        init.create(tmp_path)


def test_lists_that_are_there_stay(tmp_path: Path, fake_list: bytes) -> None:
    (tmp_path / "ignored-clients").write_text("192.0.2.0/24\n")
    (tmp_path / "well-known-domains.dawg").write_bytes(b"mine")
    init.create(tmp_path)
    assert (tmp_path / "ignored-clients").read_text() == "192.0.2.0/24\n"
    assert (tmp_path / "well-known-domains.dawg").read_bytes() == b"mine"
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def test_a_path_too_long_for_a_socket(
    tmp_path: Path, fake_list: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / ("x" * 107)
    assert main(["init", str(folder)]) == 1
    text = "longer than the 107 bytes a socket path may have; choose a directory with a shorter path"
    assert text in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "åäö", "a b'c"])
def test_odd_names(tmp_path: Path, fake_list: bytes, name: str) -> None:
    folder = tmp_path / name
    assert load(init.create(folder), {}, {}).data_dir == f"{folder}/data"


@pytest.mark.parametrize("name", ["new\nline", "\udcff", "a\0b"])
def test_impossible_names(tmp_path: Path, fake_list: bytes, name: str) -> None:
    with pytest.raises(OutputError, match="characters that no configuration can hold"):
        init.create(tmp_path / name)


def test_relative_directories_become_absolute(
    tmp_path: Path, fake_list: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(init.create(Path("here")), {}, {}).input_unix == f"{tmp_path}/here/dnstap.sock"


def test_a_file_in_the_way(tmp_path: Path, fake_list: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["init", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err == f"edm: cannot make directory {tmp_path}/file: File exists\n"


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(init.os, "fsync", no_space)
    with pytest.raises(OutputError, match="No space left on device"):
        init.write_new(tmp_path / "x", b"data", 0o600)
    assert list(tmp_path.iterdir()) == []


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(init.os, "link", no_links)
    assert init.write_new(tmp_path / "x", b"one", 0o640)
    assert not init.write_new(tmp_path / "x", b"two", 0o640)
    assert [(p.name, p.read_bytes(), mode(p)) for p in tmp_path.iterdir()] == [("x", b"one", 0o640)]


def test_dir_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 1
    assert "DIR is missing" in capsys.readouterr().err


def test_the_real_list_passes_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [n for n in os.environ if n.startswith("DNSTAPIR_EDM_")]:
        monkeypatch.delenv(name)
    assert main(["init", str(tmp_path / "d")]) == 0
    assert main(["check-config", "--config-file", str(tmp_path / "d" / "edm.toml")]) == 0
    assert "The configuration is valid" in capsys.readouterr().out
