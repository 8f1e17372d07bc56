"""MurmurHash3 for kernels: the hash of a client that is added to the HyperLogLog sketches.

The function is the first half (h1) of MurmurHash3_x64_128 with seed 0, by Austin Appleby (public domain,
https://github.com/aappleby/smhasher). It has no key, so a sender of dnstap can construct addresses with any
hash it likes: nothing here may rely on the hash being well spread.
"""

from __future__ import annotations

import numpy as np

from edm.kernel.columns import I64, U64, Bytes
from edm.kernel.jit import inlined, le64

_C1 = np.uint64(0x87C37B91114253D5)
_C2 = np.uint64(0x4CF5AD432745937F)
_F1 = np.uint64(0xFF51AFD7ED558CCD)
_F2 = np.uint64(0xC4CEB9FE1A85EC53)
_N1 = np.uint64(0x52DCE729)
_N2 = np.uint64(0x38495AB5)
_0 = np.uint64(0)
_1 = np.uint64(1)
_4 = np.uint64(4)
_5 = np.uint64(5)
_8 = np.uint64(8)
_15 = np.uint64(15)
_16 = np.uint64(16)
_33 = np.uint64(33)


@inlined
def le32(buf: Bytes, i: U64) -> U64:
    """Return the little-endian 32-bit number at ``i`` (uint64). The caller has checked ``i + 4``."""
    return (
        np.uint64(buf[i])
        | np.uint64(buf[i + _1]) << _8
        | np.uint64(buf[i + np.uint64(2)]) << _16
        | np.uint64(buf[i + np.uint64(3)]) << np.uint64(24)
    )


@inlined
def _rotl(x: U64, bits: I64) -> U64:
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


@inlined
def _fmix(k: U64) -> U64:
    k = (k ^ (k >> _33)) * _F1
    k = (k ^ (k >> _33)) * _F2
    return k ^ (k >> _33)


@inlined
def _finish(h1: U64, h2: U64, length: U64) -> U64:
    h1 = h1 ^ length
    h2 = h2 ^ length
    h1 = h1 + h2
    h2 = h2 + h1
    return _fmix(h1) + _fmix(h2)


@inlined
def murmur3_ipv4(k1: U64) -> U64:
    """Return h1 of 4 bytes; ``k1`` is :func:`le32` of them."""
    return _finish(_rotl(k1 * _C1, 31) * _C2, _0, _4)


@inlined
def murmur3_ipv6(k1: U64, k2: U64) -> U64:
    """Return h1 of 16 bytes; ``k1`` and ``k2`` are :func:`le64` of their halves."""
    h1 = _rotl(_rotl(k1 * _C1, 31) * _C2, 27) * _5 + _N1
    h2 = (_rotl(_rotl(k2 * _C2, 33) * _C1, 31) + h1) * _5 + _N2
    return _finish(h1, h2, _16)


@inlined
def murmur3(buf: Bytes, off: I64, length: I64) -> U64:
    """Return h1 of MurmurHash3_x64_128, seed 0, of ``buf[off:off + length]``.

    Parameters
    ----------
    buf : uint8[:]
    off, length : int
        The caller has checked that the range lies within ``buf``.

    Returns
    -------
    uint64
    """
    i = np.uint64(off)
    size = np.uint64(length)
    if size == _4:
        return murmur3_ipv4(le32(buf, i))
    if size == _16:
        return murmur3_ipv6(le64(buf, i), le64(buf, i + _8))
    h1 = _0
    h2 = _0
    for _block in range(size >> _4):
        h1 ^= _rotl(le64(buf, i) * _C1, 31) * _C2
        h1 = (_rotl(h1, 27) + h2) * _5 + _N1
        h2 ^= _rotl(le64(buf, i + _8) * _C2, 33) * _C1
        h2 = (_rotl(h2, 31) + h1) * _5 + _N2
        i += _16
    k1 = _0
    k2 = _0
    for k in range(size & _15):
        byte = np.uint64(buf[i + np.uint64(k)])
        if k < 8:
            k1 |= byte << np.uint64(8 * k)
        else:
            k2 |= byte << np.uint64(8 * k - 64)
    h1 ^= _rotl(k1 * _C1, 31) * _C2
    h2 ^= _rotl(k2 * _C2, 33) * _C1
    return _finish(h1, h2, size)


__all__ = ["le32", "murmur3", "murmur3_ipv4", "murmur3_ipv6"]
