"""Command line syntax, after Go's ``flag`` package, and the help text of a command.

One dash and two dashes mean the same. The value of a flag is the next argument, or follows ``=``. A boolean
flag never takes the next argument: ``--debug`` alone means true, ``--debug=false`` means false.
``--`` ends the flags, and ``-`` is an ordinary argument (usually standard input). Unlike in Go, flags may
also come after the ordinary arguments.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edm.config.key import Value
from edm.config.load import closest
from edm.config.schema import FLAG_KEYS
from edm.config.values import parse_bool, parse_int, plain, shorten
from edm.errors import EdmError

CONFIG_FILE = "config-file"
_HELP = frozenset(("h", "help"))
_WIDTH = 100


class UsageError(EdmError):
    """The command line is wrong. ``problems`` holds one line for each error."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class HelpWanted(Exception):  # noqa: N818 - not an error
    """The command line asks for help."""


@dataclass(frozen=True)
class Option:
    """A flag of one command, in addition to those of the configuration."""

    name: str
    help: str
    kind: Literal["bool", "int", "string"] = "string"
    default: Value | None = None
    choices: tuple[str, ...] = ()

    def parse(self, text: str) -> Value:
        """Return the value of ``text``; raises ValueError with the reason if it is not a valid value."""
        if self.choices and text not in self.choices:
            raise ValueError(f"must be one of {', '.join(self.choices)}")
        return parse_bool(text) if self.kind == "bool" else parse_int(text) if self.kind == "int" else text


@dataclass(frozen=True)
class Spec:
    """The arguments that a command accepts; the variable ``SPEC`` of its module.

    Attributes
    ----------
    positional : ordinary arguments for the usage line: empty for none, ``"DIR"`` for exactly one,
        ``"FILE..."`` for one or more, ``"[FILE...]"`` for any number.
    options : the command's own flags.
    config : whether it takes ``--config-file`` and a flag for every configuration key.
    about : what it does, shown below the usage line.
    """

    positional: str = ""
    options: tuple[Option, ...] = ()
    config: bool = True
    about: str = ""


@dataclass
class Arguments:
    """The parsed command line.

    Attributes
    ----------
    program : the name the program was started under.
    config_file : the file given with ``--config-file``, or None.
    flags : text of each configuration flag given, by key; for :func:`edm.config.load`.
    options : value of each of the command's own flags, given or default, by name.
    positional : the ordinary arguments.
    """

    program: str
    command: str
    config_file: Path | None = None
    flags: dict[str, str] = field(default_factory=dict)
    options: dict[str, Value | None] = field(default_factory=dict)
    positional: list[str] = field(default_factory=list)


def split_flag(argument: str) -> tuple[str, str | None]:
    """Split ``--name=value`` into name and value (None without ``=``); raises ValueError if it is not a flag."""
    body = argument[2:] if argument.startswith("--") else argument[1:]
    name, equals, value = body.partition("=")
    if not name or name.startswith("-"):
        raise ValueError(f"bad flag syntax: {plain(argument.partition('=')[0])}")
    return name, value if equals else None


class _Parser:
    def __init__(self, result: Arguments, spec: Spec) -> None:
        self.result = result
        self.spec = spec
        self.options = {option.name: option for option in spec.options}
        self.problems: list[str] = []

    def parse(self, arguments: Sequence[str]) -> None:
        rest = iter(arguments)
        for argument in rest:
            if argument == "--":
                self.result.positional += rest
            elif argument == "-" or not argument.startswith("-"):
                self.result.positional.append(argument)
            else:
                self._flag(argument, rest)

    def _flag(self, argument: str, rest: Iterator[str]) -> None:
        try:
            name, value = split_flag(argument)
        except ValueError as error:
            self.problems.append(str(error))
            return
        known = {*self.options, *((CONFIG_FILE, *FLAG_KEYS) if self.spec.config else ())}
        if name not in known:
            if name in _HELP:
                raise HelpWanted
            self.problems.append(f"unknown flag --{plain(name)}{closest(name, known)}")
            return
        kind = (self.options.get(name) or FLAG_KEYS.get(name) or Option(name, "")).kind
        if value is None:
            value = "true" if kind == "bool" else next(rest, None)
        if value is None:
            self.problems.append(f"flag --{name} needs a value")
        else:
            self._take(name, value)

    def _take(self, name: str, value: str) -> None:
        if option := self.options.get(name):
            try:
                self.result.options[name] = option.parse(value)
            except ValueError as error:
                self.problems.append(f"--{name}: {error} (found {shorten(value)})")
        elif name == CONFIG_FILE:
            self.result.config_file = Path(value)
        elif not self._is_bad(name):
            self.result.flags[name] = value

    def _is_bad(self, name: str) -> bool:
        # A bad value is kept even if the flag is given again, so that it is reported.
        try:
            FLAG_KEYS[name].parse(self.result.flags.get(name, str(FLAG_KEYS[name].default).lower()))
        except ValueError:
            return name in self.result.flags
        return False

    def check_positional(self) -> None:
        given, wanted = self.result.positional, self.spec.positional
        if wanted.startswith("["):
            return
        if wanted and not given:
            self.problems.append(f"{wanted.removesuffix('...')} is missing")
        if not wanted.endswith("..."):
            self.problems += [f"unexpected argument {shorten(a)}" for a in given[1 if wanted else 0 :]]


def parse(
    program: str, command: str, spec: Spec, arguments: Sequence[str], config_file: Path | None = None
) -> Arguments:
    """Parse the arguments after the name of a command.

    Parameters
    ----------
    config_file : from a ``--config-file`` before the command; one after the command overrides it.

    Raises
    ------
    UsageError
        Holds all errors. The values of configuration flags are not checked here.
    HelpWanted
        If ``-h`` or ``--help`` is among the flags.
    """
    options: dict[str, Value | None] = {option.name: option.default for option in spec.options}
    result = Arguments(program, command, config_file, options=options)
    parser = _Parser(result, spec)
    parser.parse(arguments)
    parser.check_positional()
    if parser.problems:
        raise UsageError(parser.problems)
    return result


def _entry(name: str, value: str, text: str) -> str:
    head = f"  --{name}{' ' + value if value else ''}"
    indent = " " * 8
    return head + "\n" + textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)


def command_help(program: str, command: str, spec: Spec, summary: str) -> str:
    """Return the help text of a command, with all its flags and their defaults."""
    usage = " ".join(part for part in (program, command, "[flags]", spec.positional) if part)
    parts = [f"Usage: {usage}", "", textwrap.fill(spec.about or summary, _WIDTH)]
    if spec.options:
        parts += ["", "Flags:"]
        for option in spec.options:
            value = "" if option.kind == "bool" else "|".join(option.choices) or option.kind.upper()
            default = "" if option.default in (None, False) else f" (default {option.default})"
            parts.append(_entry(option.name, value, option.help + default))
    if spec.config:
        parts += ["", "Configuration (each also in the file, without dashes, and in the environment):"]
        parts.append(_entry(CONFIG_FILE, "FILE", "The file (default $HOME/.dnstapir-edm.toml)"))
        group = ""
        for key in FLAG_KEYS.values():
            if key.group != group:
                group = key.group
                parts += ["", f" {group}:"]
            value = (
                "" if key.kind == "bool" else key.unit.upper() or ("STRING" if key.kind == "string" else "N")
            )
            default = f'"{key.default}"' if isinstance(key.default, str) else str(key.default).lower()
            parts.append(_entry(key.name, value, f"{key.help} (default {default})"))
    return "\n".join(parts) + "\n"


__all__ = ["Arguments", "HelpWanted", "Option", "Spec", "UsageError", "command_help", "parse", "split_flag"]
