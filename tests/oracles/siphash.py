"""SipHash-c-d in plain Python integers, from the description in the paper (sections 2.1 to 2.4)."""

from __future__ import annotations

_MASK = (1 << 64) - 1


def _rotate(value: int, count: int) -> int:
    return (value << count | value >> (64 - count)) & _MASK


def _sip_round(state: list[int]) -> None:
    for a, b, c, d, left, right in ((0, 1, 2, 3, 13, 16), (2, 1, 0, 3, 17, 21)):
        state[a] = (state[a] + state[b]) & _MASK
        state[c] = (state[c] + state[d]) & _MASK
        state[b] = _rotate(state[b], left) ^ state[a]
        state[d] = _rotate(state[d], right) ^ state[c]
        state[a] = _rotate(state[a], 32)


def siphash(key: bytes, data: bytes, compressions: int, finalisations: int) -> int:
    """Return the 64-bit SipHash of ``data`` under a key of 16 bytes."""
    halves = [int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")]
    text = b"somepseudorandomlygeneratedbytes"
    state = [int.from_bytes(text[8 * i : 8 * i + 8], "big") ^ halves[i % 2] for i in range(4)]
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for i in range(0, len(padded), 8):
        word = int.from_bytes(padded[i : i + 8], "little")
        state[3] ^= word
        for _ in range(compressions):
            _sip_round(state)
        state[0] ^= word
    state[2] ^= 0xFF
    for _ in range(finalisations):
        _sip_round(state)
    return state[0] ^ state[1] ^ state[2] ^ state[3]
