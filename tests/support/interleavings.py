"""A scheduler that a test controls: runs threads one step at a time, and tries every order of the steps.

A step ends just before an access to shared state: a :class:`Shared` attribute, an item of a :class:`SharedList`, a
:class:`Lock` or a :class:`Condition` made here. What lies between two such accesses touches nothing that another thread
can see, so the orders of the accesses are all the orders there are.

A run is a list of choices and begins anew; what can follow a state that was met before is not explored again. A state
is the shared values, and for each thread where in which functions it stands, their local variables, and what it has
loaded last. So at most one value may be under way between two steps that is in no variable, as in
``self.n += 1``. Taking a lock is one step with the access behind it, releasing it one with what comes before: whatever
another thread does in between, it could as well do before the one and after the other.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

MOST_STEPS = 500


class Deadlock(Exception):  # noqa: N818 - it is found, not raised by a fault of ours
    """All threads that are left wait for one another."""


class _Stop(BaseException):
    """Ends a thread whose run is given up."""


def _shut() -> threading.Lock:
    """Return a lock that one thread opens and another passes; much faster than a semaphore."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class _Task:
    """One thread of the program under test."""

    def __init__(self, scheduler: Scheduler, name: str, work: Callable[[], None]) -> None:
        self.name = name
        self.last: object = None
        self._place: object = None
        self.done = False
        self.failure: BaseException | None = None
        self.blocked: Callable[[], bool] = lambda: False
        self.merge = False
        self._go = _shut()
        self._scheduler = scheduler
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        self._go.acquire()
        self._scheduler.local.task = self
        self.last = "begun"
        try:
            if not self._abandoned:
                work()
        except _Stop:
            pass
        except BaseException as failure:
            self.failure = failure
        self.done = True
        self._scheduler.paused.release()

    def pause(self, blocked: Callable[[], bool] = lambda: False) -> None:
        """Give the turn back; called by the task's own thread before each access."""
        if self._abandoned:
            raise _Stop
        if self.merge:
            self.merge = False
            return
        self.blocked = blocked
        self._place = _place(sys._getframe(1))
        self._scheduler.paused.release()
        self._go.acquire()
        if self._abandoned:
            raise _Stop

    def state(self) -> object:
        """Return all that decides how the thread goes on, between two steps."""
        return None if self.done else (self._place, self.last, self.blocked())

    def step(self) -> None:
        """Let the thread go on until it pauses or ends."""
        self._go.release()
        self._scheduler.paused.acquire()

    def abandon(self) -> None:
        """End the thread wherever it is."""
        self._abandoned = True
        while not self.done:
            self.step()
        self._thread.join()


def _place(frame: FrameType | None) -> object:
    place = []
    while frame is not None and frame.f_code is not _Task._run.__code__:
        code = frame.f_code
        if code.co_filename != __file__ or code.co_name == "__iter__":
            values = [(name, value) for name, value in frame.f_locals.items() if _is_plain(value)]
            place.append((code.co_name, frame.f_lasti, tuple(values)))
        frame = frame.f_back
    return tuple(place)


def _is_plain(value: object) -> bool:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return bool(value.__dataclass_params__.frozen)
    return value is None or isinstance(value, (int, str, bytes, frozenset))


class Scheduler:
    """Holds the tasks of one run and the shared objects that they use."""

    def __init__(self) -> None:
        self.local = threading.local()
        self.paused = _shut()
        self.tasks: list[_Task] = []
        self.shared: list[Callable[[], object]] = []

    def add(self, name: str, work: Callable[[], None]) -> None:
        """Add a thread that does ``work``."""
        self.tasks.append(_Task(self, name, work))

    def watch(self, value: Callable[[], object]) -> None:
        """Make a value, which must be hashable, part of the state."""
        self.shared.append(value)

    @property
    def task(self) -> _Task | None:
        """The task whose thread is asking; None for the test itself, which is not scheduled."""
        return getattr(self.local, "task", None)

    def pause(self) -> None:
        """End a step, if a task is asking."""
        if self.task is not None:
            self.task.pause()

    def pause_for(self, blocked: Callable[[], bool]) -> None:
        """End a step before something that may have to wait."""
        if self.task is not None:
            self.task.merge = False
            self.task.pause(blocked)

    def merge_next(self) -> None:
        """Let the task's next access belong to the same step."""
        if self.task is not None:
            self.task.merge = True

    def note(self, value: object) -> None:
        """Note what the task has loaded or done; each step notes something."""
        if self.task is not None:
            self.task.last = value

    def state(self) -> object:
        """Return the state between two steps."""
        return (
            tuple(value() for value in self.shared),
            tuple(task.state() for task in self.tasks),
        )

    def enabled(self) -> list[int]:
        """Return the numbers of the tasks that can make a step."""
        return [n for n, task in enumerate(self.tasks) if not task.done and not task.blocked()]


# Shared objects


class Shared:
    """An attribute whose loads and stores are steps; a class has it in the place of a plain attribute."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"shared {name}"

    def __get__(self, instance: Any, owner: type) -> Any:
        instance.scheduler.pause()
        value = instance.__dict__[self.name]
        instance.scheduler.note((self.name, "load", value))
        return value

    def __set__(self, instance: Any, value: object) -> None:
        if self.name not in instance.__dict__:  # while the object is made, nobody else has it
            instance.scheduler.watch(lambda: instance.__dict__[self.name])
        else:
            instance.scheduler.pause()
        instance.__dict__[self.name] = value
        instance.scheduler.note((self.name, "store", value))


class SharedList(list[Any]):
    """A list each of whose items is loaded and stored in a step of its own."""

    def __init__(self, scheduler: Scheduler, items: Sequence[object]) -> None:
        super().__init__(items)
        self._scheduler = scheduler
        scheduler.watch(lambda: tuple(list.__iter__(self)))

    def __iter__(self) -> Iterator[Any]:
        for number in range(len(self)):
            yield self[number]

    def __getitem__(self, number: Any) -> Any:
        self._scheduler.pause()
        value = super().__getitem__(number)
        self._scheduler.note((number, "load", value))
        return value

    def __setitem__(self, number: Any, value: object) -> None:
        self._scheduler.pause()
        super().__setitem__(number, value)
        self._scheduler.note((number, "store", value))


class Lock:
    """A lock; taking it is a step, which can be made only while it is free."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._held = False
        scheduler.watch(lambda: self._held)

    def __enter__(self) -> None:
        self._scheduler.pause_for(lambda: self._held)
        assert not self._held
        self._held = True
        self._scheduler.note("acquire")
        self._scheduler.merge_next()

    def __exit__(self, *_: object) -> None:
        self._held = False


class Condition(Lock):
    """A condition variable without spurious wake-ups: who is not notified waits for ever."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self._sleeping: list[object] = []
        scheduler.watch(lambda: len(self._sleeping))

    def notify_all(self) -> None:
        """Wake all who wait."""
        assert self._held
        self._scheduler.note("notify")
        self._sleeping.clear()

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait to be notified, and take it again."""
        assert self._held
        assert timeout is None, "time does not pass here"
        me = object()
        self._sleeping.append(me)
        self._held = False
        self._scheduler.note("wait")
        self._scheduler.pause_for(lambda: self._held or me in self._sleeping)
        self._held = True
        self._scheduler.note("woken")
        return True


# Exploration


class Exploration:
    """Runs a program in every order of its steps.

    Parameters
    ----------
    begin : callable
        Given a scheduler, makes the program's objects and tasks anew; returns the invariant, a callable that is
        asked after each step and raises AssertionError if it does not hold.

    Attributes
    ----------
    states, runs : int
        Different states met, and runs made.
    """

    def __init__(self, begin: Callable[[Scheduler], Callable[[], None]]) -> None:
        self._begin = begin
        self._seen: set[object] = set()
        self.runs = 0

    @property
    def states(self) -> int:
        """Different states met."""
        return len(self._seen)

    def explore(self) -> None:
        """Explore everything.

        Raises
        ------
        AssertionError
            The invariant does not hold; the message has the order of the steps.
        Deadlock
            In some order the threads wait for one another.
        """
        waiting: list[list[int]] = [[]]
        while waiting:
            waiting += self._run(waiting.pop())

    def _run(self, choices: list[int]) -> list[list[int]]:
        """Make one run that begins with ``choices``; return the beginnings that branch off it."""
        self.runs += 1
        scheduler = Scheduler()
        branches: list[list[int]] = []
        taken: list[int] = []
        try:
            invariant = self._begin(scheduler)
            for _ in range(MOST_STEPS):
                enabled = scheduler.enabled()
                if len(taken) >= len(choices):
                    state = scheduler.state()
                    if state in self._seen:
                        return branches
                    self._seen.add(state)
                    branches += [[*taken, other] for other in enabled[1:]]
                if not enabled:
                    break
                choice = choices[len(taken)] if len(taken) < len(choices) else enabled[0]
                taken.append(choice)
                scheduler.tasks[choice].step()
                self._check(scheduler, invariant, taken)
            else:
                raise AssertionError(f"no end after {MOST_STEPS} steps")
            left = [task.name for task in scheduler.tasks if not task.done]
            if left:
                raise Deadlock(f"{', '.join(left)} wait for ever after {self._story(scheduler, taken)}")
        finally:
            for task in scheduler.tasks:
                task.abandon()
        return branches

    def _check(self, scheduler: Scheduler, invariant: Callable[[], None], taken: list[int]) -> None:
        try:
            for task in scheduler.tasks:
                if task.failure is not None:
                    raise task.failure
            invariant()
        except AssertionError as error:
            raise AssertionError(f"{error} after {self._story(scheduler, taken)}") from error

    @staticmethod
    def _story(scheduler: Scheduler, taken: list[int]) -> str:
        return " ".join(scheduler.tasks[number].name for number in taken)
