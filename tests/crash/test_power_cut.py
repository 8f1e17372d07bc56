"""What a power cut can do to the files of seen names and of the queue: shorter files, zeros, wrong bytes."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import structlog

from edm.kernel.jit import JIT_DISABLED
from edm.stages.new_qname.seen.log import HEADER_BYTES
from edm.stages.new_qname.seen.store import SeenStore
from edm.tapir.events.backlog import Backlog
from edm.tapir.events.chunks import chunks_of
from edm.tapir.events.queue_file import FILE_NAME
from stages.new_qname.batches import insert, wire
from support.events import block_of, payloads

LOG = "names-00000001.seen"
NAMES = 12
WIDTH = HEADER_BYTES + 8 * NAMES


def names(first: int, stop: int) -> list[bytes]:
    return [wire(f"host{number}.example.com") for number in range(first, stop)]


def open_store(folder: Path) -> SeenStore:
    return SeenStore.open(folder, limit_entries=1000, sync=False, first_slots=64)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("seen")
    with open_store(folder) as store:
        for number in range(NAMES):
            insert(store, names(number, number + 1))
    content = (folder / LOG).read_bytes()
    assert len(content) == WIDTH
    return content


def reopened(folder: Path, content: bytes) -> list[bool]:
    """Open a store with this file; tell which of its names it knows. It must be as good as a new one afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / LOG).write_bytes(content)
    with structlog.testing.capture_logs(), open_store(folder) as store:
        known = [not new for new in insert(store, names(0, NAMES))]
        assert all(insert(store, names(100, 120)))
    with structlog.testing.capture_logs() as logs, open_store(folder) as store:
        assert not any(insert(store, [*names(0, NAMES), *names(100, 120)]))
    assert logs == []
    return known


def test_a_log_cut_off_anywhere_keeps_all_whole_names(content: bytes, tmp_path: Path) -> None:
    for size in range(WIDTH + 1):
        whole = max(0, size - HEADER_BYTES) // 8
        assert reopened(tmp_path / "seen", content[:size]) == [k < whole for k in range(NAMES)], size


def test_a_log_that_ends_in_zeros_or_garbage_keeps_what_is_before(content: bytes, tmp_path: Path) -> None:
    chance = random.Random(3)
    for kept in range(NAMES + 1):
        end = HEADER_BYTES + 8 * kept
        for rest in (bytes(8 * (NAMES - kept)), chance.randbytes(8 * (NAMES - kept) + kept % 8)):
            assert reopened(tmp_path / "seen", content[:end] + rest) == [k < kept for k in range(NAMES)]


def test_wrong_bytes_in_the_last_name_cost_that_name(content: bytes, tmp_path: Path) -> None:
    for position in range(WIDTH - 8, WIDTH):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[position] ^= flip
            known = reopened(tmp_path / "seen", bytes(damaged))
            assert known == [True] * (NAMES - 1) + [False], (position, flip)


def test_wrong_bytes_in_the_header_cost_no_start(content: bytes, tmp_path: Path) -> None:
    for position in range(HEADER_BYTES):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        known = reopened(tmp_path / "seen", bytes(damaged))
        # Bytes 0 to 43 are what the checksum is about, and the checksum.
        assert known == [position >= 44] * NAMES, position


@pytest.mark.skipif(JIT_DISABLED, reason="no kernels here")
def test_a_queue_whose_journal_is_cut_off_keeps_whole_transactions(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path / "whole" / FILE_NAME, 1 << 30)
    for number in range(12):
        chunks = list(chunks_of([block_of(payloads(10 * number, 10 * number + 10))]))
        chunks[0].names = bytes([number])
        backlog.put(chunks)
    # Copied while it is open: closing would empty the journal.
    copies = {
        path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir() if "shm" not in path.name
    }
    backlog.close()
    journal = next(name for name in copies if name.endswith("-wal"))
    chance = random.Random(4)
    found = set()
    for turn in range(60):
        folder = tmp_path / str(turn)
        folder.mkdir()
        for name, data in copies.items():
            (folder / name).write_bytes(data)
        cut = chance.randrange(len(copies[journal]) + 1)
        rest = bytes(chance.randrange(5000)) if turn % 2 else b""
        (folder / journal).write_bytes(copies[journal][:cut] + rest)
        again = Backlog(folder / FILE_NAME, 1 << 30)
        entries = again.take(1 << 30)
        events = [m for entry in entries for m in entry.chunk.messages(0, len(entry.chunk))]
        stored = len(events) // 10
        assert events == payloads(0, 10 * stored)
        assert again.names == (bytes([stored - 1]) if stored else b"")
        assert again.damaged == 0
        again.close()
        found.add(stored)
    assert len(found) > 5
