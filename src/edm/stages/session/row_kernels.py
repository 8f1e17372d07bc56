"""Kernel of the session rows: fields of a batch become Arrow-shaped column buffers."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from edm.kernel import columns as c
from edm.kernel.columns import (
    I64,
    U64,
    Bytes,
    Fates,
    I32Array,
    I64Array,
    U32Array,
    U32Columns,
    U64Array,
    U64Columns,
)
from edm.kernel.jit import force_inlined, kernel, le64, put_le64
from edm.stages.names import put_label

LABELS = 10

# Columns of bytes: label0..label9, then these two.
RESPONSE_MESSAGE = 10
SERVER_ID = 11
N_TEXTS = 12

# Rows of the uint32 and uint64 columns.
DEST_IPV4 = 0
SOURCE_IPV4 = 1
N_N32 = 2
DEST_IPV6_HOST = 0
DEST_IPV6_NETWORK = 1
SOURCE_IPV6_HOST = 2
SOURCE_IPV6_NETWORK = 3
RESPONSE_TIME = 4
N_N64 = 5

# Bits of a row's validity. Those of dest are those of source shifted by one.
VALID_SOURCE_IPV4 = 1 << 0
VALID_DEST_IPV4 = 1 << 1
VALID_SOURCE_IPV6 = 1 << 2
VALID_DEST_IPV6 = 1 << 3
VALID_SERVER_ID = 1 << 4

# Rows of the fields to copy.
FIELD = 0  # row of the batch's u32 columns
FIELD_PRESENT = 1  # bit of PRESENT without which there is no value; 0: there always is
FIELD_REJECT = 2  # a value with one of these bits is stored as 0
N_FIELD_WORDS = 3

# Words of the int64 state.
ROWS = 0
SHORT_COLUMN = 1  # the column of bytes that ran out of room, -1: rows did
SHORT_BYTES = 2  # and how much it needs
UNKNOWN_FAMILIES = 3
FAMILY_MISMATCHES = 4
ODD_LENGTHS = 5
N_STATE = 6

INET = 1
INET6 = 2

NAME_LABELS = 127
"""Most labels of a name, the root not counted (RFC 1035: 255 bytes, each label two at least)."""

SLACK = 8
"""Bytes of room that a column needs beyond what is put into it, since whole words are copied."""

_HIGH_BITS = np.uint64(0x8080808080808080)
_SEVEN_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
_LOWER = np.uint64(0x2020202020202020)
_SIZE_MASK = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)

_MAPPED = 0xFFFF << 32
_MICROSECONDS = 1_000_000


class Rows(NamedTuple):
    """The buffers of session rows.

    Attributes
    ----------
    n32 : uint32[N_N32, capacity], computed numbers
    n64 : uint64[N_N64, capacity]
    fields : uint32[N_FIELD_WORDS, fields], what is copied from the batch
    copied : uint32[fields, capacity], the copies
    there : uint8[fields, capacity], 1 where there is a value, else 0
    valid : uint8[capacity], VALID_* bits
    labels : uint8[capacity], how many of label0..label9 are there
    texts : uint8[...], bytes of column ``k`` in ``texts[base[k]:base[k + 1]]``
    base : int64[N_TEXTS + 1]
    used : int64[N_TEXTS], bytes of each column
    offsets : int32[N_TEXTS, capacity + 1]
    starts : uint64[NAME_LABELS], scratch
    """

    n32: U32Array
    n64: U64Array
    fields: U32Array
    copied: U32Array
    there: Bytes
    valid: Bytes
    labels: Bytes
    texts: Bytes
    base: I64Array
    used: I64Array
    offsets: I32Array
    starts: U64Array


RowsArrays: TypeAlias = tuple[
    U32Array, U64Array, U32Array, U32Array, Bytes, Bytes, Bytes, Bytes, I64Array, I64Array, I32Array, U64Array
]
"""What :class:`Rows` are made of; Python hands them over so, see :mod:`edm.kernel.jit`."""


@force_inlined
def put_bytes(buf: Bytes, off: U64, length: U64, out: Bytes, pos: U64) -> None:
    """Copy bytes, eight at a time. ``out`` has room for ``length`` and :data:`SLACK` bytes."""
    if off + length + np.uint64(SLACK) > np.uint64(buf.shape[0]):  # words would go beyond the block
        for k in range(length):
            out[pos + k] = buf[off + k]
        return
    done = np.uint64(0)
    while done < length:
        put_le64(out, pos + done, le64(buf, off + done))
        done += np.uint64(8)


@force_inlined
def put_address(
    u32: U32Columns,
    u64: U64Columns,
    i: U64,
    side: I64,
    n32: U32Array,
    n64: U64Array,
    row: U64,
    state: I64Array,
) -> I64:
    """Write the address columns of one side (0 source, 1 dest) of a row; return its validity bits."""
    ipv4 = SOURCE_IPV4 - side
    host = SOURCE_IPV6_HOST - 2 * side
    n32[ipv4, row] = 0
    n64[host, row] = 0
    n64[host + 1, row] = 0
    if u32[c.PRESENT, i] & (c.HAS_QUERY_ADDRESS << side) == 0:
        return 0
    family = u32[c.SOCKET_FAMILY, i]
    length = u32[c.SOURCE_LEN + side, i]
    high = u64[c.SOURCE_HIGH + 2 * side, i]
    low = u64[c.SOURCE_LOW + 2 * side, i]
    if family == INET:
        if length == 4:
            n32[ipv4, row] = np.uint32(low)
            return VALID_SOURCE_IPV4 << side
        if length == 16:
            state[FAMILY_MISMATCHES] += 1
        else:
            state[ODD_LENGTHS] += 1
    elif family == INET6:
        if length == 4 or length == 16:
            n64[host, row] = low | np.uint64(_MAPPED) if length == 4 else low
            n64[host + 1, row] = high
            return VALID_SOURCE_IPV6 << side
        state[ODD_LENGTHS] += 1
    return 0


@force_inlined
def _within(seven: U64, first: I64, last: I64) -> U64:
    """Return 0x80 in each byte of ``seven`` (below 0x80) that is in ``first .. last``."""
    each = np.uint64(0x0101010101010101)
    below = seven + np.uint64(0x80 - first) * each
    return (below ^ (seven + np.uint64(0x7F - last) * each)) & _HIGH_BITS


@force_inlined
def _odd_bytes(word: U64) -> U64:
    """Return 0 only if all eight bytes are letters, digits, hyphens or underscores."""
    seven = word & _SEVEN_BITS
    plain = _within(seven | _LOWER, 0x61, 0x7A) | _within(seven, 0x30, 0x39)
    plain |= _within(seven, 0x2D, 0x2D) | _within(seven, 0x5F, 0x5F)
    return (word | ~plain) & _HIGH_BITS


@force_inlined
def put_text(buf: Bytes, off: U64, size: U64, out: Bytes, pos: U64) -> U64:
    """Write one label in presentation form; return the end. ``out`` has room for ``4 * size + SLACK`` bytes."""
    # Nearly all labels need no escapes, and copying whole words has no branch per byte. Surplus bytes are
    # written over by what comes next.
    if off + size + np.uint64(SLACK) <= np.uint64(buf.shape[0]):
        odd = np.uint64(0)
        k = np.uint64(0)
        while k < size:
            word = le64(buf, off + k)
            put_le64(out, pos + k, word)
            odd |= _odd_bytes(word) & _SIZE_MASK[min(size - k, np.uint64(8))]
            k += np.uint64(8)
        if odd == np.uint64(0):
            return pos + size
    return np.uint64(put_label(buf, np.int64(off), np.int64(size), out, np.int64(pos)))


@force_inlined
def _find_labels(buf: Bytes, off: U64, length: U64, starts: U64Array) -> U64:
    """List where the labels of a wire name begin, from the left; return how many there are."""
    one = np.uint64(1)
    at = off
    end = off + max(length, one) - one
    count = np.uint64(0)
    while at < end and count < np.uint64(starts.shape[0]):
        starts[count] = at
        count += one
        at += one + np.uint64(buf[at])
    return count


@force_inlined
def put_labels(
    buf: Bytes,
    off: U64,
    length: U64,
    starts: U64Array,
    texts: Bytes,
    base: I64Array,
    used: I64Array,
    state: I64Array,
) -> I64:
    """Write the labels of a wire name from the right, the rest joined in label9; return how many columns.

    Returns -1 if a column has no room; SHORT_COLUMN and SHORT_BYTES then tell which and how much.
    """
    one = np.uint64(1)
    count = _find_labels(buf, off, length, starts)
    shown = min(count, np.uint64(LABELS))
    for k in range(shown):
        start = starts[count - one - k]
        size = np.uint64(buf[start])
        joined = k == LABELS - 1
        need = np.uint64(4) * (start + one + size - off if joined else size) + np.uint64(SLACK)
        out = np.uint64(base[k] + used[k])
        if out + need > np.uint64(base[k + one]):
            state[SHORT_COLUMN] = k
            state[SHORT_BYTES] = need
            return -1
        out = put_text(buf, start + one, size, texts, out)
        if joined:
            for rest in range(np.uint64(LABELS), count):
                start = starts[count - one - rest]
                texts[out] = 0x2E
                out = put_text(buf, start + one, np.uint64(buf[start]), texts, out + one)
        used[k] = np.int64(out) - base[k]
    return np.int64(shown)


@force_inlined
def _has_room(column: I64, length: I64, base: I64Array, used: I64Array, state: I64Array) -> bool:
    """Tell whether a column of bytes has room for a value; if not, SHORT_COLUMN and SHORT_BYTES say what it lacks."""
    if base[column] + used[column] + length + SLACK <= base[column + 1]:
        return True
    state[SHORT_COLUMN] = column
    state[SHORT_BYTES] = length + SLACK
    return False


@force_inlined
def _append_bytes(
    buf: Bytes, off: U64, length: I64, column: I64, texts: Bytes, base: I64Array, used: I64Array
) -> None:
    """Append a value to a column of bytes that has room for it."""
    put_bytes(buf, off, np.uint64(length), texts, np.uint64(base[column] + used[column]))
    used[column] += length


@force_inlined
def _copy_fields(u32: U32Columns, out: Rows, first: I64, count: I64) -> None:
    """Copy numbers of the batch for the first ``count`` listed rows, to row ``first`` and those behind it."""
    # One column after the other: twice as fast as all of them row by row.
    fields, copied, there = out.fields, out.copied, out.there
    for k in range(np.uint64(fields.shape[1])):
        field = np.uint64(fields[FIELD, k])
        bit, reject = fields[FIELD_PRESENT, k], fields[FIELD_REJECT, k]
        always = bit == 0
        for j in range(np.uint64(count)):
            i = np.uint64(u32[c.LEFT_ROW, j])
            has = always or u32[c.PRESENT, i] & bit != 0
            value = u32[field, i]
            copied[k, np.uint64(first) + j] = value if has and value & reject == 0 else np.uint32(0)
            there[k, np.uint64(first) + j] = np.uint8(has)


@force_inlined
def _response_time(u32: U32Columns, u64: U64Columns, i: U64) -> U64:
    """Return the time of the answer, microseconds since 1970; 0 if the frame has none."""
    present = u32[c.PRESENT, i]
    seconds = u64[c.RESPONSE_TIME_SEC, i]
    micros = np.uint64(0)
    if present & c.HAS_RESPONSE_TIME_SEC != 0 and seconds >> np.uint64(63) == 0:
        micros = seconds * np.uint64(_MICROSECONDS)
        if present & c.HAS_RESPONSE_TIME_NSEC != 0:
            micros += np.uint64(u32[c.RESPONSE_TIME_NSEC, i] // np.uint32(1000))
    return micros


@force_inlined
def _list_rows(u32: U32Columns, fate: Fates, start: I64, n: I64) -> U64:
    """List the rows whose fate is SESSION in LEFT_ROW; return how many there are."""
    left = np.uint64(0)
    for k in range(np.uint64(start), np.uint64(n)):
        u32[c.LEFT_ROW, left] = k
        left += np.uint64(1) if fate[k] == c.SESSION else np.uint64(0)
    return left


@force_inlined
def _append_computed(
    buf: Bytes, u32: U32Columns, u64: U64Columns, left: U64, n: I64, out: Rows, state: I64Array
) -> I64:
    """Append all but copied numbers of the first ``left`` listed rows; return the row where it stopped, or ``n``."""
    texts, base, used = out.texts, out.base, out.used
    for j in range(left):
        i = np.uint64(u32[c.LEFT_ROW, j])
        stopped = np.int64(i)
        row = np.uint64(state[ROWS])
        if row >= np.uint64(out.valid.shape[0]):
            state[SHORT_COLUMN] = -1
            return stopped
        message_len = np.int64(u32[c.RESPONSE_MESSAGE_LEN, i])
        identity_len = np.int64(u32[c.IDENTITY_LEN, i]) if u32[c.PRESENT, i] & c.HAS_IDENTITY != 0 else 0
        if not _has_room(RESPONSE_MESSAGE, message_len, base, used, state):
            return stopped
        if not _has_room(SERVER_ID, identity_len, base, used, state):
            return stopped
        name_off, name_len = np.uint64(u32[c.QNAME_OFF, i]), np.uint64(u32[c.QNAME_LEN, i])
        count = put_labels(buf, name_off, name_len, out.starts, texts, base, used, state)
        if count < 0:
            for k in range(LABELS):
                used[k] = out.offsets[k, row]
            return stopped
        message_off, identity_off = (
            np.uint64(u32[c.RESPONSE_MESSAGE_OFF, i]),
            np.uint64(u32[c.IDENTITY_OFF, i]),
        )
        _append_bytes(buf, message_off, message_len, RESPONSE_MESSAGE, texts, base, used)
        _append_bytes(buf, identity_off, identity_len, SERVER_ID, texts, base, used)
        for k in range(N_TEXTS):
            out.offsets[k, row + np.uint64(1)] = used[k]
        out.labels[row] = count
        bits = put_address(u32, u64, i, 0, out.n32, out.n64, row, state)
        bits |= put_address(u32, u64, i, 1, out.n32, out.n64, row, state)
        if u32[c.SOCKET_FAMILY, i] > INET6:
            state[UNKNOWN_FAMILIES] += 1
        if identity_len > 0:
            bits |= VALID_SERVER_ID
        out.n64[RESPONSE_TIME, row] = _response_time(u32, u64, i)
        out.valid[row] = bits
        state[ROWS] += 1
    return n


@kernel
def append_rows(
    buf: Bytes,
    u32: U32Columns,
    u64: U64Columns,
    fate: Fates,
    start: I64,
    n: I64,
    arrays: RowsArrays,
    state: I64Array,
) -> I64:
    """Append the rows ``start <= i < n`` whose fate is SESSION; return the row where it stopped.

    Stops before ``n`` when a column has no room for the row: give it more and go on from there.

    Parameters
    ----------
    buf, u32, u64, fate : see edm.kernel.columns
    arrays : see :class:`Rows`
    state : int64[N_STATE]
    """
    out = Rows(*arrays)
    first = state[ROWS]
    left = _list_rows(u32, fate, start, n)
    stopped = _append_computed(buf, u32, u64, left, n, out, state)
    _copy_fields(u32, out, first, state[ROWS] - first)
    return stopped
