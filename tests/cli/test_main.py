"""The command line: syntax after Go's flag package, help, errors as lines, lazy imports."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edm.cli import main as cli
from edm.cli.arguments import Arguments, HelpWanted, Option, Spec, UsageError, parse
from edm.config import KEYS
from edm.errors import ConfigError, InputError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A command named ``probe`` that keeps the arguments it was given."""
    module = ModuleType("probe_command")
    module.calls = []  # type: ignore[attr-defined]

    def run(args: Arguments) -> int:
        module.calls.append(args)
        return module.result

    module.run = run  # type: ignore[attr-defined]
    module.result = 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "probe_command", module)
    commands = {**cli.COMMANDS, "probe": cli.Command("probe_command", "look at the arguments")}
    monkeypatch.setattr(cli, "COMMANDS", commands)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/dnstapir-edm"])
    return module


def called(module: ModuleType, *argv: str) -> Arguments:
    assert cli.main(argv) == 0
    return module.calls[-1]


def test_the_command_gets_its_arguments(command: ModuleType) -> None:
    args = called(
        command, "--config-file", "a.toml", "probe", "--minimiser-workers", "4", "-input-unix=/x=y", "--debug"
    )
    assert args.program == "dnstapir-edm"
    assert args.command == "probe"
    assert args.config_file == Path("a.toml")
    assert args.flags == {"minimiser-workers": "4", "input-unix": "/x=y", "debug": "true"}
    assert args.positional == []


def test_config_file_behind_the_command_wins(command: ModuleType) -> None:
    assert called(command, "-config-file=a", "probe", "-config-file", "b").config_file == Path("b")
    assert called(command, "probe").config_file is None


def test_a_boolean_never_takes_the_next_argument(
    command: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["probe", "--debug", "false"]) == 1
    assert "unexpected argument 'false'" in capsys.readouterr().err
    assert called(command, "probe", "--debug=false", "--pebble-sync").flags == {
        "debug": "false",
        "pebble-sync": "true",
    }


def test_a_value_may_look_like_a_flag(command: ModuleType) -> None:
    assert called(command, "probe", "--newqname-buffer", "-1", "-data-dir", "--debug").flags == {
        "newqname-buffer": "-1",
        "data-dir": "--debug",
    }


def test_the_last_of_repeated_flags_wins_unless_an_earlier_is_bad(command: ModuleType) -> None:
    assert called(command, "probe", "--debug=0", "--debug=1").flags == {"debug": "1"}
    assert called(command, "probe", "--debug=maybe", "--debug=1").flags == {"debug": "maybe"}


def test_the_exit_code_is_the_commands(command: ModuleType) -> None:
    command.result = 7
    assert cli.main(["probe"]) == 7


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["nothing"], "unknown command 'nothing'"),
        (["prob"], "unknown command 'prob' (did you mean probe?)"),
        (["-"], "unknown command '-'"),
        (["--debug", "probe"], "unknown flag --debug before the command; only --config-file may stand there"),
        (
            ["--confg-file", "x", "probe"],
            "unknown flag --confg-file before the command (did you mean config-file?)",
        ),
        (["--config-file"], "flag --config-file needs a value"),
        (["---x", "probe"], "bad flag syntax: ---x"),
        (["probe", "extra"], "unexpected argument 'extra'"),
        (["probe", "--", "--debug"], "unexpected argument '--debug'"),
        (["probe", "--data-dri", "x"], "unknown flag --data-dri (did you mean data-dir?)"),
        (["probe", "--mqtt-sign-workers", "3"], "unknown flag --mqtt-sign-workers"),
        (["probe", "--data-dir"], "flag --data-dir needs a value"),
        (["probe", "--=x"], "bad flag syntax: --"),
        (["help", "nothing"], "unknown command 'nothing'"),
        (["help", "run", "init"], "unexpected argument 'init'"),
    ],
)
def test_misuse(command: ModuleType, capsys: pytest.CaptureFixture[str], argv: list[str], line: str) -> None:
    assert cli.main(argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0].startswith(f"dnstapir-edm: {line}")
    assert command.calls == []


@pytest.mark.parametrize(
    "argv",
    [
        ["x" * 5000],
        ["help", "run", "x" * 5000],
        ["--" + "x" * 5000, "probe"],
        ["probe", "x" * 5000],
        ["probe", "--" + "x" * 5000],
        ["probe", "--=" + "x" * 5000],
        ["dawg", "x" * 5000],
        ["dawg", "lookup", "--level=" + "9" * 5000],
    ],
)
def test_what_was_given_is_shown_short(
    command: ModuleType, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    assert cli.main(argv) == 1
    assert max(map(len, capsys.readouterr().err.splitlines())) < 200


def test_every_misuse_is_reported(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["probe", "--x", "--y=secret", "z"]) == 1
    assert capsys.readouterr().err == (
        "dnstapir-edm: unknown flag --x\n"
        "dnstapir-edm: unknown flag --y\n"
        "dnstapir-edm: unexpected argument 'z'\n"
        "dnstapir-edm: dnstapir-edm -h shows how it is used\n"
    )


@pytest.mark.parametrize("argv", [[], ["help"], ["-h"], ["--help"], ["-help"], ["help", "help"], ["--"]])
def test_usage(command: ModuleType, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Usage: dnstapir-edm [--config-file FILE] COMMAND")
    assert err == ""
    for name in ("run", "minimise", "check-config", "init", "version", "help", "probe"):
        assert f"\n  {name} " in out


@pytest.mark.parametrize("argv", [["probe", "-h"], ["probe", "--debug", "--help"], ["help", "probe"]])
def test_help_of_a_command(command: ModuleType, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: dnstapir-edm probe [flags]\n\nlook at the arguments\n")
    for key in KEYS.values():
        assert (f"\n  --{key.name}" in out) is not key.toml_only
    assert '(default "127.0.0.1:2112")' in out
    assert command.calls == []


def test_a_command_with_its_own_flags(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    command.SPEC = Spec(
        positional="FILE...",
        config=False,
        options=(
            Option("format", "How.", default="text", choices=("text", "json")),
            Option("limit", "How many.", kind="int"),
            Option("quiet", "Say less.", kind="bool", default=False),
        ),
    )
    args = called(command, "probe", "a", "--limit=0x10", "-", "--quiet", "b", "--", "--format")
    assert args.positional == ["a", "-", "b", "--format"]
    assert args.options == {"format": "text", "limit": 16, "quiet": True}
    assert cli.main(["probe", "--format", "xml", "--limit", "x", "--data-dir=d"]) == 1
    assert capsys.readouterr().err.splitlines()[:-1] == [
        "dnstapir-edm: --format: must be one of text, json (found 'xml')",
        "dnstapir-edm: --limit: must be an integer (found 'x')",
        "dnstapir-edm: unknown flag --data-dir",
        "dnstapir-edm: FILE is missing",
    ]
    assert cli.main(["probe", "-h"]) == 0
    out = capsys.readouterr().out
    assert "Usage: dnstapir-edm probe [flags] FILE..." in out
    assert "--format text|json" in out


@pytest.mark.parametrize(
    ("positional", "given", "problem"),
    [
        ("", [], None),
        ("DIR", [], "DIR is missing"),
        ("DIR", ["a"], None),
        ("DIR", ["a", "b"], "unexpected argument 'b'"),
        ("FILE...", [], "FILE is missing"),
        ("FILE...", ["a", "b"], None),
        ("[FILE...]", [], None),
        ("[FILE...]", ["a"], None),
    ],
)
def test_number_of_arguments(positional: str, given: list[str], problem: str | None) -> None:
    if problem is None:
        assert parse("edm", "x", Spec(positional), given).positional == given
    else:
        with pytest.raises(UsageError) as caught:
            parse("edm", "x", Spec(positional), given)
        assert caught.value.problems == (problem,)


def test_an_option_named_h_is_no_call_for_help() -> None:
    spec = Spec(options=(Option("h", "Height.", kind="int"),))
    assert parse("edm", "x", spec, ["-h", "5"]).options == {"h": 5}
    with pytest.raises(HelpWanted):
        parse("edm", "x", spec, ["-help"])


def test_errors_end_in_lines(
    command: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_with(error: BaseException) -> str:
        def run(args: Arguments) -> int:
            raise error

        monkeypatch.setattr(command, "run", run)
        assert cli.main(["probe"]) != 0
        return capsys.readouterr().err

    assert fail_with(ConfigError("a: bad", "b: worse")) == "dnstapir-edm: a: bad\ndnstapir-edm: b: worse\n"
    assert fail_with(InputError("cannot read x\n\x1b[2J\udcff")) == (
        "dnstapir-edm: cannot read x\\n\\x1b[2J\\udcff\n"
    )
    assert fail_with(KeyboardInterrupt()) == ""
    with pytest.raises(ZeroDivisionError):  # a bug: the traceback is wanted
        fail_with(ZeroDivisionError())


@pytest.mark.parametrize(
    ("argv0", "name"),
    [
        ("/usr/bin/edm", "edm"),
        ("dnstapir-edm", "dnstapir-edm"),
        ("x/main.py", "edm"),
        ("", "edm"),
        ("-c", "edm"),
    ],
)
def test_program_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv0: str, name: str
) -> None:
    monkeypatch.setattr(sys, "argv", [argv0])
    assert cli.main([]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: {name} ")


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["edm"])
    assert cli.main(["version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "edm"
    assert any(line.startswith("pyarrow ") for line in lines)
    assert cli.main(["version", "--debug"]) == 1


def test_help_imports_neither_the_compiler_nor_the_commands() -> None:
    code = (
        "import sys; from edm.cli.main import main; code = main(['help']);"
        "heavy = {'numba', 'numpy', 'pyarrow', 'pydantic', 'edm.kernel.jit', 'edm.cli.run', 'edm.cli.init'};"
        "heavy &= set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: edm ")
