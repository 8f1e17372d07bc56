"""Exceptions for errors that an operator, a file or a peer can cause.

Each message names the thing and the reason. Passwords in it are masked.
"""

from __future__ import annotations

import re

MASK = "***"
"""Shown instead of a password in a URL."""

# A password that was not percent-encoded may hold any character, so it is taken to end at the last "@". It may hold
# a space unless a number follows the first colon, because that number would be a port.
_USER = re.compile(r"""(://)(?:[^\s/:@"']*:(?!\d+(?:[/\s:,;)"']|$))[^\n"']*|\S*)@""")
_BARE_USER = re.compile(r"""(?<![\w/])[\w.%+~-]+:[^\s@/"']+@(?=[\w\[])""")
_QUERY = re.compile(
    r"""([?&;](?:password|passwd|pass|pwd|token|access_token|secret|auth|api_?key|key)=)[^&;\s"'#]+""",
    re.IGNORECASE,
)


def mask_passwords(text: str) -> str:
    """Return ``text`` with ``***`` for the user part of each URL and for secrets in its query."""
    if "@" in text:
        text = _BARE_USER.sub(f"{MASK}@", _USER.sub(rf"\1{MASK}@", text))
    if "=" in text:
        text = _QUERY.sub(rf"\1{MASK}", text)
    return text


class EdmError(Exception):
    """Base of all errors that end in one clear line for the operator, never in a traceback and without passwords."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(mask_passwords(a) if isinstance(a, str) else a for a in arguments))


class ConfigError(EdmError):
    """The configuration cannot be used. ``violations`` holds one line for each mistake."""

    def __init__(self, *violations: str) -> None:
        super().__init__("; ".join(violations))
        self.violations = tuple(map(mask_passwords, violations))


class ListFileError(EdmError):
    """A list file (domain list, ignored names, ignored clients) cannot be used."""


class KeyFileError(EdmError):
    """A key or certificate file cannot be used."""


class StoreError(EdmError):
    """The store of seen names cannot be opened or is damaged beyond repair."""


class InputError(EdmError):
    """An input (socket, capture file) cannot be opened or read."""


class ProtocolError(EdmError):
    """A peer broke the Frame Streams protocol; its connection is closed."""


class OutputError(EdmError):
    """An output file or directory cannot be written."""
