"""Hash and comparison of domain names in wire form, letter case ignored, eight bytes at a time.

The hash is NH (Black, Halevi, Krawczyk, Krovetz, Rogaway: UMAC, 1999) over the name's words, then mixed. It is
keyed: whoever does not know the key finds no two names that collide with more than 2^-32 probability. That keeps
hash tables flat on hostile input; it is no identity of a name, which is why every hit is compared byte by byte.

Sizes of names here do not count the root byte: the root name has size 0, the longest name 254.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from edm.columns import U64Array
from edm.domains.bits import U0, U1, U2, U3, U4, U5, U6, U7, U8
from edm.jit import force_inlined

EXACT = 32
"""Element of the key that is mixed into the hash of a whole name."""

SUFFIX = 33
"""Element of the key that is mixed into the hash of a suffix, so that ``x.`` and ``.x.`` differ."""

KEY_WORDS = 34


def new_hash_key() -> U64Array:
    """Return a random key, uint64[34]."""
    return np.frombuffer(os.urandom(8 * KEY_WORDS), np.uint64)


HASH_KEY = new_hash_key()
"""The key of this process: names hashed with it may be looked up in every table built with it."""

_U16, _U24, _U31, _U32, _U33, _U40, _U48, _U56 = (np.uint64(i) for i in (16, 24, 31, 32, 33, 40, 48, 56))
_LOW32 = np.uint64(0xFFFFFFFF)
_SEVEN_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
_HIGH_BITS = np.uint64(0x8080808080808080)
_FROM_A = np.uint64(0x3F3F3F3F3F3F3F3F)  # 0x80 - "A" in each byte
_BEHIND_Z = np.uint64(0x2525252525252525)  # 0x7F - "Z" in each byte
_MIX0 = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX2 = np.uint64(0xC4CEB9FE1A85EC53)


@force_inlined
def load_le(buf: Any, i: Any) -> Any:
    """Return the eight bytes at ``i`` (uint64) as a little-endian number. The caller has checked ``i + 8``."""
    return (
        np.uint64(buf[i])
        | (np.uint64(buf[i + U1]) << U8)
        | (np.uint64(buf[i + U2]) << _U16)
        | (np.uint64(buf[i + U3]) << _U24)
        | (np.uint64(buf[i + U4]) << _U32)
        | (np.uint64(buf[i + U5]) << _U40)
        | (np.uint64(buf[i + U6]) << _U48)
        | (np.uint64(buf[i + U7]) << _U56)
    )


@force_inlined
def fold(word: Any) -> Any:
    """Make the ASCII letters among the eight bytes lower case; length bytes (0 to 63) are no letters."""
    seven = word & _SEVEN_BITS
    upper = ((seven + _FROM_A) ^ (seven + _BEHIND_Z)) & ~word & _HIGH_BITS
    return word | (upper >> U2)


@force_inlined
def _product(word: Any, key: Any) -> Any:
    return ((word + key) & _LOW32) * (((word >> _U32) + (key >> _U32)) & _LOW32)


@force_inlined
def _load_le32(buf: Any, i: Any) -> Any:
    return (
        np.uint64(buf[i])
        | (np.uint64(buf[i + U1]) << U8)
        | (np.uint64(buf[i + U2]) << _U16)
        | (np.uint64(buf[i + U3]) << _U24)
    )


@force_inlined
def load_short(buf: Any, off: Any, size: Any) -> Any:
    """Return fewer than eight bytes as one number: no other ``size`` bytes give the same."""
    if size >= U4:
        return _load_le32(buf, off) | (_load_le32(buf, off + size - U4) << _U32)
    if size == U0:
        return U0
    middle = np.uint64(buf[off + (size >> U1)])
    return np.uint64(buf[off]) | (middle << U8) | (np.uint64(buf[off + size - U1]) << _U16)


# Names of 8 to 32 bytes, which are nearly all, take the same few instructions whatever their size: four words, of
# which the later ones begin no later than 8 bytes before the end. Branches on the size would be mispredicted.


@force_inlined
def hash_wire(buf: Any, off: Any, size: Any, key: Any, kind: Any) -> Any:
    """Return the hash of the ``size`` bytes (uint64) of a wire name at ``off`` (uint64); kind: EXACT or SUFFIX."""
    # The size tells by how much the last words overlap.
    total = size * _MIX0
    if size >= U8:
        last = size - U8
        total += _product(fold(load_le(buf, off)), key[0])
        total += _product(fold(load_le(buf, off + min(U8, last))), key[1])
        total += _product(fold(load_le(buf, off + min(_U16, last))), key[2])
        total += _product(fold(load_le(buf, off + min(_U24, last))), key[3])
        k = U4
        while (k << U3) < size:
            total += _product(fold(load_le(buf, off + min(k << U3, last))), key[k & _U31])
            k += U1
    else:
        total += _product(fold(load_short(buf, off, size)), key[0])
    h = total ^ key[kind]
    h = (h ^ (h >> _U33)) * _MIX1
    h = (h ^ (h >> _U33)) * _MIX2
    return h ^ (h >> _U33)


@force_inlined
def _differ(folded: Any, at: Any, buf: Any, off: Any, k: Any) -> Any:
    return load_le(folded, at + k) ^ fold(load_le(buf, off + k))


@force_inlined
def same_name(folded: Any, at: Any, buf: Any, off: Any, size: Any) -> Any:
    """Tell whether the lower-case bytes ``folded[at:at+size]`` are the name ``buf[off:off+size]``."""
    if size < U8:
        return load_short(folded, at, size) == fold(load_short(buf, off, size))
    last = size - U8
    different = (
        _differ(folded, at, buf, off, U0)
        | _differ(folded, at, buf, off, min(U8, last))
        | _differ(folded, at, buf, off, min(_U16, last))
        | _differ(folded, at, buf, off, min(_U24, last))
    )
    k = _U32
    while k < size:
        different |= _differ(folded, at, buf, off, min(k, last))
        k += U8
    return different == U0


__all__ = [
    "EXACT",
    "HASH_KEY",
    "KEY_WORDS",
    "SUFFIX",
    "fold",
    "hash_wire",
    "load_le",
    "load_short",
    "new_hash_key",
    "same_name",
]
