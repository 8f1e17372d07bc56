"""Frame location: find the data frames in a buffer of the data phase of a Frame Streams connection or file.

A frame is a big-endian 32-bit length and that many bytes; the length 0 announces a control frame (Frame
Streams specification, "Frame format").
"""

from __future__ import annotations

import numpy as np

from edm.kernel.columns import I64, Bytes, U32Array
from edm.kernel.jit import kernel

NEED_MORE = 0
"""The rest is an incomplete frame, or nothing."""
CONTROL = 1
"""A control frame begins at the position (perhaps not whole yet)."""
OVERSIZED = 2
"""The frame at the position announces more bytes than allowed."""
FULL = 3
"""The next frame is whole but there is no row left for it."""

LENGTH_BYTES = 4
"""Bytes of the length word before each frame."""

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_3 = np.uint64(3)
_4 = np.uint64(4)
_8 = np.uint64(8)
_16 = np.uint64(16)
_24 = np.uint64(24)


@kernel
def locate_frames(
    buf: Bytes, start: I64, stop: I64, max_frame: I64, off: U32Array, length: U32Array
) -> tuple[I64, I64, I64]:
    """Locate the whole data frames in ``buf[start:stop]``.

    Parameters
    ----------
    buf : uint8[], writable like every block so that only one form of the kernel is compiled
    start, stop : int
        Bounds of the bytes to look at, ``0 <= start <= stop <= len(buf) < 2**32``.
    max_frame : int
        Most bytes that a frame's payload may have.
    off, length : uint32[rows]
        Filled with the payload's offset in ``buf`` and its length, one row per frame.

    Returns
    -------
    count : int
        Rows filled.
    position : int
        Where the bytes not consumed begin: always at a frame's length word.
    status : int
        :data:`NEED_MORE`, :data:`CONTROL`, :data:`OVERSIZED` or :data:`FULL`.
    """
    position = np.uint64(start)
    end = np.uint64(stop)
    limit = np.uint64(max_frame)
    rows = np.uint64(off.size)
    count = _0
    status = NEED_MORE
    while end - position >= _4:
        size = (
            (np.uint64(buf[position]) << _24)
            | (np.uint64(buf[position + _1]) << _16)
            | (np.uint64(buf[position + _2]) << _8)
            | np.uint64(buf[position + _3])
        )
        if size == _0:
            status = CONTROL
            break
        if size > limit:
            status = OVERSIZED
            break
        if size > end - position - _4:
            break
        if count == rows:
            status = FULL
            break
        off[count] = position + _4
        length[count] = size
        count += _1
        position += _4 + size
    return np.int64(count), np.int64(position), status


__all__ = ["CONTROL", "FULL", "LENGTH_BYTES", "NEED_MORE", "OVERSIZED", "locate_frames"]
