"""The exceptions that an operator's input can cause: each message names the thing and the reason, and no password."""

from __future__ import annotations

import re

MASK = "***"
"""What is shown in the place of a password in a URL."""

# A password may hold any character if somebody forgot to encode it, so what looks like one ends at the last "@"; with
# a space in it only if no number follows the first colon, since that would be a port.
_USER = re.compile(r"""(://)(?:[^\s/:@"']*:(?!\d+(?:[/\s:,;)"']|$))[^\n"']*|\S*)@""")
_BARE_USER = re.compile(r"""(?<![\w/])[\w.%+~-]+:[^\s@/"']+@(?=[\w\[])""")
_QUERY = re.compile(
    r"""([?&;](?:password|passwd|pass|pwd|token|access_token|secret|auth|api_?key|key)=)[^&;\s"'#]+""",
    re.IGNORECASE,
)


def mask_passwords(text: str) -> str:
    """Return ``text`` with what stands before the host of a URL, and secrets in its query, replaced by ``***``."""
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
    """The configuration cannot be used. ``violations`` holds one line for each thing that is wrong."""

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
