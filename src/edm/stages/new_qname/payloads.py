r"""Kernel that writes the JSON payloads of new_qname events.

The payload is what the Go daemon's ``encoding/json`` makes of the event: members in a fixed order, no spaces,
and besides the backslash and ``"`` also ``<``, ``>`` and ``&`` escaped (as ``\u003c`` and so on). Names are
in presentation form with their original case, so a payload is pure ASCII.
"""

from __future__ import annotations

import numpy as np

from edm.kernel.columns import (
    FLAGS,
    HAS_RESPONSE_TIME_NSEC,
    HAS_RESPONSE_TIME_SEC,
    I64,
    PRESENT,
    QCLASS,
    QNAME_LEN,
    QNAME_OFF,
    QTYPE,
    RESPONSE_TIME_NSEC,
    RESPONSE_TIME_SEC,
    Bytes,
    I64Array,
    U32Columns,
    U64Columns,
)
from edm.kernel.jit import inlined, kernel
from edm.stages.names import ESCAPE_WIDTH


def _json_text(byte: int) -> bytes:
    # A label byte in presentation form, and that as part of a JSON string.
    width = ESCAPE_WIDTH[byte]
    if width == 4:
        return b"\\\\%03d" % byte
    character = bytes([byte])
    if character in b'"\\':
        character = b"\\" + character
    elif character in b"<>&":
        character = b"\\u%04x" % byte
    return b"\\\\" + character if width == 2 else character


_TEXTS = [_json_text(byte) for byte in range(256)]
_TEXT_MAX = max(map(len, _TEXTS))
_TEXT_WIDTH = np.array([len(text) for text in _TEXTS], np.uint8)
_TEXT = np.array([list(text.ljust(_TEXT_MAX)) for text in _TEXTS], np.uint8)


def _bytes(text: bytes) -> Bytes:
    return np.frombuffer(text, np.uint8).copy()


_OPEN = _bytes(b'{"flags":')
_TO_CLASS = _bytes(b',"qclass":')
_TO_NAME = _bytes(b',"qname":"')
_TO_TYPE = _bytes(b'","qtype":')
_TO_TIME = _bytes(b',"timestamp":"')
_TIME = _bytes(b"0000-00-00T00:00:00Z")
_CLOSE = _bytes(b'","type":"new_qname","version":0}')

_NUMBER_MAX = 10
_FIXED = sum(map(len, (_OPEN, _TO_CLASS, _TO_NAME, _TO_TYPE, _TO_TIME, _TIME, _CLOSE))) + 3 * _NUMBER_MAX
EVENT_MAX = _FIXED + 1 + 255 * _TEXT_MAX
"""Longest payload in bytes: a name of 255 bytes, each escaped at full length."""

END_OF_TIME = 253402300800
"""First second of the year 10000, which RFC 3339 and thus the event cannot express."""

_NANOSECONDS = 1_000_000_000


@inlined
def _put(text: Bytes, out: Bytes, pos: I64) -> I64:
    for k in range(text.size):
        out[pos + k] = text[k]
    return pos + text.size


@inlined
def _put_number(number: I64, out: Bytes, pos: I64) -> I64:
    digits = 1
    bound = 10
    while number >= bound:
        digits += 1
        bound *= 10
    for k in range(digits - 1, -1, -1):
        out[pos + k] = 0x30 + number % 10
        number //= 10
    return pos + digits


@inlined
def _put_json_name(buf: Bytes, off: I64, length: I64, out: Bytes, pos: I64) -> I64:
    if length <= 1:
        out[pos] = 0x2E
        return pos + 1
    end = off + length - 1
    while off < end:
        label_end = min(off + 1 + np.int64(buf[off]), end)
        for i in range(off + 1, label_end):
            byte = np.int64(buf[i])
            width = np.int64(_TEXT_WIDTH[byte])
            if width == 1:
                out[pos] = byte
            else:
                for k in range(width):
                    out[pos + k] = _TEXT[byte, k]
            pos += width
        out[pos] = 0x2E
        pos += 1
        off = label_end
    return pos


@inlined
def _put_two(number: I64, out: Bytes, pos: I64) -> None:
    out[pos] = 0x30 + number // 10
    out[pos + 1] = 0x30 + number % 10


@inlined
def _put_minute(minute: I64, out: Bytes, pos: I64) -> I64:
    # Days to civil date by eras of 400 years that begin in March: leap days fall on the end of a year.
    days = minute // 1440
    rest = minute - days * 1440
    era = (days + 719468) // 146097
    day_of_era = days + 719468 - era * 146097
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (1 if month <= 2 else 0)
    end = _put(_TIME, out, pos)
    _put_two(year // 100, out, pos)
    _put_two(year % 100, out, pos + 2)
    _put_two(month, out, pos + 5)
    _put_two(day, out, pos + 8)
    _put_two(rest // 60, out, pos + 11)
    _put_two(rest % 60, out, pos + 14)
    return end


@inlined
def _seconds(u32: U32Columns, u64: U64Columns, row: I64) -> I64:
    # Response time in whole seconds; END_OF_TIME for whatever is later than can be expressed.
    present = np.int64(u32[PRESENT, row])
    if present & HAS_RESPONSE_TIME_SEC == 0:
        return np.int64(0)
    seconds = u64[RESPONSE_TIME_SEC, row]
    if seconds > np.uint64(0x7FFFFFFFFFFFFFFF):
        return np.int64(0)
    if seconds >= np.uint64(END_OF_TIME):
        return np.int64(END_OF_TIME)
    whole = np.int64(seconds)
    if present & HAS_RESPONSE_TIME_NSEC:
        whole += np.int64(u32[RESPONSE_TIME_NSEC, row]) // _NANOSECONDS
    return whole


@kernel
def write_events(
    buf: Bytes,
    u32: U32Columns,
    u64: U64Columns,
    rows: I64Array,
    begin: I64,
    count: I64,
    out: Bytes,
    offsets: I64Array,
    written: I64Array,
) -> I64:
    """Write the payloads of some rows one after another; return where it stopped in ``rows``.

    Parameters
    ----------
    buf : uint8[:]
        The block's buffer.
    u32, u64 : uint32[N_U32, stride], uint64[N_U64, stride]
        Columns of the batch.
    rows : int64[>= count]
        The rows to write.
    begin, count : int
        The part ``rows[begin:count]`` is written, in order, until ``out`` may not have room for one more.
    out : uint8[:]
        Receives the payloads.
    offsets : int64[>= count + 1]
        ``offsets[j]`` is where event ``j`` begins; the entry after the last one is its end.
    written : int64[1]
        Events in ``out``; updated. That of a row whose time cannot be expressed (year 10000 on) is empty.
    """
    events = written[0]
    pos = offsets[events]
    minute = np.int64(-1)
    minute_pos = pos
    for index in range(begin, count):
        row = rows[index]
        off = np.int64(u32[QNAME_OFF, row])
        length = np.int64(u32[QNAME_LEN, row])
        if pos + _FIXED + 1 + length * _TEXT_MAX > out.size:
            written[0] = events
            return index
        seconds = _seconds(u32, u64, row)
        if seconds >= END_OF_TIME or off + length > buf.size:
            events += 1
            offsets[events] = pos
            continue
        pos = _put(_OPEN, out, pos)
        pos = _put_number(np.int64(u32[FLAGS, row]), out, pos)
        pos = _put(_TO_CLASS, out, pos)
        pos = _put_number(np.int64(u32[QCLASS, row]), out, pos)
        pos = _put(_TO_NAME, out, pos)
        pos = _put_json_name(buf, off, length, out, pos)
        pos = _put(_TO_TYPE, out, pos)
        pos = _put_number(np.int64(u32[QTYPE, row]), out, pos)
        pos = _put(_TO_TIME, out, pos)
        if seconds // 60 == minute:
            # Nearly all events of a batch share their minute.
            for k in range(_TIME.size):
                out[pos + k] = out[minute_pos + k]
            minute_pos = pos
            pos += _TIME.size
        else:
            minute = seconds // 60
            minute_pos = pos
            pos = _put_minute(minute, out, pos)
        pos = _put(_CLOSE, out, pos)
        events += 1
        offsets[events] = pos
    written[0] = events
    return count


__all__ = ["END_OF_TIME", "EVENT_MAX", "write_events"]
