"""The program's entry: finds the command, hands it its arguments, turns errors into lines and an exit code.

A new command is one line in :data:`COMMANDS` and a module with ``run(args: Arguments) -> int`` and, unless it
takes just the configuration flags, a ``SPEC``. Modules are imported only when their command is chosen.
"""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from edm.cli.arguments import (
    CONFIG_FILE,
    Arguments,
    HelpWanted,
    Spec,
    UsageError,
    command_help,
    parse,
    split_flag,
)
from edm.cli.printing import BROKEN_PIPE, complain, is_of_output, prepare_streams
from edm.config.load import closest
from edm.config.values import plain, shorten
from edm.errors import ConfigError, EdmError
from edm.files.visible import visible


class Command(NamedTuple):
    """A command: its module, and what it does in a few words."""

    module: str
    summary: str


COMMANDS: Mapping[str, Command] = {
    "run": Command("edm.cli.run", "receive dnstap and minimise it until stopped"),
    "minimise": Command("edm.cli.minimise", "minimise capture files"),
    "replay": Command("edm.cli.replay", "send capture files to a running daemon"),
    "top": Command("edm.cli.top", "show what a running daemon does, in a terminal"),
    "doctor": Command("edm.cli.doctor", "check a whole installation and say what to do"),
    "inspect": Command("edm.cli.inspect", "show what is in output files and captures"),
    "dawg": Command("edm.cli.dawg", "make, show, search and check domain list files"),
    "check-config": Command("edm.cli.check_config", "check the configuration and show what is in effect"),
    "explain": Command("edm.cli.explain", "tell what would become of an answer about a name, and why"),
    "reload": Command("edm.cli.reload", "check the files, reload a running daemon, and show the result"),
    "init": Command("edm.cli.init", "make a directory with a working local configuration"),
    "keygen": Command("edm.cli.keygen", "make keys and certificates for a test or pilot site"),
    "version": Command("edm.cli.version", "show the version"),
}


def _program_name() -> str:
    name = Path(sys.argv[0]).name if sys.argv else ""
    return "edm" if not name or name.endswith(".py") or name.startswith("-") else visible(name)


def usage(program: str) -> str:
    """Return the overview of all commands."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{command.summary}" for name, command in COMMANDS.items()]
    lines.append(f"  {'help':{width}}show this text, or the help text of a command")
    return (
        f"Usage: {program} [--{CONFIG_FILE} FILE] COMMAND [flags]\n\n"
        "Edge DNSTAP Minimiser: reads a resolver's dnstap stream and keeps as little of it as possible.\n\n"
        "Commands:\n" + "\n".join(lines) + f"\n\n{program} COMMAND -h shows the flags of a command.\n"
    )


def _before_command(arguments: Sequence[str]) -> tuple[Path | None, str, Sequence[str]]:
    """Return the file of a leading ``--config-file``, the command ("" if none), and what follows it."""
    config_file: Path | None = None
    i = 0
    while i < len(arguments) and arguments[i].startswith("-") and arguments[i] not in ("-", "--"):
        try:
            name, value = split_flag(arguments[i])
        except ValueError as error:
            raise UsageError([str(error)]) from None
        if name in ("h", "help"):
            raise HelpWanted
        if name != CONFIG_FILE:
            raise UsageError([f"unknown flag --{plain(name)} before the command{_hint(name)}"])
        if value is None:
            i += 1
            if i == len(arguments):
                raise UsageError([f"flag --{name} needs a value"])
            value = arguments[i]
        config_file = Path(value)
        i += 1
    if i < len(arguments) and arguments[i] == "--":
        i += 1
    return (config_file, arguments[i], arguments[i + 1 :]) if i < len(arguments) else (config_file, "", ())


def _hint(name: str) -> str:
    return closest(name, [CONFIG_FILE]) or f"; only --{CONFIG_FILE} may stand there"


def _find(name: str) -> tuple[ModuleType, Spec]:
    if name not in COMMANDS:
        raise UsageError([f"unknown command {shorten(name)}{closest(name, [*COMMANDS, 'help'])}"])
    module = importlib.import_module(COMMANDS[name].module)
    spec: Spec = getattr(module, "SPEC", None) or Spec()
    return module, spec


def _show_help(program: str, name: str = "") -> int:
    if name:
        _, spec = _find(name)
        sys.stdout.write(command_help(program, name, spec, COMMANDS[name].summary))
    else:
        sys.stdout.write(usage(program))
    sys.stdout.flush()
    return 0


def _dispatch(program: str, arguments: Sequence[str]) -> int:
    try:
        config_file, name, rest = _before_command(arguments)
    except HelpWanted:
        return _show_help(program)
    if name in ("", "help"):
        topics = [a for a in rest if not a.startswith("-")]
        if len(topics) > 1:
            raise UsageError([f"unexpected argument {shorten(topics[1])}"])
        return _show_help(program, topics[0] if topics and topics[0] != "help" else "")
    module, spec = _find(name)
    try:
        args = parse(program, name, spec, rest, config_file)
    except HelpWanted:
        return _show_help(program, name)
    run: Callable[[Arguments], int] = module.run
    result = run(args)
    sys.stdout.flush()
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with the arguments ``argv`` (default: the process's own); return the exit code."""
    program = _program_name()
    prepare_streams()
    try:
        return _dispatch(program, sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        complain(program, *error.problems, f"{program} -h shows how it is used")
    except ConfigError as error:
        complain(program, *error.violations)
    except EdmError as error:
        complain(program, error)
    except OSError as error:
        if not is_of_output(error):
            raise  # a fault of ours: what else an operator can cause is an EdmError
        if error.errno == errno.EPIPE:
            return BROKEN_PIPE  # as with "edm inspect FILE | head", which has all that it wanted
        complain(program, f"standard output: {error.strerror}")
    except KeyboardInterrupt:
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
