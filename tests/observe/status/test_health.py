"""Findings, health and the board: faults are reported worst first, and a check costs next to nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edm.observe.faults import Faults
from edm.observe.status.board import Board, Rates, Rendered
from edm.observe.status.findings import NOT_LIVE, NOT_READY, Finding, Watch
from edm.observe.status.health import Health


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def finding(code: str, severity: Any = "error") -> Finding:
    return Finding(code, severity, f"{code} is so.", "Do it.")


def health(*found: Finding | None) -> Health:
    return Health(Watch([lambda each=each: each for each in found]))  # type: ignore[misc]


def test_without_findings_all_is_well() -> None:
    told = health(None, None)
    assert told.live
    assert told.ready
    assert told.answer("ready") == (True, {"ready": True, "reasons": []})
    assert told.document()["state"] == "ok"
    assert told.document()["summary"] == "All is well."


@pytest.mark.parametrize("code", NOT_READY)
def test_each_of_these_makes_it_not_ready_and_says_why(code: str) -> None:
    told = health(finding(code), finding("broker-away", "warning"))
    assert told.live
    good, answer = told.answer("ready")
    assert not good
    assert answer == {"ready": False, "reasons": [{"code": code, "what": f"{code} is so.", "do": "Do it."}]}


@pytest.mark.parametrize("code", NOT_LIVE)
def test_what_only_a_restart_mends_is_neither_live_nor_ready(code: str) -> None:
    told = health(finding(code))
    assert not told.live
    assert not told.ready


def test_a_warning_leaves_it_ready_and_degraded() -> None:
    told = health(finding("broker-away", "warning"), finding("log-lines-lost", "info"))
    assert told.ready
    assert told.document()["state"] == "degraded"


def test_the_worst_comes_first_and_since_when_is_kept() -> None:
    clock = Clock()
    found = [finding("broker-away", "warning"), finding("disk-full")]
    watch = Watch([lambda: found[0], lambda: found[1] if len(found) > 1 else None], clock)
    assert [(f.code, since) for f, since in watch.look()] == [("disk-full", 1000.0), ("broker-away", 1000.0)]
    clock.now = 1010.0
    found.pop()
    assert [(f.code, since) for f, since in watch.look()] == [("broker-away", 1000.0)]
    clock.now = 1020.0
    found.append(finding("disk-full"))
    assert [(f.code, since) for f, since in watch.look()] == [("disk-full", 1020.0), ("broker-away", 1000.0)]


def test_a_thousand_probes_cost_one_look() -> None:
    looks = []
    clock = Clock()
    told = Health(Watch([lambda: looks.append(1)]), clock)  # type: ignore[list-item,func-returns-value]
    for _ in range(1000):
        assert told.ready
    assert len(looks) == 1
    clock.now += 1.0
    assert told.ready
    assert len(looks) == 2


def test_a_section_that_fails_is_null_and_a_defect_once() -> None:
    faults = Faults()

    def fails() -> Any:
        raise RuntimeError("no")

    board = Board({"good": lambda: [1], "bad": fails}, faults)
    assert [board.document()["bad"], board.document()["good"]] == [None, [1]]
    assert faults.counts() == {"defect": 1}


def test_bytes_are_made_once_a_second_for_all() -> None:
    clock = Clock()
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"made": len(made)}

    rendered = Rendered(make, clock)
    assert {rendered.body() for _ in range(100)} == {b'{"made":1}\n'}
    clock.now += 1.0
    assert json.loads(rendered.body()) == {"made": 2}


def test_rates_are_of_the_time_between_two_looks() -> None:
    clock = Clock()
    rates = Rates(clock)
    rates.next_look()
    assert rates.of("x", 100) == 0.0
    clock.now += 2.0
    rates.next_look()
    assert rates.of("x", 150) == 25.0
    clock.now += 2.0
    rates.next_look()
    clock.now += 2.0
    rates.next_look()
    assert rates.of("x", 500) == 0.0  # forgotten, since it was not asked for
    assert rates.of("x", 400) == 0.0
