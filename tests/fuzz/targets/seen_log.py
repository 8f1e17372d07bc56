"""Files of seen names: which are read, and which names are read from them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from random import Random

from edm.errors import StoreError
from edm.stages.new_qname.seen.log import DamagedLog, NameLog
from fuzz.scratch import scratch_file
from fuzz.target import Target, agree, one_line

_HEADER = 64
_MAGIC = b"EDMSEEN\0"


def _header(generation: int, key: bytes, carried: int, version: int = 1) -> bytes:
    fixed = _MAGIC + struct.pack("<IIQ", version, 0, generation) + key
    return fixed + struct.pack("<I4xq8x", zlib.crc32(fixed), carried)


def _expected(data: bytes) -> tuple[object, ...]:
    if len(data) < _HEADER or data[:8] != _MAGIC:
        return ("damaged",)
    if int.from_bytes(data[40:44], "little") != zlib.crc32(data[:40]):
        return ("damaged",)
    version, _, generation = struct.unpack("<IIQ", data[8:24])
    if version != 1:
        return ("version",)
    records = (len(data) - _HEADER) // 8
    carried = int.from_bytes(data[48:56], "little", signed=True)
    return (
        generation,
        data[24:40],
        carried,
        list(struct.unpack(f"<{records}Q", data[_HEADER : _HEADER + 8 * records])),
    )


class SeenLogTarget(Target):
    name = "seen_log"
    batch = 128
    longest = 2000

    def corpus(self) -> list[bytes]:
        return [self.generate(Random(k)) for k in range(20)]

    def generate(self, rng: Random) -> bytes:
        header = _header(
            rng.getrandbits(64), rng.randbytes(16), rng.getrandbits(62), rng.choice((1, 1, 1, 1, 0, 2))
        )
        return header + rng.randbytes(rng.randrange(100)) + bytes(rng.randrange(9))

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        changed = super().mutate(rng, data, other)
        return self.mended(changed) if rng.random() < 0.5 else changed

    def mended(self, data: bytes) -> bytes:
        if len(data) < 44:
            return data
        return data[:40] + zlib.crc32(data[:40]).to_bytes(4, "little") + data[44:]

    def check(self, inputs: Sequence[bytes]) -> list[bool]:
        return [self._one(data) for data in inputs]

    def _one(self, data: bytes) -> bool:
        wanted = _expected(data)
        try:
            log = NameLog.load(scratch_file("names-00000001.seen", data))
        except DamagedLog as error:
            one_line(error)
            agree(data, ("damaged",), wanted)
            return False
        except StoreError as error:
            one_line(error)
            agree(data, ("version",), wanted)
            return False
        try:
            values = [value for part in log.read() for value in part.tolist()]
            agree(data, (log.generation, log.key, log.carried, values), wanted)
        finally:
            log.abandon()
        return True


__all__ = ["SeenLogTarget"]
