"""The whole engine while the wall clock is set: no file is lost, overwritten or misnamed.

``EDM_CLOCK_EXAMPLES`` says how many random sequences are tried; 15 if it is not set.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from edm.engine import Engine
from edm.input.reader import FrameReader
from edm.kernel.jit import JIT_DISABLED
from edm.observe.metrics import Metrics
from edm.output.paths import HISTOGRAM_PREFIX, SESSION_PREFIX
from edm.rotation import clock
from edm.rotation.clock import MinuteClock
from edm.stages.domains.dawg.writer import write_dawg
from edm.startup.warmup import sample_frame
from edm.tapir.upload.http_signature import aggregate_interval
from edm.tapir.upload.outbox import interval_of
from support import golden
from support.clocks import Clocks

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="the engine is tested with JIT")

START = 1_700_000_007.25
EXAMPLES = int(os.environ.get("EDM_CLOCK_EXAMPLES", "15"))
STEPS = 25


def session_frame(number: int) -> bytes:
    label = b"n%d" % number
    name = bytes([len(label)]) + label + b"\x04test\x07invalid\x00"
    frame = sample_frame(name, bytes([192, 0, 2, 1]))
    return len(frame).to_bytes(4, "big") + frame


def well_known_frame() -> bytes:
    frame = sample_frame(b"\x05known\x07example\x00", bytes([192, 0, 2, 2]))
    return len(frame).to_bytes(4, "big") + frame


class SetClock(RuleBasedStateMachine):
    """Frames come, time passes, the clock is set, intervals end by themselves and on request."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="set-clock-"))
        self.patch = pytest.MonkeyPatch()
        self.clocks = Clocks(START)
        self.patch.setattr(clock, "now", self.clocks)
        (self.folder / "known.dawg").write_bytes(write_dawg(["known.example."]))
        config = golden.golden_config(
            self.folder,
            qname_seen_store_entries=4096,
            well_known_domains_file=str(self.folder / "known.dawg"),
        )
        self.engine = Engine(config, Metrics(), events=False)
        self.engine.start()
        self.reader = FrameReader(self.engine.intake, config.max_frame_size)
        self.minutes = MinuteClock(self.clocks)
        self.sent = 0
        self.began = self.clocks.running_us
        self.lengths: list[tuple[int, int]] = []  # of each interval: microseconds, frames
        self.frames = 0

    def _poll(self) -> None:
        if self.minutes.due():
            self._rotate()

    def _rotate(self) -> None:
        assert self.engine.intake.drain(60)
        self.engine.rotate()
        self._ended()

    def _ended(self) -> None:
        self.lengths.append((self.clocks.running_us - self.began, self.frames))
        self.began = self.clocks.running_us
        self.frames = 0

    @rule(count=st.integers(1, 3))
    def receive(self, count: int) -> None:
        for _ in range(count):
            self.reader.prime(session_frame(self.sent) + well_known_frame())
            self.sent += 1
            self.frames += 2

    @rule(seconds=st.sampled_from([0.001, 0.4, 1.0, 7.0, 31.0, 59.999]))
    def run(self, seconds: float) -> None:
        # The main loop looks at the clock at least once a second; here only after the whole time.
        self.clocks.run(seconds)
        self._poll()

    @rule(seconds=st.sampled_from([90.0, 3600.0, 3 * 86400.0]))
    def suspend(self, seconds: float) -> None:
        self.clocks.run(seconds)
        self._poll()

    @rule(
        seconds=st.sampled_from([-1.0, 1.0, -2.5, 30.0, -30.0, 60.0, -60.0, -3600.0, 3600.0, 1e7, -1e7]),
        noticed=st.booleans(),
    )
    def set_clock(self, seconds: float, noticed: bool) -> None:
        self.clocks.jump(seconds)
        if noticed:
            self._poll()

    @rule(wall=st.sampled_from([0.0, START, 253_086_681_600.0]))
    def set_clock_to(self, wall: float) -> None:
        self.clocks.set(wall)
        self._poll()

    @rule()
    def rotate_on_request(self) -> None:
        self._rotate()

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        try:
            self.engine.stop()
            self._ended()
            self._check()
        finally:
            self.patch.undo()
            shutil.rmtree(self.folder)

    def _check(self) -> None:
        rows: list[bytes] = []
        wanted = [(length, frames) for length, frames in self.lengths if frames]
        for prefix in (SESSION_PREFIX, HISTOGRAM_PREFIX):
            found = []
            for path in self.folder.rglob(f"{prefix}*.parquet"):
                table = pq.read_table(path)
                metadata = pq.read_metadata(path).metadata
                assert metadata[b"edm.ledger.closed"] == b"true"
                frames = int(metadata[b"edm.ledger.frames_received"])
                start, stop = (
                    datetime.fromisoformat(metadata[b"edm.interval." + end].decode())
                    for end in (b"start", b"stop")
                )
                found.append((stop - start, frames))
                self._check_name(path, prefix, start, stop)
                if prefix == SESSION_PREFIX:
                    rows += table["response_message"].to_pylist()
                    assert 2 * table.num_rows == frames
                else:
                    assert table["start_time"].to_pylist()[0] == start
                    assert sum(table["a_count"].to_pylist()) * 2 == frames
            # Every interval that had frames left one file, whose times tell how long it was.
            assert sorted(frames for _, frames in found) == sorted(frames for _, frames in wanted)
            for (length, frames), (micros, expected) in zip(
                sorted(found, key=lambda f: (f[1], f[0])),
                sorted(wanted, key=lambda w: (w[1], w[0])),
                strict=True,
            ):
                assert frames == expected
                assert abs(length.total_seconds() - micros / 1e6) <= 2.0
        assert len(rows) == len(set(rows)) == self.sent

    @staticmethod
    def _check_name(path: Path, prefix: str, start: datetime, stop: datetime) -> None:
        told_start, told_stop = interval_of(HISTOGRAM_PREFIX + path.name.removeprefix(prefix))
        assert told_start == start.replace(microsecond=0)
        # Moved on, second by second, if another file had the name.
        assert 0 <= (told_stop - stop.replace(microsecond=0)).total_seconds() <= STEPS
        assert told_stop >= told_start
        assert aggregate_interval(told_start, told_stop).split("/")[1] == "PT0S" or told_stop > told_start


def test_any_setting_of_the_clock() -> None:
    run_state_machine_as_test(
        SetClock,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
