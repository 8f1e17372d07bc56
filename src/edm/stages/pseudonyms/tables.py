"""The two tables of a pseudonym cache: hashing, probing, eviction, growth.

Open addressing with linear probing, one table for addresses of 4 bytes, one for those of 16. Each has a power
of two of slots and a ``uint8`` mark per slot (0: free). A slot of the small table is one word, the address in
its upper and the pseudonym in its lower half; a slot of the large one is four words, two for the address and
two for the pseudonym. An IPv4-mapped address is a key of 16 bytes. A pseudonym in the large table that is to
be given out as 4 bytes stands there in mapped form: ``0``, ``0x0000FFFFaabbccdd``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edm.kernel.jit import inlined, kernel

OCCUPIED = 1
REFERENCED = 2
UNRESOLVED = 4  # the slot holds a number in the list of fresh addresses instead of a pseudonym


@inlined
def home(high: Any, low: Any, seed: Any) -> Any:
    """Hash an address with three secret words, so that nobody can choose addresses that collide."""
    x = (low ^ seed[0]) * seed[1]
    x = (x ^ (x >> np.uint64(32)) ^ high) * seed[2]
    x = (x ^ (x >> np.uint64(29))) * seed[1]
    return x ^ (x >> np.uint64(32))


@inlined
def find_small(key: Any, slots: Any, marks: Any, seed: Any) -> Any:
    """Return the slot of the 4-byte address ``key``, or the free slot where it belongs."""
    mask = np.uint64(marks.shape[0] - 1)
    slot = home(np.uint64(0), key, seed) & mask
    while marks[slot] != 0 and slots[slot, 0] >> np.uint64(32) != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@inlined
def find_large(high: Any, low: Any, slots: Any, marks: Any, seed: Any) -> Any:
    """Return the slot of a 16-byte address, or the free slot where it belongs."""
    mask = np.uint64(marks.shape[0] - 1)
    slot = home(high, low, seed) & mask
    while marks[slot] != 0 and (slots[slot, 0] != high or slots[slot, 1] != low):
        slot = (slot + np.uint64(1)) & mask
    return slot


@inlined
def home_of(slot: Any, slots: Any, seed: Any) -> Any:
    """Return the hash of the address in an occupied slot of either table."""
    if slots.shape[1] == 1:
        return home(np.uint64(0), slots[slot, 0] >> np.uint64(32), seed)
    return home(slots[slot, 0], slots[slot, 1], seed)


@kernel
def evict(slots: Any, marks: Any, seed: Any, hand: Any) -> Any:
    """Take one address out of a table by second chance; return where the hand stopped.

    Addresses after the freed slot move up to it (Knuth, volume 3, 6.4, algorithm R), so that no probe
    sequence is cut and no tombstones pile up.
    """
    one = np.uint64(1)
    mask = np.uint64(marks.shape[0] - 1)
    free = np.uint64(hand) & mask
    while marks[free] == 0 or marks[free] & REFERENCED != 0:
        marks[free] &= np.uint8(OCCUPIED | UNRESOLVED)
        free = (free + one) & mask
    stopped = np.int64(free)
    slot = free
    while True:
        slot = (slot + one) & mask
        if marks[slot] == 0:
            break
        # An address may move only to a slot that is not before its home, counted along the ring.
        if (slot - home_of(slot, slots, seed)) & mask >= (slot - free) & mask:
            for word in range(slots.shape[1]):
                slots[free, word] = slots[slot, word]
            marks[free] = marks[slot]
            free = slot
    marks[free] = 0
    return stopped


@kernel
def rehash(slots: Any, marks: Any, seed: Any, wide_slots: Any, wide_marks: Any) -> None:
    """Copy a table into an empty one of more slots.

    The mask takes low bits of the hash, so the copy walks through the new table in two ascending streams.
    """
    mask = np.uint64(wide_marks.shape[0] - 1)
    for old in range(np.uint64(marks.shape[0])):
        if marks[old] != 0:
            slot = home_of(old, slots, seed) & mask
            while wide_marks[slot] != 0:
                slot = (slot + np.uint64(1)) & mask
            for word in range(slots.shape[1]):
                wide_slots[slot, word] = slots[old, word]
            wide_marks[slot] = marks[old]
