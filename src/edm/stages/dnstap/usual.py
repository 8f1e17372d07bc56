"""Fast decoding of dnstap payloads in the form that DNS servers write; the general decoder handles all others.

A frame is usual if its fields come in an order that servers use, each at most once or twice, with tags and
enums of one byte. Then no loop over fields is needed and no field costs a jump that is hard to predict: each is
asked for in turn, and varints of one to three bytes are read without a branch. Whatever else turns up sends
the whole frame to :mod:`edm.stages.dnstap.decode`, so the two need not agree on anything but usual frames.
"""

from __future__ import annotations

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
    Bytes,
    Fates,
    U32Columns,
    U64Columns,
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
def _mask(word: U64) -> U64:
    """Return ones for the bits of the varint of up to three bytes at the low end of ``word``, or ``_TOO_LONG``."""
    last = ~word & _SHORT
    return (last & (_0 - last)) - _1


@force_inlined
def _size(mask: U64) -> U64:
    return _1 + ((mask >> _8) & _1) + ((mask >> np.uint64(16)) & _1)


@force_inlined
def _value(word: U64, mask: U64) -> U64:
    x = word & mask
    return (x & np.uint64(0x7F)) | ((x & np.uint64(0x7F00)) >> _1) | ((x & np.uint64(0x7F0000)) >> _2)


# Each of the following reads one field, if its tag stands at ``pos``, and returns the position after it first: the
# same position if it is another field, one behind every frame (``_TOO_LONG``) if the frame is not usual. The
# last is ``seen``, with ``bit`` if the field is there: joined to it within the branch, because a bit that the caller
# adds made the kernel a tenth slower.


@force_inlined
def _small_number(buf: Bytes, pos: U64, tag: I64, absent: U64, seen: U64, bit: I64) -> tuple[U64, U64, U64]:
    """Read a number of one byte; it is ``absent`` if the field is."""
    if buf[pos] == tag and buf[pos + _1] < _80:
        return pos + _2, np.uint64(buf[pos + _1]), seen | np.uint64(bit)
    return pos, absent, seen


@force_inlined
def _number(buf: Bytes, pos: U64, tag: I64, seen: U64, bit: I64) -> tuple[U64, U64, U64]:
    """Read a number of one to three bytes, 0 if the field is absent."""
    if buf[pos] != tag:
        return pos, _0, seen
    word = le64(buf, pos + _1)
    mask = _mask(word)
    if mask == _TOO_LONG:
        return _TOO_LONG, _0, _0
    return pos + _1 + _size(mask), _value(word, mask), seen | np.uint64(bit)


@force_inlined
def _short_bytes(
    buf: Bytes, pos: U64, tag: I64, off: U64, length: U64, seen: U64, bit: I64
) -> tuple[U64, U64, U64, U64]:
    """Read where fewer than 128 bytes begin and how many they are; ``off`` and ``length`` if the field is absent."""
    if buf[pos] == tag and buf[pos + _1] < _80:
        length = np.uint64(buf[pos + _1])
        return pos + _2 + length, pos + _2, length, seen | np.uint64(bit)
    return pos, off, length, seen


@force_inlined
def _long_bytes(buf: Bytes, pos: U64, tag: I64, end: U64, seen: U64, bit: I64) -> tuple[U64, U64, U64, U64]:
    """Read where bytes begin that end before ``end``, and how many they are; 0 and 0 if the field is absent."""
    if buf[pos] != tag:
        return pos, _0, _0, seen
    word = le64(buf, pos + _1)
    mask = _mask(word)
    length = _value(word, mask)
    if mask == _TOO_LONG or pos > end or length > end - pos:
        return _TOO_LONG, _0, _0, _0
    off = pos + _1 + _size(mask)
    return off + length, off, length, seen | np.uint64(bit)


@force_inlined
def _read_head(buf: Bytes, u32: U32Columns, i: U64, pos: U64, stop: U64) -> tuple[U64, U64, U64]:
    """Read what stands before the fields of Message; return where these begin and end, and which fields there were."""
    pos, off, length, seen = _short_bytes(buf, pos, _D_IDENTITY, _0, _0, _0, HAS_IDENTITY)
    if pos > stop:
        return _TOO_LONG, _0, _0
    u32[IDENTITY_OFF, i] = off
    u32[IDENTITY_LEN, i] = length
    pos, _, _, _ = _short_bytes(buf, pos, _D_VERSION, _0, _0, _0, 0)
    if pos > stop:
        return _TOO_LONG, _0, _0
    pos, _, _, _ = _short_bytes(buf, pos, _D_EXTRA, _0, _0, _0, 0)
    if pos > stop:
        return _TOO_LONG, _0, _0
    pos, _, seen = _small_number(buf, pos, _D_TYPE, _0, seen, _HAS_DNSTAP_TYPE)
    end, off, _, there = _long_bytes(buf, pos, _D_MESSAGE, stop, _0, 1)
    if there == _0 or end > stop:
        return _TOO_LONG, _0, _0
    return off, end, seen


@force_inlined
def _read_transport(buf: Bytes, u32: U32Columns, i: U64, pos: U64, seen: U64) -> tuple[U64, U64, U64]:
    """Read type, family and protocol; return the position after it, the type, and which fields there were."""
    pos, message_type, there = _small_number(buf, pos, _M_TYPE, _0, _0, 1)
    if there == _0:
        return _TOO_LONG, _0, _0
    # The proto2 default of an enum is its first value, INET.
    pos, family, seen = _small_number(buf, pos, _M_FAMILY, _1, seen, HAS_SOCKET_FAMILY)
    pos, protocol, seen = _small_number(buf, pos, _M_PROTOCOL, _0, seen, HAS_SOCKET_PROTOCOL)
    # dnsdist writes it behind the protocol.
    pos, family, seen = _small_number(buf, pos, _M_FAMILY, family, seen, HAS_SOCKET_FAMILY)
    u32[MESSAGE_TYPE, i] = message_type
    u32[SOCKET_FAMILY, i] = family
    u32[SOCKET_PROTOCOL, i] = protocol
    return pos, message_type, seen


@force_inlined
def _read_addresses(buf: Bytes, u32: U32Columns, i: U64, pos: U64, end: U64, seen: U64) -> tuple[U64, U64]:
    """Read addresses and ports; return the position after it, and which fields there were."""
    pos, off, length, seen = _short_bytes(buf, pos, _M_QUERY_ADDRESS, _0, _0, seen, HAS_QUERY_ADDRESS)
    if pos > end:
        return _TOO_LONG, _0
    u32[QUERY_ADDRESS_OFF, i] = off
    u32[QUERY_ADDRESS_LEN, i] = length
    pos, off, length, seen = _short_bytes(buf, pos, _M_RESPONSE_ADDRESS, _0, _0, seen, HAS_RESPONSE_ADDRESS)
    if pos > end:
        return _TOO_LONG, _0
    pos, port, seen = _number(buf, pos, _M_QUERY_PORT, seen, HAS_QUERY_PORT)
    if pos == _TOO_LONG:
        return _TOO_LONG, _0
    u32[QUERY_PORT, i] = port
    # Here the response address stands in dnsdist's frames.
    pos, off, length, seen = _short_bytes(
        buf, pos, _M_RESPONSE_ADDRESS, off, length, seen, HAS_RESPONSE_ADDRESS
    )
    if pos > end:
        return _TOO_LONG, _0
    u32[RESPONSE_ADDRESS_OFF, i] = off
    u32[RESPONSE_ADDRESS_LEN, i] = length
    pos, port, seen = _number(buf, pos, _M_RESPONSE_PORT, seen, HAS_RESPONSE_PORT)
    u32[RESPONSE_PORT, i] = port
    return pos, seen


@force_inlined
def _skip_query(buf: Bytes, pos: U64, end: U64) -> U64:
    """Return the position after time, message and zone of the query."""
    if buf[pos] == _M_QUERY_SEC:
        if le64(buf, pos + _1) & _FIVE != _FIFTH:
            return _TOO_LONG
        pos += _SECONDS_BYTES
    if buf[pos] == _M_QUERY_NSEC:
        pos += _5
    pos, _, _, _ = _long_bytes(buf, pos, _M_QUERY_MESSAGE, end, _0, 0)
    if pos > end:
        return _TOO_LONG
    pos, _, _, _ = _short_bytes(buf, pos, _M_QUERY_ZONE, _0, _0, _0, 0)
    return pos


@force_inlined
def _read_response(
    buf: Bytes, u32: U32Columns, u64: U64Columns, i: U64, pos: U64, end: U64, seen: U64
) -> tuple[U64, U64, U64, U64]:
    """Read time and message of the response; return the position after it, and which fields there were."""
    seconds = _0
    if buf[pos] == _M_RESPONSE_SEC:
        word = le64(buf, pos + _1)
        if word & _FIVE != _FIFTH:
            return _TOO_LONG, _0, _0, _0
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
    # At the end of Message its tag would be that of another Message: such a frame is not usual either.
    pos, off, length, seen = _long_bytes(buf, pos, _M_RESPONSE_MESSAGE, end, seen, HAS_RESPONSE_MESSAGE)
    return pos, seen, off, length


@kernel
def decode_usual(buf: Bytes, u32: U32Columns, u64: U64Columns, fate: Fates, n: I64) -> U64:
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
        pos, end, seen = _read_head(buf, u32, i, pos, stop)
        if pos == _TOO_LONG:
            continue
        pos, message_type, seen = _read_transport(buf, u32, i, pos, seen)
        if pos == _TOO_LONG:
            continue
        pos, seen = _read_addresses(buf, u32, i, pos, end, seen)
        if pos == _TOO_LONG:
            continue
        pos = _skip_query(buf, pos, end)
        if pos > end:
            continue
        pos, seen, off, length = _read_response(buf, u32, u64, i, pos, end, seen)
        if pos != end:
            continue
        pos, _, seen = _small_number(buf, pos, _D_TYPE, _0, seen, _HAS_DNSTAP_TYPE)
        if pos != stop or seen & _HAS_DNSTAP_TYPE == _0:
            continue
        others -= _1
        fate[i] = QUERY if message_type & _1 and message_type <= _13 else PENDING
        u32[RESPONSE_MESSAGE_OFF, i] = off
        u32[RESPONSE_MESSAGE_LEN, i] = length
        u32[PRESENT, i] = seen & ~_HAS_DNSTAP_TYPE
    return others


__all__ = ["MARGIN", "decode_usual"]
