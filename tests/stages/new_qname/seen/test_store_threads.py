from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from edm.kernel.jit import JIT_DISABLED
from edm.stages.new_qname.seen import generations
from edm.stages.new_qname.seen.store import SeenStore
from stages.new_qname.batches import insert, wire

NAMES = 600 if JIT_DISABLED else 20_000
BATCH = 50 if JIT_DISABLED else 256
THREADS = 4


@pytest.mark.parametrize("large", [0, 1 << 40])
@pytest.mark.parametrize("sync", [False, True])
def test_each_name_is_new_for_exactly_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int, sync: bool
) -> None:
    monkeypatch.setattr(generations, "LARGE_TABLE_SLOTS", large)
    new: list[list[bytes]] = [[] for _ in range(THREADS)]
    failures: list[BaseException] = []
    everything = [wire(f"n{number}.example") for number in range(NAMES)]

    def work(store: SeenStore, thread: int) -> None:
        try:
            for begin in range(0, NAMES, BATCH):
                batch = everything[begin : begin + BATCH]
                answers = insert(store, batch)
                new[thread] += [name for name, is_new in zip(batch, answers, strict=True) if is_new]
        except BaseException as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with SeenStore.open(tmp_path, limit_entries=1 << 20, sync=sync, first_slots=64) as store:
            threads = [threading.Thread(target=work, args=(store, thread)) for thread in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert failures == []
            assert sorted(name for mine in new for name in mine) == sorted(everything)
            assert store.names == NAMES
    finally:
        sys.setswitchinterval(interval)


def test_generations_under_threads_report_at_most_what_was_evicted_again(tmp_path: Path) -> None:
    count = 300 if JIT_DISABLED else 3000
    found = [0] * THREADS

    def work(store: SeenStore, thread: int) -> None:
        for begin in range(0, count, 20):
            found[thread] += sum(insert(store, [wire(f"n{number}") for number in range(begin, begin + 40)]))

    with SeenStore.open(tmp_path, limit_entries=200, sync=False, first_slots=64) as store:
        threads = [threading.Thread(target=work, args=(store, thread)) for thread in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        distinct = count + 20
        assert distinct <= sum(found) <= distinct + store.evicted
        # What was reported is either still remembered or was forgotten.
        current, previous = store._generations.tables
        remembered = store.names + (previous.count - current.carried if previous else 0)
        assert sum(found) <= remembered + store.evicted
