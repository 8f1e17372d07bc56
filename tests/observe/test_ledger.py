from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.kernel.columns import N_FATES, PENDING, QUERY, SESSION, WELL_KNOWN, Fate
from edm.kernel.jit import JIT_DISABLED
from edm.observe.ledger import FATE_NAMES, METADATA_PREFIX, Ledger, count_fates

ROWS = 40 if JIT_DISABLED else 300


@settings(deadline=None)
@given(st.lists(st.integers(0, 255), max_size=ROWS), st.integers(0, 5))
def test_count_fates_agrees_with_list_count(values: list[int], beyond: int) -> None:
    # Rows behind n hold whatever an earlier batch left there and must not be counted.
    fate = np.array(values + [SESSION] * beyond, np.uint8)
    before = np.arange(N_FATES, dtype=np.int64)
    counts = before.copy()
    count_fates(fate, len(values), counts)
    expected = [values.count(f) for f in range(N_FATES)]
    expected[PENDING] += sum(v >= N_FATES for v in values)
    assert (counts - before).tolist() == expected


def test_fate_names_cover_every_fate() -> None:
    assert len(FATE_NAMES) == N_FATES == len(Fate)
    assert FATE_NAMES[SESSION] == "session"


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(1, N_FATES - 1), max_size=30)), max_size=20)
)
def test_closed_when_every_frame_has_a_fate(batches: list[tuple[int, list[int]]]) -> None:
    ledger = Ledger(workers=4)
    for worker, fates in batches:
        ledger.receive(worker, len(fates))
        ledger.settle_rows(worker, np.array(fates, np.uint8), len(fates))
    balance = ledger.balance()
    assert ledger.closed
    assert balance["imbalance"] == 0
    assert balance["frames_received"] == sum(len(fates) for _, fates in batches)
    for number in range(1, N_FATES):
        assert balance[FATE_NAMES[number]] == sum(fates.count(number) for _, fates in batches)


def test_frame_left_pending_opens_the_ledger() -> None:
    ledger = Ledger()
    ledger.receive(0, 3)
    ledger.settle_rows(0, np.array([QUERY, PENDING, WELL_KNOWN], np.uint8), 3)
    assert not ledger.closed
    assert ledger.balance()["pending"] == 1
    assert ledger.balance()["imbalance"] == 1
    assert ledger.to_metadata()[METADATA_PREFIX + "closed"] == "false"


@pytest.mark.parametrize(("received", "imbalance"), [(4, 2), (1, -1)])
def test_lost_and_doubled_frames_show(received: int, imbalance: int) -> None:
    ledger = Ledger()
    ledger.receive(0, received)
    counts = np.zeros(N_FATES, np.int64)
    counts[SESSION] = 2
    ledger.settle(0, counts)
    assert ledger.balance()["imbalance"] == imbalance
    assert not ledger.closed


def test_pending_that_hides_behind_a_doubled_frame_shows() -> None:
    ledger = Ledger()
    ledger.receive(0, 2)
    ledger.settle_rows(0, np.array([PENDING, SESSION, SESSION], np.uint8), 3)
    assert ledger.balance()["imbalance"] == 0
    assert not ledger.closed


def test_metadata_holds_the_balance_as_text() -> None:
    ledger = Ledger(2)
    ledger.receive(1, 2)
    ledger.settle_rows(1, np.array([SESSION, WELL_KNOWN], np.uint8), 2)
    ledger.skip_oversized(3)
    metadata = ledger.to_metadata()
    assert metadata["edm.ledger.frames_received"] == "2"
    assert metadata["edm.ledger.frames_oversized"] == "3"
    assert metadata["edm.ledger.well_known"] == "1"
    assert metadata["edm.ledger.session"] == "1"
    assert metadata["edm.ledger.session_off"] == "0"
    assert metadata["edm.ledger.closed"] == "true"
    assert all(type(k) is str and type(v) is str for k, v in metadata.items())


def test_workers_add_without_losing_any() -> None:
    workers, batches, rows = 4, 200, 16
    ledger = Ledger(workers)
    fate = np.full(rows, SESSION, np.uint8)

    def work(worker: int) -> None:
        for _ in range(batches):
            ledger.receive(worker, rows)
            ledger.settle_rows(worker, fate, rows)
            ledger.skip_oversized(1)

    threads = [threading.Thread(target=work, args=(w,)) for w in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.closed
    assert ledger.received == workers * batches * rows
    assert ledger.oversized == workers * batches
    assert ledger.fates()[SESSION] == workers * batches * rows


def test_settle_fates_ends_what_is_pending_and_counts_all() -> None:
    from edm.kernel.columns import QUERY, SESSION, WELL_KNOWN
    from edm.observe.ledger import settle_fates

    fate = np.array([PENDING, QUERY, WELL_KNOWN, PENDING, 200, QUERY, PENDING], np.uint8)
    counts = np.full(N_FATES, 77, np.int64)
    settle_fates(fate, 6, SESSION, counts)
    assert fate.tolist() == [SESSION, QUERY, WELL_KNOWN, SESSION, 200, QUERY, PENDING]
    expected = [0] * N_FATES
    expected[SESSION], expected[QUERY], expected[WELL_KNOWN], expected[PENDING] = 2, 2, 1, 1
    assert counts.tolist() == expected


@pytest.mark.parametrize("rows", [0, 254, 255, 256, 1000])
@pytest.mark.parametrize("fates", [range(N_FATES), [SESSION], [PENDING], [*range(N_FATES), 255, N_FATES]])
def test_settle_fates_counts_many_rows(rows: int, fates: list[int]) -> None:
    from edm.observe.ledger import settle_fates

    fate = np.random.default_rng(rows).choice(np.array([*fates], np.uint8), rows + 3)
    expected = fate.copy()
    expected[:rows][expected[:rows] == PENDING] = SESSION
    counts = np.full(N_FATES, 77, np.int64)
    settle_fates(fate, rows, SESSION, counts)
    assert fate.tolist() == expected.tolist()
    known = np.where(expected[:rows] < N_FATES, expected[:rows], PENDING)
    assert counts.tolist() == np.bincount(known, minlength=N_FATES).tolist()
