"""Makes dnstap frames: valid ones, and ones with faults that are easily overlooked."""

from __future__ import annotations

import random


class Generator:
    """Frames that are valid or nearly so: every kind of field, overlong varints, lengths that lie, groups."""

    def __init__(self, choose: random.Random) -> None:
        self.choose = choose

    def varint(self, value: int) -> bytes:
        septets = [value & 0x7F]
        while value := value >> 7:
            septets.append(value & 0x7F)
        if self.choose.random() < 0.2:
            septets += [0] * self.choose.randint(0, max(0, self.choose.choice((1, 2, 9, 10)) - len(septets)))
        return bytes([s | 0x80 for s in septets[:-1]] + septets[-1:])

    def number(self) -> int:
        edges = (0, 127, 128, 300, 2**31, 2**32 - 1, 2**32 + 6, 2**63, 2**64 - 1, 2**64, 2**70 - 1)
        return self.choose.choice((self.choose.randint(0, 20), self.choose.choice(edges)))

    def field_number(self) -> int:
        if self.choose.random() < 0.02:
            return self.choose.choice((0, 2**29 - 1, 2**29, 2**31 - 1, 2**31, 2**60))
        return self.choose.randint(1, self.choose.choice((15, 15, 15, 40)))

    def with_length(self, data: bytes) -> bytes:
        lie = self.choose.choice((1, -1, 1000, 2**32, 2**64 - 40)) if self.choose.random() < 0.03 else 0
        return self.varint(max(0, len(data) + lie)) + data

    def field(self, depth: int = 0) -> bytes:
        number = self.field_number()
        wire = self.choose.choice((0, 0, 0, 1, 2, 2, 2, 5, 5, 3 if depth < 4 else 0))
        if self.choose.random() < 0.01:
            wire = self.choose.choice((4, 6, 7))
        tag = self.varint(number << 3 | wire)
        match wire:
            case 0:
                return tag + self.varint(self.number())
            case 1 | 5:
                return tag + self.choose.randbytes(8 if wire == 1 else 4)
            case 2:
                return tag + self.with_length(
                    self.choose.randbytes(self.choose.choice((0, 1, 4, 16, 20, 150)))
                )
            case 3:
                end = number if self.choose.random() < 0.95 else self.field_number()
                return tag + self.fields(3, depth + 1) + self.varint(end << 3 | 4)
        return tag

    def fields(self, most: int, depth: int = 0) -> bytes:
        return b"".join(self.field(depth) for _ in range(self.choose.randint(0, most)))

    def message(self) -> bytes:
        kind = self.choose.choice((b"\x08\x06", b"\x08\x06", b"\x08\x05", b""))
        return b"\x72" + self.with_length(self.choose.choice((b"", self.fields(2))) + kind + self.fields(6))

    def frame(self) -> bytes:
        parts = [self.message() for _ in range(self.choose.choice((0, 1, 1, 1, 2, 3)))]
        parts += [self.field() for _ in range(self.choose.choice((0, 0, 1, 3)))]
        parts += [self.choose.choice((b"\x78\x01", b"\x78\x05"))] * (self.choose.random() < 0.95)
        self.choose.shuffle(parts)
        return b"".join(parts) or b"\x78"
