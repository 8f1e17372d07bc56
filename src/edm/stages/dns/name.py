"""Domain names inside DNS messages: labels and compression pointers (RFC 1035, 4.1.4).

What is accepted is wider than the RFC: a pointer may point anywhere in the buffer, also forward and into
the header, because the Go daemon's library takes it so. Loops end at :data:`POINTERS_MAX`.
"""

from __future__ import annotations

from typing import Any

from edm.kernel.columns import NAME_MAX
from edm.kernel.jit import force_inlined, inlined, u8

POINTERS_MAX = 126
"""Pointers that one name may follow; the 127th makes it invalid."""


@inlined
def skip_name(buf: Any, base: Any, pos: Any, end: Any) -> Any:
    """Check the name at ``pos`` and return the position behind it, or -1 if it is not valid.

    Parameters
    ----------
    buf : uint8[:]
    base : int64
        Where the message begins: pointers count from here.
    pos, end : int64
        First byte of the name; no byte at or behind ``end`` belongs to the message.
    """
    room = NAME_MAX - 1  # the root byte is not counted
    pointers = 0
    behind = -1
    # A label that runs over the end leaves pos >= end, so this one test covers it too.
    while pos < end:
        size = u8(buf, pos)
        pos += 1
        if size == 0:
            return pos if pointers == 0 else behind
        if size < 0x40:
            pos += size
            room -= size + 1
            if room < 0:
                return -1
        elif size >= 0xC0 and pos < end:
            pointers += 1
            if pointers > POINTERS_MAX:
                return -1
            if pointers == 1:
                behind = pos + 1
            pos = base + ((size & 0x3F) << 8 | u8(buf, pos))
        else:
            return -1
    return -1


@force_inlined
def plain_length(buf: Any, pos: Any, end: Any) -> Any:
    """Return the length, root byte included, of a valid name without pointers at ``pos``, or else 0."""
    start = pos
    while pos < end:
        size = u8(buf, pos)
        pos += 1 + size
        if size == 0:
            return pos - start if pos - start <= NAME_MAX else 0
        if size >= 0x40:
            return 0
    return 0


@inlined
def spell_name(buf: Any, base: Any, pos: Any, out: Any, to: Any) -> Any:
    """Write the name at ``pos`` without compression to ``out[to:]``; return its length with the root byte.

    :func:`skip_name` has accepted the name; ``out`` has room for 255 bytes. Case is kept.
    """
    start = to
    while True:
        size = u8(buf, pos)
        if size >= 0xC0:
            pos = base + ((size & 0x3F) << 8 | u8(buf, pos + 1))
            continue
        for k in range(size + 1):
            out[to + k] = buf[pos + k]
        to += size + 1
        pos += size + 1
        if size == 0:
            return to - start


__all__ = ["POINTERS_MAX", "plain_length", "skip_name", "spell_name"]
