from __future__ import annotations

import threading

from edm.input.blocks import Block, Intake
from edm.input.reader import FrameReader

MAX_FRAME = 1000
BLOCK = 2 * MAX_FRAME + 8192


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def stop() -> bytes:
    return bytes(4) + (4).to_bytes(4, "big") + (3).to_bytes(4, "big")


def payloads(block: Block) -> list[bytes]:
    return [
        bytes(block.buf[int(o) : int(o) + int(n)])
        for o, n in zip(block.off[: block.frames], block.length[: block.frames], strict=True)
    ]


class Collector:
    """A worker that keeps the frames of all blocks."""

    def __init__(self, blocks: int = 4, linger: float = 0.0) -> None:
        self.intake = Intake(blocks, BLOCK, linger)
        self.frames: list[bytes] = []
        self.oversized = 0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while (block := self.intake.get()) is not None:
            self.frames += payloads(block)
            self.oversized += block.oversized
            self.intake.release(block)

    def finish(self) -> list[bytes]:
        self.intake.close()
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.frames


def feeder(pieces: list[bytes]):
    """Return a receive function that gives the pieces, cut to what fits, and then the end."""
    rest = list(pieces)

    def receive(view: memoryview) -> int:
        if not rest:
            return 0
        piece = rest[0][: len(view)]
        view[: len(piece)] = piece
        rest[0] = rest[0][len(piece) :]
        if not rest[0]:
            rest.pop(0)
        return len(piece)

    return receive


def run(pieces: list[bytes], *, shared: bool) -> tuple[list[bytes], FrameReader, Collector]:
    collector = Collector()
    reader = FrameReader(collector.intake, MAX_FRAME)
    receive = feeder(pieces)
    while not reader.stopped:
        got = reader.pump_shared(receive) if shared else reader.pump_block(receive)
        if got == 0:
            break
    return collector.finish(), reader, collector


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


WANTED = [bytes([i % 251]) * (1 + i * 37 % 900) for i in range(400)]
STREAM = b"".join(map(frame, WANTED))


def test_every_way_of_cutting_gives_the_same_frames() -> None:
    for shared in (True, False):
        for size in (1, 3, 997, 5000, len(STREAM)):
            pieces = cut(STREAM[:20000] if size == 1 else STREAM, size)
            frames, reader, _ = run(pieces, shared=shared)
            assert frames == WANTED[: len(frames)]
            assert len(frames) == (len(WANTED) if size > 1 else reader.frames)
            assert reader.inside_frame is (size == 1)


def test_oversized_frame_is_skipped_and_the_stream_goes_on() -> None:
    for shared in (True, False):
        for size in (7, 1000, 10**6):
            data = (
                frame(b"a") + frame(b"x" * (MAX_FRAME + 1)) + frame(b"b") + frame(b"y" * 50000) + frame(b"c")
            )
            frames, reader, collector = run(cut(data, size), shared=shared)
            assert frames == [b"a", b"b", b"c"]
            assert collector.oversized == 2
            assert not reader.inside_frame


def test_tiny_frames_overflow_the_offsets_of_a_block() -> None:
    data = frame(b"z") * 60000
    for shared in (True, False):
        frames, _, _ = run([data], shared=shared)
        assert len(frames) == 60000


def test_stop_ends_the_stream_and_what_follows_is_ignored() -> None:
    for shared in (True, False):
        frames, reader, _ = run([frame(b"a") + stop() + frame(b"b")], shared=shared)
        assert frames == [b"a"]
        assert reader.stopped
        assert not reader.inside_frame


def test_control_frames_alone_do_not_use_up_blocks() -> None:
    other = bytes(4) + (4).to_bytes(4, "big") + (99).to_bytes(4, "big")
    frames, _, collector = run([other * 1000 + frame(b"end")], shared=True)
    assert frames == [b"end"]
    assert collector.intake.blocks_total == 1


def test_primed_bytes_come_first() -> None:
    collector = Collector()
    reader = FrameReader(collector.intake, MAX_FRAME)
    reader.prime(frame(b"one") + frame(b"two")[:5])
    reader.pump_shared(feeder([frame(b"two")[5:]]))
    assert collector.finish() == [b"one", b"two"]


def test_light_senders_share_a_block() -> None:
    intake = Intake(4, BLOCK, linger=60.0)
    readers = [FrameReader(intake, MAX_FRAME) for _ in range(5)]
    for i, reader in enumerate(readers):
        reader.pump_shared(feeder([frame(b"%d" % i)]))
    assert intake.blocks_total == 0
    intake.close()
    block = intake.get()
    assert block is not None
    assert payloads(block) == [b"0", b"1", b"2", b"3", b"4"]
    assert intake.blocks_total == 1


def test_own_block_does_not_overtake_the_shared_one() -> None:
    intake = Intake(4, BLOCK, linger=60.0)
    reader = FrameReader(intake, MAX_FRAME)
    reader.pump_shared(feeder([frame(b"first")]))
    reader.pump_block(feeder([frame(b"second")]))
    order = [payloads(block) for block in (intake.get(), intake.get()) if block is not None]
    assert order == [[b"first"], [b"second"]]


def test_readers_wait_while_all_blocks_are_taken() -> None:
    intake = Intake(1, BLOCK, linger=0.0)
    block = intake.acquire()
    got = threading.Event()

    def acquire() -> None:
        intake.acquire()
        got.set()

    thread = threading.Thread(target=acquire)
    thread.start()
    assert not got.wait(0.05)
    intake.submit(block)  # empty: goes straight back to the pool
    assert got.wait(10)
    thread.join()
    assert intake.blocked_seconds > 0


def test_drain_waits_for_blocks_being_worked_on() -> None:
    intake = Intake(2, BLOCK, linger=60.0)
    FrameReader(intake, MAX_FRAME).pump_shared(feeder([frame(b"a")]))
    assert not intake.drain(0.01)  # closed the open block, which nobody has handled
    block = intake.get()
    assert block is not None
    assert not intake.drain(0.01)
    intake.release(block)
    assert intake.drain(10)
