"""Capture files (plain, gzip, Zstandard), complete and damaged, compared with decompression in one call."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from random import Random

import zstandard

from edm.captures.reading import read_capture
from edm.errors import InputError
from fuzz.scratch import scratch_file
from fuzz.target import Target, agree, one_line
from oracles import framestream
from oracles.frame_receiver import BrokenError, CutError, take_control
from oracles.framestream import CONTENT_TYPE, capture_frames, control

_MOST = 1 << 20  # bytes: what a small file can expand to is cut off there


class _DamagedError(Exception):
    """It is no whole gzip file."""


def _header_end(data: bytes) -> int:
    """Return where the compressed data of a member begins."""
    if len(data) < 10 or data[:3] != b"\x1f\x8b\x08" or data[3] & 0xE0:
        raise _DamagedError
    at, flags = 10, data[3]
    if flags & 4:
        at += 2 + int.from_bytes(data[at : at + 2], "little")
    for flag in (8, 16):
        if flags & flag:
            at = data.find(b"\0", at) + 1 or len(data) + 1
    if flags & 2:
        at += 2
        if zlib.crc32(data[: at - 2]) & 0xFFFF != int.from_bytes(data[at - 2 : at], "little"):
            raise _DamagedError
    if at > len(data):
        raise _DamagedError
    return at


def _members(data: bytes) -> Iterator[bytes]:
    while data:
        inflate = zlib.decompressobj(-15)
        content = inflate.decompress(data[_header_end(data) :])
        rest = inflate.unused_data
        size = len(content) & 0xFFFFFFFF
        if not inflate.eof or rest[:8] != zlib.crc32(content).to_bytes(4, "little") + size.to_bytes(
            4, "little"
        ):
            raise _DamagedError
        yield content
        data = rest[8:].lstrip(b"\0")


def _unpacked(data: bytes) -> bytes | None:
    """Return the whole content; None if it is damaged or cut off."""
    try:
        if data.startswith(b"\x1f\x8b"):
            return b"".join(_members(data))
        if data.startswith(b"\x28\xb5\x2f\xfd") or (data[1:4] == b"\x2a\x4d\x18" and data[0] >> 4 == 5):
            return _zstandard(data)
    except (_DamagedError, zlib.error, zstandard.ZstdError):
        return None
    return data


def _zstandard(data: bytes) -> bytes | None:
    content = b""
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        content += frame.decompress(data)
        if not frame.eof:
            return None
        data = frame.unused_data
    return content


def _expected(data: bytes) -> bytes | None:
    """Return what follows START; None if the file is refused, or damaged further on."""
    content = _unpacked(data)
    if not content:
        return None
    try:
        kind, types, rest = take_control(content)
    except (BrokenError, CutError):
        return None
    return rest if kind == 2 and (not types or CONTENT_TYPE in types) else None


class CaptureTarget(Target):
    name = "capture"
    batch = 64
    longest = 6000

    def corpus(self) -> list[bytes]:
        return [self.generate(Random(k)) for k in range(60)]

    def generate(self, rng: Random) -> bytes:
        frames = rng.sample(capture_frames("unbound")[:200], rng.randrange(5))
        start = (
            control(2, CONTENT_TYPE)
            if rng.random() < 0.9
            else control(rng.randrange(6), rng.choice((b"x", b"")))
        )
        stream = start + framestream.data(*frames) + control(3)
        choice = rng.random()
        if choice < 0.2:
            return stream[: self.longest]
        at = rng.randrange(len(stream))
        parts = [stream] if rng.random() < 0.7 else [stream[:at], stream[at:]]
        if choice < 0.6:
            return b"".join(gzip.compress(part, 1, mtime=0) for part in parts) + bytes(
                rng.choice((0, 0, 0, 3))
            )
        skipped = b"\x53\x2a\x4d\x18\3\0\0\0abc" * (rng.random() < 0.2)
        return skipped + b"".join(
            zstandard.ZstdCompressor(write_checksum=True).compress(part) for part in parts
        )

    def check(self, inputs: Sequence[bytes]) -> list[bool]:
        return [self._one(data) for data in inputs]

    def _one(self, data: bytes) -> bool:
        wanted = _expected(data)
        path = scratch_file("capture", data)
        found = b""
        try:
            for chunk in read_capture(path, 1 + zlib.crc32(data) % 5000):
                found += chunk
                if len(found) > 2 * _MOST:
                    return True
        except InputError as error:
            one_line(error, f"{path}: ")
            agree(data, None, wanted)
            return False
        agree(data, found, wanted)
        return True


__all__ = ["CaptureTarget"]
