from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edm.tapir.events.chunks import Chunk, chunk_of_messages, chunks_of
from support.events import block_of, payloads

events_lists = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=30)


def events_of(chunk: Chunk) -> list[bytes]:
    return chunk.messages(0, len(chunk))


@given(st.lists(events_lists, min_size=1, max_size=5), st.integers(1, 12), st.integers(1, 100))
def test_cutting_keeps_every_event_in_order(
    blocks: list[list[bytes]], most_events: int, most_bytes: int
) -> None:
    chunks = list(chunks_of([block_of(events) for events in blocks], most_events, most_bytes))
    assert [event for chunk in chunks for event in events_of(chunk)] == [e for b in blocks for e in b]
    for chunk in chunks:
        assert 1 <= len(chunk) <= most_events
        assert len(chunk) == 1 or len(chunk.payloads) <= most_bytes


def test_chunks_are_as_large_as_may_be() -> None:
    chunks = list(chunks_of([block_of([b"x"] * 700), block_of([b"y"] * 500)], most_events=512))
    assert [len(chunk) for chunk in chunks] == [512, 512, 176]


@given(events_lists, st.data())
def test_stored_form_reads_back(events: list[bytes], data: st.DataObject) -> None:
    done = data.draw(st.integers(0, len(events) - 1))
    (chunk,) = chunks_of([block_of(events)])
    chunk.done = done
    body, crc = chunk.encode()
    again = Chunk.decode(body, crc, None, done)
    assert events_of(again) == events
    assert again.waiting == len(events) - done
    assert again.size == chunk.size


@given(st.integers(0), st.integers(1, 255))
def test_every_changed_byte_is_noticed(position: int, change: int) -> None:
    (chunk,) = chunks_of([block_of(payloads(0, 3))])
    body, crc = chunk.encode()
    spoiled = bytearray(body)
    spoiled[position % len(body)] ^= change
    with pytest.raises(ValueError, match="checksum"):
        Chunk.decode(bytes(spoiled), crc, None, 0)


@pytest.mark.parametrize("done", [-1, 3, None, "1"])
def test_impossible_progress(done: object) -> None:
    (chunk,) = chunks_of([block_of(payloads(0, 3))])
    with pytest.raises(ValueError, match="progress"):
        Chunk.decode(*chunk.encode(), None, done)  # type: ignore[arg-type]


@given(st.binary(max_size=60))
def test_any_bytes_with_a_right_checksum_end_in_an_error_or_a_chunk(body: bytes) -> None:
    import zlib

    try:
        chunk = Chunk.decode(body, zlib.crc32(body), None, 0)
    except ValueError:
        return
    assert b"".join(events_of(chunk)) == chunk.payloads


def test_messages() -> None:
    chunk = chunk_of_messages([b"one", b"", b"three"], "a/b")
    assert chunk.topic == "a/b"
    assert events_of(chunk) == [b"one", b"", b"three"]
    assert chunk.messages(1, 3) == [b"", b"three"]
    assert chunk.ends.dtype == np.uint32
