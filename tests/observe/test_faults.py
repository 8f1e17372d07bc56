from __future__ import annotations

from edm.observe.faults import DEFECT, FRAMES, KINDS, LEDGER, Faults
from edm.observe.metrics import Metrics


def test_nothing_went_wrong() -> None:
    faults = Faults()
    faults.report(FRAMES, 0)
    assert not faults
    assert faults.lines() == []
    assert faults.counts() == {}


def test_each_kind_has_its_line() -> None:
    faults = Faults()
    for kind in KINDS:
        faults.report(kind)
        faults.report(kind, 999)
    assert faults
    assert faults.counts() == dict.fromkeys(KINDS, 1000)
    assert len(set(faults.lines())) == len(KINDS)
    assert "1,000 frames lost to a defect" in faults.lines()


def test_one_is_no_plural() -> None:
    faults = Faults()
    faults.report(LEDGER)
    assert faults.lines() == ["1 interval whose ledger does not balance"]


def test_the_first_of_a_kind_is_told_at_once() -> None:
    faults = Faults()
    told: list[dict[str, int]] = []
    faults.on_first = lambda: told.append(faults.counts())
    for kind in (FRAMES, FRAMES, DEFECT, FRAMES):
        faults.report(kind, 2)
    assert told == [{"frames_lost": 2}, {"frames_lost": 4, "defect": 2}] or told == [
        {"frames_lost": 2},
        {"defect": 2, "frames_lost": 4},
    ]


def test_they_are_metrics() -> None:
    metrics = Metrics()
    assert {metrics.value("edm_faults_total", kind=kind) for kind in KINDS} == {0.0}
    metrics.faults.report(FRAMES, 4096)
    assert metrics.value("edm_faults_total", kind="frames_lost") == 4096
