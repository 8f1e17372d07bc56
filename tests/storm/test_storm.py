"""The storm: reloads, ten a second, and rotations, while several connections send at full speed.

What it proves, and how, stands at the ``check_...`` methods of :class:`support.storm_check.Outcome`. With one worker
the order of all rows is known, so every single frame is accounted for. With several workers, rows of different
workers may be under different keys at the same time; what is proven then is that the key never goes back within
what one worker hands over, and that no frame sent after a reload was reported is under an older key.

``EDM_STORM_SECONDS`` is how long each storm rages.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from edm.jit import JIT_DISABLED
from support.processes import wait_until
from support.resources import Resources
from support.storm import PACE, Storm
from support.storm_check import Outcome
from support.storm_traffic import FRAMES, Job, Plan, Sent, finish_sender, start_sender

pytestmark = [pytest.mark.slow, pytest.mark.skipif(JIT_DISABLED, reason="the daemon is tested with JIT")]

SECONDS = float(os.environ.get("EDM_STORM_SECONDS", "6"))
CONNECTIONS = 3

EXPECTED = {"frame is no dnstap message", "DNS message cannot be parsed"}
"""Errors that the traffic holds on purpose."""

MAPPINGS = 24
"""Mappings more than before that are no leak: thread stacks and arenas of the allocator come and go."""

GROWTH = 64 << 20
"""Bytes of memory likewise: Argon2id alone uses 64 MiB at a time."""


@dataclasses.dataclass
class Storms:
    """A storm that is over: its outcome, and what the daemon held before and after it."""

    outcome: Outcome
    before: Resources
    after: Resources


def rage(folder: Path, **settings: object) -> Storms:
    """Let a short storm and a long one go over a daemon; what it holds must not depend on how long."""
    storm = Storm(folder, **settings)
    sent: list[list[float]] = []
    with storm.daemon as daemon:
        held = []
        for seconds in (SECONDS / 3, SECONDS):
            job = Job(str(storm.unix), len(sent), len(sent) + CONNECTIONS, seconds)
            sender = start_sender(job)
            with storm:
                sent += finish_sender(sender, seconds + 90).passes
            held.append(_calm(storm, FRAMES * sum(map(len, sent))))
        metrics = daemon.metrics()
        assert daemon.stop() == 0, daemon.tail()
        assert {entry["msg"] for entry in daemon.errors()} <= EXPECTED, daemon.errors()
    outcome = Outcome(storm, Plan(len(sent)), Sent(sent), metrics)
    shutil.rmtree(daemon.data)  # for a long storm, gigabytes
    return Storms(outcome, *held)


def _calm(storm: Storm, frames: int) -> Resources:
    """Wait until all frames are worked off and written; return what the daemon then holds."""
    daemon = storm.daemon
    daemon.wait_for_metric("edm_processed_dnstap_total", frames)
    storm.settle()
    daemon.rotate()
    wait_until(lambda: daemon.metric("edm_open_connections") == 0, "the senders are gone")
    return Resources.of(daemon.process.pid)


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> Storms:
    return rage(tmp_path_factory.mktemp("one"), minimiser_workers=1, switch=True)


@pytest.fixture(scope="module")
def several_workers(tmp_path_factory: pytest.TempPathFactory) -> Storms:
    return rage(tmp_path_factory.mktemp("several"), minimiser_workers=3)


@pytest.fixture(params=["one_worker", "several_workers"])
def storms(request: pytest.FixtureRequest) -> Storms:
    found: Storms = request.getfixturevalue(request.param)
    return found


def test_it_was_a_storm(storms: Storms) -> None:
    storm = storms.outcome.storm
    # On a machine with other things to do, reloads merge; but they must not have come to a halt.
    assert len(storm.generations) > SECONDS / PACE / 3
    assert len(np.unique(storms.outcome.generation)) > SECONDS
    assert storm.rotations > SECONDS / 3
    assert len({interval.variant for interval in storms.outcome.intervals} - {None}) > 1


def test_the_ledger_closes_over_all_intervals_and_reloads(storms: Storms) -> None:
    storms.outcome.check_ledger()


def test_no_frame_becomes_two_rows(storms: Storms) -> None:
    storms.outcome.check_no_row_twice()


def test_a_batch_is_wholly_under_one_generation(storms: Storms) -> None:
    storms.outcome.check_rows_fit_their_generation()


def test_every_count_belongs_to_its_name_and_none_is_lost(storms: Storms) -> None:
    storms.outcome.check_histograms()


def test_no_frame_is_under_a_generation_older_than_the_one_reported(storms: Storms) -> None:
    storms.outcome.check_reported_reloads_hold()


def test_every_new_name_is_remembered_once(storms: Storms) -> None:
    storms.outcome.check_seen_names()


def test_nothing_stays_behind(storms: Storms) -> None:
    before, after = storms.before, storms.after
    assert after.files <= before.files
    assert after.threads <= before.threads
    assert after.mappings <= before.mappings + MAPPINGS
    assert after.resident <= before.resident + GROWTH


def test_one_worker_never_goes_back_to_an_old_key(one_worker: Storms) -> None:
    one_worker.outcome.check_one_worker_never_goes_back()


def test_with_one_worker_every_missing_row_has_its_reason(one_worker: Storms) -> None:
    one_worker.outcome.check_every_missing_row_has_its_reason()


def test_no_worker_goes_back_to_an_old_key_within_what_it_hands_over(several_workers: Storms) -> None:
    several_workers.outcome.check_batches_never_go_back(3)
