"""Kernels that pseudonymise the addresses of a batch: look up, lay out AES blocks, fold them back, settle.

An address that is not in the cache takes its slot at once, marked ``UNRESOLVED`` and holding its number in
the list of fresh addresses, so that meeting it again in the same batch is a hit.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from edm import columns as c
from edm.jit import be32, inlined, kernel
from edm.session.pseudonym_tables import (
    OCCUPIED,
    REFERENCED,
    UNRESOLVED,
    evict,
    find_large,
    find_small,
    home,
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

# Columns of the last address of each side: the address, and what the cache knew.
LENGTH = 0
HIGH = 1
LOW = 2
NUMBER = 3  # in the list of fresh addresses, NOT_FRESH if the pseudonym follows
FOUND_HIGH = 4
FOUND_LOW = 5
N_RECENT = 6

_AHEAD = 32  # rows whose slots are loaded together
_LITTLE_ENDIAN = sys.byteorder == "little"
NOT_FRESH = 0xFFFFFFFFFFFFFFFF
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
def add_fresh(high: Any, low: Any, length: Any, slot: Any, fresh: Any, orders: Any, state: Any) -> Any:
    """Append an address to the list of those to be encrypted; return its number there."""
    number = state[FRESH]
    fresh[KEY_HIGH, number] = high
    fresh[KEY_LOW, number] = low
    fresh[KEY_LENGTH, number] = length
    fresh[SLOT, number] = slot
    state[FRESH] = number + 1
    is_ipv4 = length == 4 or (high == 0 and low >> np.uint64(32) == np.uint64(0xFFFF))
    which = FRESH_IPV4 if is_ipv4 else FRESH_IPV6
    orders[which - FRESH_IPV4, state[which]] = number
    state[which] += 1
    return np.uint64(number)


@inlined
def evict_one(small: Any, small_marks: Any, large: Any, large_marks: Any, seed: Any, state: Any) -> None:
    """Take one address out of the fuller table."""
    if state[SMALL_COUNT] > state[LARGE_COUNT]:
        state[SMALL_HAND] = evict(small, small_marks, seed, state[SMALL_HAND])
        state[SMALL_COUNT] -= 1
    else:
        state[LARGE_HAND] = evict(large, large_marks, seed, state[LARGE_HAND])
        state[LARGE_COUNT] -= 1
    state[EVICTIONS] += 1


@inlined
def touch(
    buf: Any,
    u32: Any,
    fate: Any,
    start: Any,
    stop: Any,
    small: Any,
    small_marks: Any,
    large: Any,
    large_marks: Any,
    seed: Any,
) -> Any:
    """Load the home slots of the query addresses of some rows, so that they are at hand when looked up.

    Without this the branches of one row's probe wait for its cache misses before the next row can start.
    """
    loaded = np.uint64(0)
    small_mask = np.uint64(small_marks.shape[0] - 1)
    large_mask = np.uint64(large_marks.shape[0] - 1)
    for i in range(np.uint64(start), np.uint64(stop)):
        if fate[i] != c.PENDING or u32[c.PRESENT, i] & c.HAS_QUERY_ADDRESS == 0:
            continue
        off = np.uint64(u32[c.QUERY_ADDRESS_OFF, i])
        length = u32[c.QUERY_ADDRESS_LEN, i]
        if length == 4:
            slot = home(np.uint64(0), np.uint64(be32(buf, off)), seed) & small_mask
            loaded ^= small[slot, 0] ^ np.uint64(small_marks[slot])
        elif length == 16:
            high = (np.uint64(be32(buf, off)) << np.uint64(32)) | np.uint64(be32(buf, off + np.uint64(4)))
            off += np.uint64(8)
            low = (np.uint64(be32(buf, off)) << np.uint64(32)) | np.uint64(be32(buf, off + np.uint64(4)))
            slot = home(high, low, seed) & large_mask
            loaded ^= large[slot, 0] ^ np.uint64(large_marks[slot])
    return loaded


@kernel
def look_up(
    buf: Any,
    u32: Any,
    u64: Any,
    fate: Any,
    start: Any,
    n: Any,
    small: Any,
    small_marks: Any,
    large: Any,
    large_marks: Any,
    seed: Any,
    state: Any,
    fresh: Any,
    orders: Any,
    waiting: Any,
    recent: Any,
) -> Any:
    """Look up both addresses of the pending rows ``start <= i < n``; return the row where it stopped.

    Stops before ``n`` when a table has no room within its limit: grow it and go on from there. Rows whose
    addresses are all known get their columns at once, the others enter ``waiting``.

    Parameters
    ----------
    buf, u32, u64, fate : see edm.columns
    small, large : uint64[slots, 1], uint64[slots, 4]
    small_marks, large_marks : uint8[slots]
    seed : uint64[3], odd from the second on
    state : int64[N_STATE]
    fresh : uint64[N_FRESH_FIELDS, 2 * rows]
    orders : uint32[2, 2 * rows], numbers of the fresh IPv4 and of the fresh IPv6 addresses
    waiting : uint32[2, 2 * rows], row * 2 + side and number of the fresh address
    recent : uint64[2, N_RECENT], scratch: the last address of each side
    """
    loaded = np.uint64(0)
    hits = 0
    stopped = n
    recent[0, LENGTH] = 0
    recent[1, LENGTH] = 0
    for row in range(start, n):
        if (row - start) % _AHEAD == 0:
            ahead = min(row + _AHEAD, n)
            loaded ^= touch(buf, u32, fate, row, ahead, small, small_marks, large, large_marks, seed)
        i = np.uint64(row)
        if fate[i] != c.PENDING:
            continue
        if state[SMALL_COUNT] + 2 > state[SMALL_LIMIT] or state[LARGE_COUNT] + 2 > state[LARGE_LIMIT]:
            stopped = row
            break
        for side in range(2):
            length = np.uint64(u32[c.QUERY_ADDRESS_LEN + 2 * side, i])
            if u32[c.PRESENT, i] & (c.HAS_QUERY_ADDRESS << side) == 0:
                length = np.uint64(0)
            elif length != 4 and length != 16:
                state[ODD_LENGTHS] += 1
            if length != 4 and length != 16:
                u32[c.SOURCE_LEN + side, i] = length
                u64[c.SOURCE_HIGH + 2 * side, i] = 0
                u64[c.SOURCE_LOW + 2 * side, i] = 0
                continue
            off = np.uint64(u32[c.QUERY_ADDRESS_OFF + 2 * side, i])
            high = np.uint64(0)
            low = np.uint64(be32(buf, off))
            if length == 16:
                high = (low << np.uint64(32)) | np.uint64(be32(buf, off + np.uint64(4)))
                low = np.uint64(be32(buf, off + np.uint64(8))) << np.uint64(32)
                low |= np.uint64(be32(buf, off + np.uint64(12)))
            if recent[side, LOW] == low and recent[side, HIGH] == high and recent[side, LENGTH] == length:
                # A server has few addresses of its own: the last response_address is nearly always the next.
                hits += 1
            else:
                recent[side, LENGTH] = length
                recent[side, HIGH] = high
                recent[side, LOW] = low
                if length == 4:
                    slot = find_small(low, small, small_marks, seed)
                    mark = small_marks[slot]
                    small_marks[slot] = mark | np.uint8(REFERENCED) if mark != 0 else np.uint8(0)
                    found_high = np.uint64(0)
                    found_low = small[slot, 0] & np.uint64(_LOW32)
                    number = found_low
                    found_low |= np.uint64(_MAPPED)
                else:
                    slot = find_large(high, low, large, large_marks, seed)
                    mark = large_marks[slot]
                    large_marks[slot] = mark | np.uint8(REFERENCED) if mark != 0 else np.uint8(0)
                    found_high = large[slot, 2]
                    found_low = large[slot, 3]
                    number = found_low
                if mark == 0:
                    # Not a function of its own: handing over all these arrays takes longer than the work.
                    if state[SMALL_COUNT] + state[LARGE_COUNT] >= state[BOUND]:
                        evict_one(small, small_marks, large, large_marks, seed, state)
                        # Others move up to where the evicted address was, so the place may be another now.
                        if length == 4:
                            slot = find_small(low, small, small_marks, seed)
                        else:
                            slot = find_large(high, low, large, large_marks, seed)
                    number = add_fresh(high, low, length, slot, fresh, orders, state)
                    if length == 4:
                        small[slot, 0] = (low << np.uint64(32)) | number
                        small_marks[slot] = OCCUPIED | REFERENCED | UNRESOLVED
                        state[SMALL_COUNT] += 1
                    else:
                        large[slot, 0] = high
                        large[slot, 1] = low
                        large[slot, 3] = number
                        large_marks[slot] = OCCUPIED | REFERENCED | UNRESOLVED
                        state[LARGE_COUNT] += 1
                else:
                    hits += 1
                    if mark & UNRESOLVED == 0:
                        number = np.uint64(NOT_FRESH)
                recent[side, NUMBER] = number
                recent[side, FOUND_HIGH] = found_high
                recent[side, FOUND_LOW] = found_low
            if recent[side, NUMBER] == np.uint64(NOT_FRESH):
                put_address(u32, u64, i, side, recent[side, FOUND_HIGH], recent[side, FOUND_LOW])
            else:
                waiting[0, state[WAITING]] = i * np.uint64(2) + np.uint64(side)
                waiting[1, state[WAITING]] = recent[side, NUMBER]
                state[WAITING] += 1
    state[HITS] += hits
    # Makes the loads of touch count as used.
    state[LOADED] = np.int64(loaded & np.uint64(1))
    return stopped


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
        bits = np.uint64(0)
        for j in range(half):
            bits = (bits << np.uint64(1)) | np.uint64(cipher[at + j * np.uint64(16)] >> np.uint8(7))
        at += np.uint64(16) * half
        if blocks == IPV4_BLOCKS:
            fresh[RESULT_HIGH, number] = 0
            fresh[RESULT_LOW, number] = np.uint64(_MAPPED) | (
                (fresh[KEY_LOW, number] & np.uint64(_LOW32)) ^ bits
            )
        else:
            fresh[RESULT_HIGH, number] = fresh[KEY_HIGH, number] ^ bits
            bits = np.uint64(0)
            for j in range(half):
                bits = (bits << np.uint64(1)) | np.uint64(cipher[at + j * np.uint64(16)] >> np.uint8(7))
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

    Parameters are those of :func:`look_up`. A fresh address may have been evicted again, or have got a second
    number after that; then its slot is left alone.
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
