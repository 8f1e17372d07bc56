"""Where the time of a frame goes inside a worker: the daemon's own pipeline with a clock around each stage."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from benchmarks.results import Result, median
from benchmarks.streams import LISTS, Stream, renew
from edm import pipeline
from edm.config import Config
from edm.engine import Engine
from edm.input import reader
from edm.input.blocks import Block
from edm.input.reader import FrameReader, Receive
from edm.observe.metrics import Metrics
from edm.output.session_file import SessionFile
from edm.rotation.interval import Interval
from edm.stages.clients import ClientPrefixes
from edm.stages.domains.table.table import DomainTable
from edm.stages.histogram.accumulators import Accumulators
from edm.stages.new_qname.events import EventBlock
from edm.stages.new_qname.seen.store import SeenStore
from edm.stages.pseudonyms.cryptopan import PseudonymCache
from edm.stages.session.rows import SessionRows
from edm.startup.listening import SWITCH_INTERVAL
from edm.worker import Worker

PROBES: Sequence[tuple[str, Any, str]] = (
    ("locate frames", reader, "locate_frames"),
    ("decode dnstap", pipeline, "decode_frames"),
    ("ignored clients", ClientPrefixes, "filter"),
    ("pseudonymise", PseudonymCache, "pseudonymise"),
    ("walk DNS", pipeline, "walk_messages"),
    ("hash names", pipeline, "hash_names"),
    ("look up domains", DomainTable, "lookup"),
    ("accumulate", Accumulators, "update"),
    ("seen: look up", SeenStore, "candidates"),
    ("seen: insert", SeenStore, "commit"),
    ("write events", pipeline, "build_events"),
    ("session append", SessionRows, "append"),
    ("session take", SessionRows, "take"),
    ("metrics, ledger", pipeline.Pipeline, "_account"),
)
"""Name of the stage, and the attribute that is its only way in. None of them calls another."""


class Clock:
    """Nanoseconds by stage."""

    def __init__(self) -> None:
        self.ns: dict[str, int] = {}

    def around(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` with its time added to ``stage``."""
        ns = self.ns
        now = time.thread_time_ns

        def timed(*args: Any, **named: Any) -> Any:
            began = now()
            try:
                return function(*args, **named)
            finally:
                ns[stage] = ns.get(stage, 0) + now() - began

        return timed


@contextmanager
def clocked(clock: Clock) -> Iterator[None]:
    """Put the clock around all stages while the context lasts."""
    with ExitStack() as stack:
        for stage, owner, name in PROBES:
            stack.enter_context(mock.patch.object(owner, name, clock.around(stage, getattr(owner, name))))
        yield


class _TakesAll:
    """Takes events and forgets them."""

    def put(self, block: EventBlock) -> tuple[int, int]:
        return len(block), 0


class Bench:
    """An engine whose workers run in the calling threads, each over a stream in memory."""

    def __init__(self, folder: Path, **settings: object) -> None:
        config = Config(
            **{  # type: ignore[arg-type]
                "cryptopan_key": "benchmark",
                "data_dir": str(folder / "data"),
                "well_known_domains_file": str(LISTS / "well-known.dawg"),
                "ignored_question_names_file": str(LISTS / "ignored-names.dawg"),
                "ignored_client_ips_file": str(LISTS / "ignored-clients"),
                **settings,
            }
        )
        self.engine = Engine(config, Metrics(), events=True)
        self.engine.event_taker = _TakesAll()
        self.batches: list[pa.RecordBatch] = []
        self.engine.session_rows = self._keep  # type: ignore[method-assign]
        self._taking = threading.Lock()

    def _keep(self, interval: Interval, batch: pa.RecordBatch) -> None:  # noqa: ARG002
        self.batches.append(batch)

    def close(self) -> None:
        """Give the store of seen names free."""
        self.engine.seen.close()

    def run(self, stream: Stream, clock: Clock | None = None, number: int = 0) -> None:
        """Take the whole stream through reader and worker; their times on the clock are ``reader`` and ``worker``."""
        frames = FrameReader(self.engine.intake, self.engine.config.max_frame_size)
        data = stream.data
        position = 0

        def receive(view: memoryview) -> int:
            nonlocal position
            got = min(len(view), len(data) - position)
            np.copyto(np.frombuffer(view, np.uint8, got), data[position : position + got])
            position += got
            return got

        pump: Callable[[Receive], int] = frames.pump_block
        work: Callable[[Worker, Block], None] = self._work
        if clock is not None:
            receive = clock.around("copy", receive)
            pump = clock.around("reader", pump)
            work = clock.around("worker", work)
        worker = self.engine.workers[number]
        while pump(receive) > 0:
            while (block := self._take()) is not None:
                work(worker, block)

    def _take(self) -> Block | None:
        with self._taking:
            return self.engine.intake.get() if self.engine.intake.depth else None

    def _work(self, worker: Worker, block: Block) -> None:
        worker.handle(block)
        worker.pipeline.settle(block)
        self.engine.intake.release(block)


def profile(stream: Stream, rounds: int, **settings: object) -> tuple[dict[str, float], list[pa.RecordBatch]]:
    """Return the nanoseconds per frame of each stage, medians of ``rounds``, and session rows of the last."""
    taken: list[dict[str, int]] = []
    with tempfile.TemporaryDirectory(prefix="edm-bench-") as folder:
        bench = Bench(Path(folder), **settings)
        try:
            for number in range(rounds + 1):
                renew(stream.data, stream.novel, number)
                bench.batches.clear()
                clock = Clock()
                with clocked(clock):
                    bench.run(stream, clock)
                taken.append(clock.ns)
        finally:
            bench.close()
    del taken[0]  # warms kernels, caches and tables
    stages = {stage: median([ns.get(stage, 0) for ns in taken]) / stream.frames for stage in taken[0]}
    reader_stages = ("locate frames", "copy")
    inside = sum(ns for stage, ns in stages.items() if stage not in ("worker", "reader", *reader_stages))
    stages["worker: rest"] = stages["worker"] - inside
    stages["reader: rest"] = stages["reader"] - sum(stages[stage] for stage in reader_stages)
    return stages, bench.batches


def stages(stream: Stream, name: str, rounds: int, **settings: object) -> list[Result]:
    """Return a result for each stage."""
    ns, batches = profile(stream, rounds, **settings)
    order = [stage for stage, _, _ in PROBES if stage in ns] + ["worker: rest", "worker", "reader: rest"]
    results = [Result(f"{name}: {stage}", cpu=ns[stage] / 1e9) for stage in order if ns[stage] > 0]
    if batches:
        rows = sum(batch.num_rows for batch in batches)
        seconds = median([_write(batches) for _ in range(rounds)])
        note = f"{rows / stream.frames:.0%} of the frames"
        results.append(Result(f"{name}: Parquet, per session row", cpu=seconds / rows, note=note))
    return results


def _write(batches: Sequence[pa.RecordBatch]) -> float:
    with tempfile.TemporaryDirectory(prefix="edm-bench-") as folder:
        began = time.process_time()
        file = SessionFile(Path(folder) / "session.tmp")
        for batch in batches:
            file.write(batch)
        file.close(Path(folder) / "session.parquet", {})
        return time.process_time() - began


def side_by_side(stream: Stream, name: str, rounds: int, **settings: object) -> Result:
    """Compare two workers in two threads with one, each with a reader of its own; no sender takes a part of a core."""
    ratios, rates = [], []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    with tempfile.TemporaryDirectory(prefix="edm-bench-") as folder:
        bench = Bench(Path(folder), minimiser_workers=2, **settings)
        try:
            for number in range(2):
                bench.run(stream, number=number)
            for _ in range(rounds):
                alone = [_rate(bench, stream, [number]) for number in range(2)]
                rates.append(_rate(bench, stream, [0, 1]))
                ratios.append(rates[-1] / (sum(alone) / 2))
                bench.batches.clear()
        finally:
            bench.close()
            sys.setswitchinterval(interval)
    note = f"{median(ratios):.2f} times one"
    return Result(f"{name}: two workers side by side", rate=median(rates), note=note)


def _rate(bench: Bench, stream: Stream, numbers: Sequence[int]) -> float:
    threads = [threading.Thread(target=bench.run, args=(stream, None, number)) for number in numbers]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(numbers) * stream.frames / (time.perf_counter() - began)
