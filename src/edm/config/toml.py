"""Reading the TOML file: its values together with the line each stands on.

``tomllib`` says what a file means but not where; so the text is first cut into statements (each begins on a
line of its own and ends with a line), which gives every key its line.
"""

from __future__ import annotations

import errno
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from edm.config.values import plain
from edm.errors import ConfigError
from edm.files.reading import UnreadableError, read_whole

FILE_MAX = 16 << 20
"""Largest configuration file in bytes; a larger file is refused."""

# Whatever can hide a line end or a bracket from the eye, and the two themselves.
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|[\[\]{}\n]',
    re.DOTALL,
)
_SIMPLE = re.compile(r"[ \t]*([A-Za-z0-9_-]+)[ \t]*=")
"""The beginning of a statement that sets a bare key, as nearly all do."""
_POSITION = re.compile(
    r"^(?P<reason>.*?) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$"
)


class Entry(NamedTuple):
    """One top-level key or table of the file: its name as written, its value, its first line."""

    key: str
    value: Any
    line: int


def read_text(path: Path) -> str:
    """Return the text of the configuration file; ConfigError says why if there is none."""
    try:
        data = read_whole(path, FILE_MAX, lines=True)
    except UnreadableError as error:
        if error.errno == errno.ENOENT:
            raise ConfigError(f"configuration file {path} does not exist") from None
        raise ConfigError(f"cannot read configuration file {path}: {error}") from None
    try:
        return data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ConfigError(f"{path}:1: is UTF-16 text: save it as UTF-8") from None
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text ({error.reason})") from None


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each statement; comments and empty lines between them are skipped."""
    start = depth = 0
    line = first = 1
    for match in _TOKEN.finditer(text):
        token = match.group()
        line += token.count("\n")
        if token in ("[", "{"):
            depth += 1
        elif token in ("]", "}"):
            depth -= 1
        elif token == "\n" and depth <= 0:
            yield first, text[start : match.end()]
            start, first, depth = match.end(), line, 0
    yield first, text[start:]


def _locate(text: str) -> list[tuple[str, int]]:
    """Return the top-level keys in the order of their statements, each as written, with its line."""
    found = []
    inside_table = False
    for line, statement in _statements(text):
        if simple := _SIMPLE.match(statement):
            # Whether its value is one will show when the text is read as a whole.
            if not inside_table:
                found.append((simple[1], line))
            continue
        try:
            meaning = tomllib.loads(statement)
        except (ValueError, RecursionError):
            continue
        header = statement.lstrip().startswith("[")
        inside_table = inside_table or header
        if header or not inside_table:
            found += [(key, line) for key in meaning]
    return found


def _repeated(keys: list[tuple[str, int]]) -> Iterator[tuple[int, str]]:
    """Yield line and reason for each key that is set again, upper and lower case being the same."""
    lines: dict[str, tuple[int, str]] = {}
    for key, line in keys:
        if (before := lines.setdefault(key.lower(), (line, key))) != (line, key):
            yield line, f"{plain(key)} is set twice, first as {plain(before[1])} in line {before[0]}"


def _syntax_error(path: Path, text: str, error: Exception) -> str:
    match = _POSITION.match(str(error))
    if not match:
        return f"{path}: invalid TOML: {error}"
    line, column = match["line"], match["column"]
    if line is None:
        return f"{path}:{text.count(chr(10)) + 1}: invalid TOML: {match['reason']} (at the end of the file)"
    return f"{path}:{line}:{column}: invalid TOML: {match['reason']}"


def read_entries(path: Path) -> list[Entry]:
    """Read a configuration file.

    Returns
    -------
    The top-level keys and tables in the order of the file.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not TOML 1.0, or sets a key twice; keys that differ only in the case of
        their letters are the same key.
    """
    text = read_text(path).replace("\r\n", "\n")
    keys = _locate(text)
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{path}: invalid TOML: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        # Of a key that is there twice tomllib says neither the name nor, often, the place.
        twice = _duplicates(path, keys) if str(error).startswith("Cannot ") else []
        raise ConfigError(*(twice or [_syntax_error(path, text, error)])) from None
    # Dotted keys and [[tables]] may come in several statements, yet tomllib merges them into one value.
    first: dict[str, int] = {}
    for key, line in keys:
        first.setdefault(key, line)
    if twice := _duplicates(path, [(key, first.get(key, 0)) for key in values]):
        raise ConfigError(*twice)
    return [Entry(key, value, first.get(key, 0)) for key, value in values.items()]


def _duplicates(path: Path, keys: list[tuple[str, int]]) -> list[str]:
    return [f"{path}:{line}: {reason}" for line, reason in _repeated(keys)]


__all__ = ["FILE_MAX", "Entry", "read_entries", "read_text"]
