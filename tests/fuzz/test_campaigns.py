"""A short campaign of each target, and the stored inputs. ``make fuzz`` runs longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from edm.kernel.jit import JIT_DISABLED
from fuzz.campaign import Campaign
from fuzz.targets import TARGETS

# About a second each. Kernels that run as plain Python take a hundred times as long.
INPUTS = {
    "dns": 12_000,
    "dnstap": 12_000,
    "names": 8_000,
    "pipeline": 1_500,
    "framestream": 1_000,
    "dawg": 600,
    "prefixes": 1_500,
    "configuration": 600,
    "keys": 500,
    "packets": 10_000,
    "seen_log": 3_000,
    "capture": 1_500,
}
IN_PYTHON = {
    "dns": 700,
    "dnstap": 700,
    "names": 300,
    "pipeline": 150,
    "framestream": 300,
    "dawg": 80,
    "prefixes": 200,
}


def count(name: str) -> int:
    return IN_PYTHON.get(name, INPUTS[name] // 5) if JIT_DISABLED else INPUTS[name]


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_short_campaign(name: str, tmp_path: Path) -> None:
    result = Campaign(TARGETS[name](), 20_231_129, tmp_path).run(count(name))
    assert result.failure == ""
    assert result.inputs == count(name)
    # Neither does everything pass, nor is everything refused at the first look.
    assert 0.02 < result.accepted / result.inputs < 0.95
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_kept_inputs(name: str) -> None:
    target = TARGETS[name]()
    seeds = target.seeds()
    assert seeds
    for data in seeds[:: 4 if JIT_DISABLED else 1]:
        target.check([data])


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_inputs_follow_from_the_seed(name: str, tmp_path: Path) -> None:
    first, again, other = (Campaign(TARGETS[name](), seed, tmp_path).inputs(20) for seed in (1, 1, 2))
    assert first == again
    assert first != other
