"""Kernels that hash the question names of a batch and their parent domains, for the lookups in all lists."""

from __future__ import annotations

import numpy as np

from edm.kernel.columns import (
    I64,
    LEFT_ROW,
    NAME_SUM,
    NAME_WORD,
    PENDING,
    QNAME_HASH,
    QNAME_LABELS,
    QNAME_LEN,
    QNAME_OFF,
    SUFFIX_DEPTH,
    SUFFIX_HASH_1,
    U64,
    Bytes,
    Fates,
    U32Columns,
    U64Columns,
)
from edm.kernel.jit import force_inlined, kernel, le64
from edm.stages.domains.dawg.bits import U0, U1, U2, U3, U4, U7, U8
from edm.stages.domains.table.arrays import HashKey
from edm.stages.domains.table.hashing import EXACT, SUFFIX, add_word, finish, fold, hash_wire

_U32 = np.uint64(32)
_U63 = np.uint64(63)
_U255 = np.uint64(255)
_DEPTH = np.uint64(SUFFIX_DEPTH)
_BEFORE_SUFFIX_HASH = np.uint64(SUFFIX_HASH_1 - 1)
_HASH_BITS = np.uint64(0xFFFFFFFFFFFFFF00)


@force_inlined
def _one_if_less(a: U64, b: U64) -> U64:
    # As arithmetic, because the compiler would make a branch of a comparison.
    return (a - b) >> _U63


@force_inlined
def list_pending(u32: U32Columns, fate: Fates, n: I64) -> U64:
    """List the pending rows in ``LEFT_ROW``; return how many there are."""
    left = U0
    for i in range(n):
        u32[LEFT_ROW, left] = i
        left += U1 if fate[i] == PENDING else U0
    return left


@force_inlined
def _put_words(buf: Bytes, u64: U64Columns, end: U64, size: U64, key: HashKey) -> None:
    """Write the words of the name before ``end`` to ``NAME_WORD``, the sums before each to ``NAME_SUM``.

    Up to 31 bytes before the name are read, and stand in the words from its foremost on.
    """
    # Four words whatever the size: nearly all names have no more, and a branch would often be mispredicted.
    total = U0
    for i in range(4):
        k = np.uint64(i)
        word = fold(le64(buf, end - ((k + U1) << U3)))
        u64[NAME_WORD, k] = word
        u64[NAME_SUM, k] = total
        total = add_word(total, word, k, key)
    k = U4
    while (k << U3) < size:
        word = fold(le64(buf, end - ((k + U1) << U3)))
        u64[NAME_WORD, k] = word
        u64[NAME_SUM, k] = total
        total = add_word(total, word, k, key)
        k += U1


@force_inlined
def _hash_last(u64: U64Columns, size: U64, key: HashKey, kind: I64) -> U64:
    """Return the hash of the last ``size`` bytes (1 or more) of the name whose words were written."""
    k = (size - U1) >> U3
    fill = ((U0 - size) & U7) << U3
    word = (u64[NAME_WORD, k] >> fill) << fill
    return finish(add_word(u64[NAME_SUM, k], word, k, key), key, kind)


@force_inlined
def _put_suffix_hash(u64: U64Columns, i: U64, count: U64, size: U64, starts: U64, key: HashKey) -> None:
    """Write the hash of the parent domain with ``count`` labels (uint64)."""
    start = (starts >> ((count - U1) << U3)) & _U255
    h = _hash_last(u64, size - start, key, SUFFIX)
    u64[_BEFORE_SUFFIX_HASH + count, i] = (h & _HASH_BITS) | start


@kernel
def hash_names(buf: Bytes, u32: U32Columns, u64: U64Columns, fate: Fates, n: I64, key: HashKey) -> None:
    """Write ``QNAME_HASH``, ``QNAME_LABELS`` and ``SUFFIX_HASH_*`` of the pending rows.

    They are keyed hashes of the question name and its parent domains, letter case ignored. ``QNAME_OFF`` and
    ``QNAME_LEN`` (1 to 255) give a well-formed wire name; ``key`` is uint64[KEY_WORDS].
    """
    for j in range(list_pending(u32, fate, n)):
        i = np.uint64(u32[LEFT_ROW, j])
        off = np.uint64(u32[QNAME_OFF, i])
        size = np.uint64(u32[QNAME_LEN, i]) - U1
        # Where the last eight labels begin, one byte each, the last label's lowest.
        starts = U0
        labels = U0
        p = U0
        for _ in range(4):
            inside = _one_if_less(p, size)
            starts = (starts << (inside << U3)) | p * inside
            labels += inside
            p += (U1 + np.uint64(buf[off + p])) * inside
        while p < size:
            starts = (starts << U8) | p
            labels += U1
            p += U1 + np.uint64(buf[off + p])
        u32[QNAME_LABELS, i] = labels
        if off < _U32 or size == U0:
            # There is no room before the name for reading whole words, or the name is the root.
            for count in range(max(min(labels, _DEPTH + U1), U1)):
                start = (starts >> ((count - U1) << U3)) & _U255 if count > U0 else U0
                h = hash_wire(buf, off + start, size - start, key, SUFFIX if count > U0 else EXACT)
                if count == U0:
                    u64[QNAME_HASH, i] = h
                else:
                    u64[_BEFORE_SUFFIX_HASH + count, i] = (h & _HASH_BITS) | start
            continue
        _put_words(buf, u64, off + size, size, key)
        u64[QNAME_HASH, i] = _hash_last(u64, size, key, EXACT)
        # Two or three labels are usual. With fewer, a hash too many does less harm than a mispredicted branch.
        _put_suffix_hash(u64, i, U1, size, starts, key)
        _put_suffix_hash(u64, i, U2, size, starts, key)
        for count in range(U3, min(labels, _DEPTH + U1)):
            _put_suffix_hash(u64, i, count, size, starts, key)


__all__ = ["hash_names", "list_pending"]
