"""A sender that is never the bottleneck: a process of its own that sends a prepared stream again and again.

Run as ``python -m benchmarks.sender`` with its job as JSON in the first argument; prints what it measured as JSON.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.streams import ROOT, Stream, frames_of, renew
from edm.captures.replay import Sender, connect

CHUNK = 1 << 20
TICK = 0.001


@dataclass(frozen=True)
class Job:
    """What to send.

    Attributes
    ----------
    stream : str
        Folder of a saved stream.
    unix, tcp : str
        Where to; one of them.
    passes : int
        How often each connection sends the whole stream.
    first_pass : int
        Number of the first pass; never-seen names differ between numbers.
    connections : int
        Connections at the same time, each with a thread.
    rate : float
        If not 0: frames a second on each connection, one frame a write, for ``seconds``.
    seconds : float
        If not 0: no further pass begins after so many seconds.
    """

    stream: str
    unix: str = ""
    tcp: str = ""
    passes: int = 1
    first_pass: int = 0
    connections: int = 1
    rate: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Sent:
    """What a sender measured: ``seconds`` from the first frame to the receiver's FINISH, ``cpu`` of its own."""

    frames: int
    responses: int
    bytes: int
    seconds: float
    cpu: float


def start(job: Job) -> subprocess.Popen[str]:
    """Start a sender process."""
    command = [sys.executable, "-m", "benchmarks.sender", json.dumps(asdict(job))]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], timeout: float = 600.0) -> Sent:
    """Wait for a sender's end."""
    try:
        out, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    if process.returncode:
        raise RuntimeError("the sender failed")
    return Sent(**json.loads(out))


def run(job: Job) -> Sent:
    """Send in a process of its own and wait for it."""
    return finish(start(job))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _send(job: Job) -> Sent:
    stream = Stream.load(Path(job.stream))
    senders = [Sender(connect(job.unix, job.tcp)) for _ in range(job.connections)]
    if len(stream.novel):
        renew(stream.data, stream.novel, job.first_pass)
    cpu, began = _cpu(), time.monotonic()
    if job.rate:
        frames = _trickle(job, stream, senders)
        size = round(frames * len(stream.data) / stream.frames)
    else:
        passes = _flood(job, stream, senders)
        frames = stream.frames * passes * job.connections
        size = len(stream.data) * passes * job.connections
    ended = time.monotonic()
    responses = round(frames * stream.responses / stream.frames)
    return Sent(frames, responses, size, ended - began, _cpu() - cpu)


class _Passes:
    """Counts the passes that all connections have made."""

    def __init__(self, job: Job, stream: Stream) -> None:
        self.done = 0
        self.over = False
        self._job = job
        self._stream = stream
        self._began = time.monotonic()

    def next(self) -> None:
        """End a pass: decide whether another comes, and give it new names."""
        self.done += 1
        job = self._job
        late = bool(job.seconds) and time.monotonic() - self._began >= job.seconds
        self.over = self.done == job.passes or late
        if len(self._stream.novel) and not self.over:
            renew(self._stream.data, self._stream.novel, job.first_pass + self.done)


def _flood(job: Job, stream: Stream, senders: list[Sender]) -> int:
    view = stream.data.data
    passes = _Passes(job, stream)
    turn = threading.Barrier(len(senders), action=passes.next)
    errors: list[BaseException] = []

    def serve(sender: Sender) -> None:
        try:
            while not passes.over:
                for position in range(0, len(view), CHUNK):
                    sender.send(view[position : position + CHUNK])
                turn.wait()
            sender.finish()
        except BaseException as error:
            errors.append(error)
            turn.abort()

    threads = [threading.Thread(target=serve, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return passes.done


def _trickle(job: Job, stream: Stream, senders: list[Sender]) -> int:
    frames = frames_of(stream)
    began = time.monotonic()
    sent = 0
    total = int(job.rate * job.seconds * len(senders))
    while sent < total:
        due = int((time.monotonic() - began) * job.rate * len(senders))
        for number in range(sent, min(due, total)):
            senders[number % len(senders)].send(frames[number % len(frames)])
        sent = max(sent, min(due, total))
        time.sleep(TICK)
    for sender in senders:
        sender.finish()
    return sent


if __name__ == "__main__":
    print(json.dumps(asdict(_send(Job(**json.loads(sys.argv[1]))))))
