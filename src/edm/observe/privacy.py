"""The privacy filter of the logs: hides everything in a log line that may be a client's address.

It rather hides too much. Text that only looks like an address (a version number of four parts, a certificate
fingerprint) is hidden too. Bytes are never shown, because four of them may be an address; their Python notation
(``b'...'``) is hidden in text as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from edm.errors import mask_passwords
from edm.files.visible import visible

HIDDEN = "<address>"
"""Replaces each address."""

OPERATOR_KEYS = frozenset({"address", "server", "url", "startup_error"})
"""Keys whose values come from the configuration, such as the address of a server. ``startup_error`` is safe
because at start no frame, and so no client address, has come in yet."""

_V4 = r"\d{1,3}(?:\.\d{1,3}){3}"
_GROUP = r"[0-9A-Fa-f]{1,4}"
_V6_TAIL = rf"(?:{_V4}|{_GROUP})"
# No anchors: in the repr of a line break before an address, the address follows the letter n. Repetitions are
# bounded, so matching takes linear time.
_ADDRESS = re.compile(
    rf"(?:{_GROUP}(?::{_GROUP}){{0,6}})?::(?:(?:{_GROUP}:){{0,6}}{_V6_TAIL})"  # a::b, ::b, ::ffff:192.0.2.1
    rf"|{_GROUP}(?::{_GROUP}){{0,6}}::"  # a::
    rf"|(?:{_GROUP}:){{6}}(?:{_V4}|{_GROUP}:{_GROUP})"  # all eight groups, or six and a dotted quad
    rf"|{_V4}"
)
_BYTES = re.compile(r"""\bb(?:'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?)""")
_PLAIN = (bool, int, float, type(None))
_DEPTH = 6


def redact(text: str) -> str:
    """Return ``text`` with IP addresses, passwords in URLs and Python bytes literals hidden."""
    text = mask_passwords(text)
    if "b'" in text or 'b"' in text:
        text = _BYTES.sub("b'...'", text)
    if ":" in text or "." in text:
        text = _ADDRESS.sub(HIDDEN, text)
    return text


def redact_value(value: Any, depth: int = _DEPTH) -> Any:
    """Return a log field's value with addresses hidden, also inside containers.

    Objects other than numbers, text and containers are replaced by their redacted ``repr``, bytes by their
    length, arrays by their type.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if depth > 0 and isinstance(value, Mapping):
        return {redact(str(key)): redact_value(item, depth - 1) for key, item in value.items()}
    if depth > 0 and isinstance(value, list | tuple | set | frozenset):
        return [redact_value(item, depth - 1) for item in value]
    if isinstance(value, BaseException):
        return redact(f"{type(value).__name__}: {value}" if str(value) else type(value).__name__)
    if hasattr(value, "__array_interface__"):
        return f"<{type(value).__name__}>"
    return redact(repr(value))


def told(last: tuple[float, str] | None) -> dict[str, float | str] | None:
    """Return an error and its time as the status shows it: nothing in it can be an address or control a terminal."""
    return None if last is None else {"time": last[0], "text": visible(redact(last[1]))[:300]}


class PrivacyFilter:
    """A structlog processor that redacts the event and all its fields except those under allowed keys.

    Parameters
    ----------
    allowed : iterable of str
        Keys whose values are the operator's own addresses.
    """

    def __init__(self, allowed: Iterable[str] = OPERATOR_KEYS) -> None:
        self.allowed = frozenset(allowed)

    def __call__(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Redact ``event`` in place."""
        for key, value in event.items():
            if key not in self.allowed or not isinstance(value, str):
                event[key] = redact_value(value)
            else:
                event[key] = mask_passwords(value)
        return event


__all__ = ["HIDDEN", "OPERATOR_KEYS", "PrivacyFilter", "redact", "redact_value", "told"]
