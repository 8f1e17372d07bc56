"""Decoding of dnstap payloads that look as DNS servers write them; all others are left to the general decoder.

A frame is usual if its fields come in an order that servers use, each at most once or twice, with tags and
enums of one byte. Then no loop over fields is needed and no field costs a jump that is hard to predict: each is
asked for in turn, and varints of one to three bytes are read without a branch. Whatever else turns up sends
the whole frame to :mod:`edm.stages.dnstap.decode`, so the two need not agree on anything but usual frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edm.kernel.columns import (
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
)
from edm.kernel.jit import force_inlined, kernel, le64

MARGIN = 128
"""Bytes that must follow a frame in the buffer: so far may be read before a check fails."""

_HAS_DNSTAP_TYPE = np.uint64(1 << 31)

_0, _1, _2, _3, _4, _5, _8, _13 = (np.uint64(i) for i in (0, 1, 2, 3, 4, 5, 8, 13))
_80 = np.uint64(0x80)
_LOW_32 = np.uint64(0xFFFFFFFF)
_LOW_24 = np.uint64(0xFFFFFF)
_TOO_LONG = np.uint64(0xFFFFFFFFFFFFFFFF)
_SHORT = np.uint64(0x808080)  # the bits that say that a varint goes on, in its first three bytes
_FIVE = np.uint64(0x8080808080)
_FIFTH = np.uint64(0x0080808080)  # the same bits of a varint of just five bytes: seconds from 1978 on
_SECONDS_BYTES = np.uint64(6)  # with their tag

# Dnstap: identity, version, extra, message, type.
_D_IDENTITY, _D_VERSION, _D_EXTRA, _D_MESSAGE, _D_TYPE = 0x0A, 0x12, 0x1A, 0x72, 0x78
# Message, in the order of the field numbers.
_M_TYPE, _M_FAMILY, _M_PROTOCOL, _M_QUERY_ADDRESS, _M_RESPONSE_ADDRESS = 0x08, 0x10, 0x18, 0x22, 0x2A
_M_QUERY_PORT, _M_RESPONSE_PORT, _M_QUERY_SEC, _M_QUERY_NSEC = 0x30, 0x38, 0x40, 0x4D
_M_QUERY_MESSAGE, _M_QUERY_ZONE, _M_RESPONSE_SEC, _M_RESPONSE_NSEC = 0x52, 0x5A, 0x60, 0x6D
_M_RESPONSE_MESSAGE = 0x72


@force_inlined
def _mask(word: Any) -> Any:
    """Return ones for the bits of the varint of up to three bytes at the low end of ``word``, or ``_TOO_LONG``."""
    last = ~word & _SHORT
    return (last & (_0 - last)) - _1


@force_inlined
def _size(mask: Any) -> Any:
    return _1 + ((mask >> _8) & _1) + ((mask >> np.uint64(16)) & _1)


@force_inlined
def _value(word: Any, mask: Any) -> Any:
    x = word & mask
    return (x & np.uint64(0x7F)) | ((x & np.uint64(0x7F00)) >> _1) | ((x & np.uint64(0x7F0000)) >> _2)


@force_inlined
def _skip_short(buf: Any, pos: Any, tag: Any) -> Any:
    """Return the position behind the field of fewer than 128 bytes if its tag stands at ``pos``, or else ``pos``."""
    if buf[pos] == tag and buf[pos + _1] < _80:
        pos += _2 + np.uint64(buf[pos + _1])
    return pos


@kernel
def decode_usual(buf: Any, u32: Any, u64: Any, fate: Any, n: Any) -> Any:
    """Decode the usual frames of a batch; return how many are not, which are listed in ``LEFT_ROW``.

    Parameters
    ----------
    buf : uint8[]
        The block. Offsets below 2**32.
    u32, u64, fate : the columns of the batch, see :mod:`edm.kernel.columns`
        Read: ``FRAME_OFF``, ``FRAME_LEN``, which lie within ``buf``. Written for usual frames: ``fate``, to
        ``QUERY`` or ``PENDING``, and every dnstap column, those of absent fields with 0 (``SOCKET_FAMILY``: 1).
    n : int
        Rows to decode.
    """
    size = np.uint64(buf.size)
    others = _0
    for i in range(np.uint64(n)):
        pos = np.uint64(u32[FRAME_OFF, i])
        stop = pos + np.uint64(u32[FRAME_LEN, i])
        u32[LEFT_ROW, others] = i
        others += _1  # taken back at the end
        if stop + np.uint64(MARGIN) > size:
            continue
        # Reading may go past the frame, but not far: fields without a length take a few bytes, and after each
        # with a length the position is compared with the end. A frame is only believed if the fields end just
        # where the frame does.
        seen = _0
        identity_off = _0
        identity_len = _0
        if buf[pos] == _D_IDENTITY and buf[pos + _1] < _80:
            identity_len = np.uint64(buf[pos + _1])
            identity_off = pos + _2
            pos = identity_off + identity_len
            seen |= np.uint64(HAS_IDENTITY)
            if pos > stop:
                continue
        u32[IDENTITY_OFF, i] = identity_off
        u32[IDENTITY_LEN, i] = identity_len
        pos = _skip_short(buf, pos, _D_VERSION)
        if pos > stop:
            continue
        pos = _skip_short(buf, pos, _D_EXTRA)
        if pos > stop:
            continue
        if buf[pos] == _D_TYPE and buf[pos + _1] < _80:
            seen |= _HAS_DNSTAP_TYPE
            pos += _2
        if buf[pos] != _D_MESSAGE:
            continue
        word = le64(buf, pos + _1)
        mask = _mask(word)
        if mask == _TOO_LONG:
            continue
        pos += _1 + _size(mask)
        length = _value(word, mask)
        if pos > stop or length > stop - pos:
            continue
        end = pos + length
        if buf[pos] != _M_TYPE or buf[pos + _1] >= _80:
            continue
        message_type = np.uint64(buf[pos + _1])
        pos += _2
        family = _1  # the proto2 default of an enum is its first value, INET
        if buf[pos] == _M_FAMILY and buf[pos + _1] < _80:
            family = np.uint64(buf[pos + _1])
            seen |= np.uint64(HAS_SOCKET_FAMILY)
            pos += _2
        protocol = _0
        if buf[pos] == _M_PROTOCOL and buf[pos + _1] < _80:
            protocol = np.uint64(buf[pos + _1])
            seen |= np.uint64(HAS_SOCKET_PROTOCOL)
            pos += _2
        if buf[pos] == _M_FAMILY and buf[pos + _1] < _80:  # dnsdist writes it behind the protocol
            family = np.uint64(buf[pos + _1])
            seen |= np.uint64(HAS_SOCKET_FAMILY)
            pos += _2
        u32[MESSAGE_TYPE, i] = message_type
        u32[SOCKET_FAMILY, i] = family
        u32[SOCKET_PROTOCOL, i] = protocol
        query_address = _0
        query_address_len = _0
        if buf[pos] == _M_QUERY_ADDRESS and buf[pos + _1] < _80:
            query_address_len = np.uint64(buf[pos + _1])
            query_address = pos + _2
            pos = query_address + query_address_len
            seen |= np.uint64(HAS_QUERY_ADDRESS)
            if pos > end:
                continue
        u32[QUERY_ADDRESS_OFF, i] = query_address
        u32[QUERY_ADDRESS_LEN, i] = query_address_len
        response_address = _0
        response_address_len = _0
        if buf[pos] == _M_RESPONSE_ADDRESS and buf[pos + _1] < _80:
            response_address_len = np.uint64(buf[pos + _1])
            response_address = pos + _2
            pos = response_address + response_address_len
            seen |= np.uint64(HAS_RESPONSE_ADDRESS)
            if pos > end:
                continue
        query_port = _0
        if buf[pos] == _M_QUERY_PORT:
            word = le64(buf, pos + _1)
            mask = _mask(word)
            query_port = _value(word, mask)
            if mask == _TOO_LONG:
                continue
            pos += _1 + _size(mask)
            seen |= np.uint64(HAS_QUERY_PORT)
        u32[QUERY_PORT, i] = query_port
        if buf[pos] == _M_RESPONSE_ADDRESS and buf[pos + _1] < _80:  # here it stands in dnsdist's frames
            response_address_len = np.uint64(buf[pos + _1])
            response_address = pos + _2
            pos = response_address + response_address_len
            seen |= np.uint64(HAS_RESPONSE_ADDRESS)
            if pos > end:
                continue
        u32[RESPONSE_ADDRESS_OFF, i] = response_address
        u32[RESPONSE_ADDRESS_LEN, i] = response_address_len
        response_port = _0
        if buf[pos] == _M_RESPONSE_PORT:
            word = le64(buf, pos + _1)
            mask = _mask(word)
            response_port = _value(word, mask)
            if mask == _TOO_LONG:
                continue
            pos += _1 + _size(mask)
            seen |= np.uint64(HAS_RESPONSE_PORT)
        u32[RESPONSE_PORT, i] = response_port
        if buf[pos] == _M_QUERY_SEC:
            if le64(buf, pos + _1) & _FIVE != _FIFTH:
                continue
            pos += _SECONDS_BYTES
        if buf[pos] == _M_QUERY_NSEC:
            pos += _5
        if buf[pos] == _M_QUERY_MESSAGE:
            word = le64(buf, pos + _1)
            mask = _mask(word)
            if mask == _TOO_LONG or pos > end or _value(word, mask) > end - pos:
                continue
            pos += _1 + _size(mask) + _value(word, mask)
            if pos > end:
                continue
        pos = _skip_short(buf, pos, _M_QUERY_ZONE)
        if pos > end:
            continue
        seconds = _0
        if buf[pos] == _M_RESPONSE_SEC:
            word = le64(buf, pos + _1)
            if word & _FIVE != _FIFTH:
                continue
            seconds = _value(word, _LOW_24)
            seconds |= ((word & np.uint64(0x7F000000)) >> _3) | ((word & np.uint64(0x7F00000000)) >> _4)
            pos += _SECONDS_BYTES
            seen |= np.uint64(HAS_RESPONSE_TIME_SEC)
        nanoseconds = _0
        if buf[pos] == _M_RESPONSE_NSEC:
            nanoseconds = le64(buf, pos + _1) & _LOW_32
            pos += _5
            seen |= np.uint64(HAS_RESPONSE_TIME_NSEC)
        u64[RESPONSE_TIME_SEC, i] = seconds
        u32[RESPONSE_TIME_NSEC, i] = nanoseconds
        message = _0
        message_len = _0
        if buf[pos] == _M_RESPONSE_MESSAGE and pos < end:
            word = le64(buf, pos + _1)
            mask = _mask(word)
            message_len = _value(word, mask)
            if mask == _TOO_LONG or message_len > end - pos:
                continue
            message = pos + _1 + _size(mask)
            pos = message + message_len
            seen |= np.uint64(HAS_RESPONSE_MESSAGE)
        if pos != end:
            continue
        if buf[pos] == _D_TYPE and buf[pos + _1] < _80:
            seen |= _HAS_DNSTAP_TYPE
            pos += _2
        if pos != stop or seen & _HAS_DNSTAP_TYPE == _0:
            continue
        others -= _1
        fate[i] = QUERY if message_type & _1 and message_type <= _13 else PENDING
        u32[PRESENT, i] = seen & ~_HAS_DNSTAP_TYPE
        u32[RESPONSE_MESSAGE_OFF, i] = message
        u32[RESPONSE_MESSAGE_LEN, i] = message_len
    return others


__all__ = ["MARGIN", "decode_usual"]
