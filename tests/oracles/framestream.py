"""Frame Streams by the specification: builds streams, and splits them with a plain loop."""

from __future__ import annotations

import functools
import struct
from pathlib import Path

import zstandard

CAPTURES = Path(__file__).parent.parent / "captures"
CONTENT_TYPE = b"protobuf:dnstap.Dnstap"


def control(kind: int, *content_types: bytes) -> bytes:
    fields = b"".join(struct.pack(">II", 1, len(c)) + c for c in content_types)
    return struct.pack(">III", 0, 4 + len(fields), kind) + fields


def data(*frames: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(f)) + f for f in frames)


def split(stream: bytes, max_frame: int) -> tuple[list[tuple[int, int]], int, str]:
    """Return (offset, length) of each leading whole data frame, where the rest begins, and why it ended."""
    found = []
    pos = 0
    while True:
        head = stream[pos : pos + 4]
        if len(head) < 4:
            return found, pos, "need more"
        (size,) = struct.unpack(">I", head)
        if size == 0:
            return found, pos, "control"
        if size > max_frame:
            return found, pos, "oversized"
        if len(stream[pos + 4 : pos + 4 + size]) < size:
            return found, pos, "need more"
        found.append((pos + 4, size))
        pos += 4 + size


def frames_of(stream: bytes) -> list[bytes]:
    """Return the data frames of a whole Frame Streams file up to STOP or its end."""
    frames = []
    pos = 0
    while pos + 4 <= len(stream):
        (size,) = struct.unpack_from(">I", stream, pos)
        pos += 4
        if size == 0:
            size, kind = struct.unpack_from(">II", stream, pos)
            pos += 4 + size
            if kind == 3:
                break
            continue
        frames.append(stream[pos : pos + size])
        pos += size
    return frames


@functools.cache
def capture_stream(name: str) -> bytes:
    """Return the uncompressed bytes of a bundled capture (``unbound``, ``dnsdist``, ``mutated``)."""
    with (CAPTURES / name / "input.fstrm.zst").open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()


@functools.cache
def capture_frames(name: str) -> list[bytes]:
    """Return the data frames of a bundled capture."""
    return frames_of(capture_stream(name))


def frames_start(stream: bytes) -> int:
    """Return where the data phase of a Frame Streams file begins."""
    assert stream[:4] == bytes(4)
    return 8 + int.from_bytes(stream[4:8], "big")
