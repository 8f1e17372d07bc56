"""Kernel of the client filter: binary search in sorted, disjoint address ranges.

The span of the ranges is divided into equal parts, and a table tells which ranges begin in each, so that a list of any
usual shape takes a few steps. For IPv6 that is done with the high 64 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edm.kernel.columns import (
    CLIENT_ADDRESS_INVALID,
    CLIENT_IGNORED,
    HAS_QUERY_ADDRESS,
    PENDING,
    PRESENT,
    QUERY_ADDRESS_LEN,
    QUERY_ADDRESS_OFF,
)
from edm.kernel.jit import be32, force_inlined, kernel

_U1 = np.uint64(1)
_U4, _U8, _U12, _U32 = (np.uint64(i) for i in (4, 8, 12, 32))


@force_inlined
def _word(buf: Any, off: Any) -> Any:
    return (np.uint64(be32(buf, off)) << _U32) | np.uint64(be32(buf, off + _U4))


@force_inlined
def _part(jump: Any, base: Any, shift: Any, address: Any) -> Any:
    # Addresses before the first range or behind the last part find their answer in the first or last part too.
    return min(max(address, base) - base >> shift, np.uint64(jump.size - 2))


@force_inlined
def _behind(first: Any, jump: Any, base: Any, shift: Any, address: Any) -> Any:
    """Return how many of the ranges begin at or before ``address``."""
    part = _part(jump, base, shift, address)
    low = np.uint64(jump[part])
    high = np.uint64(jump[part + _U1])
    while low < high:
        middle = (low + high) >> _U1
        if np.uint64(first[middle]) <= address:
            low = middle + _U1
        else:
            high = middle
    return low


@force_inlined
def _behind_v6(first: Any, jump: Any, base: Any, shift: Any, address_high: Any, address_low: Any) -> Any:
    part = _part(jump, base, shift, address_high)
    low = np.uint64(jump[part])
    high = np.uint64(jump[part + _U1])
    while low < high:
        middle = (low + high) >> _U1
        begin = first[0, middle]
        if begin < address_high or (begin == address_high and first[1, middle] <= address_low):
            low = middle + _U1
        else:
            high = middle
    return low


@kernel
def filter_clients(
    buf: Any,
    u32: Any,
    fate: Any,
    n: Any,
    v4_first: Any,
    v4_last: Any,
    v4_jump: Any,
    v4_base: Any,
    v4_shift: Any,
    v6_first: Any,
    v6_last: Any,
    v6_jump: Any,
    v6_base: Any,
    v6_shift: Any,
) -> None:
    """Set the fate of pending rows: ``CLIENT_ADDRESS_INVALID`` or, if a prefix holds the address, ``CLIENT_IGNORED``.

    Parameters
    ----------
    v4_first, v4_last : uint32[ranges]
        First and last address of each range, ascending and disjoint.
    v4_jump : uint32[parts + 1]
        How many ranges begin before each part, and at last how many there are.
    v4_base, v4_shift : uint64
        The part of an address is its distance from ``base``, shifted right.
    v6_first, v6_last : uint64[2, ranges]
        The same for IPv6: high and low 64 bits.
    v6_jump, v6_base, v6_shift
        The same, over the high 64 bits.
    """
    for i in range(n):
        if fate[i] != PENDING:
            continue
        length = u32[QUERY_ADDRESS_LEN, i] if u32[PRESENT, i] & HAS_QUERY_ADDRESS != 0 else 0
        off = np.uint64(u32[QUERY_ADDRESS_OFF, i])
        if length == 4:
            address = np.uint64(be32(buf, off))
            k = _behind(v4_first, v4_jump, v4_base, v4_shift, address)
            if k > 0 and address <= np.uint64(v4_last[k - _U1]):
                fate[i] = CLIENT_IGNORED
        elif length == 16:
            high, low = _word(buf, off), _word(buf, off + _U8)
            k = _behind_v6(v6_first, v6_jump, v6_base, v6_shift, high, low)
            if k > 0:
                last_high, last_low = v6_last[0, k - _U1], v6_last[1, k - _U1]
                if high < last_high or (high == last_high and low <= last_low):
                    fate[i] = CLIENT_IGNORED
        else:
            fate[i] = CLIENT_ADDRESS_INVALID


__all__ = ["filter_clients"]
