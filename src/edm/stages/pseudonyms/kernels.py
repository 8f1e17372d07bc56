"""Kernels that make the pseudonyms of fresh addresses: lay out AES blocks, fold them back, settle.

:mod:`edm.stages.pseudonyms.lookup` has listed the addresses that were not in the cache.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from edm.kernel import columns as c
from edm.kernel.jit import inlined, kernel
from edm.stages.pseudonyms.tables import (
    OCCUPIED,
    REFERENCED,
    UNRESOLVED,
    find_large,
    find_small,
)

# Words of the int64 state of one cache.
SMALL_COUNT = 0
LARGE_COUNT = 1
SMALL_HAND = 2
LARGE_HAND = 3
SMALL_LIMIT = 4  # addresses at which the table is to be grown
LARGE_LIMIT = 5
BOUND = 6  # of both counts together
HITS = 7  # from here on: of the current batch
EVICTIONS = 8
ODD_LENGTHS = 9
FRESH = 10
FRESH_IPV4 = 11
FRESH_IPV6 = 12
WAITING = 13
LOADED = 14
N_STATE = 15

# Rows of the uint64 list of fresh addresses.
KEY_HIGH = 0
KEY_LOW = 1
KEY_LENGTH = 2
SLOT = 3
RESULT_HIGH = 4
RESULT_LOW = 5
N_FRESH_FIELDS = 6

IPV4_BLOCKS = 32
IPV6_BLOCKS = 128

_LITTLE_ENDIAN = sys.byteorder == "little"
_MAPPED = 0xFFFF << 32
_LOW32 = 0xFFFFFFFF


@inlined
def put_address(u32: Any, u64: Any, i: Any, side: Any, high: Any, low: Any) -> None:
    """Write a pseudonym to the columns of row ``i``; one in ::ffff:0:0/96 becomes 4 bytes."""
    if high == 0 and low >> np.uint64(32) == np.uint64(0xFFFF):
        u32[c.SOURCE_LEN + side, i] = 4
        low &= np.uint64(_LOW32)
    else:
        u32[c.SOURCE_LEN + side, i] = 16
    u64[c.SOURCE_HIGH + 2 * side, i] = high
    u64[c.SOURCE_LOW + 2 * side, i] = low


@inlined
def in_memory_order(x: Any) -> Any:
    """Return the word whose bytes in memory are those of ``x`` in network byte order."""
    if _LITTLE_ENDIAN:
        x = ((x & np.uint64(0x00FF00FF00FF00FF)) << np.uint64(8)) | (
            (x >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
        )
        x = ((x & np.uint64(0x0000FFFF0000FFFF)) << np.uint64(16)) | (
            (x >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
        )
        x = (x << np.uint64(32)) | (x >> np.uint64(32))
    return x


@kernel
def lay_out(
    fresh: Any, order: Any, start: Any, stop: Any, blocks: Any, keep: Any, pad: Any, out: Any
) -> None:
    """Write the AES input blocks of the fresh addresses ``order[start:stop]``.

    Block ``j`` of an address is its first ``j`` bits followed by the pad's bits from ``j`` on.

    Parameters
    ----------
    fresh : uint64[N_FRESH_FIELDS, fresh]
    order : uint32[fresh]
    start, stop : rows of ``order``
    blocks : 32 (IPv4) or 128 (IPv6)
    keep, pad : uint64[256], per block the mask of address bits, and the pad outside of it, in memory order
    out : uint64[2 * blocks * (stop - start)], in memory order
    """
    at = np.uint64(0)
    for k in range(np.uint64(start), np.uint64(stop)):
        low = fresh[KEY_LOW, order[k]]
        if blocks == IPV4_BLOCKS:
            first = in_memory_order(low << np.uint64(32))
            second = np.uint64(0)
        else:
            first = in_memory_order(fresh[KEY_HIGH, order[k]])
            second = in_memory_order(low)
        for j in range(np.uint64(0), np.uint64(2 * blocks), np.uint64(2)):
            out[at + j] = (first & keep[j]) | pad[j]
            out[at + j + np.uint64(1)] = (second & keep[j + np.uint64(1)]) | pad[j + np.uint64(1)]
        at += np.uint64(2 * blocks)


@inlined
def _first_bits(cipher: Any, at: Any, blocks: Any) -> Any:
    """Return the first bits of so many blocks (a multiple of 8), the first block's highest."""
    bits = np.uint64(0)
    for j in range(np.uint64(0), blocks, np.uint64(8)):
        # Eight at a time: they do not wait for one another as 64 shifts in a row would.
        first = at + j * np.uint64(16)
        byte = np.uint64(0)
        for i in range(8):
            byte |= np.uint64(cipher[first + np.uint64(16 * i)] & np.uint8(0x80)) >> np.uint64(i)
        bits = (bits << np.uint64(8)) | byte
    return bits


@kernel
def fold(cipher: Any, order: Any, start: Any, stop: Any, blocks: Any, fresh: Any) -> None:
    """Gather the first bit of each encrypted block and apply them to the addresses ``order[start:stop]``.

    Parameters
    ----------
    cipher : uint8[16 * blocks * (stop - start)]
    order, start, stop, blocks : as for :func:`lay_out`
    fresh : uint64[N_FRESH_FIELDS, fresh]; RESULT_HIGH and RESULT_LOW are written
    """
    at = np.uint64(0)
    half = np.uint64(min(blocks, 64))
    for k in range(np.uint64(start), np.uint64(stop)):
        number = np.uint64(order[k])
        bits = _first_bits(cipher, at, half)
        at += np.uint64(16) * half
        if blocks == IPV4_BLOCKS:
            fresh[RESULT_HIGH, number] = 0
            fresh[RESULT_LOW, number] = np.uint64(_MAPPED) | (
                (fresh[KEY_LOW, number] & np.uint64(_LOW32)) ^ bits
            )
        else:
            fresh[RESULT_HIGH, number] = fresh[KEY_HIGH, number] ^ bits
            bits = _first_bits(cipher, at, half)
            at += np.uint64(16) * half
            fresh[RESULT_LOW, number] = fresh[KEY_LOW, number] ^ bits


@kernel
def settle(
    u32: Any,
    u64: Any,
    small: Any,
    small_marks: Any,
    large: Any,
    large_marks: Any,
    seed: Any,
    state: Any,
    fresh: Any,
    waiting: Any,
) -> None:
    """Store the new pseudonyms in the cache and in the columns of the rows that wait for them.

    The parameters are those of :func:`edm.stages.pseudonyms.lookup.look_up_ipv4`. A fresh address may have been
    evicted again, or have got a second number after that; then its slot is left alone.
    """
    for k in range(np.uint64(state[FRESH])):
        low = fresh[KEY_LOW, k]
        result = fresh[RESULT_LOW, k]
        # Usually still in the slot it took; an eviction or a grown table may have moved it.
        slot = fresh[SLOT, k]
        if fresh[KEY_LENGTH, k] == 4:
            if small_marks[slot] & UNRESOLVED == 0 or small[slot, 0] != (low << np.uint64(32)) | np.uint64(k):
                slot = find_small(low, small, small_marks, seed)
            if small_marks[slot] & UNRESOLVED != 0 and small[slot, 0] & np.uint64(_LOW32) == k:
                small[slot, 0] = (low << np.uint64(32)) | (result & np.uint64(_LOW32))
                small_marks[slot] &= np.uint8(OCCUPIED | REFERENCED)
        else:
            if large_marks[slot] & UNRESOLVED == 0 or large[slot, 3] != k:
                slot = find_large(fresh[KEY_HIGH, k], low, large, large_marks, seed)
            if large_marks[slot] & UNRESOLVED != 0 and large[slot, 3] == k:
                large[slot, 2] = fresh[RESULT_HIGH, k]
                large[slot, 3] = result
                large_marks[slot] &= np.uint8(OCCUPIED | REFERENCED)
    for w in range(np.uint64(state[WAITING])):
        number = np.uint64(waiting[1, w])
        i = np.uint64(waiting[0, w] >> np.uint32(1))
        side = np.int64(waiting[0, w] & np.uint32(1))
        put_address(u32, u64, i, side, fresh[RESULT_HIGH, number], fresh[RESULT_LOW, number])
