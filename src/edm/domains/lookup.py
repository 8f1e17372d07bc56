"""Kernels of the lookup: hash the question names of a batch, find them in a domain table, mark the matches.

A name matches the exact entry with the same name; else the longest suffix entry that is its parent domain, or
its parent's, and so on, the root excluded. Dots within a label are escaped in the words of a list, so these parent
domains are just what stands behind each label in wire form.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edm.columns import DOMAIN_INDEX, DOMAIN_MATCH, NO_DOMAIN, PENDING, QNAME_HASH, QNAME_LEN, QNAME_OFF
from edm.domains.bits import U0, U1
from edm.domains.hashing import EXACT, SUFFIX, hash_wire, same_name
from edm.domains.table_kernels import (
    EMPTY,
    L_CAPACITY,
    L_GROUP_BITS,
    L_INDEX_BITS,
    L_SUFFIX_LABELS,
    L_SUFFIX_START,
    L_SUFFIX_STOP,
    hash_tag,
    home_slot,
    locate,
)
from edm.jit import force_inlined, pure_kernel

NO_MATCH = 0
EXACT_MATCH = 1
SUFFIX_MATCH = 2

_NONE = np.uint64(NO_DOMAIN)
_EMPTY = np.uint64(EMPTY)
_U255 = np.uint64(255)


@force_inlined
def _candidate(slot: Any, tag: Any, slots: Any, layout: Any) -> Any:
    """Return the first slot from ``slot`` on that holds the tag, or ``_NONE``."""
    while True:
        value = np.uint64(slots[slot])
        if value == _EMPTY:
            return _NONE
        if value >> layout[L_INDEX_BITS] == tag:
            return slot
        slot += U1
        if slot == layout[L_CAPACITY]:
            slot = U0


@force_inlined
def _index_at(slots: Any, slot: Any, layout: Any) -> Any:
    return np.uint64(slots[slot]) & ((U1 << layout[L_INDEX_BITS]) - U1)


@force_inlined
def _is_entry(
    buf: Any, off: Any, size: Any, suffix: Any, arena: Any, pos: Any, index: Any, layout: Any
) -> Any:
    """Tell whether the entry ``index``, at ``pos`` in the arena, is this name: its kind, size and every byte."""
    # The root, of size 0, stands just before the suffix entries and is an exact one.
    is_suffix = layout[L_SUFFIX_START] <= index < layout[L_SUFFIX_STOP]
    return (
        np.uint64(arena[pos]) == size and is_suffix == suffix and same_name(arena, pos + U1, buf, off, size)
    )


@force_inlined
def _search(
    buf: Any,
    off: Any,
    size: Any,
    tag: Any,
    slot: Any,
    suffix: Any,
    arena: Any,
    offsets: Any,
    slots: Any,
    layout: Any,
) -> Any:
    """Return the index of the entry that is this name, from ``slot`` on, or ``_NONE``."""
    while True:
        slot = _candidate(slot, tag, slots, layout)
        if slot == _NONE:
            return _NONE
        index = _index_at(slots, slot, layout)
        pos = locate(arena, offsets, layout, index)
        if _is_entry(buf, off, size, suffix, arena, pos, index, layout):
            return index
        slot += U1
        if slot == layout[L_CAPACITY]:
            slot = U0


@force_inlined
def _find_suffix(
    buf: Any, off: Any, size: Any, key: Any, arena: Any, offsets: Any, slots: Any, labels: Any, layout: Any
) -> Any:
    """Return the index of the longest suffix entry that the name is below, or ``_NONE``."""
    end = off + size
    left = U0
    p = off
    while p < end:
        p += U1 + np.uint64(buf[p])
        left += U1
    p = off
    while left > U1:
        p += U1 + np.uint64(buf[p])
        left -= U1
        if p < end and left <= layout[L_SUFFIX_LABELS] and labels[left & _U255] != 0:
            h = hash_wire(buf, p, end - p, key, SUFFIX)
            tag = hash_tag(h, layout)
            slot = home_slot(h, layout)
            index = _search(buf, p, end - p, tag, slot, True, arena, offsets, slots, layout)
            if index != _NONE:
                return index
    return _NONE


@pure_kernel
def hash_names(buf: Any, u32: Any, u64: Any, fate: Any, n: Any, key: Any) -> None:
    """Write ``QNAME_HASH`` of the pending rows: the keyed hash of the question name, letter case ignored.

    ``QNAME_OFF`` and ``QNAME_LEN`` (1 to 255) give a well-formed wire name; ``key`` is uint64[KEY_WORDS].
    """
    for i in range(n):
        if fate[i] == PENDING:
            off = np.uint64(u32[QNAME_OFF, i])
            u64[QNAME_HASH, i] = hash_wire(buf, off, np.uint64(u32[QNAME_LEN, i]) - U1, key, EXACT)


@pure_kernel
def lookup_domains(
    buf: Any,
    u32: Any,
    u64: Any,
    fate: Any,
    n: Any,
    key: Any,
    arena: Any,
    offsets: Any,
    slots: Any,
    labels: Any,
    layout: Any,
) -> None:
    """Write ``DOMAIN_INDEX`` and ``DOMAIN_MATCH`` of the pending rows; ``QNAME_HASH`` was made with ``key``.

    The arrays behind ``key`` are a table, see :mod:`edm.domains.table`.
    """
    # Several passes: within each the memory accesses of a row do not depend on another row's or on a branch that is
    # hard to predict, so that many cache misses are under way at once. The columns of the result hold what one
    # pass leaves for the next.
    if layout[L_GROUP_BITS] != U0:
        # A large table is not in the cache: fetch the slots where the searches begin.
        for i in range(n):
            if fate[i] == PENDING:
                u32[DOMAIN_MATCH, i] = slots[home_slot(u64[QNAME_HASH, i], layout)]
    for i in range(n):
        if fate[i] == PENDING:
            h = u64[QNAME_HASH, i]
            u32[DOMAIN_INDEX, i] = _candidate(home_slot(h, layout), hash_tag(h, layout), slots, layout)
    for i in range(n):
        if fate[i] == PENDING and u32[DOMAIN_INDEX, i] != NO_DOMAIN:
            slot = np.uint64(u32[DOMAIN_INDEX, i])
            u32[DOMAIN_MATCH, i] = locate(arena, offsets, layout, _index_at(slots, slot, layout))
    for i in range(n):
        if fate[i] != PENDING:
            continue
        off = np.uint64(u32[QNAME_OFF, i])
        size = np.uint64(u32[QNAME_LEN, i]) - U1
        slot = np.uint64(u32[DOMAIN_INDEX, i])
        index = _NONE
        if slot != _NONE:
            pos = np.uint64(u32[DOMAIN_MATCH, i])
            index = _index_at(slots, slot, layout)
            if not _is_entry(buf, off, size, False, arena, pos, index, layout):
                tag = hash_tag(u64[QNAME_HASH, i], layout)
                index = _search(buf, off, size, tag, slot, False, arena, offsets, slots, layout)
        match = EXACT_MATCH
        if index == _NONE:
            match = NO_MATCH
            if layout[L_SUFFIX_LABELS] != U0:
                index = _find_suffix(buf, off, size, key, arena, offsets, slots, labels, layout)
                if index != _NONE:
                    match = SUFFIX_MATCH
        u32[DOMAIN_INDEX, i] = index
        u32[DOMAIN_MATCH, i] = match


@pure_kernel
def mark_matches(u32: Any, fate: Any, n: Any, new_fate: Any) -> None:
    """Give the pending rows that matched an entry the fate ``new_fate``."""
    for i in range(n):
        if fate[i] == PENDING and u32[DOMAIN_MATCH, i] != NO_MATCH:
            fate[i] = new_fate


__all__ = ["EXACT_MATCH", "NO_MATCH", "SUFFIX_MATCH", "hash_names", "lookup_domains", "mark_matches"]
