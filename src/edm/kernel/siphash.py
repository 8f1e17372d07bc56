"""SipHash-1-3 as steps that kernels put together: begin, add words, finish.

SipHash (Aumasson and Bernstein, "SipHash: a fast short-input PRF", INDOCRYPT 2012) with one compression and three
finalisation rounds. It is keyed: a sender that does not know the key cannot choose inputs whose hashes have anything in
common, so hash tables stay flat whatever the network sends.

The last word added holds the input's length modulo 256 in its top byte, and below that the bytes that fill no word.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from edm.kernel.columns import U64
from edm.kernel.jit import force_inlined

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


__all__ = ["SipState", "sip_add", "sip_begin", "sip_finish"]
