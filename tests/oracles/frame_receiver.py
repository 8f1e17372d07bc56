"""The receiver of a whole Frame Streams stream: what it sends, the frames it gets, and how the stream ends.

Written from the rules of the protocol and of the Go daemon; streams and frames are plain slices.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from oracles.framestream import CONTENT_TYPE, control

ACCEPT, START, STOP, READY = 1, 2, 3, 4


class BrokenError(Exception):
    """The peer broke the protocol."""


class CutError(Exception):
    """The stream ends before what was expected."""


@dataclass
class Outcome:
    """What became of a stream.

    ``end`` is ``handshake`` (it failed or did not end), ``broken`` (in the data phase), ``stop``, or ``open``: the
    stream ended by itself, ``inside`` a frame or not.
    """

    sent: bytes = b""
    bidirectional: bool = False
    frames: list[bytes] = field(default_factory=list)
    oversized: int = 0
    end: str = "handshake"
    inside: bool = False


def parse_control(payload: bytes) -> tuple[int, list[bytes]]:
    """Return type and content types."""
    if len(payload) < 4 or len(payload) > 512:
        raise BrokenError("length")
    fields = payload[4:]
    types = []
    while len(fields) > 8:
        kind, size = struct.unpack(">II", fields[:8])
        if kind != 1 or size > len(fields[8:]):
            raise BrokenError("field")
        types.append(fields[8 : 8 + size])
        fields = fields[8 + size :]
    if fields:
        raise BrokenError("stray bytes")
    return int.from_bytes(payload[:4], "big"), types


def take_control(stream: bytes) -> tuple[int, list[bytes], bytes]:
    """Return type and content types of the control frame at the beginning, and what follows it."""
    if any(stream[:4]):
        raise BrokenError("no control frame")
    if len(stream) < 8:
        raise CutError
    (size,) = struct.unpack(">I", stream[4:8])
    if not 4 <= size <= 512:
        raise BrokenError("length")
    if len(stream) < 8 + size:
        raise CutError
    return *parse_control(stream[8 : 8 + size]), stream[8 + size :]


def _handshake(stream: bytes, outcome: Outcome) -> bytes:
    kind, types, stream = take_control(stream)
    if kind == READY:
        if types and CONTENT_TYPE not in types:
            raise BrokenError("content type")
        outcome.bidirectional = True
        outcome.sent = control(ACCEPT, CONTENT_TYPE) if types else control(ACCEPT)
        kind, more, stream = take_control(stream)
        types = types + more
    if kind != START or (types and CONTENT_TYPE not in types):
        raise BrokenError("no START of ours")
    return stream


def _data_phase(stream: bytes, max_frame: int, outcome: Outcome) -> None:
    while stream:
        if len(stream) < 4:
            raise CutError
        (size,) = struct.unpack(">I", stream[:4])
        if size == 0:
            kind, _, stream = take_control(stream)
            if kind == STOP:
                outcome.end = "stop"
                return
            continue
        if size > max_frame:
            outcome.oversized += 1
        if len(stream) < 4 + size:
            raise CutError
        if size <= max_frame:
            outcome.frames.append(stream[4 : 4 + size])
        stream = stream[4 + size :]


def receive(stream: bytes, max_frame: int) -> Outcome:
    """Return what becomes of ``stream``, after which the peer sends no more."""
    outcome = Outcome()
    try:
        rest = _handshake(stream, outcome)
    except (BrokenError, CutError):
        return outcome
    outcome.end = "open"
    try:
        _data_phase(rest, max_frame, outcome)
    except BrokenError:
        outcome.end = "broken"
    except CutError:
        outcome.inside = True
    return outcome


def answer_of_client(stream: bytes, content_type: bytes) -> tuple[bytes, str]:
    """Return what a sender that has sent READY sends next, and whether it is then ``ready``, ``broken`` or waits."""
    try:
        kind, types, rest = take_control(stream)
    except BrokenError:
        return b"", "broken"
    except CutError:
        return b"", "waits"
    if kind != ACCEPT or (types and content_type not in types):
        return b"", "broken"
    try:
        take_control(rest)
    except CutError:
        return control(START, content_type), "ready"
    except BrokenError:
        pass
    # Nothing may come before STOP was sent.
    return control(START, content_type), "broken"
