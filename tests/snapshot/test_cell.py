from __future__ import annotations

import sys
import threading

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import integers

from edm.snapshot.cell import SnapshotCell

READERS = 3


class Token:
    """A snapshot that knows whether it was retired."""

    def __init__(self) -> None:
        self.retired = False


class CellMachine(RuleBasedStateMachine):
    """Readers enter and leave, the publisher publishes and retires, in any order of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = SnapshotCell(Token(), READERS)
        self.inside: list[Token | None] = [None] * READERS
        self.old: list[Token] = []

    @rule(slot=integers(0, READERS - 1))
    def enter_or_leave(self, slot: int) -> None:
        if self.inside[slot] is None:
            entered = self.cell.enter(slot)
            assert entered is self.cell.current
            self.inside[slot] = entered
        else:
            self.cell.leave(slot)
            self.inside[slot] = None

    @rule()
    def publish(self) -> None:
        before = self.cell.current
        assert self.cell.publish(Token()) is before
        self.old.append(before)

    @precondition(lambda self: self.old)
    @rule()
    def retire(self) -> None:
        token = self.old[0]
        occupied = any(inside is token for inside in self.inside)
        assert self.cell.retire(token, timeout=0.0) is not occupied
        if not occupied:
            token.retired = True
            self.old.pop(0)

    @invariant()
    def nobody_is_inside_a_retired_one(self) -> None:
        assert not any(inside is not None and inside.retired for inside in self.inside)
        assert not self.cell.current.retired


CellMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestCell = CellMachine.TestCase


def test_retire_waits_for_the_last_reader() -> None:
    cell = SnapshotCell("old", 2)
    cell.enter(0)
    cell.enter(1)
    cell.publish("new")
    done = threading.Event()

    def retire() -> None:
        assert cell.retire("old")
        done.set()

    thread = threading.Thread(target=retire)
    thread.start()
    cell.leave(0)
    assert not done.wait(0.05)
    cell.leave(1)
    assert done.wait(10)
    thread.join()


def test_no_reader_ever_uses_a_retired_snapshot_under_real_threads() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        cell = SnapshotCell(Token(), 4)
        stop = threading.Event()
        failures: list[int] = []

        def read(slot: int) -> None:
            while not stop.is_set():
                token = cell.enter(slot)
                if token.retired:
                    failures.append(slot)
                cell.leave(slot)

        threads = [threading.Thread(target=read, args=(slot,)) for slot in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(300):
            old = cell.publish(Token())
            assert cell.retire(old, timeout=30)
            old.retired = True
        stop.set()
        for thread in threads:
            thread.join()
        assert failures == []
    finally:
        sys.setswitchinterval(interval)
