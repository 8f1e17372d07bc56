"""Kernel of the session rows: fields of a batch become Arrow-shaped column buffers."""

from __future__ import annotations

from typing import Any

import numpy as np

from edm.kernel import columns as c
from edm.kernel.jit import force_inlined, kernel, le64, put_le64
from edm.stages.names import put_label

LABELS = 10

# Columns of bytes: label0..label9, then these two.
RESPONSE_MESSAGE = 10
SERVER_ID = 11
N_TEXTS = 12

# Rows of the uint32, uint64 and uint16 columns.
DEST_IPV4 = 0
SOURCE_IPV4 = 1
DEST_IPV6_HOST = 0
DEST_IPV6_NETWORK = 1
SOURCE_IPV6_HOST = 2
SOURCE_IPV6_NETWORK = 3
RESPONSE_TIME = 4
DEST_PORT = 0
SOURCE_PORT = 1

# Bits of a row's validity. Those of dest are those of source shifted by one.
VALID_SOURCE_IPV4 = 1 << 0
VALID_DEST_IPV4 = 1 << 1
VALID_SOURCE_IPV6 = 1 << 2
VALID_DEST_IPV6 = 1 << 3
VALID_SOURCE_PORT = 1 << 4
VALID_DEST_PORT = 1 << 5
VALID_PROTOCOL = 1 << 6
VALID_SERVER_ID = 1 << 7

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

SLACK = 8
"""Bytes of room that a column needs beyond what is put into it, since whole words are copied."""

_HIGH_BITS = np.uint64(0x8080808080808080)
_SEVEN_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
_LOWER = np.uint64(0x2020202020202020)
_SIZE_MASK = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)

_MAPPED = 0xFFFF << 32
_MICROSECONDS = 1_000_000


@force_inlined
def put_bytes(buf: Any, off: Any, length: Any, out: Any, pos: Any) -> None:
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
def put_address(u32: Any, u64: Any, i: Any, side: Any, n32: Any, n64: Any, row: Any, state: Any) -> Any:
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
def _within(seven: Any, first: Any, last: Any) -> Any:
    """Return 0x80 in each byte of ``seven`` (below 0x80) that is in ``first .. last``."""
    each = np.uint64(0x0101010101010101)
    below = seven + np.uint64(0x80 - first) * each
    return (below ^ (seven + np.uint64(0x7F - last) * each)) & _HIGH_BITS


@force_inlined
def _odd_bytes(word: Any) -> Any:
    """Return 0 only if all eight bytes are letters, digits, hyphens or underscores."""
    seven = word & _SEVEN_BITS
    plain = _within(seven | _LOWER, 0x61, 0x7A) | _within(seven, 0x30, 0x39)
    plain |= _within(seven, 0x2D, 0x2D) | _within(seven, 0x5F, 0x5F)
    return (word | ~plain) & _HIGH_BITS


@force_inlined
def put_text(buf: Any, off: Any, size: Any, out: Any, pos: Any) -> Any:
    """Write one label in presentation form; return the end. ``out`` has room for ``4 * size + SLACK`` bytes."""
    # Nearly all labels need no escapes, and copying whole words has no branch per byte. What is copied too much is
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
def put_labels(
    buf: Any, off: Any, length: Any, starts: Any, texts: Any, base: Any, used: Any, state: Any
) -> Any:
    """Write the labels of a wire name from the right, the rest joined in label9; return how many columns.

    Returns -1 if a column has no room; SHORT_COLUMN and SHORT_BYTES then tell which and how much.
    """
    one = np.uint64(1)
    at = off
    end = off + max(length, one) - one
    count = np.uint64(0)
    while at < end and count < np.uint64(starts.shape[0]):
        starts[count] = at
        count += one
        at += one + np.uint64(buf[at])
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


@kernel
def append_rows(
    buf: Any,
    u32: Any,
    u64: Any,
    fate: Any,
    start: Any,
    n: Any,
    n32: Any,
    n64: Any,
    n16: Any,
    protocol: Any,
    valid: Any,
    labels: Any,
    texts: Any,
    base: Any,
    used: Any,
    offsets: Any,
    starts: Any,
    state: Any,
) -> Any:
    """Append the rows ``start <= i < n`` whose fate is SESSION; return the row where it stopped.

    Stops before ``n`` when a column has no room for the row: give it more and go on from there.

    Parameters
    ----------
    buf, u32, u64, fate : see edm.kernel.columns
    n32 : uint32[2, capacity]
    n64 : uint64[5, capacity]
    n16 : uint16[2, capacity]
    protocol : uint8[capacity]
    valid : uint8[capacity], VALID_* bits
    labels : uint8[capacity], how many of label0..label9 are there
    texts : uint8[...], bytes of column ``k`` in ``texts[base[k]:base[k + 1]]``
    base : int64[N_TEXTS + 1]
    used : int64[N_TEXTS], bytes of each column
    offsets : int32[N_TEXTS, capacity + 1]
    starts : uint64[127], scratch
    state : int64[N_STATE]
    """
    left = np.uint64(0)
    for k in range(np.uint64(start), np.uint64(n)):
        u32[c.LEFT_ROW, left] = k
        left += np.uint64(1) if fate[k] == c.SESSION else np.uint64(0)
    for j in range(left):
        i = np.uint64(u32[c.LEFT_ROW, j])
        row_in = np.int64(i)
        row = np.uint64(state[ROWS])
        if row >= np.uint64(valid.shape[0]):
            state[SHORT_COLUMN] = -1
            return row_in
        message_len = np.int64(u32[c.RESPONSE_MESSAGE_LEN, i])
        present = u32[c.PRESENT, i]
        identity_len = np.int64(u32[c.IDENTITY_LEN, i]) if present & c.HAS_IDENTITY != 0 else 0
        if base[RESPONSE_MESSAGE] + used[RESPONSE_MESSAGE] + message_len + SLACK > base[RESPONSE_MESSAGE + 1]:
            state[SHORT_COLUMN] = RESPONSE_MESSAGE
            state[SHORT_BYTES] = message_len + SLACK
            return row_in
        if base[SERVER_ID] + used[SERVER_ID] + identity_len + SLACK > base[SERVER_ID + 1]:
            state[SHORT_COLUMN] = SERVER_ID
            state[SHORT_BYTES] = identity_len + SLACK
            return row_in
        count = put_labels(
            buf,
            np.uint64(u32[c.QNAME_OFF, i]),
            np.uint64(u32[c.QNAME_LEN, i]),
            starts,
            texts,
            base,
            used,
            state,
        )
        if count < 0:
            for k in range(LABELS):
                used[k] = offsets[k, row]
            return row_in
        put_bytes(
            buf,
            np.uint64(u32[c.RESPONSE_MESSAGE_OFF, i]),
            np.uint64(message_len),
            texts,
            np.uint64(base[RESPONSE_MESSAGE] + used[RESPONSE_MESSAGE]),
        )
        used[RESPONSE_MESSAGE] += message_len
        put_bytes(
            buf,
            np.uint64(u32[c.IDENTITY_OFF, i]),
            np.uint64(identity_len),
            texts,
            np.uint64(base[SERVER_ID] + used[SERVER_ID]),
        )
        used[SERVER_ID] += identity_len
        for k in range(N_TEXTS):
            offsets[k, row + np.uint64(1)] = used[k]
        labels[row] = count

        bits = put_address(u32, u64, i, 0, n32, n64, row, state)
        bits |= put_address(u32, u64, i, 1, n32, n64, row, state)
        if u32[c.SOCKET_FAMILY, i] > INET6:
            state[UNKNOWN_FAMILIES] += 1
        for side in range(2):
            port = u32[c.QUERY_PORT + side, i]
            if present & (c.HAS_QUERY_PORT << side) == 0:
                port = np.uint32(0)
            else:
                bits |= VALID_SOURCE_PORT << side
            # A port that does not fit a signed 32-bit number is stored as 0, others modulo 2**16.
            n16[SOURCE_PORT - side, row] = port & 0xFFFF if port < 1 << 31 else 0
        protocol[row] = 0
        if present & c.HAS_SOCKET_PROTOCOL != 0:
            protocol[row] = u32[c.SOCKET_PROTOCOL, i] & 0xFF
            bits |= VALID_PROTOCOL
        if identity_len > 0:
            bits |= VALID_SERVER_ID
        micros = np.uint64(0)
        seconds = u64[c.RESPONSE_TIME_SEC, i]
        if present & c.HAS_RESPONSE_TIME_SEC != 0 and seconds >> np.uint64(63) == 0:
            micros = seconds * np.uint64(_MICROSECONDS)
            if present & c.HAS_RESPONSE_TIME_NSEC != 0:
                micros += np.uint64(u32[c.RESPONSE_TIME_NSEC, i] // np.uint32(1000))
        n64[RESPONSE_TIME, row] = micros
        valid[row] = bits
        state[ROWS] += 1
    return n
