"""Hash and comparison of domain names in wire form, letter case ignored, eight bytes at a time.

The hash is NH (Black, Halevi, Krawczyk, Krovetz, Rogaway: UMAC, 1999) over the name's words, then mixed. It is
keyed: a sender that does not know the key finds no two names that collide with more than 2^-32 probability. So
hostile input cannot fill one place of a hash table. Different names may still collide: every hit is compared.

Sizes of names here do not count the root byte: the root name has size 0, the longest name 254.
"""

from __future__ import annotations

import os

import numpy as np

from edm.kernel.columns import I64, U64, Bytes, Flag, U64Array
from edm.kernel.jit import force_inlined, le64
from edm.stages.domains.dawg.bits import U0, U1, U2, U3, U8
from edm.stages.domains.table.arrays import HashKey

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

_U16, _U24, _U31, _U32, _U40, _U48, _U56 = (np.uint64(i) for i in (16, 24, 31, 32, 40, 48, 56))
_LOW32 = np.uint64(0xFFFFFFFF)
_SEVEN_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
_HIGH_BITS = np.uint64(0x8080808080808080)
_NO_CASE = np.uint64(0xDFDFDFDFDFDFDFDF)
_FROM_A = np.uint64(0x3F3F3F3F3F3F3F3F)  # 0x80 - "A" in each byte
_BEHIND_Z = np.uint64(0x2525252525252525)  # 0x7F - "Z" in each byte
_MIX1 = np.uint64(0xFF51AFD7ED558CCD)


@force_inlined
def fold(word: U64) -> U64:
    """Make the ASCII letters among the eight bytes lower case; length bytes (0 to 63) are no letters."""
    seven = word & _SEVEN_BITS
    upper = ((seven + _FROM_A) ^ (seven + _BEHIND_Z)) & ~word & _HIGH_BITS
    return word | (upper >> U2)


@force_inlined
def load_short(buf: Bytes, off: U64, size: U64) -> U64:
    """Return fewer than eight bytes as a little-endian number."""
    word = U0
    for k in range(size):
        word |= np.uint64(buf[off + k]) << (k << U3)
    return word


# A name is divided into words of eight bytes from its end, because that is where a name and its parent domains are
# alike: they have the last words in common. The foremost word, of 1 to 8 bytes, is filled up with zeros at the front;
# as a name begins with a byte that is not zero, different names have different words.


@force_inlined
def add_word(total: U64, word: U64, k: U64, key: HashKey) -> U64:
    """Return the sum over a name's words up to the ``k``-th (uint64) from the end, given that without it."""
    key_word = key[k & _U31]
    return total + ((word + key_word) & _LOW32) * (((word >> _U32) + (key_word >> _U32)) & _LOW32)


@force_inlined
def finish(total: U64, key: HashKey, kind: I64) -> U64:
    """Return the hash of a name, given the sum over its words; kind: EXACT or SUFFIX."""
    h = total ^ key[kind]
    h = (h ^ (h >> _U32)) * _MIX1
    return h ^ (h >> _U32)


@force_inlined
def hash_wire(buf: Bytes, off: U64, size: U64, key: HashKey, kind: I64) -> U64:
    """Return the hash of the ``size`` bytes (uint64) of a wire name at ``off`` (uint64); kind: EXACT or SUFFIX."""
    total = U0
    k = U0
    left = size
    while left > U8:
        left -= U8
        total = add_word(total, fold(le64(buf, off + left)), k, key)
        k += U1
    if left > U0:
        word = le64(buf, off) if size >= U8 else load_short(buf, off, size)
        total = add_word(total, fold(word << ((U8 - left) << U3)), k, key)
    return finish(total, key, kind)


@force_inlined
def _differ(folded: Bytes, at: U64, buf: Bytes, off: U64, k: U64) -> U64:
    return le64(folded, at + k) ^ le64(buf, off + k)


@force_inlined
def _same_folded(folded: Bytes, at: U64, buf: Bytes, off: U64, size: U64) -> Flag:
    last = size - U8
    different = U0
    k = U0
    while k < size:
        p = min(k, last)
        different |= le64(folded, at + p) ^ fold(le64(buf, off + p))
        k += U8
    return different == U0


@force_inlined
def same_name(folded: Bytes, at: U64, buf: Bytes, off: U64, size: U64) -> Flag:
    """Tell whether the lower-case bytes ``folded[at:at+size]`` are the name ``buf[off:off+size]``."""
    if size < U8:
        return load_short(folded, at, size) == fold(load_short(buf, off, size))
    # Three words whatever the size, since nearly all names have no more; they overlap as they must. Most names are
    # in lower case already.
    last = size - U8
    different = (
        _differ(folded, at, buf, off, U0)
        | _differ(folded, at, buf, off, min(U8, last))
        | _differ(folded, at, buf, off, min(_U16, last))
    )
    k = _U24
    while k < size:
        different |= _differ(folded, at, buf, off, min(k, last))
        k += U8
    if different == U0:
        return True
    return different & _NO_CASE == U0 and _same_folded(folded, at, buf, off, size)


__all__ = [
    "EXACT",
    "HASH_KEY",
    "KEY_WORDS",
    "SUFFIX",
    "add_word",
    "finish",
    "fold",
    "hash_wire",
    "load_short",
    "new_hash_key",
    "same_name",
]
