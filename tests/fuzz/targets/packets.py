"""The stored events of the queue: MQTT packets of the Go daemon, and chunks of this program.

An input that begins with a byte above 0x7F is a chunk: the byte's low bits are the progress, the CRC-32 follows.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise
from random import Random

from edm.tapir.events.chunks import Chunk
from edm.tapir.mqtt.packets import PacketError, parse_publish
from fuzz.target import Target, agree, one_line


class _CutError(Exception):
    """The packet is not valid."""


def _integer(data: bytes) -> tuple[int, bytes]:
    value = 0
    for k, octet in enumerate(data[:4]):
        value += octet % 128 * 128**k
        if octet < 128:
            return value, data[k + 1 :]
    raise _CutError


def _publish(packet: bytes) -> tuple[str, bytes] | None:
    """Return topic and payload by MQTT 5.0, 3.3."""
    try:
        if len(packet) < 2 or packet[0] >> 4 != 3:
            return None
        quality = packet[0] // 2 % 4
        length, rest = _integer(packet[1:])
        if quality == 3 or length != len(rest) or length < 2:
            return None
        size = int.from_bytes(rest[:2], "big")
        topic, rest = rest[2 : 2 + size], rest[2 + size :]
        if len(topic) != size or not topic or any(c in topic for c in b"+#\0"):
            return None
        text = topic.decode()
        if quality:
            if len(rest) < 2:
                return None
            rest = rest[2:]
        properties, rest = _integer(rest)
    except (_CutError, UnicodeDecodeError):
        return None
    return (text, rest[properties:]) if properties <= len(rest) else None


def _chunk(body: bytes, crc: int, done: int) -> list[bytes] | None:
    if len(body) < 4 or zlib.crc32(body) != crc:
        return None
    count = int.from_bytes(body[:4], "little")
    if not count or len(body) < 4 + 4 * count or done >= count:
        return None
    ends = [0, *struct.unpack(f"<{count}I", body[4 : 4 + 4 * count])]
    payloads = body[4 + 4 * count :]
    if ends[1:] != sorted(ends[1:]) or ends[-1] != len(payloads):
        return None
    return [payloads[begin:end] for begin, end in pairwise(ends)]


def _number(value: int) -> bytes:
    out = b""
    while value >= 128:
        value, low = divmod(value, 128)
        out += bytes((low + 128,))
    return out + bytes((value,))


class PacketsTarget(Target):
    name = "packets"
    batch = 512
    longest = 1500

    def corpus(self) -> list[bytes]:
        return [self.generate(Random(k)) for k in range(60)]

    def generate(self, rng: Random) -> bytes:
        if rng.random() < 0.5:
            events = [rng.randbytes(rng.randrange(20)) for _ in range(rng.choice((0, 1, 2, 9)))]
            ends = [sum(map(len, events[: k + 1])) for k in range(len(events))]
            body = struct.pack(f"<{len(ends) + 1}I", len(ends), *ends) + b"".join(events)
            return bytes((0x80 | rng.randrange(len(ends) + 2),)) + zlib.crc32(body).to_bytes(4, "big") + body
        topic = rng.choice((b"events/up/x/new_qname", b"", b"a+b", "ü".encode(), b"\xff", b"x" * 200))
        quality = rng.choice((0, 0, 1, 2, 3))
        properties = rng.randbytes(rng.choice((0, 0, 3, 130)))
        rest = (
            len(topic).to_bytes(2, "big")
            + topic
            + bytes(2) * (quality > 0)
            + _number(len(properties))
            + properties
        )
        rest += rng.randbytes(rng.choice((0, 5, 300)))
        return bytes((0x30 | quality << 1,)) + _number(len(rest)) + rest

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        changed = super().mutate(rng, data, other)
        if len(changed) >= 5 and changed[0] & 0x80 and rng.random() < 0.8:
            return self.mended(changed)
        return changed

    def mended(self, data: bytes) -> bytes:
        if len(data) < 5 or not data[0] & 0x80:
            return data
        return data[:1] + zlib.crc32(data[5:]).to_bytes(4, "big") + data[5:]

    def check(self, inputs: Sequence[bytes]) -> list[bool]:
        return [self._stored(data) if data[:1] >= b"\x80" else self._packet(data) for data in inputs]

    def _packet(self, data: bytes) -> bool:
        try:
            found = parse_publish(data)
        except PacketError as error:
            one_line(error)
            agree(data, None, _publish(data))
            return False
        agree(data, found, _publish(data))
        return True

    def _stored(self, data: bytes) -> bool:
        done, crc, body = data[0] & 0x7F, int.from_bytes(data[1:5], "big"), data[5:]
        wanted = _chunk(body, crc, done)
        try:
            chunk = Chunk.decode(body, crc, None, done)
        except ValueError as error:
            one_line(error)
            agree(data, None, wanted)
            return False
        agree(data, chunk.messages(0, len(chunk)), wanted)
        return True


__all__ = ["PacketsTarget"]
