"""Which values are in effect, by the rules: flag before environment before file before default."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from edm.config.key import Key

TRUE = ["1", "t", "T", "TRUE", "true", "True"]
FALSE = ["0", "f", "F", "FALSE", "false", "False"]
TYPES = {"bool": bool, "int": int, "uint16": int, "string": str}
LIMITS = {"int": (-(1 << 63), (1 << 63) - 1), "uint16": (0, 0xFFFF)}


class WrongError(Exception):
    """The configuration cannot be used."""


def go_parse_int(text: str) -> int | None:
    """strconv.ParseInt(text, 0, 64) as its documentation tells it, digit by digit; None for an error."""
    sign, body = 1, text
    if body[:1] in ("+", "-"):
        sign = -1 if body[0] == "-" else 1
        body = body[1:]
    base = 10
    # "underscores may separate digits, and may stand between a base prefix and the digits"
    previous_is_digit = False
    if len(body) >= 3 and body[0] == "0" and body[1] in "bBoOxX":
        base = {"b": 2, "o": 8, "x": 16}[body[1].lower()]
        body = body[2:]
        previous_is_digit = True
    elif len(body) >= 2 and body[0] == "0":
        base = 8
    if not body:
        return None
    number = 0
    for c in body:
        if c == "_":
            if not previous_is_digit:
                return None
            previous_is_digit = False
            continue
        digit = "0123456789abcdef".find(c.lower()) if c.isascii() else -1
        if digit < 0 or digit >= base:
            return None
        number = number * base + digit
        previous_is_digit = True
    if not previous_is_digit:
        return None
    number *= sign
    return number if -(2**63) <= number < 2**63 else None


def from_text(key: Key, text: str) -> Any:
    """Return the value that a flag or a variable of the environment stands for."""
    if key.kind == "bool":
        if text not in TRUE + FALSE:
            raise WrongError(key.name)
        return text in TRUE
    if key.kind == "string":
        return text
    number = go_parse_int(text) if key.kind == "int" else _decimal(text)
    return _within(key, number)


def _decimal(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,4000}", text) else None


def _within(key: Key, number: int | None) -> int:
    low, high = LIMITS[key.kind]
    if number is None or not low <= number <= high:
        raise WrongError(key.name)
    return number


def from_file(keys: Mapping[str, Key], text: str) -> dict[str, Any]:
    """Return the values of a TOML file."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError):
        raise WrongError("no TOML") from None
    values: dict[str, Any] = {}
    lower = [name.lower() for name in content]
    if len(set(lower)) != len(lower):
        raise WrongError("set twice")
    for name, value in content.items():
        if name.lower() == "config-file":
            continue
        key = keys.get(name.lower())
        if key is None or type(value) is not TYPES[key.kind]:
            raise WrongError(name)
        values[key.name] = value if key.kind in ("bool", "string") else _within(key, value)
    return values


def merge(
    keys: Mapping[str, Key], text: str, environ: Mapping[str, str], flags: Mapping[str, str]
) -> dict[str, Any]:
    """Return the value of each key that is set anywhere; WrongError if one of them is wrong by itself."""
    values = from_file(keys, text)
    variables = {"DNSTAPIR_EDM_" + name.upper().replace("-", "_"): key for name, key in keys.items()}
    for variable, given in environ.items():
        key = variables.get(variable)
        if key is not None and not key.toml_only:
            values[key.name] = from_text(key, given)
    for name, given in flags.items():
        if name not in keys or keys[name].toml_only:
            raise WrongError(name)
        values[name] = from_text(keys[name], given)
    return values
