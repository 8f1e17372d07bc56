"""The last hour of totals: every count is in it, also when the clock jumps."""

from __future__ import annotations

import random
import tracemalloc

from edm.observe.status.history import RECENT, SECONDS, History


class Site:
    """Two totals and a clock that tests move."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        self.totals = [0, 0]
        self.history = History(("a", "b"), lambda: list(self.totals), lambda: self.now)

    def step(self, a: int, b: int = 0, seconds: float = 1.0) -> None:
        self.now += seconds
        self.totals = [self.totals[0] + a, self.totals[1] + b]
        self.history.sample()


def test_each_second_holds_what_came_in_it() -> None:
    site = Site()
    for n in range(10):
        site.step(n, 100 * n)
    series = site.history.series(1)
    assert (series["step"], series["count"], series["end"]) == (1, RECENT, int(site.now))
    assert series["series"]["a"] == [0] * (RECENT - 10) + list(range(10))
    assert series["series"]["b"][-1] == 900


def test_minutes_are_whole_and_end_at_a_minute() -> None:
    site = Site(1_800_000_000.0)  # a full minute
    for _ in range(150):
        site.step(2)
    series = site.history.series(60)
    assert series["end"] == 1_800_000_120
    # The second that ends at a full minute belongs to the minute that ends there.
    assert sum(series["series"]["a"]) in (238, 240)
    assert series["count"] == 59
    assert max(series["series"]["a"]) == 120


def test_what_is_late_is_spread_and_nothing_is_lost() -> None:
    site = Site()
    site.step(7, seconds=3.0)
    values = site.history.series(1)["series"]["a"]
    assert values[-3:] == [2, 2, 3]
    site.step(5, seconds=0.2)  # a second sample within one second
    site.step(5, seconds=-30.0)  # the clock was set back a little
    assert sum(site.history.series(1)["series"]["a"]) == 17


def test_a_clock_set_far_back_begins_anew() -> None:
    site = Site()
    site.step(7)
    site.step(3, seconds=-100_000.0)
    series = site.history.series(1)
    assert series["end"] == int(site.now)
    assert sum(series["series"]["a"]) == 3


def test_against_a_plain_list() -> None:
    rng = random.Random(7)
    site = Site()
    by_second: dict[int, int] = {}
    for _ in range(4000):
        n = rng.randrange(50)
        site.step(n)
        by_second[int(site.now)] = n
    end = int(site.now)
    assert site.history.series(1)["series"]["a"] == [by_second[s] for s in range(end - RECENT + 1, end + 1)]
    assert site.history.rates(5)["a"] == sum(by_second[s] for s in range(end - 4, end + 1)) / 5


def test_totals_that_never_grew_are_left_out() -> None:
    site = Site()
    site.step(1)
    assert set(site.history.series(1)["series"]) == {"a"}


def test_memory_does_not_grow() -> None:
    site = Site()
    for _ in range(10):
        site.step(1)
    tracemalloc.start()
    try:
        for _ in range(2 * SECONDS):
            site.step(1)
        assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()
