from __future__ import annotations

import pytest

from edm.input.blocks import Block
from edm.input.recent import EVERY, MOST_BYTES, MOST_FRAMES, MOST_SECONDS, Recent
from edm.trial.bench import block_of


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def frames_of(block: Block) -> list[bytes]:
    return [
        bytes(block.view[int(block.off[i]) : int(block.off[i]) + int(block.length[i])])
        for i in range(block.frames)
    ]


def test_whole_frames_are_kept_and_bounded_in_number(clock: Clock) -> None:
    frames = [b"%06d" % i * (1 + i % 5) for i in range(3000)]
    recent = Recent(clock)
    block = block_of(frames)
    for _ in range(200):
        recent.offer(block)
        clock.now += EVERY
    kept, seconds = recent.block()
    assert MOST_FRAMES - 128 <= kept.frames == recent.frames <= MOST_FRAMES
    assert {*frames_of(kept)} <= {*frames}
    assert len({*frames_of(kept)}) > 1000  # not always the same place
    assert 0 < seconds <= MOST_SECONDS


def test_bytes_are_bounded_and_huge_frames_are_left_out(clock: Clock) -> None:
    recent = Recent(clock)
    large = block_of([bytes(100_000)] * 3)
    huge = block_of([bytes(200_000)])
    for _ in range(100):
        recent.offer(large)
        clock.now += EVERY
        recent.offer(huge)
        clock.now += EVERY
    assert recent.bytes <= MOST_BYTES
    assert {len(frame) for frame in frames_of(recent.block()[0])} == {100_000}


def test_between_two_looks_nothing_is_copied(clock: Clock) -> None:
    recent = Recent(clock)
    recent.offer(block_of([b"one"]))
    clock.now += EVERY / 2
    recent.offer(block_of([b"two"]))
    assert frames_of(recent.block()[0]) == [b"one"]


def test_what_is_old_is_forgotten_also_without_traffic(clock: Clock) -> None:
    recent = Recent(clock)
    recent.offer(block_of([b"one"]))
    clock.now += MOST_SECONDS + 1
    recent.expire()
    assert (recent.frames, recent.bytes, recent.block()[0].frames) == (0, 0, 0)
