"""Processes that are killed at a chosen step, forked from a helper process so that each takes only milliseconds.

Run as a program it obeys lines of JSON on its standard input: for each it forks a child, which does a piece of work
and is killed before or after a system call, or in the middle of a write. So every step at which a kill can make a
difference is tried, not only those that chance finds.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

CALLS = ("open", "writev", "pwrite", "fsync", "fdatasync", "link", "unlink", "rename", "replace", "ftruncate")
"""System calls of Python code; each is a step before it and one after it."""

WRITES = ("writev", "pwrite")
"""Of these a third step has written half."""


class Steps:
    """Counts steps, and kills the process at one of them."""

    def __init__(self, last: int) -> None:
        self.count = 0
        self._last = last

    def pass_one(self) -> bool:
        """Count a step; tell whether it is the one at which the process is to die."""
        self.count += 1
        return self.count == self._last

    @staticmethod
    def die() -> None:
        """Die as a killed process does."""
        os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: Any, name: str) -> None:
        """Let the beginning and the end of a function be steps."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def watched(*args: Any, **more: Any) -> Any:
            if self.pass_one():
                self.die()
            if name in WRITES and self.pass_one():
                _write_half(function, *args)
                self.die()
            result = function(*args, **more)
            if self.pass_one():
                self.die()
            return result

        setattr(owner, name, watched)


def _write_half(function: Callable[..., int], descriptor: int, data: Any, *offset: int) -> None:
    joined = data if isinstance(data, bytes) else b"".join(bytes(part) for part in data)
    half = joined[: len(joined) // 2]
    function(descriptor, half if isinstance(data, bytes) else [half], *offset)


@dataclass(frozen=True)
class End:
    """How a child ended: whether it was killed, and if not, how many steps it took."""

    killed: bool
    steps: int


class Forks:
    """The test's side of the process that forks."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "crash.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def run(self, work: Callable[..., None], folder: Path, *, last: int = 0, **more: Any) -> End:
        """Let a child do ``work(folder, steps, **more)`` up to step ``last``; 0 lets it come to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        module = work.__module__.removeprefix("tests.")
        line = {"work": [module, work.__name__], "folder": str(folder), "last": last, "more": more}
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert answer["signal"] == (signal.SIGKILL if answer["status"] is None else 0), "the child failed"
        return End(answer["status"] is None, answer["steps"])


def _child(job: dict[str, Any], result: int) -> None:
    module, name = job["work"]
    steps = Steps(job["last"])
    for call in CALLS:
        steps.watch(os, call)
    getattr(importlib.import_module(module), name)(Path(job["folder"]), steps, **job["more"])
    os.write(result, str(steps.count).encode())
    os._exit(0)


def _warm_up(job: dict[str, Any]) -> None:
    """Do the work once here: else every child would have to import modules and load kernels."""
    module, name = job["work"]
    with tempfile.TemporaryDirectory() as folder:
        getattr(importlib.import_module(module), name)(Path(folder), Steps(0), **job["more"])


def _serve() -> None:
    warm = set()
    # What is logged must not come among the answers.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    for line in sys.stdin:
        job = json.loads(line)
        if tuple(job["work"]) not in warm:
            warm.add(tuple(job["work"]))
            _warm_up(job)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _child(job, writing)
            finally:
                os._exit(1)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        steps = int(os.read(reading, 20) or b"0")
        os.close(reading)
        killed = os.WIFSIGNALED(status)
        assert killed or os.WEXITSTATUS(status) == 0, "the child failed"
        answer = {
            "signal": os.WTERMSIG(status) if killed else 0,
            "status": None if killed else 0,
            "steps": steps,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
