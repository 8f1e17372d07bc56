"""Frame Streams: handshake, control frames and framing in segments of any size, compared with a whole-stream receiver.

The first three bytes of an input choose the largest frame and how the stream is cut into segments; the stream follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random

import numpy as np

from edm.errors import ProtocolError
from edm.input.blocks import Intake
from edm.input.reader import FrameReader
from edm.stages.framestream.locate import CONTROL, NEED_MORE, OVERSIZED, locate_frames
from edm.stages.framestream.protocol import ClientHandshake, ServerHandshake
from fuzz.guarded import guard
from fuzz.target import Target, agree, one_line
from oracles import framestream
from oracles.frame_receiver import Outcome, answer_of_client, receive
from oracles.framestream import CONTENT_TYPE, capture_stream, control

_LARGEST = (5, 16, 64, 200, 512, 1024, 4096, 1 << 18)
_STATUS = {"need more": NEED_MORE, "control": CONTROL, "oversized": OVERSIZED}
_PARAMETERS = 3
_BLOCKS = 40


class Segments:
    """The bytes of a peer, handed out in pieces; between two pieces there may be none for a while.

    A first piece of any size is followed by some small ones, wherever they fall, and these by large ones.
    """

    def __init__(self, stream: bytes, seed: int) -> None:
        self.left = stream
        self._rng = Random(seed)
        self._first = self._rng.choice((0, 0, 30, int(self._rng.random() * (len(stream) + 1))))
        self._most = self._rng.choice((1, 2, 3, 7, 30, 500, 4096))
        self._small = 40
        self._paused = False

    def take(self, most: int) -> bytes:
        if self._first:
            size, self._first = self._first, 0
        elif self._small:
            size = 1 + int(self._rng.random() * self._most)
            self._small -= 1
        else:
            size = most
        size = min(most, size)
        piece, self.left = self.left[:size], self.left[size:]
        return piece

    def receive(self, view: memoryview) -> int:
        if not self._paused and self.chance():
            self._paused = True
            return -1
        self._paused = False
        piece = self.take(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def chance(self) -> bool:
        return self._rng.random() < 0.3


@cache
def _intake(largest: int, small: bool) -> Intake:
    # Small blocks are those that fill up.
    return Intake(_BLOCKS, max(0 if small else 1 << 16, 2 * (largest + 4) + 4096), linger=1.0)


@dataclass
class Server:
    """The receiver's side as a connection runs it."""

    segments: Segments
    largest: int
    small: bool
    outcome: Outcome = field(default_factory=Outcome)

    def run(self) -> Outcome:
        handshake = ServerHandshake()
        try:
            while not handshake.done:
                handshake.receive(self.segments.take(4096))
                self.outcome.sent += handshake.to_send()
        except ProtocolError as error:
            self.outcome.sent += handshake.to_send()
            one_line(error)
            return self.outcome
        finally:
            self.outcome.bidirectional = handshake.bidirectional
        self._data_phase(handshake.trailing)
        return self.outcome

    def _data_phase(self, trailing: bytes) -> None:
        intake = _intake(self.largest, self.small)
        reader = FrameReader(intake, self.largest)
        outcome = self.outcome
        outcome.end = "open"
        try:
            reader.prime(trailing)
            got = -1
            while not reader.stopped and got != 0:
                self._collect(intake)
                if self.segments.chance():
                    got = reader.pump_block(self.segments.receive, self.segments.chance)
                else:
                    got = reader.pump_shared(self.segments.receive)
            outcome.end = "stop" if reader.stopped else "open"
            outcome.inside = not reader.stopped and reader.inside_frame
        except ProtocolError as error:
            one_line(error)
            outcome.end = "broken"
        finally:
            intake.drain(0)
            self._collect(intake)
        assert reader.frames == len(outcome.frames)

    def _collect(self, intake: Intake) -> None:
        while intake.depth:
            block = intake.get()
            assert block is not None
            for off, size in zip(
                block.off[: block.frames].tolist(), block.length[: block.frames].tolist(), strict=True
            ):
                self.outcome.frames.append(bytes(block.view[off : off + size]))
            self.outcome.oversized += block.oversized
            intake.release(block)


def _client(segments: Segments) -> tuple[bytes, str]:
    client = ClientHandshake()
    client.to_send()
    try:
        while segments.left:
            client.receive(segments.take(1 << 20))
    except ProtocolError as error:
        one_line(error)
        return client.to_send(), "broken"
    return client.to_send(), "ready" if client.done else "waits"


def _locate(stream: bytes, largest: int, rows: int) -> tuple[list[tuple[int, int]], int, int | None]:
    off, length = np.zeros(rows, np.uint32), np.zeros(rows, np.uint32)
    buf = np.frombuffer(bytearray(stream), np.uint8)
    count, position, status = locate_frames(guard(buf), 0, len(stream), largest, guard(off), guard(length))
    return list(zip(off[:count].tolist(), length[:count].tolist(), strict=True)), position, status


class FrameStreamTarget(Target):
    name = "framestream"
    batch = 256
    longest = 12_000  # less than a thousand control frames, the number from which on a sender is refused

    def corpus(self) -> list[bytes]:
        inputs = []
        for k, name in enumerate(("unbound", "dnsdist", "mutated")):
            start, data = control(2, CONTENT_TYPE), capture_stream(name)
            data = data[framestream.frames_start(data) :]
            for at in range(0, 20_000, 4000):
                frames = framestream.frames_of(data[:40_000])[at // 400 :][:8]
                stream = framestream.data(*frames) + control(3)
                inputs.append(bytes((5 + k, at % 251, k)) + start + stream)
                inputs.append(bytes((7, at % 13, k)) + control(4, CONTENT_TYPE) + start + stream)
        return inputs

    def generate(self, rng: Random) -> bytes:
        largest = int(rng.random() * len(_LARGEST))
        opening = (control(4, CONTENT_TYPE) if rng.random() < 0.6 else b"") + control(2, CONTENT_TYPE)
        if rng.random() < 0.15:
            opening = b"".join(self._control(rng) for _ in range(rng.randrange(1, 4)))
        parts = [opening]
        for _ in range(rng.choice((0, 1, 2, 5, 12))):
            parts.append(self._control(rng) if rng.random() < 0.15 else self._frame(rng, _LARGEST[largest]))
        if rng.random() < 0.6:
            parts.append(control(3))
        if rng.random() < 0.2:
            parts.append(rng.randbytes(rng.randrange(9)))
        return (bytes((largest,)) + rng.randbytes(2) + b"".join(parts))[: self.longest]

    def _control(self, rng: Random) -> bytes:
        types = (CONTENT_TYPE, CONTENT_TYPE, b"", b"x", b"protobuf:other", b"y" * rng.choice((470, 500, 501)))
        chosen = [rng.choice(types) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
        return control(rng.choice((1, 2, 3, 4, 5, 6, 0, 1 << 31)), *chosen)

    def _frame(self, rng: Random, largest: int) -> bytes:
        size = rng.choice((1, 2, largest - 1, largest, largest + 1, rng.randrange(1, 60), 2 * largest))
        size = min(size, 2000)
        stated = size if rng.random() < 0.97 else rng.choice((size + 1, 1 << 31, (1 << 32) - 1))
        return stated.to_bytes(4, "big") + rng.choice((bytes(size), rng.randbytes(size)))

    def check(self, inputs: Sequence[bytes]) -> list[bool]:
        return [self._one(data) for data in inputs]

    def _one(self, data: bytes) -> bool:
        first, second, third = data[:_PARAMETERS].ljust(_PARAMETERS, b"\0")
        stream = data[_PARAMETERS:]
        largest = _LARGEST[first & 7]
        seed = second << 8 | third
        expected = receive(stream, largest)
        agree(data, Server(Segments(stream, seed), largest, bool(first & 8)).run(), expected)
        agree(data, _client(Segments(stream, seed)), answer_of_client(stream, CONTENT_TYPE))
        found, rest, why = framestream.split(stream, largest)
        agree(data, _locate(stream, largest, len(found) + 1), (found, rest, _STATUS[why]))
        return expected.end != "handshake"


__all__ = ["FrameStreamTarget"]
