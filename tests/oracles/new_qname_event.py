"""The new_qname event, made with Python's ``json`` and ``datetime``."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def presentation(labels: list[bytes]) -> str:
    """Return a name in presentation form, every name ending in a dot."""
    text = ""
    for label in labels:
        for byte in label:
            if (byte < 0x21 and byte != 0x20) or byte > 0x7E:
                text += f"\\{byte:03d}"
            elif chr(byte) in ".\\\"'();@ ":
                text += "\\" + chr(byte)
            else:
                text += chr(byte)
        text += "."
    return text or "."


def event(
    labels: list[bytes], flags: int, qtype: int, qclass: int, seconds: int | None, nanoseconds: int | None
) -> bytes | None:
    """Return the payload, or None if RFC 3339 cannot express the time."""
    when = _EPOCH
    if seconds is not None and seconds < 2**63:
        try:
            when += timedelta(seconds=seconds + (nanoseconds or 0) // 10**9)
        except OverflowError:
            return None
    members = {
        "flags": flags,
        "qclass": qclass,
        "qname": presentation(labels),
        "qtype": qtype,
        "timestamp": f"{when.year:04d}-{when:%m-%dT%H:%M}:00Z",
        "type": "new_qname",
        "version": 0,
    }
    text = json.dumps(members, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("ascii")
