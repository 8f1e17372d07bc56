"""Which session rows are stored while there is little room, and how room is kept for other files."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from edm.output import budget as module
from edm.output.budget import (
    CANNOT_BE_KEPT,
    ENOUGH,
    REST_GIVES_WAY,
    SESSIONS_GIVE_WAY,
    Limits,
)
from output.budgets import KIB, World, histogram_name, put, session_name
from support.processes import wait_until


def test_sessions_keep_the_minimum_free_and_the_rest_half_of_it(world: World) -> None:
    world.disk_size = 100 * KIB
    world.budget.limits = Limits(0, 40 * KIB)
    for number in range(70):
        world.session(number)
    assert world.check() == SESSIONS_GIVE_WAY
    assert len(world.left("session")) == 60
    for number in range(30):
        world.histogram(number)
    world.check()
    assert len(world.left("session")) == 30
    for number in range(30, 65):
        world.histogram(number)
    assert world.check() == SESSIONS_GIVE_WAY
    assert world.left("session") == []
    for number in range(65, 85):
        world.histogram(number)
    assert world.check() == REST_GIVES_WAY
    assert world.left("outbox") == [histogram_name(number) for number in range(5, 85)]


def test_a_disk_that_others_fill_costs_no_histogram(world: World) -> None:
    world.disk_size = 100 * KIB
    world.taken_by_others = 90 * KIB
    world.budget.limits = Limits(0, 60 * KIB)
    world.session(1)
    world.histogram(1)
    put(world.seen.path, KIB)
    with capture_logs() as logs:
        assert world.check(3) == CANNOT_BE_KEPT
    assert world.left("session") == []
    assert world.left("outbox") == [histogram_name(1)]
    assert world.seen.held == []
    assert not world.budget.admit(1)
    assert next(line["event"] for line in logs if line["log_level"] == "error").startswith("too little disk")
    world.taken_by_others = 0
    assert world.check() == ENOUGH
    assert world.budget.admit(KIB)


def test_without_bounds_rows_are_admitted_whatever_the_disk_says(world: World) -> None:
    world.disk_size = 0
    world.session(1)
    assert world.check() == ENOUGH
    assert world.budget.admit(1 << 40)
    assert world.left("session") == [session_name(1)]


# Who asks before writing


def test_rows_take_the_place_of_the_oldest_files(world: World) -> None:
    for number in range(10):
        world.session(number)
    world.budget.limits = Limits(16 * KIB, 0)
    world.budget.start()
    try:
        assert world.budget.admit(5 * KIB)
        assert len(world.left("session")) == 10
        world.sessions.waiting_bytes = 5 * KIB
        assert world.budget.admit(3 * KIB)
        assert world.left("session") == [session_name(number) for number in range(3, 10)]
        world.sessions.waiting_bytes = 8 * KIB
        assert not world.budget.admit(15 * KIB)  # however many files went, it would not fit
    finally:
        world.budget.stop(10)
    assert not world.budget._thread.is_alive()


def test_who_was_refused_need_not_wait_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK", 3600.0)
    monkeypatch.setattr(module, "PATIENCE", 3600.0)
    put(world.data.seen_names / "names-00000002.seen", 10 * KIB)
    world.budget.limits = Limits(10 * KIB, 0)
    world.budget.start()
    try:
        assert not world.budget.admit(KIB)  # after a look at the disk
        assert not any(world.budget.admit(KIB) for _ in range(1000))
        world.budget.reload(Limits(30 * KIB, 0))
        wait_until(lambda: world.budget.admit(KIB), "the new bound leaves room")
    finally:
        world.budget.stop(10)


def test_a_stuck_disk_refuses_after_a_moment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    world.budget.limits = Limits(KIB, 0)
    # The thread never runs, as if the disk did not answer it.
    assert not world.budget.admit(1)
    assert not world.budget.admit(1)
