"""Kernels over tables of fingerprints: open addressing with linear probing.

A table is ``uint64[2**bits]``; 0 is an empty slot. The home slot of a fingerprint is its top ``bits`` bits,
so a table is roughly sorted and copying it into one of double size writes from front to back.

Slots are 8-byte aligned and written in one store, and a fingerprint once stored stays findable unless it is
displaced. So :func:`drop_seen` may read a table while another thread inserts: what it finds has been
seen, and what it misses is probed again under the store's lock.

A probe ends after ``PROBE_LIMIT`` slots, which the longest cluster of a table at 85 % does not reach (about
1,500 slots at 10**8 names): a table damaged so that no slot is empty costs time, but never hangs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edm.jit import inlined, kernel

PROBE_LIMIT = 8192

COUNT = 0  # fields of a table's ``state``: fingerprints in the table,
CARRIED = 1  # and those of them that the previous generation holds as well
N_STATE = 2

NEXT = 0  # fields of ``progress``: next name of the batch to insert,
NEW = 1  # names found to be new,
STORED = 2  # fingerprints stored,
DISPLACED = 3  # fingerprints that gave way to others
N_PROGRESS = 4

_0 = np.uint64(0)
_1 = np.uint64(1)


@inlined
def _find(slots: Any, bits: Any, fingerprint: Any) -> Any:
    # The slot of the fingerprint, or the empty slot where it belongs, or the home slot if neither is near.
    home = fingerprint >> np.uint64(64 - bits)
    mask = np.uint64(slots.size - 1)
    slot = home
    for _ in range(PROBE_LIMIT):
        held = slots[slot]
        if held == fingerprint or held == _0:  # noqa: SIM109
            return slot
        slot = (slot + _1) & mask
    return home


@inlined
def _gather(slots: Any, bits: Any, hashes: Any, n: Any, first: Any) -> None:
    # A loop without branches: the processor keeps many cache misses in flight, which the probing loop with
    # its unpredictable ends does not. That loop then finds its slots in the cache.
    shift = np.uint64(64 - bits)
    for i in range(n):
        first[i] = slots[hashes[i] >> shift]


@kernel
def drop_seen(slots: Any, bits: Any, hashes: Any, rows: Any, seen: Any, n: Any, first: Any) -> Any:
    """Drop the fingerprints that a table holds from the packed list; return how many are left.

    Parameters
    ----------
    slots : uint64[2**bits]
        The table.
    bits : int
        Binary logarithm of its size.
    hashes, rows, seen : uint64[>= n], int64[>= n], uint8[>= n]
        Fingerprints, their rows and marks; packed in place, order kept.
    n : int
        How many there are.
    first : uint64[>= n]
        Scratch.
    """
    _gather(slots, bits, hashes, n, first)
    left = 0
    for i in range(n):
        fingerprint = hashes[i]
        if first[i] == fingerprint:
            continue
        if first[i] != _0 and slots[_find(slots, bits, fingerprint)] == fingerprint:
            continue
        hashes[left] = fingerprint
        rows[left] = rows[i]
        seen[left] = seen[i]
        left += 1
    return left


@kernel
def mark_seen(slots: Any, bits: Any, hashes: Any, seen: Any, n: Any, first: Any) -> None:
    """Set ``seen[i]`` to 1 if the table holds ``hashes[i]``; what was marked and is not there becomes 2.

    The arrays are as in :func:`drop_seen`.
    """
    _gather(slots, bits, hashes, n, first)
    for i in range(n):
        fingerprint = hashes[i]
        held = first[i]
        if held != fingerprint and held != _0:
            held = slots[_find(slots, bits, fingerprint)]
        if held == fingerprint:
            seen[i] = 1
        elif seen[i] != 0:
            seen[i] = 2


@inlined
def _remove(slots: Any, bits: Any, slot: Any) -> None:
    # Deletion without tombstones (Knuth, TAOCP 3, 6.4, algorithm R): move later entries of the cluster into
    # the hole unless that would put them before their home.
    shift = np.uint64(64 - bits)
    mask = np.uint64(slots.size - 1)
    hole = slot
    for _ in range(PROBE_LIMIT):
        slot = (slot + _1) & mask
        held = slots[slot]
        if held == _0:
            break
        if ((slot - (held >> shift)) & mask) >= ((slot - hole) & mask):
            slots[hole] = held
            hole = slot
    slots[hole] = _0


@inlined
def _displace(slots: Any, bits: Any, fingerprint: Any) -> None:
    # Store a fingerprint in a full table at the cost of another one: whoever holds the home slot, or, if that
    # is empty, the next entry behind it. The number of entries stays the same.
    home = fingerprint >> np.uint64(64 - bits)
    if slots[home] == _0:
        mask = np.uint64(slots.size - 1)
        slot = (home + _1) & mask
        while slots[slot] == _0 and slot != home:
            slot = (slot + _1) & mask
        _remove(slots, bits, slot)
    slots[home] = fingerprint


@kernel
def insert_names(
    slots: Any,
    bits: Any,
    state: Any,
    hashes: Any,
    rows: Any,
    seen: Any,
    n: Any,
    stop: Any,
    displace: Any,
    is_new: Any,
    stored: Any,
    progress: Any,
) -> None:
    """Store the fingerprints that the table lacks, and tell which names are new.

    Parameters
    ----------
    slots, bits : uint64[2**bits], int
        The current table.
    state : int64[N_STATE]
        Its counts; ``COUNT`` and ``CARRIED`` are updated.
    hashes, rows : uint64[>= n], int64[>= n]
        Fingerprints and the rows they stand for.
    seen : uint8[>= n]
        1 for a name that the previous generation holds, 2 for one it held when the batch began: they are
        stored but not new.
    n : int
        How many there are; ``progress[NEXT]`` tells where to begin.
    stop : int
        Without ``displace``: return before storing one more when the table holds so many.
    displace : bool
        Let other fingerprints give way instead.
    is_new : uint8[rows of the batch]
        Set to 1 for the row of each new name.
    stored : uint64[>= n]
        Receives the fingerprints stored, from ``stored[progress[STORED]]`` on.
    progress : int64[N_PROGRESS]
        Updated; ``progress[NEXT] == n`` when all is done.
    """
    for i in range(progress[NEXT], n):
        fingerprint = hashes[i]
        slot = _find(slots, bits, fingerprint)
        held = slots[slot]
        if held == fingerprint:
            continue
        if displace:
            _displace(slots, bits, fingerprint)
            progress[DISPLACED] += 1
        elif state[COUNT] >= stop:
            progress[NEXT] = i
            return
        else:
            slots[slot] = fingerprint
            if held == _0:
                state[COUNT] += 1
            else:
                progress[DISPLACED] += 1
        stored[progress[STORED]] = fingerprint
        progress[STORED] += 1
        if seen[i] == 1:
            state[CARRIED] += 1
        elif seen[i] == 0:
            is_new[rows[i]] = 1
            progress[NEW] += 1
    progress[NEXT] = n


@kernel
def fill(slots: Any, bits: Any, state: Any, fingerprints: Any, n: Any, first: Any) -> Any:
    """Store fingerprints that are not in the table yet; return how many of them were not 0.

    Parameters
    ----------
    slots, bits, state : uint64[2**bits], int, int64[N_STATE]
        The table; ``COUNT`` is updated.
    fingerprints : uint64[>= n]
        What to store; 0 is passed over, so this may be a part of another table.
    n : int
        How many there are.
    first : uint64[>= n]
        Scratch.
    """
    _gather(slots, bits, fingerprints, n, first)
    given = 0
    for i in range(n):
        fingerprint = fingerprints[i]
        if fingerprint == _0:
            continue
        given += 1
        if first[i] == fingerprint:
            continue
        slot = _find(slots, bits, fingerprint)
        if slots[slot] == _0:
            slots[slot] = fingerprint
            state[COUNT] += 1
    return given


__all__ = [
    "CARRIED",
    "COUNT",
    "DISPLACED",
    "NEW",
    "NEXT",
    "N_PROGRESS",
    "N_STATE",
    "PROBE_LIMIT",
    "STORED",
    "drop_seen",
    "fill",
    "insert_names",
    "mark_seen",
]
