"""dnstap frames: the decoding kernel, compared with the plain decoder of the protobuf wire format."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np

from edm.kernel import columns as c
from edm.kernel.columns import Columns
from edm.stages.dnstap.decode import decode_frames
from fuzz.guarded import guard
from fuzz.target import Target, agree, filler
from oracles import dnstap_frame
from oracles.dnstap_generator import Generator
from oracles.framestream import capture_frames

_NUMBERS = (
    ("sf", c.HAS_SOCKET_FAMILY, c.SOCKET_FAMILY, 1),
    ("sp", c.HAS_SOCKET_PROTOCOL, c.SOCKET_PROTOCOL, 0),
    ("qp", c.HAS_QUERY_PORT, c.QUERY_PORT, 0),
    ("rp", c.HAS_RESPONSE_PORT, c.RESPONSE_PORT, 0),
    ("rtn", c.HAS_RESPONSE_TIME_NSEC, c.RESPONSE_TIME_NSEC, 0),
)
_PIECES = (
    ("identity", c.HAS_IDENTITY, c.IDENTITY_OFF, c.IDENTITY_LEN),
    ("qa", c.HAS_QUERY_ADDRESS, c.QUERY_ADDRESS_OFF, c.QUERY_ADDRESS_LEN),
    ("ra", c.HAS_RESPONSE_ADDRESS, c.RESPONSE_ADDRESS_OFF, c.RESPONSE_ADDRESS_LEN),
    ("rm", c.HAS_RESPONSE_MESSAGE, c.RESPONSE_MESSAGE_OFF, c.RESPONSE_MESSAGE_LEN),
)
_QUERIES = frozenset((1, 3, 5, 7, 9, 11, 13))
_GAP = 12

Row = tuple[Any, ...]


def expected(frame: bytes) -> Row:
    """Return the fate, and for a pending row what its columns must hold."""
    found = dnstap_frame.decode(frame)
    if found is None:
        return (c.UNDECODABLE,)
    message = found.get("message")
    if message is None:
        return (c.DNS_PARSE_ERROR,)
    if message["type"] in _QUERIES:
        return (c.QUERY,)
    present = c.HAS_RESPONSE_TIME_SEC if "rts" in message else 0
    values: list[Any] = [message["type"] % (1 << 32), message.get("rts", 0)]
    for key, bit, _, absent in _NUMBERS:
        present |= bit if key in message else 0
        values.append(message.get(key, absent) % (1 << 32))
    for key, bit, _, _ in _PIECES:
        piece = found.get(key) if key == "identity" else message.get(key)
        present |= bit if piece is not None else 0
        values.append(piece or b"")
    return (c.PENDING, present, *values)


def decode(frames: Sequence[bytes]) -> list[Row]:
    """Run the kernel over one block and read the columns back in the form of `expected`."""
    n = len(frames)
    gap = filler(frames, _GAP)
    block = bytearray(gap + b"".join(frame + gap for frame in frames[:-1]) + frames[-1])
    lengths = np.fromiter(map(len, frames), np.int64, n)
    columns = Columns(n)
    columns.u32[:] = 0xA5A5A5A5  # what an earlier batch may have left behind
    columns.u64[:] = 0xA5A5A5A5A5A5A5A5
    columns.fate[:] = 99
    columns.u32[c.FRAME_LEN, :n] = lengths
    columns.u32[c.FRAME_OFF, :n] = _GAP + np.cumsum(lengths + _GAP) - lengths - _GAP
    buf = np.frombuffer(block, np.uint8)
    before = bytes(block)
    decode_frames(guard(buf), guard(columns.u32), guard(columns.u64), guard(columns.fate), n)
    assert bytes(block) == before, "the kernel wrote into the frames"
    assert (columns.fate[n:] == 99).all(), "the kernel wrote behind its rows"
    assert (columns.u32[:, n:] == 0xA5A5A5A5).all(), "the kernel wrote behind its rows"
    rows: list[Row] = []
    seconds = columns.u64[c.RESPONSE_TIME_SEC, :n].tolist()
    fates = columns.fate[:n].tolist()
    for fate, second, row in zip(fates, seconds, columns.u32[:, :n].T.tolist(), strict=True):
        if fate != c.PENDING:
            rows.append((fate,))
            continue
        numbers = [row[column] for _, _, column, _ in _NUMBERS]
        pieces = [before[row[off] : row[off] + row[size]] for _, _, off, size in _PIECES]
        rows.append((fate, row[c.PRESENT], row[c.MESSAGE_TYPE], second, *numbers, *pieces))
    return rows


class DnstapTarget(Target):
    name = "dnstap"
    batch = 1024

    def corpus(self) -> list[bytes]:
        frames = [f for name in ("unbound", "dnsdist") for f in capture_frames(name)[::997]]
        return frames + capture_frames("mutated")[::41]

    def generate(self, rng: Random) -> bytes:
        return Generator(rng).frame()

    def check(self, inputs: Sequence[bytes]) -> list[bool]:
        rows = decode(inputs)
        for frame, row in zip(inputs, rows, strict=True):
            agree(frame, row, expected(frame))
        return [row[0] != c.UNDECODABLE for row in rows]


__all__ = ["DnstapTarget", "decode", "expected"]
