"""A fuzz target: where its inputs come from, and how a batch of them is checked."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import ClassVar

from fuzz import mutation
from fuzz.batches import unpack

SEEDS = Path(__file__).parent / "seeds"


class DisagreementError(AssertionError):
    """The program and the oracle do not say the same about ``data``."""

    def __init__(self, data: bytes, got: object, expected: object) -> None:
        super().__init__(f"got {_shown(got)}, expected {_shown(expected)}, input {data[:200].hex()}")
        self.data = data


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 400 else text[:400] + "..."


def agree(data: bytes, got: object, expected: object) -> None:
    """Raise `DisagreementError` unless both are equal."""
    if got != expected:
        raise DisagreementError(data, got, expected)


def one_line(message: object, start: str = "") -> str:
    """Check that a message for the operator is one line that can be shown and read; return it."""
    text = str(message)
    if not text or len(text) > 1000 or not text.isprintable() or not text.startswith(start):
        raise AssertionError(f"no message for an operator: {text[:2000]!r}")
    return text


def filler(inputs: Sequence[bytes], size: int) -> bytes:
    """Return bytes to put around inputs: another pattern for each batch, the same for the same batch.

    A kernel that reads past the end of an input finds what would go on like the input, or ends it at once.
    """
    choice = zlib.crc32(b"".join(inputs[:3])) ^ len(inputs)
    pattern = (b"\0", b"\xff", b"\xc0\x0c", b"\x01a\0", b"\x20\0", b"\0\0\0\1", b"\x7f\x80")[choice % 7]
    return (pattern * size)[:size]


class Target(ABC):
    """Something that takes hostile bytes.

    Attributes
    ----------
    name : str
        On the command line, and the folder of its seeds.
    batch : int
        Inputs that are checked at a time.
    longest : int
        Bytes that mutation lets an input grow to.
    """

    name: ClassVar[str]
    batch: ClassVar[int] = 256
    longest: ClassVar[int] = 4096

    @abstractmethod
    def corpus(self) -> list[bytes]:
        """Return real inputs to start from: at least one."""

    @abstractmethod
    def generate(self, rng: Random) -> bytes:
        """Return an input made after the grammar: valid, or nearly so."""

    @abstractmethod
    def check(self, inputs: Sequence[bytes]) -> list[bool]:
        """Run the program and the oracle over the inputs; tell which ones were accepted.

        Raises
        ------
        DisagreementError
            They differ. Every other exception is a fault of the program.
        """

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Return a changed copy of ``data``; ``other`` is another input to take pieces from."""
        return mutation.mutate(rng, data, other, self.longest)

    def mended(self, data: bytes) -> bytes:
        """Return ``data`` with its checksum put right, which no chance and no coverage would ever hit upon."""
        return data

    def seeds(self) -> list[bytes]:
        """Return the inputs that are kept: they once found a fault, or reach what is hard to reach."""
        files = sorted((SEEDS / self.name).glob("*"))
        return [data for path in files for data in unpack(path.read_bytes())]


__all__ = ["DisagreementError", "Target", "agree", "filler", "one_line"]
