"""MurmurHash3 and HyperLogLog in plain Python, from their definitions, with sets and lists.

Also the inverse of the hash for 16 bytes: every step of MurmurHash3 is a bijection there, so an address can
be made for any hash. Tests use it to reach the rare cases (a hash of zero, a register at its limit).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable

MASK = (1 << 64) - 1
C1 = 0x87C37B91114253D5
C2 = 0x4CF5AD432745937F
MIX1 = 0xFF51AFD7ED558CCD
MIX2 = 0xC4CEB9FE1A85EC53
ADD1 = 0x52DCE729
ADD2 = 0x38495AB5


def rotate(x: int, r: int) -> int:
    return (x << r | x >> (64 - r)) & MASK


def mix(k: int) -> int:
    for multiplier in (MIX1, MIX2):
        k ^= k >> 33
        k = k * multiplier & MASK
    return k ^ k >> 33


def unmix(k: int) -> int:
    for multiplier in (MIX2, MIX1):
        k ^= k >> 33
        k = k * pow(multiplier, -1, 1 << 64) & MASK
    return k ^ k >> 33


def murmur3(data: bytes) -> int:
    """Return h1 of MurmurHash3_x64_128 with seed 0."""
    whole = len(data) // 16 * 16
    h1 = h2 = 0
    for k1, k2 in struct.iter_unpack("<QQ", data[:whole]):
        h1 ^= rotate(k1 * C1 & MASK, 31) * C2 & MASK
        h1 = ((rotate(h1, 27) + h2) * 5 + ADD1) & MASK
        h2 ^= rotate(k2 * C2 & MASK, 33) * C1 & MASK
        h2 = ((rotate(h2, 31) + h1) * 5 + ADD2) & MASK
    k1, k2 = struct.unpack("<QQ", data[whole:].ljust(16, b"\0"))
    h1 ^= rotate(k1 * C1 & MASK, 31) * C2 & MASK
    h2 ^= rotate(k2 * C2 & MASK, 33) * C1 & MASK
    h1 ^= len(data)
    h2 ^= len(data)
    h1 = (h1 + h2) & MASK
    h2 = (h2 + h1) & MASK
    return (mix(h1) + mix(h2)) & MASK


def address_of_hash(wanted: int, other: int = 0x0123456789ABCDEF) -> bytes:
    """Return 16 bytes whose h1 is ``wanted``; ``other`` selects one of the 2^64 that there are."""
    # Backwards through: h1 += h2 | mix both | h2 += h1 | h1 += h2 | both ^= length | one block.
    mixed2 = other
    h1, h2 = unmix((wanted - mixed2) & MASK), unmix(mixed2)
    h2 = (h2 - h1) & MASK
    h1 = (h1 - h2) & MASK
    h1 ^= 16
    h2 ^= 16
    fifth = pow(5, -1, 1 << 64)
    k2 = rotate(((h2 - ADD2) * fifth - h1) & MASK, 33)
    k2 = rotate(k2 * pow(C1, -1, 1 << 64) & MASK, 31) * pow(C2, -1, 1 << 64) & MASK
    k1 = rotate((h1 - ADD1) * fifth & MASK, 37)
    k1 = rotate(k1 * pow(C2, -1, 1 << 64) & MASK, 33) * pow(C1, -1, 1 << 64) & MASK
    address = struct.pack("<QQ", k1, k2)
    assert murmur3(address) == wanted
    return address


def registers_of(hashes: Iterable[int]) -> list[int]:
    registers = [0] * 1024
    for h in hashes:
        w = h >> 10
        if w:
            zeros = len(bin(w)) - len(bin(w).rstrip("0"))
            registers[h % 1024] = max(registers[h % 1024], 1 + min(zeros, 14))
    return registers


def estimate(registers: list[int]) -> int:
    alpha = 0.7213 / (1 + 1.079 / 1024)
    raw = alpha * 1024 * 1024 / sum(2.0**-value for value in registers)
    unset = registers.count(0)
    if unset and raw < 2560:
        return math.ceil(1024 * math.log(1024 / unset))
    if raw <= 2**24 / 30:
        return math.ceil(raw)
    if raw >= 2**24:
        return 2**63
    return math.ceil(-(2**24) * math.log(1 - raw / 2**24))


def body(registers: list[int]) -> bytes:
    """Return kind byte (version 1) and register bytes of a serialised sparse or dense sketch."""
    used = [(i, value) for i, value in enumerate(registers) if value]
    if len(used) > 256:
        digits = "".join(f"{value:x}" for value in registers)
        return b"\x14" + bytes.fromhex(digits)
    bits = "".join(f"{i:010b}{value:04b}" for i, value in used)
    bits += "0" * (-len(bits) % 8)
    return b"\x13" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def parse(sketch: bytes) -> list[int]:
    """Return the registers of a serialised sparse or dense sketch."""
    bits = "".join(f"{byte:08b}" for byte in sketch[3:])
    if sketch[0] == 0x14:
        return [int(bits[i : i + 4], 2) for i in range(0, 4096, 4)]
    assert sketch[0] == 0x13
    registers = [0] * 1024
    for i in range(0, len(bits) - 13, 14):
        registers[int(bits[i : i + 10], 2)] = int(bits[i + 10 : i + 14], 2)
    return registers


class Sketch:
    """Distinct hashes, remembered one and all."""

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold
        self.hashes: set[int] = set()

    def add(self, h: int) -> None:
        if h:
            self.hashes.add(h)

    def result(self) -> tuple[int, bytes | None]:
        """Return the cardinality, and the serialised sketch unless it is empty or explicit."""
        if len(self.hashes) <= self.threshold:
            return len(self.hashes), None
        registers = registers_of(self.hashes)
        header = bytes([0x6A, 0x40 | int(math.log2(self.threshold))])
        content = body(registers)
        return estimate(registers), content[:1] + header + content[1:]
