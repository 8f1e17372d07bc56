"""Kernels that look the addresses of a batch up in a pseudonym cache.

First the addresses are listed by side and length, then each list is worked off in a loop of its own: within a
list there is nothing that a branch predictor could guess wrong but whether an address is in its first slot.

An address that is not in the cache takes its slot at once, marked ``UNRESOLVED`` and holding its number in
the list of fresh addresses, so that meeting it again in the same batch is a hit.

What :func:`look_up_ipv4` and :func:`look_up_ipv6` are given:

- ``buf``, ``u32``, ``u64``: see edm.kernel.columns;
- ``rows``: uint32[...], the list;
- ``start``, ``stop``: int, its part;
- ``side``: 0 source, 1 destination;
- ``small``, ``large``: uint64[slots, 1], uint64[slots, 4];
- ``small_marks``, ``large_marks``: uint8[slots];
- ``seed``: uint64[3], odd from the second on;
- ``state``: int64[N_STATE];
- ``fresh``: uint64[N_FRESH_FIELDS, 2 * rows];
- ``orders``: uint32[2, 2 * rows], numbers of the fresh IPv4 and of the fresh IPv6 addresses;
- ``waiting``: uint32[2, 2 * rows], row * 2 + side and number of the fresh address;
- ``keys``: uint64[3, WINDOW], scratch: the addresses of a window, and where their slots are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edm.kernel import columns as c
from edm.kernel.jit import be32, inlined, kernel
from edm.stages.pseudonyms.kernels import (
    BOUND,
    EVICTIONS,
    FRESH,
    FRESH_IPV4,
    FRESH_IPV6,
    HITS,
    KEY_HIGH,
    KEY_LENGTH,
    KEY_LOW,
    LARGE_COUNT,
    LARGE_HAND,
    LARGE_LIMIT,
    LOADED,
    ODD_LENGTHS,
    SLOT,
    SMALL_COUNT,
    SMALL_HAND,
    SMALL_LIMIT,
    WAITING,
    put_address,
)
from edm.stages.pseudonyms.tables import (
    OCCUPIED,
    REFERENCED,
    UNRESOLVED,
    evict,
    find_large,
    find_small,
    home,
)

N_LISTS = 4
"""Lists of rows: source addresses of 4 bytes, of 16 bytes, and the same of destination addresses."""

WINDOW = 32
"""Addresses whose slots are loaded together."""

_U32 = np.uint64(32)
_1 = np.uint64(1)
_LOW32 = np.uint64(0xFFFFFFFF)
_NOT_FRESH = np.uint64(0xFFFFFFFFFFFFFFFF)
_NEW_MARK = OCCUPIED | REFERENCED | UNRESOLVED


@kernel
def list_addresses(u32: Any, u64: Any, fate: Any, n: Any, lists: Any, sizes: Any, state: Any) -> None:
    """List the pending rows with addresses of 4 and of 16 bytes; the columns of others get length and value.

    Parameters
    ----------
    u32, u64, fate : see edm.kernel.columns
    n : rows of the batch
    lists : uint32[N_LISTS, n + 1]
    sizes : int64[N_LISTS]
    state : int64[N_STATE], ``ODD_LENGTHS`` is written
    """
    odd: Any = np.uint64(0)
    left: Any = np.uint64(0)
    for row in range(np.uint64(n)):
        u32[c.LEFT_ROW, left] = row
        left += np.uint64(fate[row] == c.PENDING)
    for side in range(2):
        ipv4: Any = np.uint64(0)
        ipv6: Any = np.uint64(0)
        for j in range(left):
            # No branch on the length, which nobody can guess.
            i = np.uint64(u32[c.LEFT_ROW, j])
            has = np.uint64((u32[c.PRESENT, i] & (c.HAS_QUERY_ADDRESS << side)) != 0)
            length = np.uint64(u32[c.QUERY_ADDRESS_LEN + 2 * side, i]) * has
            is_ipv4 = np.uint64(length == 4)
            is_ipv6 = np.uint64(length == 16)
            u32[c.SOURCE_LEN + side, i] = length
            u64[c.SOURCE_HIGH + 2 * side, i] = 0
            u64[c.SOURCE_LOW + 2 * side, i] = 0
            lists[2 * side, ipv4] = i
            lists[2 * side + 1, ipv6] = i
            ipv4 += is_ipv4
            ipv6 += is_ipv6
            odd += has & ~(is_ipv4 | is_ipv6)
        sizes[2 * side] = ipv4
        sizes[2 * side + 1] = ipv6
    state[ODD_LENGTHS] += np.int64(odd)


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
def _wait(row: Any, side: Any, number: Any, waiting: Any, state: Any) -> None:
    """Let a row wait for the pseudonym of a fresh address."""
    waiting[0, state[WAITING]] = row * np.uint64(2) + np.uint64(side)
    waiting[1, state[WAITING]] = number
    state[WAITING] += 1


@kernel
def look_up_ipv4(
    buf: Any,
    u32: Any,
    u64: Any,
    rows: Any,
    start: Any,
    stop: Any,
    side: Any,
    small: Any,
    small_marks: Any,
    large: Any,
    large_marks: Any,
    seed: Any,
    state: Any,
    fresh: Any,
    orders: Any,
    waiting: Any,
    keys: Any,
) -> Any:
    """Look up the addresses of 4 bytes of the listed rows; return the place in the list where it stopped.

    Stops early when the table has no room within its limit: grow it and go on from there. Rows whose address is
    known get their columns at once, the others enter ``waiting``.
    """
    loaded = np.uint64(0)
    hits = 0
    mask = np.uint64(small_marks.shape[0] - 1)
    last = _NOT_FRESH  # no address
    last_number = _NOT_FRESH
    last_found = np.uint64(0)
    for j in range(start, stop):
        at = np.uint64(j - start) & np.uint64(WINDOW - 1)
        if at == 0:
            # The loads of a window do not depend on each other or on a branch, so that their cache misses overlap.
            for k in range(np.uint64(min(WINDOW, stop - j))):
                low = np.uint64(
                    be32(buf, np.uint64(u32[c.QUERY_ADDRESS_OFF + 2 * side, rows[np.uint64(j) + k]]))
                )
                slot = home(np.uint64(0), low, seed) & mask
                keys[0, k] = low
                keys[2, k] = slot
                loaded ^= small[slot, 0] ^ np.uint64(small_marks[slot])
        if state[SMALL_COUNT] + 1 > state[SMALL_LIMIT]:
            state[HITS] += hits
            return j
        i = np.uint64(rows[np.uint64(j)])
        low = keys[0, at]
        if low == last:  # a server has few addresses of its own: the last is nearly always the next
            hits += 1
        else:
            slot = keys[2, at]
            while small_marks[slot] != 0 and small[slot, 0] >> _U32 != low:
                slot = (slot + _1) & mask
            mark = small_marks[slot]
            last = low
            last_found = small[slot, 0] & _LOW32
            last_number = _NOT_FRESH
            if mark == 0:
                if state[SMALL_COUNT] + state[LARGE_COUNT] >= state[BOUND]:
                    evict_one(small, small_marks, large, large_marks, seed, state)
                    # Others move up to where the evicted address was, so the place may be another now.
                    slot = find_small(low, small, small_marks, seed)
                last_number = add_fresh(np.uint64(0), low, np.uint64(4), slot, fresh, orders, state)
                small[slot, 0] = (low << _U32) | last_number
                small_marks[slot] = _NEW_MARK
                state[SMALL_COUNT] += 1
            else:
                hits += 1
                if mark & REFERENCED == 0:
                    small_marks[slot] = mark | np.uint8(REFERENCED)
                if mark & UNRESOLVED != 0:
                    last_number = last_found
        if last_number == _NOT_FRESH:
            u64[c.SOURCE_LOW + 2 * side, i] = last_found
        else:
            _wait(i, side, last_number, waiting, state)
    state[HITS] += hits
    # Makes the loads of the windows count as used.
    state[LOADED] = np.int64(loaded & _1)
    return stop


@kernel
def look_up_ipv6(
    buf: Any,
    u32: Any,
    u64: Any,
    rows: Any,
    start: Any,
    stop: Any,
    side: Any,
    small: Any,
    small_marks: Any,
    large: Any,
    large_marks: Any,
    seed: Any,
    state: Any,
    fresh: Any,
    orders: Any,
    waiting: Any,
    keys: Any,
) -> Any:
    """Do for addresses of 16 bytes what :func:`look_up_ipv4` does for those of 4."""
    loaded = np.uint64(0)
    hits = 0
    mask = np.uint64(large_marks.shape[0] - 1)
    any_yet = False
    last_high = np.uint64(0)
    last_low = np.uint64(0)
    last_number = _NOT_FRESH
    found_high = np.uint64(0)
    found_low = np.uint64(0)
    for j in range(start, stop):
        at = np.uint64(j - start) & np.uint64(WINDOW - 1)
        if at == 0:
            for k in range(np.uint64(min(WINDOW, stop - j))):
                off = np.uint64(u32[c.QUERY_ADDRESS_OFF + 2 * side, rows[np.uint64(j) + k]])
                high = (np.uint64(be32(buf, off)) << _U32) | np.uint64(be32(buf, off + np.uint64(4)))
                low = (np.uint64(be32(buf, off + np.uint64(8))) << _U32) | np.uint64(
                    be32(buf, off + np.uint64(12))
                )
                slot = home(high, low, seed) & mask
                keys[0, k] = low
                keys[1, k] = high
                keys[2, k] = slot
                loaded ^= large[slot, 0] ^ np.uint64(large_marks[slot])
        if state[LARGE_COUNT] + 1 > state[LARGE_LIMIT]:
            state[HITS] += hits
            return j
        i = np.uint64(rows[np.uint64(j)])
        low = keys[0, at]
        high = keys[1, at]
        if any_yet and low == last_low and high == last_high:
            hits += 1
        else:
            any_yet = True
            slot = keys[2, at]
            while large_marks[slot] != 0 and (large[slot, 0] != high or large[slot, 1] != low):
                slot = (slot + _1) & mask
            mark = large_marks[slot]
            last_high = high
            last_low = low
            found_high = large[slot, 2]
            found_low = large[slot, 3]
            last_number = _NOT_FRESH
            if mark == 0:
                if state[SMALL_COUNT] + state[LARGE_COUNT] >= state[BOUND]:
                    evict_one(small, small_marks, large, large_marks, seed, state)
                    slot = find_large(high, low, large, large_marks, seed)
                last_number = add_fresh(high, low, np.uint64(16), slot, fresh, orders, state)
                large[slot, 0] = high
                large[slot, 1] = low
                large[slot, 3] = last_number
                large_marks[slot] = _NEW_MARK
                state[LARGE_COUNT] += 1
            else:
                hits += 1
                if mark & REFERENCED == 0:
                    large_marks[slot] = mark | np.uint8(REFERENCED)
                if mark & UNRESOLVED != 0:
                    last_number = found_low
        if last_number == _NOT_FRESH:
            put_address(u32, u64, i, side, found_high, found_low)
        else:
            _wait(i, side, last_number, waiting, state)
    state[HITS] += hits
    state[LOADED] = np.int64(loaded & _1)
    return stop


__all__ = ["N_LISTS", "WINDOW", "list_addresses", "look_up_ipv4", "look_up_ipv6"]
