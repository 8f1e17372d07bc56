from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edm.output.paths import file_time
from edm.rotation import clock as clock_module
from edm.rotation.clock import Instant, MinuteClock, now
from edm.rotation.interval import Interval
from support.clocks import Clocks

MINUTE = 1_700_000_040.0
"""A full minute."""


def interval(began: Instant) -> Interval:
    return Interval(began, [], [], None)  # type: ignore[arg-type]


def test_one_tick_per_boundary() -> None:
    clocks = Clocks(MINUTE - 4.5)
    clock = MinuteClock(clocks)
    assert not clock.due()
    clocks.run(4.499)
    assert not clock.due()
    clocks.run(0.001)
    assert clock.due()
    assert not clock.due()
    clocks.run(60.2)
    assert clock.due()
    assert clock.step == 0


def test_a_suspension_over_many_minutes_gives_one_tick() -> None:
    clocks = Clocks(MINUTE + 1)
    clock = MinuteClock(clocks)
    clocks.run(3 * 86400)
    assert clock.due()
    assert clock.step == 0
    assert not clock.due()


@pytest.mark.parametrize("seconds", [3600, -7200, 400 * 86400, -2.5, 3.0, 60, -60])
def test_a_clock_that_is_set_gives_one_tick_at_once(seconds: float) -> None:
    clocks = Clocks(MINUTE + 10)
    clock = MinuteClock(clocks)
    clocks.run(1)
    clocks.jump(seconds)
    assert clock.due()
    assert clock.step == seconds
    assert not clock.due()
    assert clock.step == 0
    clocks.run(clocks.wall_us / 1e6 // 60 * 60 + 60 - clocks.wall_us / 1e6 + 0.001)
    assert clock.due()
    assert clock.step == 0


def test_a_small_correction_over_a_boundary_does_not_repeat_it() -> None:
    clocks = Clocks(MINUTE - 1)
    clock = MinuteClock(clocks)
    clocks.run(1.3)
    assert clock.due()
    clocks.jump(-1.0)  # as for a leap second
    assert not clock.due()
    clocks.run(0.9)
    assert not clock.due()
    clocks.run(60)
    assert clock.due()


def test_a_clock_that_is_pushed_back_little_by_little_still_ticks() -> None:
    clocks = Clocks(MINUTE + 5)
    clock = MinuteClock(clocks)
    for _ in range(100):
        clocks.run(1)
        clocks.jump(-1.9)
        assert not clock.due()
    clocks.run(120)
    assert clock.due()


def test_waiting_aims_at_the_boundary_but_notices_jumps() -> None:
    clocks = Clocks(MINUTE - 0.25)
    clock = MinuteClock(clocks)
    assert clock.wait() == 0.25
    clocks.set(MINUTE - 40)
    assert clock.wait() == 1.0
    clocks.set(MINUTE - 0.0001)
    assert 0 < clock.wait() <= 0.001


@given(st.lists(st.tuples(st.floats(0, 200), st.floats(-1e9, 1e9)), max_size=40))
def test_no_more_ticks_than_minutes_and_jumps(moves: list[tuple[float, float]]) -> None:
    clocks = Clocks(2e9)
    clock = MinuteClock(clocks)
    passed = 0.0
    ticks = jumps = 0
    for run, jump in moves:
        clocks.run(run)
        passed += run
        ticks += clock.due()
        clocks.jump(jump)
        jumps += abs(jump) > 2
        ticks += clock.due()
    assert ticks <= jumps + passed / 60 + 1 + len(moves) * (2 / 60)


# Intervals


def test_intervals_follow_one_another_by_the_wall_clock() -> None:
    clocks = Clocks(MINUTE)
    first = interval(clocks())
    clocks.run(60)
    clocks.jump(0.3)  # an ordinary correction
    second = interval(clocks())
    assert first.stop_us(second.began) == second.start_us


@pytest.mark.parametrize("jump", [-3600.0, 3600.0, 10 * 86400.0, -2.5])
def test_start_and_stop_tell_how_long_an_interval_was_though_the_clock_was_set(jump: float) -> None:
    clocks = Clocks(MINUTE + 0.25)
    began = interval(clocks())
    clocks.run(20)
    clocks.jump(jump)
    clocks.run(1)
    assert began.stop_us(clocks()) - began.start_us == 21_000_000


def test_no_interval_ends_before_it_begins() -> None:
    clocks = Clocks(MINUTE)
    began = interval(clocks())
    clocks.jump(-1.5)
    assert began.stop_us(clocks()) == began.start_us


# The system's clocks


def test_the_present() -> None:
    before = time.time()
    first, second = now(), now()
    assert before - 0.001 <= first.wall_us / 1e6 <= time.time() + 0.001
    assert first.running_us <= second.running_us


@pytest.mark.parametrize(
    ("ns", "name"),
    [
        (-(10**18), "1970-01-01T00-00-00Z"),
        (10**21, "9999-12-30T00-00-00Z"),
        (1_483_228_799_999_999_999, "2016-12-31T23-59-59Z"),  # within the last second before a leap second
    ],
)
def test_strange_times_can_be_written_into_names(ns: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module.time, "time_ns", lambda: ns)
    assert file_time(now().wall_us) == name
