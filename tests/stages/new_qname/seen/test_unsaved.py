"""Names that are remembered before they are saved, and the state after a kill in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from edm.stages.new_qname.seen.log import HEADER_BYTES
from edm.stages.new_qname.seen.store import SeenStore
from edm.stages.new_qname.seen.unsaved import Unsaved, from_record, to_record
from stages.new_qname.batches import batch_of, insert
from stages.new_qname.seen.stores import FIRST, kill, names, open_store


def remember(store: SeenStore, *numbers: int) -> tuple[list[int], Unsaved]:
    """Remember names; return the numbers of the new ones and what is to be saved."""
    batch = batch_of(names(*numbers))
    found = store.candidates(batch.buf, batch.columns.u32, batch.columns.fate, batch.rows)
    is_new, unsaved = store.remember(found)
    return [numbers[row] for row in found.rows[is_new != 0]], unsaved


def test_names_are_known_at_once_and_in_the_file_when_they_are_saved(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        new, unsaved = remember(store, 1, 2, 1)
        assert new == [1, 2]
        assert remember(store, 1, 2, 3)[0] == [3]
        assert (tmp_path / FIRST).stat().st_size == HEADER_BYTES
        unsaved.save()
        assert (tmp_path / FIRST).stat().st_size == HEADER_BYTES + 16
        content = (tmp_path / FIRST).read_bytes()
        unsaved.save()
        assert (tmp_path / FIRST).read_bytes() == content


def test_a_kill_forgets_what_was_not_saved_and_nothing_else(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    parts = [remember(store, *range(begin, begin + 10))[1] for begin in range(0, 100, 10)]
    # In any order, which leaves holes in the file.
    for part in (7, 2, 5):
        parts[part].save()
    kill(store)
    with open_store(tmp_path) as store:
        again = insert(store, names(*range(100)))
    assert [number for number in range(100) if not again[number]] == [
        *range(20, 30),
        *range(50, 60),
        *range(70, 80),
    ]


def test_names_of_a_stored_batch_are_recalled(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    first, second = remember(store, 1, 2, 3)[1], remember(store, 4, 5)[1]
    record = to_record([first, second])
    first.save()
    kill(store)
    with open_store(tmp_path) as store:
        assert store.recall(record) == 2
        assert store.recall(record) == 0
        assert insert(store, names(1, 2, 3, 4, 5, 6)) == [False] * 5 + [True]
    with open_store(tmp_path) as store:  # what is recalled is saved
        assert insert(store, names(1, 2, 3, 4, 5, 6)) == [False] * 6


def test_recalling_what_the_previous_generation_holds(tmp_path: Path) -> None:
    with open_store(tmp_path, limit=40) as store:
        _, unsaved = remember(store, *range(30))
        record = to_record([unsaved])
        unsaved.save()
        insert(store, names(*range(100, 130)))
        assert store.generation == 2
        assert store.recall(record) == 0
        assert not any(insert(store, names(*range(30))))


def test_a_record_of_another_store_or_a_damaged_one_is_ignored(tmp_path: Path) -> None:
    with open_store(tmp_path / "one") as one, open_store(tmp_path / "two") as two:
        record = to_record([remember(one, 1, 2)[1]])
        assert two.recall(record) == 0
        for damaged in (b"", record[:7], record[:-3], b"\0" + record):
            assert one.recall(damaged) == 0
        assert two.names == 0


def test_a_record_of_nothing_is_empty(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert to_record([]) == to_record([remember(store)[1]]) == b""
        assert from_record(b"", b"") == b""


@pytest.mark.parametrize("sync", [False, True])
def test_saving_syncs_if_that_is_wanted(tmp_path: Path, sync: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    with open_store(tmp_path, sync=sync) as store:
        monkeypatch.setattr("edm.stages.new_qname.seen.log.os.fdatasync", synced.append)
        _, unsaved = remember(store, 1)
        assert not synced
        unsaved.save()
        assert bool(synced) == sync


def test_saving_after_the_close_is_harmless(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    _, unsaved = remember(store, 1)
    store.close()
    unsaved.save()
    assert (tmp_path / FIRST).stat().st_size == HEADER_BYTES
