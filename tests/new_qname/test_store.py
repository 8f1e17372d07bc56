from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.columns import PENDING, QUERY, WELL_KNOWN
from edm.errors import StoreError
from edm.jit import JIT_DISABLED
from edm.new_qname import store as store_module
from edm.new_qname.log import HEADER_BYTES, NameLog
from edm.new_qname.store import SeenStore
from edm.new_qname.table import Table
from new_qname.batches import insert, wire
from oracles.seen_set import SeenSet
from oracles.siphash import siphash

ROUNDS = 8 if JIT_DISABLED else 40
PLENTY = 1 << 20
FIRST = "names-00000001.seen"


def names(*numbers: int) -> list[bytes]:
    return [wire(f"host{number}.example.com") for number in numbers]


def open_store(folder: Path, limit: int = PLENTY, first_slots: int = 64, sync: bool = False) -> SeenStore:
    return SeenStore.open(folder, limit_entries=limit, sync=sync, first_slots=first_slots)


def kill(store: SeenStore) -> None:
    """Leave the store as a killed process would: nothing more is written or deleted."""
    store._chores.shutdown(wait=True)
    for log in store._logs:
        log.abandon()
    os.close(store._lock_fd)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


def test_a_name_is_new_once(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert insert(store, names(1, 2, 1)) == [True, True, False]
        assert insert(store, names(2, 3)) == [False, True]
        assert insert(store, [b"\5hOsT3\7EXAMPLE\3com\0", b"\0"]) == [False, True]
        assert insert(store, []) == []
        assert store.names == 4


def test_names_differ_by_label_boundaries_and_bytes_that_are_not_letters(tmp_path: Path) -> None:
    different = [b"\3a.b\0", b"\1a\1b\0", b"\1[\0", b"\1{\0", b"\1@\0", b"\1`\0", b"\1\xc1\0", b"\1\xe1\0"]
    with open_store(tmp_path) as store:
        assert insert(store, different) == [True] * len(different)


def test_only_pending_rows_are_asked_for(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert insert(store, names(1, 2, 3), [WELL_KNOWN, PENDING, QUERY]) == [False, True, False]
        assert insert(store, names(1, 2, 3)) == [True, False, True]


@pytest.mark.parametrize("end", [SeenStore.close, kill])
@pytest.mark.parametrize("sync", [False, True])
def test_names_survive_reopening(tmp_path: Path, end: object, sync: bool) -> None:
    store = open_store(tmp_path, sync=sync)
    insert(store, names(*range(500)))
    assert callable(end)
    end(store)
    with open_store(tmp_path) as store:
        assert store.names == 500
        assert insert(store, names(*range(499, 502))) == [False, True, True]


BATCHES = st.lists(st.lists(st.integers(0, 400), max_size=60), max_size=12)
ENDS = st.lists(st.sampled_from(["go on", "close", "kill"]), min_size=12, max_size=12)


@settings(max_examples=ROUNDS, deadline=None)
@given(BATCHES, ENDS, st.sampled_from([5, 30, 120, PLENTY]), st.booleans())
def test_store_agrees_with_the_oracle(
    batches: list[list[int]], ends: list[str], limit: int, sync: bool
) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        oracle = SeenSet(limit)
        store = open_store(folder, limit, sync=sync)
        evicted = 0
        for batch, end in zip(batches, ends, strict=False):
            assert insert(store, names(*batch)) == oracle.insert(names(*batch))
            assert store.names == len(oracle.current)
            assert evicted + store.evicted == oracle.evicted
            if end != "go on":
                evicted += store.evicted
                kill(store) if end == "kill" else store.close()
                store = open_store(folder, limit, sync=sync)
        store.close()
        assert len(files(folder)) <= 2
    finally:
        shutil.rmtree(folder)


def test_growth_forgets_nothing(tmp_path: Path) -> None:
    count = 600 if JIT_DISABLED else 20_000
    with open_store(tmp_path) as store:
        for begin in range(0, count, 100):
            assert all(insert(store, names(*range(begin, begin + 100))))
        assert not any(insert(store, names(*range(count))))
        assert store.names == count
        assert store.evicted == 0
        assert store.generation == 1
        assert store.memory_bytes <= 8 * count / 0.6 * 3
    assert files(tmp_path) == [FIRST]
    assert (tmp_path / FIRST).stat().st_size == HEADER_BYTES + 8 * count


def test_names_are_found_during_a_migration(tmp_path: Path) -> None:
    store = open_store(tmp_path, first_slots=8192)
    count = int(0.6 * 8192)
    for begin in range(0, count, 1024):
        insert(store, names(*range(begin, min(begin + 1024, count))))
    assert insert(store, names(count)) == [True]
    assert store._tables.migrating is not None
    assert not any(insert(store, names(*range(count + 1))))
    assert insert(store, names(count, count + 1)) == [False, True]
    assert store._tables.migrating is not None
    assert store.names == count + 2
    while store._tables.migrating is not None:
        count += 16
        insert(store, names(*range(count - 16, count + 2)))
    assert count < 0.6 * 8192 + 8192 / 8 + 32
    assert not any(insert(store, names(*range(count + 2))))
    assert store.names == count + 2 == np.count_nonzero(store._tables.current.slots)
    store.close()


def test_large_tables_are_made_ready_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LARGE_TABLE_SLOTS", 0)
    go_on = threading.Event()
    made: list[int] = []

    def slowly(capacity: int) -> Table:
        go_on.wait(30)
        made.append(capacity)
        return Table(capacity)

    monkeypatch.setattr(Table, "populated", slowly)
    with open_store(tmp_path) as store:
        for number in range(50):
            insert(store, names(number))
        assert store.memory_bytes == 8 * 64  # beyond 60 %, but nobody has waited
        go_on.set()
        insert(store, names(*range(50, 60)))
        assert made == [128]
        assert store.memory_bytes >= 8 * 128
        assert not any(insert(store, names(*range(60))))


def test_large_tables_are_given_back_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LARGE_TABLE_SLOTS", 0)
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


# --- what an operator meets ---


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    in_use = pytest.raises(StoreError, match=rf"{tmp_path}: in use by process {os.getpid()}")
    with open_store(tmp_path), in_use:
        open_store(tmp_path)
    open_store(tmp_path).close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file/seen: cannot keep seen names here: Not a directory"):
        open_store(tmp_path / "file" / "seen")


def test_a_limit_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="must be positive, not 0"):
        open_store(tmp_path, 0)


def test_a_closed_store_refuses_names(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        insert(store, names(1))


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: flip(path, 0), "does not begin like"),
        (lambda path: flip(path, 16), "checksum"),
        (lambda path: flip(path, 30), "checksum"),
        (lambda path: flip(path, 8), "checksum"),
        (lambda path: flip(path, 40), "checksum"),
        (lambda path: path.write_bytes(b"EDM"), "shorter than its header"),
    ],
)
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: object, reason: str) -> None:
    with open_store(tmp_path) as store:
        insert(store, names(1))
    assert callable(damage)
    damage(tmp_path / FIRST)
    with structlog.testing.capture_logs() as logs, open_store(tmp_path) as store:
        assert insert(store, names(1)) == [True]
    assert files(tmp_path) == [FIRST, FIRST + ".corrupt"]
    assert [log["log_level"] for log in logs] == ["warning"]
    assert reason in logs[0]["reason"]


@pytest.mark.parametrize("tail", [b"\1\2\3", bytes(800), bytes(5)])
def test_what_a_power_cut_leaves_at_the_end_is_passed_over(tmp_path: Path, tail: bytes) -> None:
    with open_store(tmp_path) as store:
        insert(store, names(1, 2))
    with (tmp_path / FIRST).open("ab") as file:
        file.write(tail)
    for expected in ([False, False, True], [False, False, False]):
        with open_store(tmp_path) as store:
            assert insert(store, names(1, 2, 3)) == expected
            assert store.names == 3


def test_a_file_that_lost_its_end_keeps_the_rest(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for number in range(10):
            insert(store, names(number))
    os.truncate(tmp_path / FIRST, HEADER_BYTES + 8 * 6 + 3)
    with open_store(tmp_path) as store:
        assert insert(store, names(*range(10))) == [False] * 6 + [True] * 4


def test_a_file_that_was_only_begun_is_removed(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        insert(store, names(1))
    (tmp_path / "names-00000002.seen").touch()
    with structlog.testing.capture_logs() as logs, open_store(tmp_path) as store:
        assert insert(store, names(1)) == [False]
    assert not logs
    assert files(tmp_path) == [FIRST]


def test_a_file_with_another_key_is_set_aside(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        insert(store, names(1))
    NameLog.create(tmp_path, 0, bytes(16)).close()
    with structlog.testing.capture_logs() as logs, open_store(tmp_path) as store:
        assert insert(store, names(1)) == [False]
    assert "its key" in logs[0]["reason"]


def test_generations_older_than_two_are_removed(tmp_path: Path) -> None:
    with open_store(tmp_path, 40) as store:
        for begin in range(0, 120, 40):
            insert(store, names(*range(begin, begin + 40)))
        key = store._logs[0].key
    NameLog.create(tmp_path, 1, key).close()
    open_store(tmp_path, 40).close()
    assert files(tmp_path) == ["names-00000002.seen", "names-00000003.seen"]


def test_another_format_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("edm.new_qname.log.VERSION", 2)
        open_store(tmp_path).close()
    for _ in range(2):  # the lock is given back
        with pytest.raises(StoreError, match=rf"{FIRST}: .* version 2, this program reads version 1"):
            open_store(tmp_path)
    assert files(tmp_path) == [FIRST]


def test_a_stored_file_is_read_as_documented(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        insert(store, [b"\1A\0", b"\0"])
    content = (tmp_path / FIRST).read_bytes()
    assert content[:16] == b"EDMSEEN\0\1\0\0\0\0\0\0\0"
    assert int.from_bytes(content[16:24], "little") == 1
    assert int.from_bytes(content[40:44], "little") == zlib.crc32(content[:40])
    records = [int.from_bytes(content[i : i + 8], "little") for i in range(64, len(content), 8)]
    assert records == [siphash(content[24:40], name, 1, 3) for name in (b"\1a\0", b"\0")]


# --- disk ---


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size`` bytes: the nearest thing to a full disk that needs no privileges."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_to_begin(tmp_path: Path) -> None:
    too_large = pytest.raises(StoreError, match="cannot open the seen names: File too large")
    with largest_file(HEADER_BYTES - 1), too_large:
        open_store(tmp_path)
    assert files(tmp_path) == []
    open_store(tmp_path).close()


def test_a_full_disk_forgets_nothing_and_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("edm.new_qname.log.time.monotonic", lambda: now[0])
    with open_store(tmp_path) as store:
        with largest_file(HEADER_BYTES + 8 * 50 + 3), structlog.testing.capture_logs() as logs:
            for begin in range(0, 300, 20):
                assert insert(store, names(*range(begin, begin + 20))) == [True] * 20
                now[0] += 3
            assert not any(insert(store, names(*range(300))))
            store.flush()
        assert [log["event"] for log in logs] == ["cannot save seen names; they are kept in memory"]
        assert (tmp_path / FIRST).stat().st_size == HEADER_BYTES + 8 * 50 + 3
        now[0] += 20
        assert insert(store, names(300)) == [True]
        assert (tmp_path / FIRST).stat().st_size == HEADER_BYTES + 8 * 301
        assert store.unsaved == 0
    with open_store(tmp_path) as store:
        assert not any(insert(store, names(*range(301))))


def test_a_disk_that_stays_full_costs_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edm.new_qname.log.UNWRITTEN_MAX", 8 * 40)
    with open_store(tmp_path) as store:
        with largest_file(HEADER_BYTES), structlog.testing.capture_logs():
            for begin in range(0, 300, 20):
                insert(store, names(*range(begin, begin + 20)))
        assert store.unsaved == 260
        assert not any(insert(store, names(*range(300))))
    with open_store(tmp_path) as store:
        # The newest were kept for writing; the others are reported once more.
        assert insert(store, names(*range(300))) == [True] * 260 + [False] * 40


def test_without_room_for_a_generation_names_displace_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> NameLog:
        raise OSError(errno.ENOSPC, "No space left on device")

    now = [1000.0]
    monkeypatch.setattr(store_module.time, "monotonic", lambda: now[0])
    full = int(0.85 * 256)
    with open_store(tmp_path, 200) as store, structlog.testing.capture_logs() as logs:
        with monkeypatch.context() as patch:
            patch.setattr(NameLog, "create", no_room)
            for begin in range(0, 3000, 10):
                assert insert(store, names(*range(begin, begin + 10))) == [True] * 10
                now[0] += 1
                assert store.names <= full
            assert store.names == full == np.count_nonzero(store._tables.current.slots)
            assert store.evicted == 3000 - full
            assert [log["reason"] for log in logs] == ["No space left on device"]
            assert insert(store, names(*range(2990, 3000))).count(False) >= 8
            assert (tmp_path / FIRST).stat().st_size <= HEADER_BYTES + 8 * (4 * 256 + 10)
        now[0] += 20
        assert insert(store, names(5000)) == [True]
        assert (store.generation, store.names) == (2, 1)
    open_store(tmp_path, 200).close()


def test_displacement_takes_one_name_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path, 50)
    monkeypatch.setattr(store_module, "RETRY_SECONDS", 1e9)
    insert(store, names(*range(50)))
    with largest_file(0), structlog.testing.capture_logs():
        slots = store._tables.current.slots
        for number in range(50, 400):
            before = set(slots.tolist())
            insert(store, names(number))
            assert len(before - set(slots.tolist()) - {0}) <= 1
            assert insert(store, names(number)) == [False]
    assert store.generation == 1
    assert np.count_nonzero(slots) == store.names == int(0.85 * 64)
    store.close()


def test_without_memory_for_growth_names_displace_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(capacity: int) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with open_store(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(store_module, "Table", no_memory)
            insert(store, names(*range(300)))
            assert store.names == int(0.85 * 64)
        store._retry_at = 0
        insert(store, names(*range(300)))
        assert store.names == 300


def test_each_batch_is_synced_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (synced.append(descriptor), real(descriptor)))
    with open_store(tmp_path, sync=True) as store:
        insert(store, names(1))
        assert len(synced) == 1
        insert(store, names(1))
        assert len(synced) == 1
        store.sync = False
        insert(store, names(2))
        assert len(synced) == 1
        store.flush()
        assert len(synced) == 2
        store.flush()
        assert len(synced) == 2


def test_a_failing_sync_is_logged_and_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    store = open_store(tmp_path, sync=True)
    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(os, "fdatasync", broken)
        assert insert(store, names(1, 2)) == [True, True]
    assert logs[0]["reason"] == "Input/output error"
    assert insert(store, names(1, 3)) == [False, True]
    store.close()


def test_no_descriptor_or_mapping_is_left_behind(tmp_path: Path) -> None:
    def held() -> tuple[int, int]:
        mappings = Path("/proc/self/maps").read_text()
        return len(list(Path("/proc/self/fd").iterdir())), mappings.count(str(tmp_path))

    before = held()
    for _ in range(3):
        with open_store(tmp_path, 50) as store:
            for begin in range(0, 600, 30):
                insert(store, names(*range(begin, begin + 30)))
        del store
    assert held() == before


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    script = (
        "import os, sys; from edm.new_qname.store import SeenStore;"
        "SeenStore.open(sys.argv[1], limit_entries=10, sync=False); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert ended.returncode == -9
    open_store(tmp_path).close()
