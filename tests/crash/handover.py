"""Steps of new names from a worker to the broker, in one thread, so that their order is fixed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from crash.forks import Steps
from edm.config import Config
from edm.kernel.columns import FLAGS, PRESENT, QCLASS, QTYPE
from edm.observe.metrics import Metrics
from edm.stages.new_qname.events import build_events
from edm.stages.new_qname.ordering import Found, NewNames
from edm.stages.new_qname.queue import EventQueue
from edm.stages.new_qname.seen.store import SeenStore
from edm.tapir.events.backlog import Backlog
from edm.tapir.events.outgoing import EventsOut
from edm.tapir.events.queue_file import FILE_NAME, QueueFile
from stages.new_qname.batches import batch_of, wire

BATCH = 7
SENT = "sent"


def hand_over(folder: Path, steps: Steps, *, first: int, count: int, sync: bool) -> None:
    """Hand over ``count`` batches of names from number ``first`` on; every other batch is sent at once.

    Parameters
    ----------
    folder : Path
        The data directory; what is sent goes into a file there, as it would to a broker.
    """
    for function in ("insert", "acknowledge"):
        steps.watch(QueueFile, function)
    queue, metrics = EventQueue(1 << 20), Metrics()
    store = SeenStore.open(folder / "seen-names", limit_entries=1 << 20, sync=sync, first_slots=64)
    out = EventsOut(Config(), queue, folder, metrics)
    out.backlog = Backlog(folder / "mqtt" / FILE_NAME, 1 << 30)
    store.recall(out.backlog.names)
    names = NewNames(store, queue.put)
    for number in range(count):
        begin = first + number * BATCH
        names.settle(number + 1, [_found(store, begin), _found(store, begin + BATCH // 2)])
        out._move_some(0.0, 1 << 16, 1 << 20)
        if number % 2:
            _send(folder, out.backlog)
    out.backlog.close()
    store.close()


def _found(store: SeenStore, first: int) -> Found:
    batch = batch_of([wire(f"n{number:09d}.example") for number in range(first, first + BATCH)])
    u32 = batch.columns.u32
    u32[PRESENT], u32[FLAGS], u32[QTYPE], u32[QCLASS] = 0, 0, 1, 1
    candidates = store.candidates(batch.buf, u32, batch.columns.fate, batch.rows)
    count = len(candidates.rows)
    rows = np.ascontiguousarray(candidates.rows)
    return Found(candidates, build_events(batch.buf, u32, batch.columns.u64, rows, count))


def _send(folder: Path, backlog: Backlog) -> None:
    entries = backlog.take(1)
    with (folder / SENT).open("ab", buffering=0) as file:
        for entry in entries:
            for message in entry.chunk.messages(entry.chunk.done, len(entry.chunk)):
                file.write(message + b"\n")
    os.sched_yield()
    events = sum(entry.chunk.waiting for entry in entries)
    backlog.acknowledge([entry.id for entry in entries], None, sent=events, failed=0)
