"""The pace of a part: a few times without waiting, then no more than its share of a core."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edm.reload.pace import BURST, LONGEST, SHARE, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_few_times_at_once_and_then_evenly() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    for _ in range(BURST):
        assert pace.wait() == 0
        pace.worked(0.01)
    assert round(pace.wait(), 9) == 0.01 / SHARE
    clock.now += 0.01 / SHARE - 0.5
    assert round(pace.wait(), 9) == 0.5
    clock.now += 0.6
    assert pace.wait() == 0
    pace.worked(0.01)
    assert pace.wait() > 0


def test_after_a_rest_a_few_times_at_once_again() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    for _ in range(BURST):
        pace.worked(0.01)
    clock.now += BURST * 0.01 / SHARE
    for _ in range(BURST):
        assert pace.wait() == 0
        pace.worked(0.01)
    assert pace.wait() > 0


def test_nobody_waits_for_longer_than_the_longest_time() -> None:
    pace = Pace(clock=Clock())
    for _ in range(BURST):
        pace.worked(1e6)
    assert round(pace.wait(), 9) == LONGEST


def test_work_that_costs_nothing_never_waits() -> None:
    pace = Pace(clock=Clock())
    for _ in range(100):
        assert pace.wait() == 0
        pace.worked(0.0)


@given(
    costs=st.lists(st.floats(0.0001, 0.04), min_size=10, max_size=60),
    rests=st.lists(st.floats(0, 3), min_size=60, max_size=60),
)
def test_however_often_it_is_wanted_it_takes_no_more_than_its_share(
    costs: list[float], rests: list[float]
) -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    began = clock.now
    spent = 0.0
    for cost, rest in zip(costs, rests, strict=False):
        clock.now += rest
        clock.now += pace.wait()
        assert pace.wait() < 1e-6
        pace.worked(cost)
        spent += cost
    # The last pieces of work, and the first ones, may have come at once.
    assert spent <= SHARE * (clock.now - began) + (BURST + 1) * max(costs)
