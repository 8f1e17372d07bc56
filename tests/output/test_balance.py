from __future__ import annotations

import pytest

from edm.output.balance import Balance, Limits

HOME, OTHER = 1, 2


def balance(total: int, free: int) -> Balance:
    return Balance(total, {HOME: free, OTHER: 10_000})


@pytest.mark.parametrize(
    ("total", "free", "most", "least_free", "lacking"),
    [
        (900, 100, 0, 0, 0),
        (900, 100, 900, 100, 0),
        (900, 100, 800, 100, 100),
        (900, 100, 900, 150, 50),
        (900, 100, 890, 150, 50),
        (900, 100, 800, 150, 100),
        (900, 100, 0, 150, 50),
        (900, 100, 800, 0, 100),
    ],
)
def test_the_tighter_bound_says_what_has_to_go(
    total: int, free: int, most: int, least_free: int, lacking: int
) -> None:
    assert balance(total, free).lacking(HOME, most, least_free) == lacking


def test_the_rest_gives_way_only_when_half_of_the_minimum_is_gone() -> None:
    limits = Limits(1600, 200)
    assert not balance(1600, 100).lacks_rest([HOME, OTHER], limits)
    assert balance(1600, 99).lacks_rest([HOME, OTHER], limits)
    assert not balance(1600, 99).lacks_rest([OTHER], limits)
    assert balance(1601, 100).lacks_rest([OTHER], limits)


def test_room_for_sessions_ends_before_that_for_the_rest() -> None:
    assert balance(1000, 300).room_for_sessions(HOME, Limits(1600, 200)) == 100
    assert balance(1000, 300).room_for_sessions(HOME, Limits(1600, 0)) == 500
    assert balance(1550, 300).room_for_sessions(HOME, Limits(1600, 200)) == -50
    assert balance(1000, 0).room_for_sessions(HOME, Limits(0, 0)) > 1 << 60


def test_what_is_removed_helps_its_own_device_and_the_total() -> None:
    it = balance(1000, 300)
    it.removed(HOME, 50)
    it.removed(OTHER, -20)
    assert (it.total, it.free) == (970, {HOME: 350, OTHER: 9980})
