"""Crypto-PAn bit by bit, as in the paper, and the pseudonyms of address fields."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

MAPPED = bytes(10) + b"\xff\xff"


class CryptoPan:
    def __init__(self, secret: bytes) -> None:
        self.encrypt = Cipher(algorithms.AES(secret[:16]), modes.ECB()).encryptor().update
        self.pad = f"{int.from_bytes(self.encrypt(secret[16:]), 'big'):0128b}"
        self.known: dict[bytes, bytes] = {}

    def bits(self, address: bytes) -> bytes:
        """Return the pseudonym of an address of any length, bit by bit."""
        width = 8 * len(address)
        original = f"{int.from_bytes(address, 'big'):0{width}b}"
        result = ""
        for i in range(width):
            block = int(original[:i] + self.pad[i:], 2).to_bytes(16, "big")
            flip = self.encrypt(block)[0] >> 7
            result += str(int(original[i]) ^ flip)
        return int(result, 2).to_bytes(len(address), "big")

    def field(self, address: bytes | None) -> bytes | None:
        """Return what becomes of a query_address or response_address."""
        if address is None:
            return None
        if len(address) not in (4, 16):
            return bytes(len(address))
        if address not in self.known:
            result = self.bits(address[12:] if address.startswith(MAPPED) else address)
            self.known[address] = result[12:] if len(result) == 16 and result.startswith(MAPPED) else result
        return self.known[address]


class Counter:
    """Counts the hits of an unbounded cache that is asked once per address of 4 or 16 bytes."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self.hits = 0

    def look_up(self, address: bytes | None) -> None:
        if address is not None and len(address) in (4, 16):
            self.hits += address in self.seen
            self.seen.add(address)
