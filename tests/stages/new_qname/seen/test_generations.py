"""How the tables of the store grow, take turns, and work without more memory, seen from outside."""

from __future__ import annotations

import errno
import mmap
from pathlib import Path

import numpy as np
import pytest
import structlog

from edm.kernel.jit import JIT_DISABLED
from edm.stages.new_qname.seen import generations
from edm.stages.new_qname.seen.log import HEADER_BYTES, NameLog
from edm.stages.new_qname.seen.probing import PROBE_LIMIT
from edm.stages.new_qname.seen.table import Table
from oracles.seen_set import SeenSet
from stages.new_qname.batches import insert
from stages.new_qname.seen.stores import FIRST, files, largest_file, names, open_store


def test_growth_forgets_nothing(tmp_path: Path) -> None:
    count = 600 if JIT_DISABLED else 20_000
    with open_store(tmp_path) as store:
        for begin in range(0, count, 100):
            assert all(insert(store, names(*range(begin, begin + 100))))
        assert not any(insert(store, names(*range(count))))
        assert store.names == count
        assert store.evicted == 0
        assert store.generation == 1
        assert store.memory_bytes <= 8 * (1.25 * count / 0.75 + 8)
    assert files(tmp_path) == [FIRST]
    assert (tmp_path / FIRST).stat().st_size == HEADER_BYTES + 8 * count


def test_names_are_found_while_a_table_grows(tmp_path: Path) -> None:
    store = open_store(tmp_path, first_slots=8192)
    table = store._generations.tables.current
    count = int(0.75 * 8192)
    for begin in range(0, count, 1024):
        insert(store, names(*range(begin, min(begin + 1024, count))))
    assert table.slots == 8192
    assert insert(store, names(count)) == [True]
    assert table.slots == 8192 * 5 // 4
    assert table.to_move > 0
    assert not any(insert(store, names(*range(count + 1))))
    assert insert(store, names(count, count + 1)) == [False, True]
    assert table.to_move > 0
    assert store.names == count + 2
    while table.to_move:
        count += 16
        insert(store, names(*range(count - 16, count + 2)))
    assert count < 0.75 * 8192 + 8192 / 8 + 32
    assert not any(insert(store, names(*range(count + 2))))
    assert store.names == count + 2 == np.count_nonzero(table.array)
    assert store._generations.tables.current is table
    store.close()


@pytest.mark.parametrize("limit", [60_000, 75_000, 90_000, 100_000])
@pytest.mark.parametrize("reopened_at", [0, 40_000, 55_000])
def test_no_batch_has_to_move_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, reopened_at: int
) -> None:
    if JIT_DISABLED:
        pytest.skip("too many names for plain Python")
    moved: list[int] = []
    real = Table.move

    def move(table: Table, slots: int) -> None:
        before = table.to_move
        real(table, slots)
        moved.append(before - table.to_move)

    monkeypatch.setattr(Table, "move", move)
    store = open_store(tmp_path, limit, first_slots=20_000)
    for begin in range(0, limit + 20_000, 500):
        if begin == reopened_at:
            store.close()
            store = open_store(tmp_path, limit, first_slots=20_000)
        before = sum(moved)
        assert all(insert(store, names(*range(begin, begin + 500))))
        assert sum(moved) - before <= 256 + 8 * 500 + 8 * PROBE_LIMIT + 256
    assert store.generation == 2
    assert sum(moved) > limit or reopened_at == 55_000
    store.close()


def test_large_tables_are_given_back_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "LARGE_TABLE_SLOTS", 0)
    oracle = SeenSet(150)
    with open_store(tmp_path, 150) as store:
        for begin in range(0, 1000, 20):
            batch = names(*range(begin - 30, begin + 20))
            assert insert(store, batch) == oracle.insert(batch)
        assert store.generation > 3
        assert insert(store, names(*range(900, 1000))) == [False] * 100
    assert len(files(tmp_path)) == 2


def test_a_generation_that_nobody_asks_for_is_forgotten(tmp_path: Path) -> None:
    with open_store(tmp_path, 40) as store:
        insert(store, names(*range(40)))
        assert insert(store, names(*range(100, 130))) == [True] * 30
        assert insert(store, names(7)) == [False]
        assert store.evicted == 0
        insert(store, names(*range(200, 215)))
        assert store.evicted == 39
        assert insert(store, names(7, 100, 8)) == [False, False, True]
        assert store.memory_bytes == 2 * 8 * 64
        assert len(files(tmp_path)) == 2


def test_a_lower_limit_holds_after_reopening(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        insert(store, names(*range(1000)))
    with open_store(tmp_path, 100) as store:
        assert insert(store, names(*range(995, 1005))) == [False] * 5 + [True] * 5
        assert (store.generation, store.names) == (2, 5)
        for begin in range(2000, 2200, 20):
            insert(store, names(*range(begin, begin + 20)))
        assert store.evicted >= 1000
        assert insert(store, names(3)) == [True]


def test_without_room_for_a_generation_names_displace_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> NameLog:
        raise OSError(errno.ENOSPC, "No space left on device")

    now = [1000.0]
    monkeypatch.setattr(generations.time, "monotonic", lambda: now[0])
    full = int(0.85 * 272)
    with open_store(tmp_path, 200) as store, structlog.testing.capture_logs() as logs:
        with monkeypatch.context() as patch:
            patch.setattr(NameLog, "create", no_room)
            for begin in range(0, 3000, 10):
                assert insert(store, names(*range(begin, begin + 10))) == [True] * 10
                now[0] += 1
                assert store.names <= full
            assert store.names == full == np.count_nonzero(store._generations.tables.current.array)
            assert store.evicted == 3000 - full
            assert [log["reason"] for log in logs] == ["No space left on device"]
            assert insert(store, names(*range(2990, 3000))).count(False) >= 5
            assert (tmp_path / FIRST).stat().st_size <= HEADER_BYTES + 8 * (4 * 272 + 10)
        now[0] += 20
        assert insert(store, names(5000)) == [True]
        assert (store.generation, store.names) == (2, 1)
    open_store(tmp_path, 200).close()


def test_displacement_takes_one_name_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path, 50)
    monkeypatch.setattr(generations, "RETRY_SECONDS", 1e9)
    insert(store, names(*range(50)))
    with largest_file(0), structlog.testing.capture_logs():
        slots = store._generations.tables.current.array
        for number in range(50, 400):
            before = set(slots.tolist())
            insert(store, names(number))
            assert len(before - set(slots.tolist()) - {0}) <= 1
            assert insert(store, names(number)) == [False]
    assert store.generation == 1
    assert np.count_nonzero(slots) == store.names == int(0.85 * 72)
    store.close()


def test_without_memory_for_a_generation_names_displace_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with open_store(tmp_path, 200) as store, structlog.testing.capture_logs() as logs:
        with monkeypatch.context() as patch:
            patch.setattr(generations, "Table", no_memory)
            insert(store, names(*range(300)))
            assert (store.generation, store.names) == (1, int(0.85 * 272))
            assert [log["reason"] for log in logs] == ["Cannot allocate memory"]
        store._generations._retry_at = 0
        insert(store, names(*range(300, 320)))
        assert (store.generation, store.names) == (2, 20)


def test_without_address_space_for_all_names_fewer_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mmap.mmap

    def narrow(fileno: int, length: int, **arguments: int) -> mmap.mmap:
        if length > 8 * (1000 + 8 * PROBE_LIMIT):
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return real(fileno, length, **arguments)

    monkeypatch.setattr("edm.stages.new_qname.seen.table.mmap.mmap", narrow)
    with structlog.testing.capture_logs() as logs:
        store = open_store(tmp_path, 2000)
    assert [(log["kept"], log["limit"]) for log in logs] == [(498, 2000)]
    for begin in range(0, 1500, 50):
        assert all(insert(store, names(*range(begin, begin + 50))))
        assert store.names <= 498
    assert store.generation == 4
    assert not any(insert(store, names(*range(1000, 1500))))
    store.close()
