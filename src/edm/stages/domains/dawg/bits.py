"""Reading numbers of any width from a stream of bits, most significant bit first, as in DAWG files.

Positions are bit offsets from the start of the buffer. Everything is ``uint64``: signed positions would cost a
wrap-around check per byte, and mixing the two would turn the result into a float.
"""

from __future__ import annotations

import numpy as np

from edm.kernel.columns import U64, Bytes
from edm.kernel.jit import force_inlined

PADDING = 32
"""Readable zero bytes that must follow the data, so that any field may be read before its end is checked."""

MAX_CODE_GROUPS = 5
"""7-bit groups of the longest number in the 7-bit code that is accepted (35 bits)."""

U0, U1, U2, U3, U4, U5, U6, U7, U8 = (np.uint64(i) for i in range(9))
_U16, _U24, _U32, _U40, _U48, _U56, _U63 = (np.uint64(i) for i in (16, 24, 32, 40, 48, 56, 63))
_UFF = np.uint64(0xFF)


@force_inlined
def load_be(buf: Bytes, i: U64) -> U64:
    """Return the eight bytes at byte ``i`` (uint64) as a big-endian number. The caller has checked ``i + 8``."""
    return (
        (np.uint64(buf[i]) << _U56)
        | (np.uint64(buf[i + U1]) << _U48)
        | (np.uint64(buf[i + U2]) << _U40)
        | (np.uint64(buf[i + U3]) << _U32)
        | (np.uint64(buf[i + U4]) << _U24)
        | (np.uint64(buf[i + U5]) << _U16)
        | (np.uint64(buf[i + U6]) << U8)
        | np.uint64(buf[i + U7])
    )


@force_inlined
def get_bits(buf: Bytes, pos: U64, width: U64) -> U64:
    """Return the ``width`` bits (0 to 57) at bit ``pos``; both ``uint64``."""
    # Two shifts, because one by 64 (a field of width 0) is undefined.
    return ((load_be(buf, pos >> U3) << (pos & U7)) >> U1) >> (_U63 - width)


@force_inlined
def put_bits(buf: Bytes, pos: U64, value: U64, width: U64) -> U64:
    """Write ``value`` into ``width`` bits (0 to 57) at bit ``pos``, which are still zero; return the end."""
    end = pos + width
    if width == U0:
        return end
    i = pos >> U3
    word = (value << (_U63 - width + U1)) >> (pos & U7)
    while word != U0:
        buf[i] |= np.uint8((word >> _U56) & _UFF)
        word = word << U8
        i += U1
    return end


__all__ = ["MAX_CODE_GROUPS", "PADDING", "get_bits", "load_be", "put_bits"]
