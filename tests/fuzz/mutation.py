"""Changes to an input that do not depend on its format."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Operation = Callable[[Random, bytearray, bytes], None]

_NUMBERS = tuple(
    number.to_bytes(width, order)
    for width in (1, 2, 4, 8)
    for number in (0, 1, 2, 4, 8, 16, 0x3F, 0x40, 0x7F, 0x80, 0xBF, 0xC0, 0xFE, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF,
                   1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)
    if number < 1 << 8 * width
    for order in ("big", "little")
)  # fmt: skip
_COUNTS = (1, 1, 1, 1, 2, 2, 3, 5, 9)


def _at(rng: Random, data: bytearray) -> int:
    # Beginnings hold more structure than ends.
    size = len(data)
    if rng.random() < 0.3:
        size = min(size, 24)
    return int(rng.random() * size)


def _span(rng: Random, size: int) -> tuple[int, int]:
    start = int(rng.random() * size)
    most = size - start if rng.random() < 0.2 else min(size - start, 16)
    return start, start + 1 + int(rng.random() * most)


def _flip(rng: Random, data: bytearray, other: bytes) -> None:
    data[_at(rng, data)] ^= 1 << int(rng.random() * 8)


def _set(rng: Random, data: bytearray, other: bytes) -> None:
    data[_at(rng, data)] = int(rng.random() * 256)


def _step(rng: Random, data: bytearray, other: bytes) -> None:
    at = _at(rng, data)
    data[at] = data[at] + rng.choice((1, -1, 2, -2, 16, -16)) & 0xFF


def _number(rng: Random, data: bytearray, other: bytes) -> None:
    at = _at(rng, data)
    number = rng.choice(_NUMBERS)
    data[at : at + len(number)] = number


def _length(rng: Random, data: bytearray, other: bytes) -> None:
    # A number near the count of what follows it: where lengths end exactly, one short, or one too far.
    at = _at(rng, data)
    width = rng.choice((1, 1, 2, 4))
    number = max(0, len(data) - at - width + rng.choice((0, 0, 1, -1, 2, -2)))
    data[at : at + width] = (number & (1 << 8 * width) - 1).to_bytes(width, "big")


def _pointer(rng: Random, data: bytearray, other: bytes) -> None:
    at = _at(rng, data)
    data[at : at + 2] = (0xC000 + int(rng.random() * (len(data) + 2))).to_bytes(3, "big")[1:]


def _insert(rng: Random, data: bytearray, other: bytes) -> None:
    at = _at(rng, data)
    data[at:at] = rng.choice(_NUMBERS) if rng.random() < 0.5 else rng.randbytes(1 + int(rng.random() * 6))


def _delete(rng: Random, data: bytearray, other: bytes) -> None:
    start, end = _span(rng, len(data))
    del data[start:end]


def _truncate(rng: Random, data: bytearray, other: bytes) -> None:
    del data[int(rng.random() * len(data)) :]


def _duplicate(rng: Random, data: bytearray, other: bytes) -> None:
    start, end = _span(rng, len(data))
    piece = data[start:end] * rng.choice((1, 1, 1, 2, 20))
    at = end if rng.random() < 0.5 else _at(rng, data)
    data[at:at] = piece


def _move(rng: Random, data: bytearray, other: bytes) -> None:
    start, end = _span(rng, len(data))
    piece = data[start:end]
    at = _at(rng, data)
    data[at : at + len(piece)] = piece


def _splice(rng: Random, data: bytearray, other: bytes) -> None:
    if other:
        at = _at(rng, data)
        start, end = _span(rng, len(other))
        data[at : at + (end - start if rng.random() < 0.5 else 0)] = other[start:end]


def _join(rng: Random, data: bytearray, other: bytes) -> None:
    if other:
        data[int(rng.random() * len(data)) :] = other[int(rng.random() * len(other)) :]


def _append(rng: Random, data: bytearray, other: bytes) -> None:
    data += other if rng.random() < 0.3 else rng.choice(_NUMBERS)


OPERATIONS: tuple[Operation, ...] = (
    _flip, _flip, _set, _step, _number, _number, _length, _length, _pointer, _insert, _insert, _delete, _truncate,
    _duplicate, _move, _splice, _splice, _join, _append,
)  # fmt: skip


def mutate(rng: Random, data: bytes, other: bytes, longest: int) -> bytes:
    """Return ``data`` with one to nine changes, some with pieces of ``other``; at most ``longest`` bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice(_COUNTS)):
        if not changed:
            changed += rng.choice(_NUMBERS)
        OPERATIONS[int(rng.random() * len(OPERATIONS))](rng, changed, other)
    return bytes(changed[:longest])


__all__ = ["mutate"]
