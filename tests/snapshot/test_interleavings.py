"""The cell, and publishing, grace period and retirement, in every order of their steps.

The methods of the cell, the engine and the worker run as they are; only the attributes that threads share are replaced,
by ones at which the scheduler of :mod:`support.interleavings` decides who goes on. That the exploration finds what
it is there for is shown with mutants: each breaks one thing, and for each it must find an order that shows it.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from edm.engine import Engine
from edm.snapshot import Snapshot, SnapshotCell
from edm.worker import Worker
from support.interleavings import Condition, Deadlock, Exploration, Lock, Scheduler, Shared, SharedList

exhaustive = pytest.mark.skipif(
    os.environ.get("EDM_EXHAUSTIVE") != "1", reason="takes minutes; EDM_EXHAUSTIVE=1 runs it"
)


@dataclasses.dataclass(frozen=True)
class Token:
    """Stands for a snapshot."""

    name: str


class StepCell(SnapshotCell[Any]):
    """The cell, with shared state that the scheduler watches over."""

    _current = Shared()
    _waiting = Shared()

    def __init__(self, scheduler: Scheduler, first: object, readers: int) -> None:
        self.scheduler = scheduler
        super().__init__(first, readers)
        self._inside = SharedList(scheduler, self._inside)
        self._left = Condition(scheduler)  # type: ignore[assignment]
        self._publishing = Lock(scheduler)  # type: ignore[assignment]


def test_all_that_the_cell_shares_is_watched() -> None:
    assert vars(SnapshotCell(0, 1)).keys() == {"_current", "_inside", "_waiting", "_left", "_publishing"}


# Readers and publishers of a cell


class Program:
    """Readers that enter, use and leave, and publishers that publish and retire; and what must always hold."""

    def __init__(
        self,
        scheduler: Scheduler,
        cell: type[StepCell],
        readers: int,
        rounds: int,
        publishers: int,
        publications: int,
    ) -> None:
        self.scheduler = scheduler
        self.cell = cell(scheduler, Token("first"), readers)
        self.used: list[Token | None] = [None] * readers
        self.retired: set[Token] = set()
        scheduler.watch(lambda: (tuple(self.used), frozenset(self.retired)))
        # As in the engine, one publisher at a time.
        self.one_at_a_time = Lock(scheduler)
        for slot in range(readers):
            scheduler.add(f"reader{slot}", lambda slot=slot: self.read(slot, rounds))
        for number in range(publishers):
            scheduler.add(f"publisher{number}", lambda number=number: self.publish(number, publications))

    def read(self, slot: int, rounds: int) -> None:
        for _ in range(rounds):
            token = self.cell.enter(slot)
            assert token == self.cell.__dict__["shared _current"], "entered what is not current"
            self.used[slot] = token
            self.scheduler.pause()
            self.scheduler.note("used")
            self.used[slot] = None
            self.cell.leave(slot)

    def publish(self, number: int, publications: int) -> None:
        for publication in range(publications):
            with self.one_at_a_time:
                old = self.cell.publish(Token(f"{number}.{publication}"))
                assert self.cell.retire(old)
                self.retired.add(old)

    def invariant(self) -> None:
        for slot, token in enumerate(self.used):
            assert token not in self.retired, f"reader{slot} uses a retired snapshot"
        assert self.cell.__dict__["shared _current"] not in self.retired, "the current snapshot is retired"


def explore(
    cell: type[StepCell], readers: int, rounds: int, publishers: int, publications: int
) -> Exploration:
    def begin(scheduler: Scheduler) -> Callable[[], None]:
        return Program(scheduler, cell, readers, rounds, publishers, publications).invariant

    exploration = Exploration(begin)
    exploration.explore()
    return exploration


@pytest.mark.parametrize(
    ("readers", "rounds", "publishers", "publications"),
    [
        (1, 1, 1, 1),
        (1, 2, 1, 2),
        (1, 1, 2, 1),
        (2, 1, 1, 1),
        pytest.param(2, 1, 1, 2, marks=exhaustive),
        pytest.param(2, 1, 2, 1, marks=exhaustive),
        pytest.param(2, 2, 1, 1, marks=exhaustive),
    ],
)
def test_no_order_of_steps_breaks_the_cell(
    readers: int, rounds: int, publishers: int, publications: int
) -> None:
    exploration = explore(StepCell, readers, rounds, publishers, publications)
    assert exploration.states > 20


class NoSecondLook(StepCell):
    def enter(self, slot: int) -> Any:
        snapshot = self._current
        self._inside[slot] = snapshot
        return snapshot


class AnnouncesAfterTheSecondLook(StepCell):
    def enter(self, slot: int) -> Any:
        while True:
            snapshot = self._current
            if self._current is snapshot:
                self._inside[slot] = snapshot
                return snapshot


class RetiresAtOnce(StepCell):
    def retire(self, old: Any, timeout: float | None = None) -> bool:
        return True


class AsksOneReaderOnly(StepCell):
    def retire(self, old: Any, timeout: float | None = None) -> bool:
        with self._left:
            self._waiting += 1
            while self._inside[0] is old:
                self._left.wait(None)
            self._waiting -= 1
        return True


class WakesUpOnce(StepCell):
    def retire(self, old: Any, timeout: float | None = None) -> bool:
        with self._left:
            self._waiting += 1
            if any(inside is old for inside in self._inside):
                self._left.wait(None)
            self._waiting -= 1
        return True


class LooksBeforeItPublishes(StepCell):
    def publish(self, new: Any) -> Any:
        super().retire(self._current)
        return super().publish(new)

    def retire(self, old: Any, timeout: float | None = None) -> bool:
        return True


class LeavesInSilence(StepCell):
    def leave(self, slot: int) -> None:
        self._inside[slot] = None


class LooksForWaitersBeforeItLeaves(StepCell):
    def leave(self, slot: int) -> None:
        waiting = self._waiting
        self._inside[slot] = None
        if waiting:
            with self._left:
                self._left.notify_all()


class CountsItselfTooLate(StepCell):
    def retire(self, old: Any, timeout: float | None = None) -> bool:
        with self._left:
            while any(inside is old for inside in self._inside):
                self._waiting += 1
                self._left.wait(None)
                self._waiting -= 1
        return True


@pytest.mark.parametrize(
    "mutant",
    [
        NoSecondLook,
        AnnouncesAfterTheSecondLook,
        RetiresAtOnce,
        AsksOneReaderOnly,
        WakesUpOnce,
        LooksBeforeItPublishes,
    ],
)
def test_a_mutant_that_retires_too_early_is_found(mutant: type[StepCell]) -> None:
    with pytest.raises(AssertionError, match=r"not current|retired"):
        explore(mutant, 2, 1, 1, 1)


@pytest.mark.parametrize("mutant", [LeavesInSilence, LooksForWaitersBeforeItLeaves, CountsItselfTooLate])
def test_a_mutant_that_waits_for_ever_is_found(mutant: type[StepCell]) -> None:
    with pytest.raises(Deadlock):
        explore(mutant, 1, 1, 1, 1)


# The engine: rotation and reload, with real workers


@dataclasses.dataclass(frozen=True)
class Table:
    """Stands for a domain table."""

    name: str

    def __len__(self) -> int:
        return 0  # like a list without words; it must come into use all the same


@dataclasses.dataclass(frozen=True)
class Period:
    """Stands for an interval: the table that it counts by, and which one it is."""

    table: Table
    number: int
    began: int = 0

    def stop_us(self, _end: int) -> int:
        """Return the end."""
        return 0


class Nothing:
    """Takes every call."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args, **_values: None


class StepEngine(Engine):
    """The engine with its own ``rotate`` and ``publish``; what they begin and hand over is noted."""

    _next_well_known = Shared()

    def __init__(self, scheduler: Scheduler, batches: int) -> None:
        self.scheduler = scheduler
        self.metrics = Nothing()  # type: ignore[assignment]
        self._publishing = Lock(scheduler)  # type: ignore[assignment]
        self._next_well_known = None
        self.begun = 0
        self.loaded_at = {}
        self.counted: Counter[Period] = Counter()
        self.handed_over: dict[Period, int] = {}
        self.running: dict[str, Snapshot] = {}
        first = Snapshot(
            generation=1,
            config="config",
            pseudonyms="key",
            clients="clients",
            ignored_names=None,
            well_known=Table("old"),
            interval=Period(Table("old"), 0),
            sessions=True,
            events=False,
        )  # type: ignore[arg-type]
        self.cell = StepCell(scheduler, first, 1)
        scheduler.watch(lambda: (frozenset(self.handed_over.items()), frozenset(self.counted.items())))
        block = type("Block", (), {"received": 0, "frames": batches * 4096, "oversized": 0})()
        worker = Worker(0, Nothing(), self.cell, self, Nothing())  # type: ignore[arg-type]
        scheduler.add("worker", lambda: worker.handle(block))
        scheduler.add("rotation", self.rotate)
        scheduler.add("reload", self.reload)

    def _begin(self, table: Any, config: Any) -> Any:
        self.begun += 1
        return Period(table, self.begun)

    def _hand_over(self, old: Snapshot, stop_us: int) -> None:
        period: Any = old.interval
        assert period not in self.handed_over, "handed over twice"
        self.handed_over[period] = self.counted[period]

    def run(self, block: Any, first: int, n: int, snapshot: Any) -> None:
        """Be the worker's pipeline: count the frames into the snapshot's interval."""
        self.running["worker"] = snapshot
        self.scheduler.pause()
        self.scheduler.note(("run", first))
        assert snapshot.well_known == snapshot.interval.table, "looked up in one table, counted by another"
        assert snapshot.interval not in self.handed_over, "counted into an interval that was handed over"
        self.counted[snapshot.interval] += n
        del self.running["worker"]

    def reload(self) -> None:
        self.set_next_well_known(Table("new"))  # type: ignore[arg-type]
        self.publish(sessions=False, pseudonyms="new key")

    def invariant(self) -> None:
        for snapshot in self.running.values():
            assert snapshot.interval not in self.handed_over, "an interval in use was handed over"
        if all(task.done for task in self.scheduler.tasks):
            current = self.cell.current
            assert current.generation == 3, "a publication was lost"
            assert (current.sessions, current.pseudonyms) == (False, "new key"), "the reload was lost"
            assert len(self.handed_over) == 1
            assert current.interval not in self.handed_over, "the rotation was lost"
            expected = self._next_well_known or Table("new")
            assert current.well_known in (expected, Table("old"))
            assert current.well_known == Table("new") or self._next_well_known == Table("new"), (
                "a table was lost"
            )
            total = sum(self.handed_over.values()) + self.counted[current.interval]  # type: ignore[index]
            assert total == self.counted.total(), "frames were counted and not handed over"


def explore_engine(engine: type[StepEngine], batches: int) -> Exploration:
    exploration = Exploration(lambda scheduler: engine(scheduler, batches).invariant)
    exploration.explore()
    return exploration


def test_no_order_of_steps_breaks_rotation_and_reload() -> None:
    exploration = explore_engine(StepEngine, 1)
    assert exploration.states > 100


class HandsOverBeforeTheGracePeriod(StepEngine):
    def rotate(self) -> None:
        old = self.cell.current
        with self._publishing:
            interval = self._begin(old.well_known, old.config)
            new = dataclasses.replace(old, generation=old.generation + 1, interval=interval)
            self.cell.publish(new)
        self._hand_over(old, 0)
        self.cell.retire(old)


class PublishesWithoutTheLock(StepEngine):
    def publish(self, **parts: Any) -> None:
        old = self.cell.current
        self.cell.publish(dataclasses.replace(old, generation=old.generation + 1, **parts))
        self.cell.retire(old)


class PutsTheTableIntoTheRunningInterval(StepEngine):
    def set_next_well_known(self, table: Any) -> None:
        self.publish(well_known=table)


class ForgetsTheTable(StepEngine):
    def set_next_well_known(self, table: Any) -> None:
        with self._publishing:
            self._next_well_known = None


@pytest.mark.parametrize(
    "mutant",
    [
        HandsOverBeforeTheGracePeriod,
        PublishesWithoutTheLock,
        PutsTheTableIntoTheRunningInterval,
        ForgetsTheTable,
    ],
)
def test_a_mutant_of_the_engine_is_found(mutant: type[StepEngine]) -> None:
    with pytest.raises(AssertionError, match=r"handed over|lost|another"):
        explore_engine(mutant, 1)
