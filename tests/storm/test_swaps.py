"""Thousands of snapshots in one process: none leaves memory behind, and no worker goes back to an old one."""

from __future__ import annotations

import gc
import hashlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import edm.engine
from edm.config import Config
from edm.engine import Engine
from edm.input.reader import FrameReader
from edm.kernel.jit import JIT_DISABLED
from edm.observe.metrics import Metrics
from edm.rotation.interval import Interval
from edm.snapshot import Snapshot
from edm.stages.clients import ClientPrefixes
from edm.stages.domains.dawg.dawg import Dawg
from edm.stages.domains.dawg.writer import write_dawg
from edm.stages.domains.table.table import DomainTable
from edm.stages.histogram.accumulators import Accumulators
from edm.stages.pseudonyms.cryptopan import Pseudonymiser
from edm.stages.session.rows import SessionRows
from support import storm_traffic as traffic
from support.processes import wait_until
from support.resources import Resources
from support.storm_outputs import Pseudonyms

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="millions of frames need compiled kernels")

SWAPS = 2000
WORKERS = 2
KEYS = 60
GROWTH = 16 << 20
"""Bytes of memory that are no leak: a table that stayed would take more than this over all swaps."""


@pytest.fixture
def tiny_switch_interval() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(edm.engine, "SESSION_ROWS", 4096)
    (tmp_path / "known").write_bytes(write_dawg(traffic.known_list(0)))
    config = Config(
        cryptopan_key="mysecret",
        data_dir=str(tmp_path / "data"),
        minimiser_workers=WORKERS,
        well_known_domains_file=str(tmp_path / "known"),
    )
    made = Engine(config, Metrics(), events=False)
    made.start()
    yield made
    made.stop()


def secret(number: int) -> bytes:
    return hashlib.sha256(b"storm key %d" % number).digest()


def swap(engine: Engine, number: int, words: list[bytes]) -> None:
    """Replace everything in a snapshot, once at once and once with the next interval."""
    table = DomainTable.build(Dawg.from_bytes(words[number % len(words)]))
    engine.set_next_well_known(table)
    engine.publish(
        pseudonyms=Pseudonymiser(secret(number), 1000),
        clients=ClientPrefixes([number << 8 | 32], (), 1),
        ignored_names=DomainTable.build(Dawg.from_bytes(words[-1])),
        sessions=bool(number % 2),
    )
    engine.rotate()


def alive() -> dict[str, int]:
    gc.collect()
    kinds = (Snapshot, DomainTable, Interval, Accumulators, SessionRows, Pseudonymiser, ClientPrefixes)
    counts = dict.fromkeys([kind.__name__ for kind in kinds], 0)
    for one in gc.get_objects():
        if type(one) in kinds:
            counts[type(one).__name__] += 1
    return counts


def test_thousands_of_swaps_leave_nothing_behind(engine: Engine) -> None:
    # 3,000 names take some 70 KiB as a table.
    words = [write_dawg([f"w{n}.v{variant}.test." for n in range(3000)]) for variant in range(3)]
    for number in range(50):
        swap(engine, number, words)
    assert engine.histogram_writer.flush(30)
    before, objects = Resources.of(), alive()
    for number in range(SWAPS):
        swap(engine, number, words)
    assert engine.histogram_writer.flush(30)
    after = Resources.of()
    assert alive() == objects
    assert engine.cell.current.generation == 1 + 2 * (50 + SWAPS)
    assert after.files == before.files
    assert after.threads == before.threads
    assert after.mappings <= before.mappings + 8
    assert after.resident <= before.resident + GROWTH


class Feeder:
    """Hands passes of the storm's traffic to an engine, without a socket, until it is ``enough``."""

    def __init__(self, engine: Engine, connection: int, enough: threading.Event) -> None:
        self._reader = FrameReader(engine.intake, engine.config.max_frame_size)
        self._stream = traffic.Plan(connection + 1).stream(connection)
        self._enough = enough
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        while not self._enough.is_set():
            self._stream.renew(number)
            number += 1
            rest = self._stream.data.data

            def receive(view: memoryview) -> int:
                nonlocal rest
                count = min(len(view), len(rest))
                view[:count] = rest[:count]
                rest = rest[count:]
                return count

            while self._reader.pump_block(receive) > 0:
                pass


def test_no_worker_ever_goes_back_to_an_old_key(
    engine: Engine, tiny_switch_interval: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly so, for each of the workers: what it hands over comes here in its order, marked with its thread."""
    handed_over: dict[str, list[pa.RecordBatch]] = {}

    def take(_interval: Interval, batch: pa.RecordBatch) -> None:
        handed_over.setdefault(threading.current_thread().name, []).append(batch)

    monkeypatch.setattr(engine, "session_rows", take)
    secrets = [secret(0)]
    engine.publish(pseudonyms=Pseudonymiser(secrets[0], 1000))
    enough = threading.Event()
    feeders = [Feeder(engine, connection, enough) for connection in range(3)]
    for feeder in feeders:
        feeder.thread.start()
    while len(secrets) < KEYS or len(handed_over) < WORKERS:
        before = engine.intake.frames_total
        secrets.append(secret(len(secrets)))
        engine.publish(pseudonyms=Pseudonymiser(secrets[-1], 1000))
        wait_until(lambda before=before: engine.intake.frames_total > before, "frames come in")
    enough.set()
    for feeder in feeders:
        feeder.thread.join()
    assert engine.intake.drain(60)

    pseudonyms = Pseudonyms(secrets)
    plan = traffic.Plan(3)
    used = set()
    for worker in range(WORKERS):
        table = pa.Table.from_batches(handed_over[f"edm-worker-{worker}"])
        connection = np.array([int(one[-1:]) for one in table["server_id"].to_pylist()])
        place = table["response_time"].cast(pa.int64()).to_numpy() % 1_000_000
        template = plan.order[connection, place].astype(np.int64)
        generation = pseudonyms.of_rows(table, plan.templates, template)
        assert (np.diff(generation) >= 0).all()
        used |= set(generation.tolist())
    assert len(used) > KEYS / 2
