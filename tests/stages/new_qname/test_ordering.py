from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.kernel.columns import FLAGS, PRESENT, QCLASS, QTYPE
from edm.kernel.jit import JIT_DISABLED
from edm.stages.new_qname.events import EventBlock, build_events
from edm.stages.new_qname.ordering import Found, NewNames
from edm.stages.new_qname.seen.store import SeenStore
from stages.new_qname.batches import batch_of, wire


def found_in(store: SeenStore, block: int, names: list[str], events: bool = True) -> Found:
    """Look a block's names up; the flags of each event tell the block."""
    batch = batch_of([wire(name) for name in names])
    u32 = batch.columns.u32
    u32[PRESENT], u32[FLAGS], u32[QTYPE], u32[QCLASS] = 0, block, 1, 1
    candidates = store.candidates(batch.buf, u32, batch.columns.fate, batch.rows)
    count = len(candidates.rows)
    if not events:
        return Found(candidates, None)
    return Found(candidates, build_events(batch.buf, u32, batch.columns.u64, candidates.rows, count))


def events_of(emitted: list[EventBlock]) -> list[tuple[int, str]]:
    """Return block and name of all events, in order."""
    fields = [payload.decode().split(",") for block in emitted for payload in block]
    return [(int(field[0].partition(":")[2]), field[2].split('"')[3]) for field in fields]


def first_occurrences(blocks: list[list[str]]) -> list[tuple[int, str]]:
    """Return what must be emitted: each name once, with the first block that has it."""
    first: dict[str, int] = {}
    for number, names in enumerate(blocks, 1):
        for name in names:
            first.setdefault(name, number)
    return [(number, name) for name, number in first.items()]


@settings(max_examples=15 if JIT_DISABLED else 60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=8).flatmap(
        lambda blocks: st.tuples(st.just(blocks), st.permutations(range(len(blocks))), st.booleans())
    )
)
def test_the_first_block_in_order_of_arrival_makes_the_event(
    tmp_path_factory: pytest.TempPathFactory, plan: tuple[list[list[int]], list[int], bool]
) -> None:
    numbers, order, looked_up_late = plan
    blocks = [[f"n{number}." for number in block] for block in numbers]
    emitted: list[EventBlock] = []
    with SeenStore.open(tmp_path_factory.mktemp("seen"), limit_entries=1000, sync=False) as store:
        names = NewNames(store, emitted.append)
        early = [found_in(store, number, block) for number, block in enumerate(blocks, 1)]
        for position in order:
            late = found_in(store, position + 1, blocks[position])
            names.settle(position + 1, [late if looked_up_late else early[position]])
    assert events_of(emitted) == first_occurrences(blocks)


def test_a_block_may_have_several_batches_or_none(tmp_path: Path) -> None:
    emitted: list[EventBlock] = []
    with SeenStore.open(tmp_path, limit_entries=1000, sync=False) as store:
        names = NewNames(store, emitted.append)
        second = [found_in(store, 2, ["a.", "b."]), found_in(store, 2, ["b.", "c."])]
        names.settle(2, second)
        assert not emitted
        names.settle(1, [])
        names.settle(3, [])
        assert events_of(emitted) == [(2, "a."), (2, "b."), (2, "c.")]


def test_names_are_remembered_without_events(tmp_path: Path) -> None:
    emitted: list[EventBlock] = []
    with SeenStore.open(tmp_path, limit_entries=1000, sync=False) as store:
        names = NewNames(store, emitted.append)
        names.settle(1, [found_in(store, 1, ["a."], events=False)])
        names.settle(2, [found_in(store, 2, ["a.", "b."])])
    assert events_of(emitted) == [(2, "b.")]


def test_names_with_events_are_saved_by_whoever_takes_the_events(tmp_path: Path) -> None:
    emitted: list[EventBlock] = []
    log = tmp_path / "names-00000001.seen"
    with SeenStore.open(tmp_path, limit_entries=1000, sync=False) as store:
        names = NewNames(store, emitted.append)
        empty = log.stat().st_size
        names.settle(1, [found_in(store, 1, ["a.", "b."])])
        assert log.stat().st_size == empty
        emitted[0].head(1).save_names()  # the name whose event did not fit into the queue as well
        assert log.stat().st_size == empty + 16
        names.settle(2, [found_in(store, 2, ["c."], events=False)])  # written soon: a worker does not wait
        store.flush()
        assert log.stat().st_size == empty + 24


def test_order_holds_with_many_workers(tmp_path: Path) -> None:
    chance = random.Random(7)
    total = 40 if JIT_DISABLED else 300
    blocks = [[f"n{chance.randrange(10 * total)}." for _ in range(20)] for _ in range(total)]
    emitted: list[EventBlock] = []
    numbers = iter(range(1, total + 1))
    taking = threading.Lock()

    def work(names: NewNames) -> None:
        while True:
            with taking:
                number = next(numbers, None)
            if number is None:
                return
            names.settle(number, [found_in(names.store, number, blocks[number - 1])])

    with SeenStore.open(tmp_path, limit_entries=1 << 20, sync=False, first_slots=64) as store:
        names = NewNames(store, emitted.append)
        threads = [threading.Thread(target=work, args=(names,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert events_of(emitted) == first_occurrences(blocks)
