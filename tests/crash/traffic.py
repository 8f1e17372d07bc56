"""Numbered frames: the outputs show which frame each row comes from, and which frames are missing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edm.startup.warmup import sample_frame

I64Array = npt.NDArray[np.int64]
U8Array = npt.NDArray[np.uint8]

KNOWN = "www.known.example."
FIRST_SECOND = 1_800_000_000
"""Frame ``n`` has the response time ``FIRST_SECOND`` plus ``n`` microseconds."""

DIGITS = 9
FRAMES = 100_000
NEW_EVERY = 250
"""Of so many frames one asks for a name that nobody has asked for, with the number of the frame in it."""

_TIME = b"\x60" + bytes(1_700_000_000 >> 7 * k & 127 | (128 if k < 4 else 0) for k in range(5)) + b"\x6d"
"""The fields response_time_sec, as the sample has it, and the tag of response_time_nsec."""


def is_known(numbers: I64Array) -> npt.NDArray[np.bool_]:
    """Tell which frames ask for the well-known name: every fourth."""
    return numbers % 4 == 0


def is_new(numbers: I64Array) -> npt.NDArray[np.bool_]:
    """Tell which frames ask for a name of their own."""
    return numbers % NEW_EVERY == 1


class Part(NamedTuple):
    """Frames of consecutive numbers with their length words: ``wire[ends[i - 1]:ends[i]]`` is number ``first + i``."""

    first: int
    wire: U8Array
    ends: I64Array


class Traffic:
    """Makes :data:`FRAMES` frames at a time; the numbers of a part begin with a multiple of that."""

    def __init__(self) -> None:
        numbers = np.arange(FRAMES)
        templates = [
            _Template(_wire("www", "known", "example")),
            _Template(_wire("again", "example")),
            _Template(_wire("n" + "0" * DIGITS, "example")),
        ]
        kinds = np.where(is_known(numbers), 0, np.where(is_new(numbers), 2, 1))
        sizes = np.array([len(template.wire) for template in templates])[kinds]
        self._ends = np.cumsum(sizes)
        begins = self._ends - sizes
        self._wire = np.concatenate([templates[kind].wire for kind in kinds.tolist()])
        self._seconds, self._nanoseconds = (
            begins + np.array([getattr(template, name) for template in templates])[kinds]
            for name in ("seconds", "nanoseconds")
        )
        self._new = numbers[kinds == 2]
        self._digits = begins[self._new] + templates[2].wire.tobytes().index(b"0" * DIGITS)

    def part(self, number: int) -> Part:
        """Return the frames ``number * FRAMES`` and following; valid until the next call."""
        first = number * FRAMES
        numbers = np.arange(first, first + FRAMES)
        seconds = FIRST_SECOND + numbers // 1_000_000
        for k in range(5):
            self._wire[self._seconds + k] = seconds >> 7 * k & 127 | (128 if k < 4 else 0)
        nanoseconds = numbers % 1_000_000 * 1000
        for k in range(4):
            self._wire[self._nanoseconds + k] = nanoseconds >> 8 * k & 255
        for k in range(DIGITS):
            self._wire[self._digits + k] = 0x30 + (first + self._new) // 10 ** (DIGITS - 1 - k) % 10
        return Part(first, self._wire, self._ends)


class _Template:
    """A frame about a name, with its length word, and where its response time stands."""

    def __init__(self, name: bytes) -> None:
        frame = sample_frame(name, bytes([192, 0, 2, 7]))
        wire = len(frame).to_bytes(4, "big") + frame
        self.wire = np.frombuffer(wire, np.uint8)
        self.seconds = wire.index(_TIME) + 1
        self.nanoseconds = self.seconds + 6


def _wire(*labels: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
