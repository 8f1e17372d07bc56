from __future__ import annotations

import threading

import numpy as np
import pytest

from edm.stages.new_qname.events import EventBlock
from edm.stages.new_qname.queue import EventQueue


def block_of(*payloads: bytes) -> EventBlock:
    return EventBlock(b"".join(payloads), np.cumsum([0, *map(len, payloads)], dtype=np.int64))


def test_blocks_come_out_in_order() -> None:
    queue = EventQueue(10)
    assert queue.put(block_of(b"a", b"bb")) == (2, 0)
    assert queue.put(block_of(b"c")) == (1, 0)
    assert queue.events == 3
    assert list(queue.get(0) or ()) == [b"a", b"bb"]
    assert list(queue.get(0) or ()) == [b"c"]
    assert queue.events == 0
    assert queue.get(0) is None


def test_what_does_not_fit_is_discarded() -> None:
    queue = EventQueue(3)
    assert queue.put(block_of(b"a", b"b")) == (2, 0)
    assert queue.put(block_of(b"c", b"d", b"e")) == (1, 2)
    assert queue.put(block_of(b"f")) == (0, 1)
    assert queue.put(block_of()) == (0, 0)
    assert [list(queue.get(0) or ()) for _ in range(3)] == [[b"a", b"b"], [b"c"], []]
    assert queue.put(block_of(b"g")) == (1, 0)


def test_a_queue_without_room() -> None:
    queue = EventQueue(0)
    assert queue.put(block_of(b"a")) == (0, 1)
    assert queue.get(0) is None
    with pytest.raises(ValueError, match="-1"):
        EventQueue(-1)


def test_a_closed_queue_can_be_emptied_but_not_filled() -> None:
    queue = EventQueue(3)
    queue.put(block_of(b"a"))
    queue.close()
    assert not queue.finished
    assert queue.put(block_of(b"b")) == (0, 1)
    assert list(queue.get() or ()) == [b"a"]
    assert queue.finished
    assert queue.get() is None


def test_closing_wakes_whoever_waits() -> None:
    queue = EventQueue(3)
    got: list[EventBlock | None] = []
    consumer = threading.Thread(target=lambda: got.append(queue.get()))
    consumer.start()
    queue.close()
    consumer.join(10)
    assert got == [None]


def test_every_event_of_many_producers_is_fetched_or_counted_as_discarded() -> None:
    queue = EventQueue(50)
    discarded = [0] * 4
    fetched: list[bytes] = []

    def produce(producer: int) -> None:
        for i in range(200):
            payloads = [b"%d %d %d" % (producer, i, j) for j in range(i % 5)]
            queued, lost = queue.put(block_of(*payloads))
            assert queued + lost == len(payloads)
            discarded[producer] += lost

    def consume() -> None:
        while (block := queue.get()) is not None:
            fetched.extend(block)

    threads = [threading.Thread(target=produce, args=(producer,)) for producer in range(4)]
    consumer = threading.Thread(target=consume)
    consumer.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.close()
    consumer.join(30)
    assert len(fetched) == len(set(fetched)) == 4 * 400 - sum(discarded)
    for producer in range(4):
        mine = [
            tuple(map(int, payload.split())) for payload in fetched if payload.startswith(b"%d " % producer)
        ]
        assert mine == sorted(mine)


@pytest.mark.parametrize("end", ["half full", "closed"])
def test_gathering_ends_early(end: str) -> None:
    queue = EventQueue(8)
    gathering = threading.Thread(target=queue.gather, args=(60.0,))
    gathering.start()
    for _ in range(3):
        queue.put(block_of(b"a"))
    assert gathering.is_alive()
    if end == "closed":
        queue.close()
    else:
        queue.put(block_of(b"b"))
    gathering.join(10.0)
    assert not gathering.is_alive()
    assert queue.events == (3 if end == "closed" else 4)


def test_gathering_lasts_no_longer_than_it_may() -> None:
    queue = EventQueue(8)
    queue.put(block_of(b"a"))
    queue.gather(0.001)
    assert list(queue.get(0) or ()) == [b"a"]
