"""Chunks of waiting events: the unit in which events are stored, fetched and acknowledged.

Storing events one by one would cost a row and a few microseconds of Python for each. A chunk holds some hundred
of them, is cut out of the blocks that the workers make with a few array operations, and is checked as a whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edm.stages.new_qname.events import EventBlock

Ends: TypeAlias = NDArray[np.uint32]

CHUNK_EVENTS = 512
"""Most events of a chunk: what a killed process may at most send twice beyond what was in flight."""
CHUNK_BYTES = 128 * 1024
"""Bytes of payload at which a chunk is full; a single larger event makes a chunk of its own."""

_HEAD = struct.Struct("<I")


@dataclass(slots=True)
class Chunk:
    """Some events, oldest first.

    Attributes
    ----------
    payloads : bytes
        The events without separators.
    ends : uint32[events]
        Event ``i`` ends before ``payloads[ends[i]]``; it begins where the one before ends.
    topic : str or None
        None for payloads that are still to be signed; for finished messages the topic they go to.
    done : int
        So many events at the beginning need no more care.
    names : bytes
        With the first chunk of those put together: what the store of seen names needs to remember the names
        of all of them (:func:`edm.stages.new_qname.seen.unsaved.to_record`).
    """

    payloads: bytes
    ends: Ends
    topic: str | None = None
    done: int = 0
    names: bytes = b""

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def waiting(self) -> int:
        """Events not done."""
        return len(self.ends) - self.done

    @property
    def size(self) -> int:
        """Bytes that the chunk is counted with."""
        return len(self.payloads) + 4 * len(self.ends) + 64

    def messages(self, start: int, stop: int) -> list[bytes]:
        """Return the events ``start`` to ``stop`` (exclusive)."""
        begin = int(self.ends[start - 1]) if start else 0
        events = []
        for end in self.ends[start:stop].tolist():
            events.append(self.payloads[begin:end])
            begin = end
        return events

    def encode(self) -> tuple[bytes, int]:
        """Return the stored form (event count, ends, payloads; little endian) and its CRC-32."""
        body = _HEAD.pack(len(self.ends)) + self.ends.astype("<u4").tobytes() + self.payloads
        return body, zlib.crc32(body)

    @classmethod
    def decode(cls, body: bytes, crc: int, topic: str | None, done: int) -> Chunk:
        """Return the chunk of a stored form.

        Raises
        ------
        ValueError
            It is not what was stored.
        """
        if not isinstance(body, bytes) or len(body) < _HEAD.size:
            raise ValueError("too short")
        if zlib.crc32(body) != crc:
            raise ValueError("checksum does not match")
        (count,) = _HEAD.unpack_from(body)
        begin = _HEAD.size + 4 * count
        if count == 0 or begin > len(body):
            raise ValueError("wrong number of events")
        ends: Ends = np.frombuffer(body, "<u4", count, _HEAD.size).astype(np.uint32)
        payloads = body[begin:]
        if int(ends[-1]) != len(payloads) or (ends[1:] < ends[:-1]).any():
            raise ValueError("inconsistent lengths")
        if not isinstance(done, int) or not 0 <= done < count:
            raise ValueError("wrong progress")
        return cls(payloads, ends, topic, done)


def chunks_of(
    blocks: Sequence[EventBlock], most_events: int = CHUNK_EVENTS, most_bytes: int = CHUNK_BYTES
) -> Iterator[Chunk]:
    """Cut the events of ``blocks`` into chunks, small blocks joined, large ones divided."""
    payloads = b"".join(block.payloads for block in blocks) if len(blocks) != 1 else blocks[0].payloads
    parts = []
    base = 0
    for block in blocks:
        parts.append(block.offsets[1:] + base)
        base += len(block.payloads)
    ends = np.concatenate(parts) if len(parts) != 1 else parts[0]
    yield from _cut(payloads, ends, most_events, most_bytes)


def chunk_of_messages(messages: Sequence[bytes], topic: str) -> Chunk:
    """Return a chunk of finished messages for ``topic``."""
    ends = np.cumsum([len(message) for message in messages], dtype=np.int64)
    return Chunk(b"".join(messages), ends.astype(np.uint32), topic)


def _cut(payloads: bytes, ends: NDArray[np.int64], most_events: int, most_bytes: int) -> Iterator[Chunk]:
    first = begin = 0
    while first < len(ends):
        full = int(np.searchsorted(ends, begin + most_bytes, "right"))
        stop = max(first + 1, min(full, first + most_events))
        end = int(ends[stop - 1])
        yield Chunk(payloads[begin:end], (ends[first:stop] - begin).astype(np.uint32))
        first, begin = stop, end


__all__ = ["CHUNK_BYTES", "CHUNK_EVENTS", "Chunk", "chunk_of_messages", "chunks_of"]
