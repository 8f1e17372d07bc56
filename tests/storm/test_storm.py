"""The storm: ten reloads a second, and rotations, while several connections send at full speed.

What it proves, and how, stands at the ``check_...`` methods of :class:`support.storm_check.Outcome`. With one worker
the order of all rows is known, so every single frame is accounted for. With several workers, rows of different
workers may be under different keys at the same time; what is proven then is that the key never goes back within
what one worker hands over, and that no frame sent after a reload was reported is under an older key.

``EDM_STORM_SECONDS`` is how long each storm rages.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from edm.kernel.jit import JIT_DISABLED
from support.processes import wait_until
from support.resources import Resources
from support.storm import PACE, Storm
from support.storm_check import Outcome
from support.storm_outputs import Pseudonyms
from support.storm_traffic import (
    CLEAN,
    FRAMES,
    PLAIN,
    SERVERS,
    Job,
    Plan,
    Sent,
    Template,
    finish_sender,
    known_words,
    start_sender,
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(JIT_DISABLED, reason="the daemon is tested with JIT")]

SECONDS = float(os.environ.get("EDM_STORM_SECONDS", "4"))
CONNECTIONS = 3
RELOADS = 8

EXPECTED = {"frame is no dnstap message", "DNS message cannot be parsed"}
"""Errors that the traffic holds on purpose."""

MAPPINGS = 24
"""Mappings more than before that are no leak: thread stacks and arenas of the allocator come and go."""

LATE_THREADS = 1
"""Threads likewise: the one that makes the next table of seen names ready begins when the first large one fills."""

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
            sender = start_sender(Job(str(storm.unix), len(sent), len(sent) + CONNECTIONS))
            daemon.wait_for_metric("edm_open_connections", CONNECTIONS)
            with storm:
                _wait(storm, seconds)
                sent += finish_sender(sender).passes
            held.append(_calm(storm, FRAMES * sum(map(len, sent))))
        metrics = daemon.metrics()
        assert daemon.stop() == 0, daemon.tail()
        assert {entry["msg"] for entry in daemon.errors()} <= EXPECTED, daemon.errors()
    outcome = Outcome(storm, Plan(len(sent)), Sent(sent), metrics)
    shutil.rmtree(daemon.data)  # for a long storm, gigabytes
    return Storms(outcome, *held)


def _wait(storm: Storm, seconds: float) -> None:
    """Wait so long, and on a busy machine until there was a storm worth the name."""
    end = time.monotonic() + seconds
    reloads = len(storm.reports()) + RELOADS
    wait_until(
        lambda: time.monotonic() > end and len(storm.reports()) >= reloads, "many reloads", seconds + 90
    )


def _calm(storm: Storm, frames: int) -> Resources:
    """Wait until all frames are worked off and written; return what the daemon then holds."""
    daemon = storm.daemon
    daemon.wait_for_metric("edm_processed_dnstap_total", frames)
    storm.settle()
    daemon.rotate()
    wait_until(lambda: daemon.metric("edm_open_connections") == 0, "the senders are gone")
    return Resources.of(daemon.process.pid)


def check_that_it_was_a_storm(storms: Storms) -> None:
    storm = storms.outcome.storm
    # On a machine with other things to do, reloads merge; but they must not have come to a halt.
    assert len(storm.generations) > SECONDS / PACE / 3
    assert len(np.unique(storms.outcome.generation)) > 3
    assert storm.rotations > SECONDS / 3
    assert len({interval.variant for interval in storms.outcome.intervals} - {None}) > 1


def check_that_nothing_stays_behind(storms: Storms) -> None:
    before, after = storms.before, storms.after
    assert after.files <= before.files
    assert after.threads <= before.threads + LATE_THREADS
    assert after.mappings <= before.mappings + MAPPINGS
    assert after.resident <= before.resident + GROWTH


def check(storms: Storms) -> None:
    """Check what holds with any number of workers; and that the checks can fail."""
    check_that_it_was_a_storm(storms)
    check_that_nothing_stays_behind(storms)
    outcome = storms.outcome
    outcome.check_ledger()
    outcome.check_no_row_twice()
    outcome.check_rows_fit_their_generation()
    outcome.check_histograms()
    outcome.check_reported_reloads_hold()
    outcome.check_seen_names()
    find_a_row_under_a_key_long_gone(outcome)
    find_a_row_that_came_twice(outcome)
    find_a_count_under_another_word(outcome)
    find_words_of_two_lists(outcome)


# One test for a storm, not one for a claim: spread over several processes, each of them would need the storm.


def test_one_worker(tmp_path: Path) -> None:
    storms = rage(tmp_path, minimiser_workers=1, switch=True)
    check(storms)
    storms.outcome.check_one_worker_never_goes_back()
    storms.outcome.check_every_missing_row_has_its_reason()
    find_a_row_under_the_key_before(storms.outcome)
    find_a_missing_row(storms.outcome)


def test_several_workers(tmp_path: Path) -> None:
    storms = rage(tmp_path, minimiser_workers=3)
    check(storms)
    storms.outcome.check_batches_never_go_back(3)


# The checks find what they are there for: the same outcome with one thing made wrong


def tampered(outcome: Outcome, **changes: object) -> Outcome:
    """Return a copy of an outcome in which some attributes are replaced."""
    copied = copy.copy(outcome)
    for name in ("_templates", "_rows_by_template"):
        copied.__dict__.pop(name, None)
    copied.__dict__.update(changes)
    return copied


def without(outcome: Outcome, row: int) -> Outcome:
    columns = ("connection", "sequence", "generation")
    changes = {name: np.delete(getattr(outcome, name), row) for name in columns}
    intervals = [dataclasses.replace(interval) for interval in outcome.intervals]
    for interval in intervals:
        if row < interval.first_row:
            interval.first_row -= 1
        elif row < interval.first_row + interval.rows:
            interval.rows -= 1
    return tampered(outcome, intervals=intervals, **changes)


def find_a_row_under_the_key_before(outcome: Outcome) -> None:
    turn = int(np.flatnonzero(np.diff(outcome.generation))[-1]) + 2
    generation = outcome.generation.copy()
    generation[turn] = generation[turn - 2]
    with pytest.raises(AssertionError, match="old key"):
        tampered(outcome, generation=generation).check_one_worker_never_goes_back()


def find_a_row_under_a_key_long_gone(outcome: Outcome) -> None:
    generation = outcome.generation.copy()
    generation[-1] = 0
    with pytest.raises(AssertionError):
        tampered(outcome, generation=generation).check_reported_reloads_hold()


def find_a_missing_row(outcome: Outcome) -> None:
    kinds = outcome.plan.kinds[outcome._templates]
    row = int(np.flatnonzero(kinds == PLAIN)[len(kinds) // 16])
    lacking = without(outcome, row)
    with pytest.raises(AssertionError):
        lacking.check_ledger()
    with pytest.raises(AssertionError):
        lacking.check_histograms()
    with pytest.raises(AssertionError, match="without a reason"):
        lacking.check_every_missing_row_has_its_reason()


def find_a_row_that_came_twice(outcome: Outcome) -> None:
    sequence, connection = outcome.sequence.copy(), outcome.connection.copy()
    sequence[5], connection[5] = sequence[6], connection[6]
    with pytest.raises(AssertionError):
        tampered(outcome, sequence=sequence, connection=connection).check_no_row_twice()


def find_a_count_under_another_word(outcome: Outcome) -> None:
    number = next(n for n, interval in enumerate(outcome.intervals) if len(interval.words) > 8)
    words = dict(outcome.intervals[number].words)
    common = [word for word in words if ".all." in word]
    words[common[0]], words[common[1]] = words[common[1]], words[common[0]]
    intervals = list(outcome.intervals)
    intervals[number] = dataclasses.replace(intervals[number], words=words)
    with pytest.raises(AssertionError):
        tampered(outcome, intervals=intervals).check_histograms()


def find_words_of_two_lists(outcome: Outcome) -> None:
    row: dict[str, int] = {}
    words = {word: row for variant in (0, 1) for word in known_words(variant)}
    with pytest.raises(AssertionError, match="several lists"):
        dataclasses.replace(outcome.intervals[0], words=words).variant  # noqa: B018


def test_a_row_with_addresses_under_two_keys_is_found() -> None:
    pseudonyms = Pseudonyms([bytes(32), bytes(31) + b"\1"])
    client = next(number for number, one in enumerate(CLEAN) if len(one) == 4)
    server = pseudonyms.number[SERVERS[0]]
    template = Template(PLAIN, ("p0",), CLEAN[client], SERVERS[0])

    def row(source_key: int, dest_key: int) -> pa.Table:
        values = {
            "source_ipv4": int(pseudonyms.low[client, source_key]),
            "dest_ipv4": int(pseudonyms.low[server, dest_key]),
        }
        nothing = pa.array([None], pa.uint64())
        columns = {
            f"{side}_ipv6_{part}": nothing for side in ("source", "dest") for part in ("host", "network")
        }
        return pa.table(columns | {name: pa.array([value], pa.uint32()) for name, value in values.items()})

    only = np.zeros(1, np.int64)
    assert pseudonyms.of_rows(row(1, 1), [template], only).tolist() == [1]
    with pytest.raises(AssertionError, match="not made under one key"):
        pseudonyms.of_rows(row(0, 1), [template], only)
