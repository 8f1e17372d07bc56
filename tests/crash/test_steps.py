"""Kills at every step of handing new names over, and of writing, naming and moving files."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from crash.files import ROWS, UPLOADED, write_files
from crash.forks import Forks
from crash.handover import BATCH, SENT, hand_over
from crash.inspection import Queue, number_of
from edm.kernel.jit import JIT_DISABLED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(JIT_DISABLED, reason="the processes would take minutes without JIT"),
]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as made:
        yield made


class HandedOut:
    """The names handed out so far: sent, or in the queue on disk."""

    def __init__(self, folder: Path) -> None:
        queue = Queue(folder)
        path = folder / SENT
        sent = path.read_bytes().splitlines() if path.exists() else []
        # What was sent and not yet noted down is sent again; that is not reported as new again.
        self.names = {*queue.names, *map(number_of, sent)}
        self.stored = queue.queued
        assert len(set(queue.names)) == len(queue.names)


def names_of(first: int, count: int) -> set[int]:
    return set(range(first, first + (count - 1) * BATCH + BATCH // 2 + BATCH))


@pytest.mark.parametrize("sync", [False, True])
def test_names_are_handed_out_once_whatever_step_a_kill_comes_at(
    forks: Forks, quick_folder: Path, sync: bool
) -> None:
    job = {"first": 0, "count": 2 if sync else 4, "sync": sync}
    steps = forks.run(hand_over, quick_folder / "whole", **job).steps
    assert steps > 20
    for last in range(1, steps + 1):
        folder = quick_folder / str(last)
        assert forks.run(hand_over, folder, last=last, **job).killed
        before = HandedOut(folder)
        assert before.stored == len(before.names), f"step {last}"
        assert not forks.run(hand_over, folder, **job).killed
        after = HandedOut(folder)
        # Each name once: those stored before the kill were not stored again, and none is missing.
        assert after.names == names_of(0, job["count"]), f"step {last}"
        assert after.stored == len(after.names), f"step {last}"


def test_files_are_whole_whatever_step_a_kill_comes_at(forks: Forks, quick_folder: Path) -> None:
    job = {"count": 2}
    steps = forks.run(write_files, quick_folder / "whole", first=0, **job).steps
    assert steps > 60
    for last in range(1, steps + 1):
        folder = quick_folder / str(last)
        assert forks.run(write_files, folder, last=last, first=0, **job).killed
        before = minutes_of(folder)
        assert not forks.run(write_files, folder, first=2, **job).killed
        # What had its final name stays as it is, what was unfinished is gone, and all that waited is uploaded.
        after = minutes_of(folder)
        assert after == {kind: minutes | {2, 3} for kind, minutes in before.items()}, f"step {last}"
        assert not list(folder.rglob("*.tmp")), f"step {last}"
        uploaded = (folder / UPLOADED).read_text().split()
        assert set(map(int, uploaded)) == after["histograms"], f"step {last}"
        # Again only if Core had it and its move was not noted any more.
        assert len(uploaded) <= len(set(uploaded)) + 1
        assert not list((folder / "parquet/histograms/outbox").iterdir())


def minutes_of(folder: Path) -> dict[str, set[int]]:
    """Read all files with a final name; return which minutes they hold."""
    minutes: dict[str, set[int]] = {"sessions": set(), "histograms": set()}
    for path in folder.rglob("*.parquet"):
        table = pq.read_table(path)
        table.validate(full=True)
        assert table.num_rows == ROWS
        minute = int(table.schema.metadata[b"minute"])
        kind = "sessions" if path.parent.name == "sessions" else "histograms"
        if kind == "sessions":
            assert table["number"].to_pylist() == list(range(minute * ROWS, (minute + 1) * ROWS))
        assert minute not in minutes[kind], "the same rows are in two files"
        minutes[kind].add(minute)
    return minutes


def test_names_are_handed_out_once_over_many_kills(forks: Forks, quick_folder: Path) -> None:
    chance = random.Random(5)
    kills = 0
    for number in range(100):
        job = {"first": number * BATCH, "count": chance.randrange(2, 6), "sync": False}
        kills += forks.run(hand_over, quick_folder, last=chance.randrange(1, 60), **job).killed
        seen = HandedOut(quick_folder)
        assert seen.stored == len(seen.names)
    forks.run(hand_over, quick_folder, first=0, count=110, sync=False)
    after = HandedOut(quick_folder)
    assert after.names == names_of(0, 110)
    assert after.stored == len(after.names)
    assert kills > 50
