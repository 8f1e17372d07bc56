"""Kernels that turn counted state into columns: labels of the names, client counts, serialised sketches."""

from __future__ import annotations

import math

import numpy as np

from edm.kernel.columns import I64, U64, Bytes, I32Array, I64Array, U8Array, U32Array, U64Array
from edm.kernel.jit import inlined, kernel
from edm.stages.histogram.sketches import CELL, CLASS_SHIFT, COUNT_MASK, REGISTER_BYTES, REGISTER_CLASS, STATE

LABELS = 10
SPARSE_MAX = 256
"""Most registers that a sparse sketch may have set: 2^floor(log2(1024 * 4 / 14))."""

SKETCH_BYTES_MAX = 3 + REGISTER_BYTES

_VERSION = 0x10  # schema version 1 in the high nibble of the first byte
_SPARSE = 3
_DENSE = 4
_PARAMETERS = 0x6A  # (regwidth - 1) << 5 | log2m

_REGISTERS = 1024
_ALPHA_M2 = 0.7213 / (1 + 1.079 / _REGISTERS) * _REGISTERS * _REGISTERS
_SMALL_LIMIT = 2.5 * _REGISTERS
_TWO_TO_L = float(1 << 24)  # 2^(log2m + 2^regwidth - 2)
_LARGE_LIMIT = _TWO_TO_L / 30
# What the Go daemon's conversion of a NaN or infinity to uint64 gives.
_OVERFLOW = np.uint64(1 << 63)

# By a byte of two registers: the sum of 2^(15 - value), and how many registers are zero.
_WEIGHT = np.array([(1 << (15 - (b >> 4))) + (1 << (15 - (b & 15))) for b in range(256)], np.int64)
_ZEROS = np.array([(b >> 4 == 0) + (b & 15 == 0) for b in range(256)], np.int64)


@inlined
def _estimate(weight: I64, zeros: I64) -> U64:
    """Return the cardinality, rounded up, from the sum of 2^(15 - value) and the number of zero registers.

    HyperLogLog with the corrections for small and large ranges (Flajolet et al. 2007, figure 3).
    """
    estimate = _ALPHA_M2 / (np.float64(weight) / 32768.0)
    if zeros > 0 and estimate < _SMALL_LIMIT:
        return np.uint64(math.ceil(_REGISTERS * math.log(_REGISTERS / np.float64(zeros))))
    if estimate <= _LARGE_LIMIT:
        return np.uint64(math.ceil(estimate))
    if estimate >= _TWO_TO_L:
        return _OVERFLOW
    return np.uint64(math.ceil(-_TWO_TO_L * math.log(1 - estimate / _TWO_TO_L)))


@inlined
def _write_sparse(registers: U8Array, base: U64, out: Bytes, pos: I64) -> I64:
    """Write the registers that are set as 14-bit numbers, index << 4 | value; return the end."""
    pending = np.int64(0)
    bits = 0
    for register in range(_REGISTERS):
        both = np.int64(registers[base + np.uint64(register >> 1)])
        value = both >> 4 if register & 1 == 0 else both & 15
        if value == 0:
            continue
        pending = pending << 14 | register << 4 | value
        bits += 14
        while bits >= 8:
            bits -= 8
            out[pos] = pending >> bits & 0xFF
            pos += 1
        pending &= (1 << bits) - 1
    if bits > 0:
        out[pos] = pending << (8 - bits) & 0xFF
        pos += 1
    return pos


@kernel
def export_sketches(
    rows: U32Array,
    n: I64,
    family: I64,
    registers: U8Array,
    cutoff: I64,
    counts: U64Array,
    offsets: I32Array,
    out: Bytes,
    valid: U8Array,
) -> None:
    """Write client counts and serialised sketches of one address family.

    Parameters
    ----------
    rows : uint32[n, 16]
    n : int
    family : int
        0 for v4, 1 for v6.
    registers : uint8[:]
    cutoff : int
        Third byte of a serialised sketch.
    counts : uint64[n]
        Receives the number of clients: exact for a set, else the estimate.
    offsets : int32[n + 1]
        Receives where the serialised sketch of each row begins in ``out``.
    out : uint8[:]
        Room for ``SKETCH_BYTES_MAX`` for each sketch of registers.
    valid : uint8[(n + 7) // 8]
        Zeroed; receives an Arrow validity bitmap: rows whose sketch is empty or a set have none.
    """
    pos = 0
    offsets[0] = 0
    for k in range(n):
        i = np.uint64(k)
        state = np.uint64(rows[i, STATE + family])
        if state >> CLASS_SHIFT != REGISTER_CLASS:
            counts[i] = state & COUNT_MASK
            offsets[k + 1] = pos
            continue
        base = np.uint64(rows[i, CELL + family]) << np.uint64(3)
        weight = np.int64(0)
        zeros = np.int64(0)
        for b in range(REGISTER_BYTES):
            both = registers[base + np.uint64(b)]
            weight += _WEIGHT[both]
            zeros += _ZEROS[both]
        counts[i] = _estimate(weight, zeros)
        valid[k >> 3] |= np.uint8(1 << (k & 7))
        out[pos + 1] = _PARAMETERS
        out[pos + 2] = cutoff
        if _REGISTERS - zeros <= SPARSE_MAX:
            out[pos] = _VERSION | _SPARSE
            pos = _write_sparse(registers, base, out, pos + 3)
        else:
            out[pos] = _VERSION | _DENSE
            pos += 3
            for b in range(REGISTER_BYTES):
                out[pos + b] = registers[base + np.uint64(b)]
            pos += REGISTER_BYTES
        offsets[k + 1] = pos


@inlined
def _separator_before(text: Bytes, begin: I64, at: I64) -> I64:
    """Return the last dot in ``text[begin:at]`` that separates labels, or ``begin - 1``.

    A dot is part of a label if an odd number of backslashes stands before it (RFC 1035, 5.1).
    """
    while at > begin:
        at -= 1
        if text[at] != 0x2E:
            continue
        first = at
        while first > begin and text[first - 1] == 0x5C:
            first -= 1
        if (at - first) & 1 == 0:
            return at
    return begin - 1


@inlined
def _labels_end(text: Bytes, begin: I64, end: I64) -> I64:
    """Return ``end`` without the final dot of the name; a dot that is escaped belongs to the last label."""
    if end > begin and _separator_before(text, begin, end) == end - 1:
        return end - 1
    return end


@kernel
def split_labels(
    text: Bytes,
    text_offsets: I32Array,
    n: I64,
    offsets: I32Array,
    data: Bytes,
    base: I64Array,
    valid: U8Array,
) -> None:
    """Split names in presentation form into the columns label0 (top-level domain) to label9.

    Escapes stay as they are. Of a name of more than ten labels the last column takes all that remain, joined
    with dots from right to left. The root and the empty name have no labels.

    Parameters
    ----------
    text : uint8[:]
    text_offsets : int32[n + 1]
        The names, as the buffers of an Arrow string array.
    n : int
    offsets : int32[10, n + 1]
    data : uint8[:]
        At least as long as all the names.
    base : int64[11]
        Column ``j`` is ``data[base[j]:base[j + 1]]`` with ``offsets[j]`` counted from its begin.
    valid : uint8[10, (n + 7) // 8]
        Zeroed; receives the validity bitmaps.
    """
    last = LABELS - 1
    for column in range(LABELS):
        offsets[column, 0] = 0
    for i in range(n):
        begin = np.int64(text_offsets[i])
        full_end = np.int64(text_offsets[i + 1])
        end = _labels_end(text, begin, full_end)
        column = 0
        # The end moves left past a separator for each label; begin - 1 says that the leftmost one was done.
        if full_end - begin == 0 or (full_end - begin == 1 and end == begin):
            end = begin - 1
        while end >= begin and column < LABELS:
            dot = _separator_before(text, begin, end) if column < last else begin - 1
            offsets[column, i + 1] = offsets[column, i] + (end - dot - 1)
            valid[column, i >> 3] |= np.uint8(1 << (i & 7))
            end = dot
            column += 1
        for unused in range(column, LABELS):
            offsets[unused, i + 1] = offsets[unused, i]
    base[0] = 0
    for column in range(LABELS):
        base[column + 1] = base[column] + offsets[column, n]
    for i in range(n):
        begin = np.int64(text_offsets[i])
        end = _labels_end(text, begin, np.int64(text_offsets[i + 1]))
        for column in range(LABELS):
            pos = base[column] + offsets[column, i]
            stop = base[column] + offsets[column, i + 1]
            if pos == stop:
                # An empty label or none: at most the separator before it is to be passed.
                end = _separator_before(text, begin, end)
                continue
            while pos < stop:
                dot = _separator_before(text, begin, end)
                for k in range(dot + 1, end):
                    data[pos] = text[k]
                    pos += 1
                if pos < stop:
                    data[pos] = 0x2E
                    pos += 1
                end = dot
