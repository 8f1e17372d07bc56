"""Parsing domain names and list files in text form."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from edm.errors import ListFileError
from edm.kernel.columns import NAME_MAX
from edm.stages.domains.dawg.foreign import foreign_format
from edm.stages.domains.dawg.writer import write_dawg
from edm.stages.names import wire_to_text

_PART = re.compile(r"\\[0-9]{3}|\\.|[^\\.]+|\.|\\", re.ASCII | re.DOTALL)
_PLAIN = re.compile(r"(?:[a-z0-9_-]{1,63}\.){1,127}", re.ASCII)
_ODD = re.compile(r"[^A-Za-z0-9_.*\\-]")
_COMMENT = re.compile(r"(?:^|\s)#.*", re.DOTALL)


def parse_name(text: str) -> bytes:
    r"""Return the uncompressed wire form of a domain name in presentation form (RFC 1035, 5.1).

    A backslash takes the special meaning from the next character, or gives a byte as three decimal digits. The
    final dot may be missing.

    Raises
    ------
    ValueError
        If the text is not a domain name; the message is the reason.
    """
    if text == ".":
        return b"\0"
    if not text:
        raise ValueError("the name is empty")
    labels = [bytearray()]
    for part in _PART.findall(text):
        if part == ".":
            labels.append(bytearray())
        elif part == "\\":
            raise ValueError("the name ends in a backslash")
        elif part[0] == "\\" and len(part) == 4:
            if int(part[1:]) > 255:
                raise ValueError(f"{part} is no byte")
            labels[-1].append(int(part[1:]))
        else:
            plain = part[-1] if part[0] == "\\" else part
            if not plain.isascii():
                raise ValueError("a character outside ASCII: write such a label in its xn-- form")
            if plain != " " or part[0] != "\\":
                bad = next((c for c in plain if not "!" <= c <= "~"), None)
                if bad is not None:
                    raise ValueError(f"the character {bad!r} must be written as \\{ord(bad):03d}")
            labels[-1] += plain.encode("ascii")
    if not labels[-1]:
        del labels[-1]
    if not all(labels):
        raise ValueError("a label is empty")
    if any(len(label) > 63 for label in labels):
        raise ValueError("a label is longer than 63 bytes")
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(wire) > NAME_MAX:
        raise ValueError(f"the name is longer than {NAME_MAX} bytes")
    return wire


def parse_entry(text: str) -> str:
    """Return the word of a list for an entry as people write it.

    ``example.com`` becomes the exact entry ``example.com.``; ``*.example.com`` and ``.example.com`` become the
    suffix entry ``.example.com.``; letters become lower case.

    Raises
    ------
    ValueError
        If it is no entry; the message is the reason.
    """
    lower = text.lower() if text.isascii() else text
    suffix = lower.startswith("*.") or (lower.startswith(".") and lower != ".")
    name = lower[lower.index(".") + 1 :] if suffix else lower
    dotted = name if name.endswith(".") else name + "."
    if len(dotted) < NAME_MAX and _PLAIN.fullmatch(dotted):
        return "." + dotted if suffix else dotted
    if name == "*":
        raise ValueError("'*' alone is not supported")
    if suffix and name in ("", "."):
        raise ValueError("a suffix entry needs a name")
    word = wire_to_text(parse_name(name)).lower()
    return "." + word if suffix else word


def compile_list(lines: Iterable[str], name: str = "list") -> bytes:
    """Return the DAWG file of a plain text list.

    Parameters
    ----------
    lines : iterable of str
        One entry a line as for :func:`parse_entry`; spaces around it are ignored. What follows ``#`` at the start
        of a line or behind a space is a comment. An entry that comes twice counts once.
    name : str
        Name of the list, for messages.

    Raises
    ------
    ListFileError
        If a line is no entry, or looks like one of another kind of list; the message names the line and the reason.
    """
    words = []
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix("\ufeff")  # a byte order mark
        text = (_COMMENT.sub("", line) if "#" in line else line).strip(" \t\r\n")
        if text:
            try:
                # Such characters need no escape in a name, but here they are surely not meant as part of one.
                if (_ODD.search(text) or not text.isascii()) and (reason := foreign_format(text)):
                    raise ValueError(reason)
                words.append(parse_entry(text))
            except ValueError as error:
                raise ListFileError(f"{name}: line {number}: {error}") from error
    return write_dawg(words)


def compile_list_file(path: Path | str) -> bytes:
    """Return the DAWG file of a text file; see :func:`compile_list`.

    Raises
    ------
    ListFileError
        If the file cannot be read or a line is no entry.
    """
    try:
        with Path(path).open(encoding="utf-8", errors="replace", newline="\n") as file:
            return compile_list(file, str(path))
    except OSError as error:
        raise ListFileError(f"{path}: {error.strerror}") from error


def starter_dawg() -> bytes:
    """Return the DAWG file of the list of well-known names that comes with the package."""
    file = resources.files("edm") / "data" / "starter-domains.txt"
    return compile_list(file.read_text("ascii").splitlines(), "starter-domains.txt")


__all__ = ["compile_list", "compile_list_file", "parse_entry", "parse_name", "starter_dawg"]
