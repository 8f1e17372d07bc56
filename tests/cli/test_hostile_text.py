"""Hostile text in every place where a command prints text from outside."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog

from edm.cli.main import main
from edm.cli.reload import as_text
from edm.observe import logs
from edm.observe.profiles import command_line
from edm.reload.outcome import PartOutcome, ReloadOutcome
from edm.stages.dnstap.json_line import frame_to_json
from edm.stages.domains import write_dawg
from oracles.dnstap_pb2 import dnstap_class
from support import golden
from support.pki import signing_jwk, write_jwk

# A new title, C1's form of a colour, DEL, right-to-left override, a line of its own, a line separator, and no text.
EVIL = "\x1b]0;t\x07\x9b31m\x7f\u202e\nedm: all is well\r\u2028\u200b\udcff"
NAME = os.fsdecode(os.fsencode(EVIL.replace("/", "")))


def assert_harmless(text: str) -> None:
    assert text
    for line in text.split("\n"):
        assert line.isprintable(), ascii(line)
    assert not any(line.startswith("edm: all is well") for line in text.split("\n"))
    text.encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a hostile name."""
    made = tmp_path / NAME
    made.mkdir()
    return made


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command; return what it printed, which must be harmless."""
    monkeypatch.setattr(sys, "argv", ["edm"])
    for name in [name for name in os.environ if name.startswith("DNSTAPIR_EDM_")]:
        monkeypatch.delenv(name)

    def call(*arguments: str | Path) -> str:
        main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert_harmless(out + err)
        return out + err

    return call


def configuration(folder: Path, **more: str) -> Path:
    shutil.copy(golden.LISTS / "well-known.dawg", folder / "known.dawg")
    path = folder / "edm.toml"
    values = {
        "cryptopan-key": "a secret of more than enough length",
        "well-known-domains-file": str(folder / "known.dawg"),
        "data-dir": str(folder / "data"),
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    flags = "disable-mqtt = true\ndisable-histogram-sender = true\n"
    path.write_text(
        "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items() if "\udcff" not in value)
        + flags
    )
    return path


def test_commands_and_flags(run: Callable[..., str]) -> None:
    for arguments in (
        [EVIL],
        ["--" + EVIL],
        ["inspect", "--" + EVIL],
        ["dawg", EVIL],
        ["keygen", EVIL],
        ["inspect", "--top", EVIL, "x"],
    ):
        run(*arguments)
    run("--config-file", EVIL, "check-config")


def test_configuration(run: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = configuration(folder, input_tcp="127.0.0.1:0")
    flags = [f"--well-known-domains-file={folder}/known.dawg", f"--data-dir={folder}/data"]
    for form in ("text", "json", "toml"):
        assert "data-dir" in run("check-config", "--config-file", path, "--format", form, *flags)
    run("check-config", "--config-file", path, "--ignored-client-ips-file", folder / "no", *flags)
    run("check-config", "--config-file", path, "--metrics-address", EVIL, *flags)
    run("check-config", "--config-file", path, "--input-unix-owner", EVIL.replace(":", ""), *flags)
    path.write_text(path.read_text() + json.dumps("a\x1b\x9b\u202e\nb") + " = 1\n")
    run("check-config", "--config-file", path)
    monkeypatch.setenv("DNSTAPIR_EDM_" + NAME, "1")
    run("check-config", "--config-file", configuration(folder, input_tcp="127.0.0.1:0"), *flags)
    path.write_text("\x1b[31m = \x9b\n")
    run("check-config", "--config-file", path)
    run("reload", "--config-file", configuration(folder, input_tcp="127.0.0.1:0"), *flags)


def test_lists(run: Callable[..., str], folder: Path) -> None:
    words = ["a\x1b]0;t\x07.example.", "b\x9b\u202e.example.", "good.example."]
    path = folder / "list.dawg"
    path.write_bytes(bytes(write_dawg(words)))
    assert "valid" in run("dawg", "check", path)
    assert "good.example." in run("dawg", "dump", path)
    run("dawg", "lookup", path, "good.example", "other.example")
    run("dawg", "lookup", path, EVIL)
    (folder / "list.txt").write_text("good.example\n" + "\x1b[31m.example\n\u202ex.example\n")
    run("dawg", "compile", folder / "list.txt", "-o", folder / "made.dawg")
    (folder / "good.txt").write_text("good.example\n")
    assert "1 entries" in run("dawg", "compile", folder / "good.txt", "-o", folder / "made.dawg")
    run("dawg", "check", folder / "no")
    run("dawg", "check", folder / "good.txt")


def test_keys(run: Callable[..., str], folder: Path) -> None:
    assert "(private)" in run("keygen", "signing", "--kid", "k", "--out", folder / "key")
    run("keygen", "signing", "--kid", "k", "--out", folder / "key")
    run("keygen", "signing", "--kid", EVIL, "--out", folder / "other")
    run("keygen", "client", "--common-name", EVIL, "--out-dir", folder)
    write_jwk(folder / "bad.jwk", {**signing_jwk("k"), "kid": "a\x1b\x9b\u202e\nb"})
    run(
        "check-config", "--config-file", configuration(folder, input_tcp="127.0.0.1:0"), "--disable-mqtt=false",
        f"--mqtt-signing-key-file={folder}/bad.jwk",
    )  # fmt: skip
    run("init", folder)


def test_files_that_others_made(run: Callable[..., str], folder: Path) -> None:
    evil = EVIL.replace("\udcff", "")
    table = pa.table({evil: [1]}).replace_schema_metadata({"edm." + evil: evil})
    path = folder / "dns_session_block-x.parquet"
    with path.open("wb") as file:
        pq.write_table(table, file)
    for form in ("text", "json"):
        run("inspect", "--format", form, path, folder / "no", folder)
    (folder / "bad.parquet").write_bytes(b"PAR1" + b"\x1b]0;t\x07" * 20 + b"PAR1")
    run("inspect", folder / "bad.parquet")


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="the engine is tested with JIT")
def test_captures(run: Callable[..., str], folder: Path) -> None:
    config = configuration(folder)
    flags = [
        "--config-file",
        config,
        "--well-known-domains-file",
        folder / "known.dawg",
        "--data-dir",
        folder / "data",
    ]
    (folder / "bad.fstrm").write_bytes(b"\x1b[31m" * 100)
    shutil.copy(golden.capture("unbound"), folder / "good.zst")
    for form in ("text", "json"):
        run("minimise", *flags, "--summary", form, folder / "good.zst", folder / "bad.fstrm")
    run("minimise", *flags, folder / "no")
    run("replay", "--unix", folder / "no", folder / "good.zst")
    run("replay", "--tcp", EVIL, folder / "good.zst")
    run("inspect", folder / "good.zst", folder / "bad.fstrm")


def test_the_outcome_of_a_reload() -> None:
    parts = {EVIL: PartOutcome("failed", (EVIL, "b")), "x": PartOutcome("reloaded")}
    assert_harmless(as_text(ReloadOutcome(1, 2, 3, 4.0, parts, (EVIL,))))


@pytest.mark.parametrize("form", ["json", "text"])
def test_log_lines(form: logs.Format) -> None:
    stream = io.StringIO()
    logs.configure(form, stream=stream)
    log = structlog.get_logger()
    log.error(EVIL, reason=EVIL, names=[EVIL, {EVIL: EVIL}], error=OSError(EVIL))
    try:
        raise ValueError(EVIL.replace("\n", ""))
    except ValueError:
        log.exception("failed", reason=EVIL)
    assert_harmless(stream.getvalue())
    assert stream.getvalue().count("\x1b") == 0


def test_the_debug_file() -> None:
    frame = dnstap_class()()
    frame.type = 1
    frame.identity = EVIL.encode("utf-8", "replace")
    frame.version = b"\xc2\x9b31m\xe2\x80\xae\xff\x7f\xf3\xa0\x81\x81"
    frame.message.type = 6
    frame.message.query_zone = b"\x05\x1b\x9b\xc2\x85x\x00"
    line = frame_to_json(frame.SerializeToString())
    assert line is not None
    assert_harmless(line)
    assert json.loads(line)["version"] == frame.version.decode("utf-8", "replace")


def test_the_command_line_of_the_profiles() -> None:
    assert_harmless(command_line(["edm", "run", EVIL]).replace("\0", " "))


def test_a_terminal_that_takes_ascii_only(tmp_path: Path) -> None:
    (tmp_path / "å名.txt").write_text("good.example\n")
    done = subprocess.run(
        [sys.executable, "-m", "edm.cli.main", "dawg", "check", tmp_path / "å名.txt"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert rb"\xe5\u540d.txt" in done.stderr
