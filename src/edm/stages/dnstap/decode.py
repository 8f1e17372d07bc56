"""Decoding of dnstap payloads: one kernel over a batch of frames fills the dnstap columns.

The schema is dnstap.proto as of protocol version 1, the wire format that of Protocol Buffers ("Encoding").
What is accepted and rejected follows the protobuf runtime of the Go daemon: enums are open, fields of a wrong
wire type are unknown fields, repeated fields overwrite and repeated messages merge, required fields are
checked on the merged result, groups are skipped but must be well formed.

All positions are ``uint64``: a signed index would cost a wrap-around check on every byte.
"""

from __future__ import annotations

import numpy as np

from edm.kernel.columns import (
    DNS_PARSE_ERROR,
    FRAME_LEN,
    FRAME_OFF,
    HAS_IDENTITY,
    HAS_QUERY_ADDRESS,
    HAS_QUERY_PORT,
    HAS_RESPONSE_ADDRESS,
    HAS_RESPONSE_MESSAGE,
    HAS_RESPONSE_PORT,
    HAS_RESPONSE_TIME_NSEC,
    HAS_RESPONSE_TIME_SEC,
    HAS_SOCKET_FAMILY,
    HAS_SOCKET_PROTOCOL,
    I64,
    IDENTITY_LEN,
    IDENTITY_OFF,
    LEFT_ROW,
    MESSAGE_TYPE,
    PENDING,
    PRESENT,
    QUERY,
    QUERY_ADDRESS_LEN,
    QUERY_ADDRESS_OFF,
    QUERY_PORT,
    RESPONSE_ADDRESS_LEN,
    RESPONSE_ADDRESS_OFF,
    RESPONSE_MESSAGE_LEN,
    RESPONSE_MESSAGE_OFF,
    RESPONSE_PORT,
    RESPONSE_TIME_NSEC,
    RESPONSE_TIME_SEC,
    SOCKET_FAMILY,
    SOCKET_PROTOCOL,
    U64,
    UNDECODABLE,
    Bytes,
    Fates,
    U8Array,
    U32Array,
    U32Columns,
    U64Array,
    U64Columns,
)
from edm.kernel.jit import allocating_kernel, inlined
from edm.stages.dnstap.usual import decode_usual

GROUP_DEPTH_MAX = 10_001
"""Groups may be nested this deep; the protobuf runtime of the Go daemon gives up beyond."""

# Bits beside the HAS_* ones while a frame is being decoded.
_HAS_MESSAGE = 1 << 29
_HAS_MESSAGE_TYPE = 1 << 30
_HAS_DNSTAP_TYPE = 1 << 31
_COLUMN_BITS = (1 << 29) - 1

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_3 = np.uint64(3)
_4 = np.uint64(4)
_5 = np.uint64(5)
_7 = np.uint64(7)
_8 = np.uint64(8)
_63 = np.uint64(63)
_7F = np.uint64(0x7F)
_80 = np.uint64(0x80)
_LOW_32 = np.uint64(0xFFFFFFFF)
_HIGHEST_TAG = np.uint64(0xFFFFFFFF)
_BAD = np.uint64(0xFFFFFFFFFFFFFFFF)

# Tags (field number << 3 | wire type), those of Message with bit 7 set to tell them from those of Dnstap.
_INSIDE = np.uint64(0x80)
_D_IDENTITY = 1 << 3 | 2
_D_MESSAGE = np.uint64(14 << 3 | 2)
_D_TYPE = 15 << 3 | 0
_M_TYPE = 0x80 | 1 << 3 | 0
_M_SOCKET_FAMILY = 0x80 | 2 << 3 | 0
_M_SOCKET_PROTOCOL = 0x80 | 3 << 3 | 0
_M_QUERY_ADDRESS = 0x80 | 4 << 3 | 2
_M_RESPONSE_ADDRESS = 0x80 | 5 << 3 | 2
_M_QUERY_PORT = 0x80 | 6 << 3 | 0
_M_RESPONSE_PORT = 0x80 | 7 << 3 | 0
_M_RESPONSE_TIME_SEC = 0x80 | 12 << 3 | 0
_M_RESPONSE_TIME_NSEC = 0x80 | 13 << 3 | 5
_M_RESPONSE_MESSAGE = 0x80 | 14 << 3 | 2


@inlined
def _varint_end(buf: Bytes, pos: U64, stop: U64) -> U64:
    """Return the position after the varint at ``pos``, or ``_BAD`` if it is cut off or exceeds 64 bits."""
    for k in range(10):
        if pos >= stop:
            return _BAD
        byte = np.uint64(buf[pos])
        pos += _1
        if byte < _80:
            return _BAD if k == 9 and byte > _1 else pos
    return _BAD


@inlined
def _varint_value(buf: Bytes, pos: U64, end: U64) -> U64:
    """Return the value of the whole varint ``buf[pos:end]``."""
    value = _0
    while end > pos:
        end -= _1
        value = (value << _7) | (np.uint64(buf[end]) & _7F)
    return value


@allocating_kernel
def _skip_group(buf: Bytes, pos: U64, stop: U64, number: U64) -> U64:
    """Return the position after the group ``number`` whose start tag ends at ``pos``, or ``_BAD``.

    Only damaged or hostile frames contain groups, and only nested ones need the stack: the one allocation
    of this kernel is of no account, while a stack in every caller would be.
    """
    stack = np.empty(0, np.uint64)
    depth = 1
    while True:
        end = _varint_end(buf, pos, stop)
        if end == _BAD:
            return _BAD
        tag = _varint_value(buf, pos, end)
        pos = end
        wire = tag & _7
        inner = tag >> _3
        # Inside a group the runtime allows field numbers up to 2**31-1, outside only up to 2**29-1.
        if inner == _0 or inner > np.uint64(0x7FFFFFFF):
            return _BAD
        if wire == _0:
            pos = _varint_end(buf, pos, stop)
            if pos == _BAD:
                return _BAD
        elif wire == _2:
            end = _varint_end(buf, pos, stop)
            if end == _BAD:
                return _BAD
            size = _varint_value(buf, pos, end)
            if size > stop - end:
                return _BAD
            pos = end + size
        elif wire == _3:
            if depth == GROUP_DEPTH_MAX:
                return _BAD
            if stack.size == 0:
                stack = np.empty(GROUP_DEPTH_MAX, np.uint64)
            stack[depth - 1] = number
            number = inner
            depth += 1
        elif wire == _4:
            if inner != number:
                return _BAD
            depth -= 1
            if depth == 0:
                return pos
            number = stack[depth - 1]
        elif wire in (_1, _5):
            size = _8 if wire == _1 else _4
            if size > stop - pos:
                return _BAD
            pos += size
        else:
            return _BAD


@inlined
def _reset_row(u32: U32Columns, u64: U64Columns, i: U64) -> None:
    """Give every dnstap column of row ``i`` the value that stands for "absent"."""
    u32[SOCKET_FAMILY, i] = 1  # the proto2 default of an enum is its first value, INET
    u32[SOCKET_PROTOCOL, i] = 0
    u32[QUERY_PORT, i] = 0
    u32[RESPONSE_PORT, i] = 0
    u32[RESPONSE_TIME_NSEC, i] = 0
    u32[IDENTITY_OFF, i] = 0
    u32[IDENTITY_LEN, i] = 0
    u32[QUERY_ADDRESS_OFF, i] = 0
    u32[QUERY_ADDRESS_LEN, i] = 0
    u32[RESPONSE_ADDRESS_OFF, i] = 0
    u32[RESPONSE_ADDRESS_LEN, i] = 0
    u32[RESPONSE_MESSAGE_OFF, i] = 0
    u32[RESPONSE_MESSAGE_LEN, i] = 0
    u64[RESPONSE_TIME_SEC, i] = 0


@inlined
def _store_number(u32: U32Columns, u64: U64Columns, i: U64, field: U64, value: U64) -> I64:
    """Store the varint ``value`` of ``field`` in row ``i``; return its presence bit, 0 for other fields."""
    if field == _M_TYPE:
        u32[MESSAGE_TYPE, i] = value & _LOW_32
        return _HAS_MESSAGE_TYPE
    if field == _M_SOCKET_FAMILY:
        u32[SOCKET_FAMILY, i] = value & _LOW_32
        return HAS_SOCKET_FAMILY
    if field == _M_SOCKET_PROTOCOL:
        u32[SOCKET_PROTOCOL, i] = value & _LOW_32
        return HAS_SOCKET_PROTOCOL
    if field == _M_QUERY_PORT:
        u32[QUERY_PORT, i] = value & _LOW_32
        return HAS_QUERY_PORT
    if field == _M_RESPONSE_PORT:
        u32[RESPONSE_PORT, i] = value & _LOW_32
        return HAS_RESPONSE_PORT
    if field == _M_RESPONSE_TIME_SEC:
        u64[RESPONSE_TIME_SEC, i] = value
        return HAS_RESPONSE_TIME_SEC
    if field == _D_TYPE:
        return _HAS_DNSTAP_TYPE
    return 0


@inlined
def _store_bytes(u32: U32Columns, i: U64, field: U64, off: U64, size: U64) -> I64:
    """Store where the bytes of ``field`` stand in row ``i``; return its presence bit, 0 for other fields."""
    if field == _M_QUERY_ADDRESS:
        u32[QUERY_ADDRESS_OFF, i] = off
        u32[QUERY_ADDRESS_LEN, i] = size
        return HAS_QUERY_ADDRESS
    if field == _M_RESPONSE_ADDRESS:
        u32[RESPONSE_ADDRESS_OFF, i] = off
        u32[RESPONSE_ADDRESS_LEN, i] = size
        return HAS_RESPONSE_ADDRESS
    if field == _M_RESPONSE_MESSAGE:
        u32[RESPONSE_MESSAGE_OFF, i] = off
        u32[RESPONSE_MESSAGE_LEN, i] = size
        return HAS_RESPONSE_MESSAGE
    if field == _D_IDENTITY:
        u32[IDENTITY_OFF, i] = off
        u32[IDENTITY_LEN, i] = size
        return HAS_IDENTITY
    return 0


@inlined
def _fate_of(u32: U32Columns, i: U64, seen: I64) -> I64:
    """Return the fate of row ``i`` whose bytes were well formed and in which the fields ``seen`` occurred."""
    if seen & _HAS_DNSTAP_TYPE == 0:
        return UNDECODABLE
    if seen & _HAS_MESSAGE == 0:
        return DNS_PARSE_ERROR
    if seen & _HAS_MESSAGE_TYPE == 0:
        return UNDECODABLE
    message_type = np.int64(u32[MESSAGE_TYPE, i])
    return QUERY if message_type & 1 and message_type <= 13 else PENDING


def decode_frames(buf: U8Array, u32: U32Array, u64: U64Array, fate: U8Array, n: int) -> None:
    """Decode the frames of a batch.

    Parameters
    ----------
    buf : uint8[]
        The block. Offsets below 2**32.
    u32, u64, fate : the columns of the batch, see :mod:`edm.kernel.columns`
        Read: ``FRAME_OFF``, ``FRAME_LEN``, which lie within ``buf``. Written: ``fate``, to ``UNDECODABLE``
        (not a valid protobuf message), ``DNS_PARSE_ERROR`` (no Message in it), ``QUERY`` or ``PENDING``; and
        for ``PENDING`` rows every dnstap column, those of absent fields with 0 (``SOCKET_FAMILY``: 1).
    n : int
        Rows to decode.
    """
    others = decode_usual(buf, u32, u64, fate, n)
    if others:
        decode_others(buf, u32, u64, fate, others)


@allocating_kernel
def decode_others(buf: Bytes, u32: U32Columns, u64: U64Columns, fate: Fates, others: I64) -> None:
    """Decode the ``others`` frames listed in ``LEFT_ROW``, whatever they look like; see :func:`decode_frames`."""
    # One long function: with the fields of a frame in a function of their own, and varints in another, frames took 10
    # to 30 % longer here.
    for j in range(np.uint64(others)):
        i = np.uint64(u32[LEFT_ROW, j])
        pos = np.uint64(u32[FRAME_OFF, i])
        frame_stop = pos + np.uint64(u32[FRAME_LEN, i])
        stop = frame_stop
        inside = _0  # _INSIDE while within the Message
        seen = 0
        well_formed = True
        _reset_row(u32, u64, i)
        while True:
            if pos == stop:
                if inside == _0:
                    break
                inside = _0
                stop = frame_stop
                continue
            tag = np.uint64(buf[pos])
            pos += _1
            if tag >= _80:
                end = _varint_end(buf, pos - _1, stop)
                if end == _BAD:
                    well_formed = False
                    break
                tag = _varint_value(buf, pos - _1, end)
                pos = end
            if tag < _8 or tag > _HIGHEST_TAG:
                well_formed = False
                break
            # Fields from 16 on are unknown: their tags must not be taken for marked ones of Message.
            field = tag | inside if tag < _80 else _0
            wire = tag & _7
            if wire in (_0, _2):
                # A varint: the value, or the length of what follows.
                if pos == stop:
                    well_formed = False
                    break
                value = np.uint64(buf[pos])
                pos += _1
                if value >= _80:
                    value &= _7F
                    shift = _7
                    while pos < stop:
                        byte = np.uint64(buf[pos])
                        pos += _1
                        value |= (byte & _7F) << shift
                        if byte < _80:
                            if shift == _63 and byte > _1:
                                well_formed = False
                            break
                        if shift == _63:
                            well_formed = False
                            break
                        shift += _7
                    else:
                        well_formed = False
                    if not well_formed:
                        break
                if wire == _0:
                    seen |= _store_number(u32, u64, i, field, value)
                    continue
                if value > stop - pos:
                    well_formed = False
                    break
                if field == _D_MESSAGE:
                    seen |= _HAS_MESSAGE
                    inside = _INSIDE
                    stop = pos + value
                    continue
                seen |= _store_bytes(u32, i, field, pos, value)
                pos += value
            elif wire == _5:
                if stop - pos < _4:
                    well_formed = False
                    break
                if field == _M_RESPONSE_TIME_NSEC:
                    u32[RESPONSE_TIME_NSEC, i] = (
                        np.int64(buf[pos])
                        | (np.int64(buf[pos + _1]) << 8)
                        | (np.int64(buf[pos + _2]) << 16)
                        | (np.int64(buf[pos + _3]) << 24)
                    )
                    seen |= HAS_RESPONSE_TIME_NSEC
                pos += _4
            elif wire == _1:
                if stop - pos < _8:
                    well_formed = False
                    break
                pos += _8
            elif wire == _3:
                pos = _skip_group(buf, pos, stop, tag >> _3)
                if pos == _BAD:
                    well_formed = False
                    break
            else:
                well_formed = False
                break
        u32[PRESENT, i] = seen & _COLUMN_BITS
        fate[i] = _fate_of(u32, i, seen) if well_formed else UNDECODABLE


__all__ = ["GROUP_DEPTH_MAX", "decode_frames", "decode_others"]
