"""Blocks and turns when there are too few: no reader keeps one for long, and none waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from edm.input import descriptors
from edm.input import reader as reader_module
from edm.input.blocks import Block, Intake, Waited
from edm.input.descriptors import SPARE, room_for_connections
from edm.input.reader import HOLD, SHARED_RECEIVE, FrameReader
from support.processes import wait_until

MAX_FRAME = 50_000
BLOCK = 2 * MAX_FRAME + 100_000


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def giving(data: bytes) -> Callable[[memoryview], int]:
    """Return a receive function that gives as much of ``data`` as fits, each time anew."""

    def receive(view: memoryview) -> int:
        count = min(len(view), len(data))
        view[:count] = data[:count]
        return count

    return receive


class Waiting:
    """Threads that each wait for something and then note their name."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.order: list[str] = []
        self.blocks: list[Block] = []
        self.threads: list[threading.Thread] = []

    def _start(self, run: Callable[[], None], queue: str) -> None:
        before = len(getattr(self.intake, queue))
        thread = threading.Thread(target=run)
        thread.start()
        self.threads.append(thread)
        wait_until(lambda: len(getattr(self.intake, queue)) == before + 1, "the thread waits")

    def heavy(self, name: str) -> None:
        def run() -> None:
            block = self.intake.acquire()
            self.order.append(name)
            self.blocks.append(block)

        self._start(run, "_heavy")

    def light(self, name: str, data: bytes = b"", queue: str = "_sharers") -> None:
        reader = FrameReader(self.intake, MAX_FRAME)

        def note(view: memoryview) -> int:
            self.order.append(name)
            return giving(data or frame(b"x"))(view)

        self._start(lambda: self._share(reader, note), queue)

    @staticmethod
    def _share(reader: FrameReader, receive: Callable[[memoryview], int]) -> None:
        reader.pump_shared(receive)

    def join(self) -> None:
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()


def test_heavy_senders_get_blocks_in_the_order_in_which_they_came() -> None:
    intake = Intake(2, BLOCK, 0.0)
    held = [intake.acquire(), intake.acquire()]
    waiting = Waiting(intake)
    for name in "abcde":
        waiting.heavy(name)
    assert intake.scarce
    for count in range(1, 6):
        intake.submit(held.pop(0))  # empty, so it goes back to the pool
        wait_until(lambda count=count: len(waiting.blocks) == count, "the next has its block")  # type: ignore[misc]
        held.append(waiting.blocks[-1])
    waiting.join()
    assert waiting.order == list("abcde")
    assert not intake.scarce
    assert intake.longest_blocked > 0


def test_light_senders_wait_for_two_blocks_at_most_however_many_heavy_ones_there_are() -> None:
    intake = Intake(1, BLOCK, 60.0)
    held = intake.acquire()
    waiting = Waiting(intake)
    for number in range(8):
        waiting.heavy(f"heavy {number}")
    waiting.light("light", queue="_light")
    intake.submit(held)
    wait_until(lambda: len(waiting.order) == 1, "the first turn")
    if waiting.order != ["light"]:  # whose turn it is depends on who had the last block
        intake.submit(waiting.blocks[-1])
        wait_until(lambda: len(waiting.order) == 2, "the second turn")
    assert "light" in waiting.order
    block = intake.get() if intake.depth else None
    intake.drain(0)
    while len(waiting.blocks) < 8:
        block = block or intake.get()
        assert block is not None
        before = len(waiting.blocks)
        intake.release(block)
        wait_until(lambda before=before: len(waiting.blocks) > before, "the next turn")  # type: ignore[misc]
        block = waiting.blocks[-1]
    waiting.join()


def test_light_senders_take_turns_with_the_shared_block() -> None:
    intake = Intake(1, BLOCK, 60.0)
    held = intake.acquire()
    waiting = Waiting(intake)
    waiting.light("first", queue="_light")
    for name in ("second", "third", "fourth"):
        waiting.light(name)
    assert intake.crowded
    intake.submit(held)
    waiting.join()
    assert waiting.order == ["first", "second", "third", "fourth"]
    assert not intake.crowded
    assert intake.blocks_total == 0  # all of them in one block, which is still open


def test_who_waits_in_line_gets_a_ration_of_frames_not_of_bytes() -> None:
    class Crowded(Intake):
        crowded = True

    sizes: list[int] = []

    def measured(view: memoryview) -> int:
        sizes.append(len(view))
        return giving(data)(view)

    for size, most in ((1, 512 * 5), (40, 512 * 44), (140, SHARED_RECEIVE)):
        data = frame(bytes(size)) * (SHARED_RECEIVE // (size + 4))
        reader = FrameReader(Crowded(2, BLOCK, 60.0), MAX_FRAME)
        sizes.clear()
        reader.pump_shared(measured)
        reader.pump_shared(measured)
        assert sizes[0] == SHARED_RECEIVE
        assert sizes[1] == pytest.approx(most, rel=0.2)


def test_a_trickle_does_not_keep_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(reader_module.time, "monotonic", lambda: now[0])
    intake = Intake(2, BLOCK, 60.0)
    calls = 0

    def wait() -> bool:
        return True  # there is always another byte, just before the patience ends

    def trickle(view: memoryview) -> int:
        nonlocal calls
        calls += 1
        now[0] += 0.002
        return giving(b"\0")(view)

    reader = FrameReader(intake, MAX_FRAME)
    reader.pump_shared(giving(frame(b"x") + (40_000).to_bytes(4, "big")))
    reader.pump_block(trickle, wait)
    assert calls == pytest.approx(HOLD / 0.002, abs=2)
    assert intake.drain(0) is False  # the frame that came before waits for a worker
    intake.release(intake.get())  # type: ignore[arg-type]
    assert intake.acquire()


def test_a_trickle_gives_its_block_up_at_once_if_somebody_waits() -> None:
    intake = Intake(2, BLOCK, 60.0)
    waiting = Waiting(intake)
    calls = 0

    def trickle(view: memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls == 3:
            waiting.heavy("other")
        return giving(b"\0")(view)

    reader = FrameReader(intake, MAX_FRAME)
    reader.prime((40_000).to_bytes(4, "big"))  # the other block is now the shared one
    reader.pump_block(trickle, lambda: True)
    waiting.join()
    assert calls == 3
    assert waiting.order == ["other"]


def test_endless_oversized_frames_do_not_keep_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(reader_module.time, "monotonic", lambda: now[0])
    intake = Intake(1, BLOCK, 60.0)
    sent = 0

    def receive(view: memoryview) -> int:
        nonlocal sent
        now[0] += 0.001
        piece = frame(b"good") + (1 << 31).to_bytes(4, "big") if sent == 0 else bytes(40_000)
        sent += len(piece)
        return giving(piece)(view)

    reader = FrameReader(intake, MAX_FRAME)
    reader.pump_block(receive, lambda: True)
    assert sent < 60 * 40_000
    block = intake.get()
    assert block is not None
    assert (block.frames, block.oversized) == (1, 1)


def test_a_large_frame_in_small_pieces_is_not_copied_again_and_again() -> None:
    shares = []

    class Watched(Intake):
        def share(self, fill: Callable[[Block], int], waited: Waited = lambda _: None) -> int:
            shares.append(1)
            return super().share(fill, waited)

    intake = Watched(2, BLOCK, 60.0)
    reader = FrameReader(intake, MAX_FRAME)
    payload = bytes(range(250)) * 200
    data = frame(payload)
    for position in range(20_000, len(data)):
        if position == 20_000:
            reader.pump_shared(giving(data[:position]))
            assert reader.unconsumed == 20_000
        reader.pump_shared(giving(data[position : position + 1]))
    assert len(shares) == 2  # the beginning, and the whole
    assert reader.frames == 1
    assert not reader.inside_frame
    intake.close()
    block = intake.get()
    assert block is not None
    assert bytes(block.buf[int(block.off[0]) : int(block.off[0]) + int(block.length[0])]) == payload


def test_a_block_has_room_for_as_many_frames_as_its_bytes_can_hold() -> None:
    intake = Intake(1, BLOCK, 60.0)
    reader = FrameReader(intake, MAX_FRAME)
    data = frame(b"x") * (BLOCK // 5)
    assert reader.pump_block(giving(data)) == len(data)
    assert reader.unconsumed == 0  # so a sender of tiny frames makes the reader keep nothing
    block = intake.get()
    assert block is not None
    assert block.frames == BLOCK // 5


# Open files


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "most", "raised"),
    [
        (20_000, 20_000, 1024, 1024, None),
        (1024, 4096, 1024, 1024, 1024 + SPARE),
        (1024, 1100, 1024, 1100 - SPARE, 1100),
        (1024, -1, 5000, 5000, 5000 + SPARE),
        (-1, -1, 5000, 5000, None),
        (200, 200, 1024, 1, None),
    ],
)
def test_there_are_open_files_for_the_connections_or_fewer_connections(
    soft: int, hard: int, wanted: int, most: int, raised: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(descriptors.resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(descriptors.resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert room_for_connections(wanted) == most
    assert [pair for pair in limits if pair != (soft, hard)] == ([] if raised is None else [(raised, hard)])
