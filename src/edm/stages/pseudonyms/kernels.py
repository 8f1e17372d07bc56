"""Kernels that make the pseudonyms of fresh addresses: prepare AES blocks, read the results, store them.

:mod:`edm.stages.pseudonyms.lookup` has listed the addresses that were not in the cache.
"""

from __future__ import annotations

import sys
from typing import NamedTuple, TypeAlias

import numpy as np

from edm.kernel import columns as c
from edm.kernel.columns import I64, U64, Bytes, U32Array, U32Columns, U64Array, U64Columns
from edm.kernel.jit import inlined, kernel
from edm.stages.pseudonyms.tables import (
    FRESH,
    OCCUPIED,
    REFERENCED,
    UNRESOLVED,
    WAITING,
    HashKey,
    Table,
    TablesArrays,
    find,
    holds,
    named_tables,
    pseudonym_at,
    put_pseudonym,
)

# Rows of the uint64 list of fresh addresses.
KEY_HIGH = 0
KEY_LOW = 1
KEY_LENGTH = 2
SLOT = 3
RESULT_HIGH = 4
RESULT_LOW = 5
N_FRESH_FIELDS = 6

Fresh: TypeAlias = U64Array
"""``uint64[N_FRESH_FIELDS, addresses or more]``: the addresses of a batch that were not in the cache."""
Order: TypeAlias = U32Array
"""``uint32[addresses or more]``: numbers of fresh addresses, all of 4 bytes or mapped, or all others."""
Waiting: TypeAlias = U32Array
"""``uint32[2, rows or more]``: row * 2 + side, and number of the fresh address whose pseudonym it waits for."""
AesWords: TypeAlias = U64Array
"""``uint64[2 * blocks]``: blocks of AES, two words each, in memory order."""


class Lists(NamedTuple):
    """Lists that looking up a batch fills, and scratch memory.

    Attributes
    ----------
    fresh : uint64[N_FRESH_FIELDS, 2 * rows]
        Addresses that were not in the cache.
    orders : uint32[2, 2 * rows]
        Numbers of the fresh IPv4 and of the fresh IPv6 addresses.
    waiting : uint32[2, 2 * rows]
        Row * 2 + side, and number of the fresh address.
    keys : uint64[3, WINDOW]
        Scratch: the addresses of a window, and where their slots are.
    """

    fresh: Fresh
    orders: U32Array
    waiting: Waiting
    keys: U64Array


ListsArrays: TypeAlias = tuple[Fresh, U32Array, Waiting, U64Array]
"""What :class:`Lists` are made of; Python hands them over so, see :mod:`edm.kernel.jit`."""

IPV4_BLOCKS = 32
IPV6_BLOCKS = 128

_LITTLE_ENDIAN = sys.byteorder == "little"
_MAPPED = 0xFFFF << 32
_LOW32 = 0xFFFFFFFF


@inlined
def put_address(u32: U32Columns, u64: U64Columns, i: U64, side: I64, high: U64, low: U64) -> None:
    """Write a pseudonym to the columns of row ``i``; one in ::ffff:0:0/96 becomes 4 bytes."""
    if high == 0 and low >> np.uint64(32) == np.uint64(0xFFFF):
        u32[c.SOURCE_LEN + side, i] = 4
        low &= np.uint64(_LOW32)
    else:
        u32[c.SOURCE_LEN + side, i] = 16
    u64[c.SOURCE_HIGH + 2 * side, i] = high
    u64[c.SOURCE_LOW + 2 * side, i] = low


@inlined
def in_memory_order(x: U64) -> U64:
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
    fresh: Fresh,
    order: Order,
    start: I64,
    stop: I64,
    blocks: I64,
    keep: AesWords,
    pad: AesWords,
    out: AesWords,
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
def _first_bits(cipher: Bytes, at: U64, blocks: U64) -> U64:
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
def fold(cipher: Bytes, order: Order, start: I64, stop: I64, blocks: I64, fresh: Fresh) -> None:
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


@inlined
def _store(k: U64, fresh: Fresh, table: Table, key: HashKey) -> None:
    """Store the pseudonym of fresh address ``k``, if its slot still waits for it."""
    slots, marks = table
    high, low = fresh[KEY_HIGH, k], fresh[KEY_LOW, k]
    # Usually still in the slot it took; an eviction or a grown table may have moved it.
    slot = fresh[SLOT, k]
    if (
        marks[slot] & UNRESOLVED == 0
        or pseudonym_at(slots, slot)[1] != k
        or not holds(slots, slot, high, low)
    ):
        slot = find(high, low, table, key)
    if marks[slot] & UNRESOLVED != 0 and pseudonym_at(slots, slot)[1] == k:
        put_pseudonym(slots, slot, fresh[RESULT_HIGH, k], fresh[RESULT_LOW, k])
        marks[slot] &= np.uint8(OCCUPIED | REFERENCED)


@kernel
def settle(u32: U32Columns, u64: U64Columns, cache: TablesArrays, out: ListsArrays) -> None:
    """Store the new pseudonyms in the cache and in the columns of the rows that wait for them.

    A fresh address may have been evicted again, or have got a second number after that; then its slot is left alone.

    Parameters
    ----------
    u32, u64
        The columns of the batch, see :mod:`edm.kernel.columns`.
    cache : TablesArrays
        The cache.
    out : ListsArrays
        The lists that :func:`edm.stages.pseudonyms.lookup.look_up` and :func:`fold` have filled.
    """
    tables, lists = named_tables(cache), Lists(*out)
    fresh, waiting = lists.fresh, lists.waiting
    for k in range(np.uint64(tables.state[FRESH])):
        if fresh[KEY_LENGTH, k] == 4:
            _store(k, fresh, tables.small, tables.key)
        else:
            _store(k, fresh, tables.large, tables.key)
    for w in range(np.uint64(tables.state[WAITING])):
        number = np.uint64(waiting[1, w])
        i = np.uint64(waiting[0, w] >> np.uint32(1))
        side = np.int64(waiting[0, w] & np.uint32(1))
        put_address(u32, u64, i, side, fresh[RESULT_HIGH, number], fresh[RESULT_LOW, number])


__all__ = [
    "IPV4_BLOCKS",
    "IPV6_BLOCKS",
    "KEY_HIGH",
    "KEY_LENGTH",
    "KEY_LOW",
    "N_FRESH_FIELDS",
    "SLOT",
    "Fresh",
    "Lists",
    "ListsArrays",
    "Order",
    "Waiting",
    "fold",
    "lay_out",
    "put_address",
    "settle",
]
