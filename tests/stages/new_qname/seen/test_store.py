from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.errors import StoreError
from edm.kernel.columns import PENDING, QUERY, WELL_KNOWN
from edm.kernel.jit import JIT_DISABLED
from edm.stages.new_qname.seen.log import HEADER_BYTES, NameLog
from edm.stages.new_qname.seen.store import SeenStore
from oracles.seen_set import SeenSet
from oracles.siphash import siphash
from stages.new_qname.batches import insert
from stages.new_qname.seen.stores import FIRST, PLENTY, files, kill, largest_file, names, open_store

ROUNDS = 8 if JIT_DISABLED else 40


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
        key = store._generations.logs[0].key
    NameLog.create(tmp_path, 1, key).close()
    open_store(tmp_path, 40).close()
    assert files(tmp_path) == ["names-00000002.seen", "names-00000003.seen"]


def test_another_format_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("edm.stages.new_qname.seen.log.VERSION", 2)
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
    monkeypatch.setattr("edm.stages.new_qname.seen.log.time.monotonic", lambda: now[0])
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
    monkeypatch.setattr("edm.stages.new_qname.seen.log.UNWRITTEN_MAX", 8 * 40)
    with open_store(tmp_path) as store:
        with largest_file(HEADER_BYTES), structlog.testing.capture_logs():
            for begin in range(0, 300, 20):
                insert(store, names(*range(begin, begin + 20)))
        assert store.unsaved == 260
        assert not any(insert(store, names(*range(300))))
    with open_store(tmp_path) as store:
        # The newest were kept for writing; the others are reported once more.
        assert insert(store, names(*range(300))) == [True] * 260 + [False] * 40


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
        "import os, sys; from edm.stages.new_qname.seen.store import SeenStore;"
        "SeenStore.open(sys.argv[1], limit_entries=10, sync=False); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert ended.returncode == -9
    open_store(tmp_path).close()
