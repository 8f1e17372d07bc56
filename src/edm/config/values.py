"""The text forms of values: what a flag or an environment variable may say.

The forms of booleans and numbers are those of Go's ``strconv`` (ParseBool, ParseInt with base 0, ParseUint
with base 10), which the Go daemon uses, so that its unit files and scripts work unchanged. Every function
raises ``ValueError`` with a reason that can stand behind the name of the key.
"""

from __future__ import annotations

import re

from edm.files.visible import visible

INT64_MIN = -(1 << 63)
INT64_MAX = (1 << 63) - 1

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))

# Underscores may stand between digits and behind a base prefix; a leading zero alone means octal.
_GO_INT = re.compile(
    r"[+-]?(?:0[xX](?P<hex>(?:_?[0-9a-fA-F])+)|0[oO](?P<oct>(?:_?[0-7])+)|0[bB](?P<bin>(?:_?[01])+)"
    r"|(?P<old>0(?:_?[0-7])*)|(?P<dec>[1-9](?:_?[0-9])*))"
)
_BASES = {"hex": 16, "oct": 8, "bin": 2, "old": 8, "dec": 10}
_DECIMAL = re.compile(r"[0-9]+")
# More digits than the smallest base needs for 64 bits; bounds the work on a value made to be long.
_DIGITS_MAX = 4000


def given_bytes(text: str) -> bytes:
    """Return a value as the bytes that the operating system or the file gave."""
    return text.encode("utf-8", "surrogateescape")


def parse_bool(text: str) -> bool:
    """Return the boolean that ``text`` stands for: 1 t T TRUE true True, or 0 f F FALSE false False."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("must be a boolean (true or false)")


def parse_int(text: str) -> int:
    """Return the 64-bit number that ``text`` is a Go literal of: decimal, 0x, 0o, 0b, or octal after 0."""
    match = _GO_INT.fullmatch(text)
    if not match or match.lastgroup is None:
        raise ValueError("must be an integer")
    digits = match[match.lastgroup].replace("_", "")
    number = int(digits, _BASES[match.lastgroup]) if len(digits) <= _DIGITS_MAX else INT64_MAX + 1
    if text.startswith("-"):
        number = -number
    if not INT64_MIN <= number <= INT64_MAX:
        raise ValueError("must fit into 64 bits")
    return number


def parse_uint16(text: str) -> int:
    """Return the number 0..65535 that ``text`` is, in decimal digits only."""
    if not _DECIMAL.fullmatch(text):
        raise ValueError("must be an integer in decimal digits")
    digits = text.lstrip("0") or "0"
    if len(digits) > 5 or int(digits) > 0xFFFF:
        raise ValueError("must be between 0 and 65535")
    return int(digits)


def parse_mode(text: str) -> int | None:
    """Return the file mode that the octal digits of ``text`` stand for; None if it is empty."""
    if not text:
        return None
    if not re.fullmatch(r"(?:0o)?[0-7]{1,4}", text) or int(text.removeprefix("0o"), 8) > 0o777:
        raise ValueError('must be a file mode in octal digits, such as "0660"')
    return int(text.removeprefix("0o"), 8)


def parse_owner(text: str) -> tuple[str, str]:
    """Split ``USER:GROUP``, ``USER`` or ``:GROUP`` into user and group; empty parts mean unchanged."""
    user, _, group = text.partition(":")
    if ":" in group or any(c.isspace() for c in text) or (text and not user and not group):
        raise ValueError("must be USER:GROUP, USER or :GROUP")
    return user, group


_NAME = re.compile(r"\*|(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")


def parse_names(text: str) -> list[str]:
    """Split a list of host names, separated by commas; ``*`` stands for any name."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"must be host names without port, separated by commas, which {shorten(name)} is not"
            )
    return names


def plain(text: str) -> str:
    """Return a name for a message: control characters escaped, cut to a readable length, not quoted."""
    text = visible(text[:60])
    return text if len(text) < 60 else text[:57] + "..."


def shorten(value: object) -> str:
    """Return ``value`` for a message: quoted, control characters escaped, cut to a readable length."""
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 60 else text[:57] + "..."


__all__ = [
    "INT64_MAX",
    "INT64_MIN",
    "given_bytes",
    "parse_bool",
    "parse_int",
    "parse_mode",
    "parse_names",
    "parse_owner",
    "parse_uint16",
    "plain",
    "shorten",
]
