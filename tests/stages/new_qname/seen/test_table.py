"""A table that grows in place finds every fingerprint at each step of each growth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.kernel.columns import I64Array, U8Array, U64Array
from edm.kernel.jit import JIT_DISABLED
from edm.stages.new_qname.seen.probing import COUNT, LINE, N_PROGRESS, NEXT, PROBE_LIMIT, Names, insert_names
from edm.stages.new_qname.seen.table import Table, Tables, slots_for

LARGEST = 2048
EXAMPLES = 10 if JIT_DISABLED else 150


def spread(rng: np.random.Generator, count: int, crowd: int) -> U64Array:
    """Return random fingerprints, of which many share a home."""
    homes = rng.integers(0, 1 << 32, count // crowd + 1, np.uint64)
    low = rng.integers(1, 1 << 32, count, np.uint64)
    return np.unique((rng.choice(homes, count) << np.uint64(32)) | low)


def missing(table: Table, fingerprints: U64Array) -> set[int]:
    """Return what a table does not hold of the fingerprints."""
    hashes = fingerprints.copy()
    rows: I64Array = np.arange(len(hashes))
    left = Tables(table, None).look_up(hashes, rows, np.zeros(len(hashes), np.uint8), len(hashes))
    assert (fingerprints[rows[:left]] == hashes[:left]).all()
    return set(hashes[:left].tolist())


def put(table: Table, fingerprints: U64Array, room: int) -> list[int]:
    """Insert as the store does: what stands in the way is moved first; return the rows that were new."""
    n = len(fingerprints)
    is_new: U8Array = np.zeros(n, np.uint8)
    progress: I64Array = np.zeros(N_PROGRESS, np.int64)
    rows: I64Array = np.arange(n)
    seen: U8Array = np.zeros(n, np.uint8)
    stored: U64Array = np.empty(n, np.uint64)
    while progress[NEXT] < n:
        names = Names(fingerprints, rows, seen)
        before = int(progress[NEXT])
        insert_names(table.array, table.state, names, n, room, False, is_new, stored, progress)
        if progress[NEXT] < n:
            assert table.to_move, "only what is to be moved can be in the way"
            left = table.to_move
            table.move(1)
            assert table.to_move < left
        assert progress[NEXT] >= before
    return np.flatnonzero(is_new).tolist()


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(64, 300),
    st.sampled_from([1, 3, 12]),
    st.lists(st.tuples(st.floats(1.01, 2.0), st.integers(10, 400)), min_size=1, max_size=5),
)
def test_nothing_is_lost_while_a_table_grows(
    seed: int, slots: int, crowd: int, growths: list[tuple[float, int]]
) -> None:
    rng = np.random.default_rng(seed)
    table = Table(slots, LARGEST)
    held: set[int] = set()
    for factor, step in growths:
        larger = min(LARGEST, int(table.slots * factor) + LINE)
        if larger == table.slots:
            break
        some = spread(rng, max(1, int(0.85 * table.slots) - table.count), crowd)
        put(table, some, 1 << 40)
        held.update(some.tolist())
        full = int(0.95 * table.slots)
        slots_before = table.slots
        table.grow(larger)
        table.move(LINE * (PROBE_LIMIT - 10))
        assert 0 < table.to_move <= slots_before + 80
        while table.to_move:
            assert not missing(table, np.array(sorted(held), np.uint64))
            more = spread(rng, 8 if table.count < full else 0, 2)
            new = put(table, more, 1 << 40)
            assert new == [row for row, each in enumerate(more.tolist()) if each not in held]
            held.update(more.tolist())
            table.move(step)
        assert table.count == len(held) == np.count_nonzero(table.array)
    absent = spread(rng, 200, 4)
    assert missing(table, absent) == set(absent.tolist()) - held


def at_home(line: int, count: int) -> U64Array:
    """Return fingerprints at home in one of 64 lines."""
    return np.arange(1, count + 1, dtype=np.uint64) + (np.uint64(line) << np.uint64(58))


def test_a_name_that_would_get_across_the_boundary_waits_for_the_move() -> None:
    table = Table(64 * LINE, 128 * LINE)
    crowd = at_home(30, 5 * LINE)
    table.fill(crowd)
    table.grow(128 * LINE)
    # The row of full lines from 30 on is not torn: it is moved as a whole.
    table.move((64 + PROBE_LIMIT - 33) * LINE)
    assert table.to_move == 30 * LINE
    assert not missing(table, crowd)
    low = at_home(29, LINE + 4)
    is_new: U8Array = np.zeros(len(low), np.uint8)
    progress: I64Array = np.zeros(N_PROGRESS, np.int64)
    stored: U64Array = np.empty(len(low), np.uint64)
    names = Names(low, np.arange(len(low)), np.zeros(len(low), np.uint8))
    insert_names(table.array, table.state, names, len(low), 1000, False, is_new, stored, progress)
    assert progress[NEXT] == LINE
    assert table.state[COUNT] == 6 * LINE
    assert put(table, low, 1000) == list(range(LINE, LINE + 4))
    assert table.to_move < 30 * LINE
    assert not missing(table, np.concatenate([low, crowd]))


def test_a_table_without_an_empty_slot_does_not_hang() -> None:
    table = Table(64, 128)
    table.array[:] = np.uint64(5)
    table.grow(128)
    table.move(table.to_move)
    assert table.to_move == 0
    assert missing(table, np.array([7], np.uint64)) == {7}


@pytest.mark.parametrize("slots", [64, 1000, 1 << 32])
def test_the_last_home_is_within_the_table(slots: int) -> None:
    table = Table(slots, slots)
    last = np.array([2**64 - 1, 2**64 - 2], np.uint64)
    table.fill(last)
    assert table.slots == slots
    assert table.array[table.slots - LINE] != 0
    assert table.count == 2
    assert not missing(table, last)
    table.release()
    assert missing(table, last) == set(last.tolist())


def test_slots_for_a_number_of_entries() -> None:
    assert slots_for(0, 0.85) == 64
    assert slots_for(800, 0.8) == 1008


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 200))
def test_a_name_that_displaces_another_is_held_and_all_others_stay(seed: int, crowd: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    table = Table(256, 256)
    table.fill(spread(rng, count, crowd))
    full = table.count
    held = set(table.array[table.array != 0].tolist())
    for fingerprint in spread(rng, 30, 3).tolist():
        one = np.array([fingerprint], np.uint64)
        is_new, stored = np.zeros(1, np.uint8), np.empty(1, np.uint64)
        progress: I64Array = np.zeros(N_PROGRESS, np.int64)
        names = Names(one, np.zeros(1, np.int64), np.zeros(1, np.uint8))
        insert_names(table.array, table.state, names, 1, 0, True, is_new, stored, progress)
        now = set(table.array[table.array != 0].tolist())
        assert fingerprint in now
        assert len(held - now) <= 1
        assert len(now) == full == table.count
        assert not missing(table, np.array(sorted(now), np.uint64))
        held = now
