"""The description of one configuration key: its type, its names, its checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Literal, TypeAlias

from edm.config.values import INT64_MAX, INT64_MIN, parse_bool, parse_int, parse_uint16, shorten
from edm.errors import mask_passwords

Value: TypeAlias = bool | int | str
Kind: TypeAlias = Literal["bool", "int", "uint16", "string"]
Reload: TypeAlias = Literal["restart", "reload", "rotation"]

ENVIRONMENT_PREFIX = "DNSTAPIR_EDM_"
MASK = "********"

_TOML_TYPES: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    str: "string",
    float: "float",
    dict: "table",
    list: "array",
}
_PARSERS: dict[Kind, Callable[[str], Value]] = {
    "bool": parse_bool,
    "int": parse_int,
    "uint16": parse_uint16,
    "string": str,
}


def _an(noun: str) -> str:
    return f"an {noun}" if noun[0] in "ai" else f"a {noun}"


@dataclasses.dataclass(frozen=True)
class Key:
    """One configuration key: type, default, names, help text, limits.

    Attributes
    ----------
    name : as in the TOML file and, behind dashes, on the command line.
    kind : its type; ``uint16`` is an integer that flags and environment take in decimal digits only.
    reload : when a changed value takes effect: after a ``restart``, at once on ``reload``, or on reload but
        only at the next ``rotation``.
    toml_only : has neither a flag nor a name in the environment.
    empty_ok : an empty string switches off what the key is for, so ``check`` does not apply to it.
    """

    name: str
    kind: Kind
    default: Value
    help: str
    group: str
    reload: Reload = "restart"
    secret: bool = False
    toml_only: bool = False
    unit: str = ""
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[str], object] | None = None
    empty_ok: bool = True

    @cached_property
    def attribute(self) -> str:
        """Name of the attribute in :class:`Settings`."""
        return self.name.replace("-", "_")

    @property
    def flag(self) -> str:
        """The flag on the command line, with its dashes."""
        return "--" + self.name

    @cached_property
    def variable(self) -> str:
        """Name in the environment."""
        return ENVIRONMENT_PREFIX + self.attribute.upper()

    def parse(self, text: str) -> Value:
        """Return the value that ``text`` from a flag or the environment stands for; ValueError if none."""
        value = _PARSERS[self.kind](text)
        self.check_value(value)
        return value

    def accept(self, value: object) -> Value:
        """Return ``value`` from a TOML file if its type fits and it passes the checks; ValueError if not."""
        wanted = "boolean" if self.kind == "bool" else "string" if self.kind == "string" else "integer"
        found = _TOML_TYPES.get(type(value), "date or time")
        if not isinstance(value, bool | int | str) or found != wanted:
            raise ValueError(f"must be {_an(wanted)}, not {_an(found)}")
        if self.kind == "int" and not INT64_MIN <= int(value) <= INT64_MAX:
            raise ValueError("must fit into 64 bits")
        if self.kind == "uint16" and not 0 <= int(value) <= 0xFFFF:
            raise ValueError("must be between 0 and 65535")
        self.check_value(value)
        return value

    def check_value(self, value: Value) -> None:
        """Raise ValueError if ``value`` can never be used for this key, with any values of the other keys."""
        if isinstance(value, str):
            if "\0" in value and not self.secret:
                raise ValueError("must not contain a NUL character")
            if self.choices and value not in self.choices:
                raise ValueError(f"must be one of {', '.join(self.choices)}")
            if self.check and (value or not self.empty_ok):
                self.check(value)

    def range_reason(self, value: Value) -> str | None:
        """Return why ``value`` is out of range, or None. Applies to the value in effect only."""
        if isinstance(value, str | bool):
            return None
        if self.minimum is not None and self.maximum is not None:
            if not self.minimum <= value <= self.maximum:
                return f"must be between {self.minimum} and {self.maximum}"
        elif self.minimum is not None and value < self.minimum:
            return f"must be at least {self.minimum}"
        return None

    def show(self, value: Value) -> str:
        """Return ``value`` for reading: secrets masked, booleans in TOML's spelling, strings quoted."""
        if self.secret and value:
            return MASK
        return (
            shorten(value)
            if isinstance(value, bool)
            else str(value)
            if isinstance(value, int)
            else repr(mask_passwords(value))
        )


__all__ = ["ENVIRONMENT_PREFIX", "MASK", "Key", "Kind", "Reload", "Value"]
