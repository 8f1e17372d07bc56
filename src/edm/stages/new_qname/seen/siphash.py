"""SipHash-1-3 of question names, the fingerprints of the seen-name store.

SipHash (Aumasson and Bernstein, "SipHash: a fast short-input PRF", INDOCRYPT 2012) with one compression and three
finalisation rounds. The last word added holds the input's length modulo 256 in its top byte, and below that the bytes
that fill no word.

Names come from the network, so the hash is keyed: without the store's key a sender cannot construct two names with one
fingerprint, or many names that fall into one cluster of slots.

The input is the uncompressed wire name with ASCII letters folded to lower case. A length byte of a label is
at most 63 and thus never a letter, so folding needs no knowledge of where labels begin.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from edm.kernel.columns import I64, PENDING, QNAME_LEN, QNAME_OFF, U64, Bytes, Fates, U32Columns
from edm.kernel.jit import force_inlined, inlined, kernel
from edm.stages.new_qname.seen.probing import Fingerprints, Marks, Rows

SipState: TypeAlias = tuple[U64, U64, U64, U64]
"""The four ``uint64`` words of the state."""

# "somepseudorandomlygeneratedbytes", the initial state.
_INIT0 = np.uint64(0x736F6D6570736575)
_INIT1 = np.uint64(0x646F72616E646F6D)
_INIT2 = np.uint64(0x6C7967656E657261)
_INIT3 = np.uint64(0x7465646279746573)

_R13 = np.uint64(13)
_R16 = np.uint64(16)
_R17 = np.uint64(17)
_R21 = np.uint64(21)
_R32 = np.uint64(32)
_L13 = np.uint64(51)
_L16 = np.uint64(48)
_L17 = np.uint64(47)
_L21 = np.uint64(43)

_LOW_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
_HIGH_BITS = np.uint64(0x8080808080808080)
_FROM_A = np.uint64(0x3F3F3F3F3F3F3F3F)  # 0x80 - "A": carries into the high bit from "A" on
_PAST_Z = np.uint64(0x2525252525252525)  # 0x80 - "Z" - 1
_CASE_SHIFT = np.uint64(2)

_0 = np.uint64(0)
_1 = np.uint64(1)
_3 = np.uint64(3)
_7 = np.uint64(7)
_8 = np.uint64(8)
_16 = np.uint64(16)
_24 = np.uint64(24)
_32 = np.uint64(32)
_40 = np.uint64(40)
_48 = np.uint64(48)
_56 = np.uint64(56)
_255 = np.uint64(255)


@force_inlined
def _round(v0: U64, v1: U64, v2: U64, v3: U64) -> SipState:
    v0 = v0 + v1
    v2 = v2 + v3
    v1 = ((v1 << _R13) | (v1 >> _L13)) ^ v0
    v3 = ((v3 << _R16) | (v3 >> _L16)) ^ v2
    v0 = (v0 << _R32) | (v0 >> _R32)
    v2 = v2 + v1
    v0 = v0 + v3
    v1 = ((v1 << _R17) | (v1 >> _L17)) ^ v2
    v3 = ((v3 << _R21) | (v3 >> _L21)) ^ v0
    v2 = (v2 << _R32) | (v2 >> _R32)
    return v0, v1, v2, v3


@force_inlined
def sip_begin(k0: U64, k1: U64) -> SipState:
    """Return the state before the first word, under the key ``k0``, ``k1``."""
    return _INIT0 ^ k0, _INIT1 ^ k1, _INIT2 ^ k0, _INIT3 ^ k1


@force_inlined
def sip_add(v0: U64, v1: U64, v2: U64, v3: U64, word: U64) -> SipState:
    """Return the state after a further word of the input."""
    v3 = v3 ^ word
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ word, v1, v2, v3


@force_inlined
def sip_finish(v0: U64, v1: U64, v2: U64, v3: U64) -> U64:
    """Return the hash, after the last word."""
    v2 = v2 ^ _255
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


@inlined
def _word(buf: Bytes, i: U64) -> U64:
    # Written so that LLVM makes one 8-byte load of it.
    return (
        np.uint64(buf[i])
        | (np.uint64(buf[i + _1]) << _8)
        | (np.uint64(buf[i + np.uint64(2)]) << _16)
        | (np.uint64(buf[i + _3]) << _24)
        | (np.uint64(buf[i + np.uint64(4)]) << _32)
        | (np.uint64(buf[i + np.uint64(5)]) << _40)
        | (np.uint64(buf[i + np.uint64(6)]) << _48)
        | (np.uint64(buf[i + _7]) << _56)
    )


@inlined
def _lower(word: U64) -> U64:
    seven = word & _LOW_BITS
    upper = ~word & _HIGH_BITS & ((seven + _FROM_A) ^ (seven + _PAST_Z))
    return word | (upper >> _CASE_SHIFT)


@inlined
def siphash_lower(buf: Bytes, off: U64, length: U64, k0: U64, k1: U64) -> U64:
    """Return SipHash-1-3 of ``buf[off:off+length]`` with ASCII letters folded to lower case.

    ``off``, ``length``, ``k0``, ``k1`` and the result are uint64. The caller has checked the length.
    """
    v0, v1, v2, v3 = sip_begin(k0, k1)
    rest = length & _7
    end = off + (length - rest)
    i = off
    while i < end:
        v0, v1, v2, v3 = sip_add(v0, v1, v2, v3, _lower(_word(buf, i)))
        i += _8
    tail = _0
    if rest != _0 and length > _7:
        # The bytes before the rest exist: one load that ends with the name, shifted, instead of a byte loop.
        tail = _word(buf, end + rest - _8) >> ((_8 - rest) << _3)
    elif rest != _0:
        shift = _0
        while i < off + length:
            tail |= np.uint64(buf[i]) << shift
            shift += _8
            i += _1
    word = _lower(tail) | ((length & _255) << _56)
    v0, v1, v2, v3 = sip_add(v0, v1, v2, v3, word)
    return sip_finish(v0, v1, v2, v3)


@kernel
def hash_names(
    buf: Bytes,
    u32: U32Columns,
    fate: Fates,
    n: I64,
    k0: U64,
    k1: U64,
    hashes: Fingerprints,
    rows: Rows,
    is_new: Marks,
) -> I64:
    """Hash the question names of the pending rows; return how many these are.

    Parameters
    ----------
    buf : uint8[:]
        The block's buffer.
    u32 : uint32[N_U32, stride]
        Columns; ``QNAME_OFF`` and ``QNAME_LEN`` are read.
    fate : uint8[stride]
        Only rows whose fate is pending are hashed.
    n : int
        Rows in the batch.
    k0, k1 : uint64
        The key of the store.
    hashes : uint64[>= n]
        Receives the fingerprints, packed. 0 is kept for "empty slot": a hash of 0 becomes 1.
    rows : int64[>= n]
        Receives the row of each fingerprint.
    is_new : uint8[>= n]
        Cleared.
    """
    size = np.uint64(buf.size)
    found = 0
    for i in range(n):
        is_new[i] = 0
        if fate[i] != PENDING:
            continue
        off = np.uint64(u32[QNAME_OFF, i])
        length = np.uint64(u32[QNAME_LEN, i])
        if length == _0 or off + length > size:
            continue
        fingerprint = siphash_lower(buf, off, length, k0, k1)
        if fingerprint == _0:
            fingerprint = _1
        hashes[found] = fingerprint
        rows[found] = i
        found += 1
    return found


__all__ = ["hash_names", "siphash_lower"]
