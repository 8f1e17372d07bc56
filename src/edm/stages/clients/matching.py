"""Kernel of the client filter: binary search in sorted, disjoint address ranges.

The span of the ranges is divided into equal parts, and a table tells which ranges begin in each, so that a list of any
usual shape takes a few steps. For IPv6 that is done with the high 64 bits.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from edm.kernel.columns import (
    CLIENT_ADDRESS_INVALID,
    CLIENT_IGNORED,
    HAS_QUERY_ADDRESS,
    I64,
    PENDING,
    PRESENT,
    QUERY_ADDRESS_LEN,
    QUERY_ADDRESS_OFF,
    U64,
    Bytes,
    Fates,
    U32Array,
    U32Columns,
    U64Array,
)
from edm.kernel.jit import be32, force_inlined, kernel

_U1 = np.uint64(1)
_U4, _U8, _U12, _U32 = (np.uint64(i) for i in (4, 8, 12, 32))


class Ranges(NamedTuple):
    """Sorted, disjoint address ranges of one family.

    Attributes
    ----------
    first, last : uint32[ranges] (IPv4), or uint64[2, ranges] (IPv6: high and low 64 bits)
        First and last address of each range, ascending.
    jump : uint32[parts + 1]
        How many ranges begin before each part, and at last how many there are.
    base, shift : uint64
        The part of an address, or of its high 64 bits, is its distance from ``base``, shifted right.
    """

    first: U32Array | U64Array
    last: U32Array | U64Array
    jump: U32Array
    base: U64
    shift: U64


RangeArrays: TypeAlias = tuple[U32Array | U64Array, U32Array | U64Array, U32Array, U64Array]
"""What :class:`Ranges` are made of: ``first``, ``last``, ``jump``, and ``uint64[2]``: ``base`` and ``shift``."""


@force_inlined
def _ranges(arrays: RangeArrays) -> Ranges:
    first, last, jump, scale = arrays
    return Ranges(first, last, jump, scale[0], scale[1])


@force_inlined
def _word(buf: Bytes, off: U64) -> U64:
    return (np.uint64(be32(buf, off)) << _U32) | np.uint64(be32(buf, off + _U4))


@force_inlined
def _part(ranges: Ranges, address: U64) -> U64:
    # Addresses before the first range or behind the last part find their answer in the first or last part too.
    return min(max(address, ranges.base) - ranges.base >> ranges.shift, np.uint64(ranges.jump.size - 2))


@force_inlined
def _behind(ranges: Ranges, address: U64) -> U64:
    """Return how many of the ranges begin at or before the IPv4 ``address``."""
    part = _part(ranges, address)
    low = np.uint64(ranges.jump[part])
    high = np.uint64(ranges.jump[part + _U1])
    while low < high:
        middle = (low + high) >> _U1
        if np.uint64(ranges.first[middle]) <= address:
            low = middle + _U1
        else:
            high = middle
    return low


@force_inlined
def _behind_v6(ranges: Ranges, address_high: U64, address_low: U64) -> U64:
    part = _part(ranges, address_high)
    low = np.uint64(ranges.jump[part])
    high = np.uint64(ranges.jump[part + _U1])
    while low < high:
        middle = (low + high) >> _U1
        begin = ranges.first[0, middle]
        if begin < address_high or (begin == address_high and ranges.first[1, middle] <= address_low):
            low = middle + _U1
        else:
            high = middle
    return low


@kernel
def filter_clients(
    buf: Bytes, u32: U32Columns, fate: Fates, n: I64, ipv4: RangeArrays, ipv6: RangeArrays
) -> None:
    """Set the fate of pending rows: ``CLIENT_ADDRESS_INVALID`` or, if a prefix holds the address, ``CLIENT_IGNORED``.

    Parameters
    ----------
    buf, u32, fate, n
        The block and the columns of a batch, see :mod:`edm.kernel.columns`.
    ipv4, ipv6 : RangeArrays
        The clients to ignore.
    """
    v4, v6 = _ranges(ipv4), _ranges(ipv6)
    for i in range(n):
        if fate[i] != PENDING:
            continue
        length = u32[QUERY_ADDRESS_LEN, i] if u32[PRESENT, i] & HAS_QUERY_ADDRESS != 0 else 0
        off = np.uint64(u32[QUERY_ADDRESS_OFF, i])
        if length == 4:
            address = np.uint64(be32(buf, off))
            k = _behind(v4, address)
            if k > 0 and address <= np.uint64(v4.last[k - _U1]):
                fate[i] = CLIENT_IGNORED
        elif length == 16:
            high, low = _word(buf, off), _word(buf, off + _U8)
            k = _behind_v6(v6, high, low)
            if k > 0:
                last_high, last_low = v6.last[0, k - _U1], v6.last[1, k - _U1]
                if high < last_high or (high == last_high and low <= last_low):
                    fate[i] = CLIENT_IGNORED
        else:
            fate[i] = CLIENT_ADDRESS_INVALID


__all__ = ["RangeArrays", "filter_clients"]
