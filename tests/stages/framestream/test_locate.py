from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.kernel.jit import JIT_DISABLED
from edm.stages.framestream.locate import CONTROL, FULL, NEED_MORE, OVERSIZED, locate_frames
from oracles import framestream

STATUS = {"need more": NEED_MORE, "control": CONTROL, "oversized": OVERSIZED}


def locate(
    stream: bytes, start: int, stop: int, max_frame: int, rows: int
) -> tuple[list[tuple[int, int]], int, int]:
    buf = np.frombuffer(bytearray(stream), np.uint8)
    off = np.full(rows + 1, 77, np.uint32)
    length = np.full(rows + 1, 77, np.uint32)
    count, position, status = locate_frames(buf, start, stop, max_frame, off[:rows], length[:rows])
    assert (off[count:] == 77).all()
    assert (length[count:] == 77).all()
    return list(zip(off[:count].tolist(), length[:count].tolist(), strict=True)), position, status


@pytest.mark.parametrize(
    ("hexed", "max_frame", "rows", "count", "position", "status"),
    [
        ("", 10, 4, 0, 0, NEED_MORE),
        ("000000", 10, 4, 0, 0, NEED_MORE),
        ("00000000", 10, 4, 0, 0, CONTROL),
        ("00000001", 10, 4, 0, 0, NEED_MORE),
        ("00000001aa", 10, 4, 1, 5, NEED_MORE),
        ("00000001aa00000000", 10, 4, 1, 5, CONTROL),
        ("00000001aa0000000b", 10, 4, 1, 5, OVERSIZED),
        ("00000001aaffffffff", 10, 4, 1, 5, OVERSIZED),
        ("00000001aaffffffff", 2**32 - 1, 4, 1, 5, NEED_MORE),
        ("00000001aa00000001bb", 10, 1, 1, 5, FULL),
        ("00000001aa00000001", 10, 1, 1, 5, NEED_MORE),
        ("00000001aa", 10, 0, 0, 0, FULL),
        ("00000002aa", 2, 4, 0, 0, NEED_MORE),
        ("00000002aabb", 2, 4, 1, 6, NEED_MORE),
        ("00000002aabb", 1, 4, 0, 0, OVERSIZED),
    ],
)
def test_statuses(hexed: str, max_frame: int, rows: int, count: int, position: int, status: int) -> None:
    stream = bytes.fromhex(hexed)
    frames, *rest = locate(stream, 0, len(stream), max_frame, rows)
    assert len(frames) == count
    assert rest == [position, status]


@settings(max_examples=50 if JIT_DISABLED else 300, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=12),
    st.sampled_from([b"", b"\0\0\0\0", b"\0\0\1\0", b"\0\0", b"\0\0\0\5ab", b"\xff\xff\xff\xff"]),
    st.integers(1, 300),
    st.integers(0, 14),
    st.data(),
)
def test_against_a_plain_loop(
    frames: list[bytes], tail: bytes, max_frame: int, rows: int, data: st.DataObject
) -> None:
    stream = framestream.data(*frames) + tail
    stop = data.draw(st.integers(0, len(stream)))
    found, rest, why = framestream.split(stream[:stop], max_frame)
    # Bytes before start and behind stop must not matter.
    block = b"\0\0\0\1" * 2 + stream + b"\0\0\0\1x"
    located, position, status = locate(block, 8, 8 + stop, max_frame, rows)
    shifted = [(off + 8, length) for off, length in found]
    if len(found) > rows:
        assert located == shifted[:rows]
        assert (position, status) == (shifted[rows][0] - 4, FULL)
    else:
        assert located == shifted
        assert (position, status) == (rest + 8, STATUS[why])


@settings(max_examples=50 if JIT_DISABLED else 300, deadline=None)
@given(st.binary(max_size=80), st.integers(1, 2**32 - 1))
def test_arbitrary_bytes(stream: bytes, max_frame: int) -> None:
    found, rest, why = framestream.split(stream, max_frame)
    assert locate(stream, 0, len(stream), max_frame, 40) == (found, rest, STATUS[why])


def test_a_capture_in_pieces_of_any_size() -> None:
    stream = framestream.capture_stream("unbound")
    frames = framestream.capture_frames("unbound")
    choose = random.Random(4)
    position = framestream.frames_start(stream)
    stop = position
    found: list[bytes] = []
    status = NEED_MORE
    while status != CONTROL and len(found) < (300 if JIT_DISABLED else 20_000):
        stop = min(len(stream), stop + choose.choice((1, 3, 100, 5_000, 60_000)))
        piece = stream[position:stop]
        located, used, status = locate(piece, 0, len(piece), 1 << 18, choose.choice((1, 7, 500)))
        found += [piece[off : off + length] for off, length in located]
        position += used
    assert found == frames[: len(found)]
    assert len(found) >= 300
