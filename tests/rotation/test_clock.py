from __future__ import annotations

from edm.rotation.clock import MinuteClock


class Wall:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_one_tick_per_boundary() -> None:
    wall = Wall(1_700_000_035.5)
    clock = MinuteClock(wall)
    assert not clock.due()
    wall.now = 1_700_000_039.999
    assert not clock.due()
    wall.now = 1_700_000_040.0
    assert clock.due()
    assert not clock.due()
    wall.now = 1_700_000_100.2
    assert clock.due()


def test_a_jump_over_many_minutes_gives_one_tick() -> None:
    wall = Wall(1_700_000_000.0)
    clock = MinuteClock(wall)
    wall.now += 3600
    assert clock.due()
    assert not clock.due()


def test_a_jump_backward_gives_none_until_the_next_boundary() -> None:
    wall = Wall(1_700_000_010.0)
    clock = MinuteClock(wall)
    wall.now -= 7200
    assert not clock.due()
    wall.now += 60
    assert clock.due()


def test_waiting_aims_at_the_boundary_but_notices_jumps() -> None:
    wall = Wall(1_700_000_039.75)  # a boundary comes at ...040
    clock = MinuteClock(wall)
    assert clock.wait() == 0.25
    wall.now = 1_700_000_000.0
    assert clock.wait() == 1.0
    wall.now = 1_700_000_039.9999
    assert 0 < clock.wait() <= 0.001
