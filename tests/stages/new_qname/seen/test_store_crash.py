"""Processes that insert names are killed at random times; no name they reported may be new again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edm.kernel.jit import JIT_DISABLED
from edm.stages.new_qname.seen.store import SeenStore
from stages.new_qname.batches import insert, wire

ROUNDS = 4 if JIT_DISABLED else 40
LINES = 4 if JIT_DISABLED else 40

# Forks a writer for each line of input: importing and loading the kernels anew for each would take most
# of the time.
WRITERS = """
import os, sys
from stages.new_qname.batches import insert, wire
from edm.stages.new_qname.seen.store import SeenStore

def write(sync, number):
    print(os.getpid(), flush=True)
    store = SeenStore.open(sys.argv[1], limit_entries=1 << 20, sync=sync, first_slots=64)
    while True:
        batch = range(number, number + 97)
        answers = insert(store, [wire(f"host{i}.example.com") for i in batch])
        print(*(i for i, new in zip(batch, answers) if new), ".", flush=True)
        number += 53

with SeenStore.open(sys.argv[2], limit_entries=1 << 20, sync=False, first_slots=64) as store:
    insert(store, [wire(f"host{i}.example.com") for i in range(97)])
for line in sys.stdin:
    sync, number = line.split()
    child = os.fork()
    if child == 0:
        write(sync == "sync", int(number))
    os.waitpid(child, 0)
    print("\\nended", flush=True)
"""


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITERS, str(tmp_path / "seen"), str(tmp_path / "first")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ":".join(path for path in sys.path if path)},
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    yield process
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


def run_and_kill(writers: subprocess.Popen[str], sync: str, first: int, lines: int) -> list[int]:
    """Kill a writer after some lines, and return the numbers it reported as new in whole lines."""
    assert writers.stdin is not None
    assert writers.stdout is not None
    writers.stdin.write(f"{sync} {first}\n")
    writers.stdin.flush()
    pid = int(writers.stdout.readline())
    reported = [writers.stdout.readline() for _ in range(lines)]
    os.kill(pid, signal.SIGKILL)
    while (line := writers.stdout.readline()) != "ended\n":
        assert line, "the writers' parent ended"
        reported.append(line)
    return [int(word) for line in reported if line.endswith(".\n") for word in line.split()[:-1]]


@pytest.mark.parametrize("sync", ["sync", "lazy"])
def test_no_reported_name_is_new_again(writers: subprocess.Popen[str], tmp_path: Path, sync: str) -> None:
    chance = random.Random(20)
    reported: set[int] = set()
    first = 0
    for _ in range(ROUNDS):
        new = run_and_kill(writers, sync, first, chance.randrange(LINES))
        assert len(new) == len(set(new))
        assert not reported & set(new)
        reported |= set(new)
        first = max(reported, default=0)
    assert len(reported) > 50 * ROUNDS
    with SeenStore.open(tmp_path / "seen", limit_entries=1 << 20, sync=False) as store:
        assert store.names >= len(reported)
        again = insert(store, [wire(f"host{number}.example.com") for number in sorted(reported)])
        assert not any(again)
    assert not list(tmp_path.glob("seen/*.corrupt"))
