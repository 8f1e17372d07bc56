"""Passwords in URLs, which never stand in a log, an error, or a shown configuration."""

from __future__ import annotations

import re

MASK = "***"

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


__all__ = ["MASK", "mask_passwords"]
