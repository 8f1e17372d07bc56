"""Throughput with and without a storm: ``PYTHONPATH=src:tests python -m support.storm_compare``.

A daemon works off the bundled dnsdist capture, sent at full speed over several connections by another process. Spells of calm,
of the full storm (ten reloads a second, each with another key or salt, other ignored clients and names and another list of
36,000 well-known domains, and a rotation every 0.7 s) and of a storm that leaves key and salt alone alternate, so that what
else goes on in the machine touches all of them. Printed are the median over the rounds of the throughput, as a share
of that in the calm spell next to it, and the daemon's CPU time for each frame.

The switches stay as they are: without session files, or with a disk that is waited for, there is other work to do,
not the same work under a storm.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import sender, streams
from edm.domains.dawg import Dawg
from edm.domains.writer import write_dawg
from support import golden
from support.daemon import SESSIONS
from support.resources import Resources
from support.storm import Storm

CALM, STORM, SAME_KEY = "calm", "storm", "storm under one key"
LEAD = 0.5
"""Seconds before a spell is measured."""


class CaptureStorm(Storm):
    """A storm with the lists of the captures."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        words = list(Dawg.open(golden.LISTS / "well-known.dawg"))
        self._lists = [write_dawg(words), write_dawg(words[: len(words) * 99 // 100])]
        self.new_keys = True
        self._key = 0
        super().__init__(folder, **settings)

    def _place(self) -> dict[str, Any]:
        settings = super()._place()
        number = self.generations[-1].number
        self._replace(self.folder / "domains", self._lists[number % 2])
        for key, name in (
            ("ignored_client_ips_file", "ignored-clients"),
            ("ignored_question_names_file", "ignored-names.dawg"),
        ):
            path = Path(settings[key])
            path.write_bytes((golden.LISTS / name).read_bytes())
        if self.new_keys:
            self._key = number
        settings["cryptopan_key"] = f"storm key {(self._key + 1) // 2}"
        settings["cryptopan_key_salt"] = f"storm salt {self._key // 2}"
        settings["pebble_sync"] = False
        return settings


@dataclass
class Spell:
    """What was measured: frames a second, CPU seconds a frame, reloads and rotations a second."""

    rate: float
    cpu: float
    reloads: float
    rotations: float


def measure(storm: CaptureStorm, kind: str, seconds: float) -> Spell:
    """Let a spell of some kind go over the daemon."""
    daemon = storm.daemon
    pid = daemon.process.pid
    storm.new_keys = kind == STORM

    def look() -> tuple[float, float, float, int, int]:
        frames = daemon.metric("edm_processed_dnstap_total")
        return frames, time.monotonic(), Resources.of(pid).cpu, len(storm.reports()), storm.rotations

    with nullcontext() if kind == CALM else storm:
        time.sleep(LEAD)
        before = look()
        time.sleep(seconds)
        after = look()
    frames, passed, cpu, reloads, rotations = (b - a for a, b in zip(before, after, strict=True))
    for path in daemon.files(SESSIONS):
        path.unlink()
    return Spell(frames / passed, cpu / frames, reloads / passed, rotations / passed)


def compare(folder: Path, rounds: int, seconds: float, workers: int, connections: int) -> dict[str, list[Spell]]:
    """Measure all kinds of spells, ``rounds`` times each, in changing order."""
    storm = CaptureStorm(folder, minimiser_workers=workers)
    stream = streams.from_capture("dnsdist").save(folder / "stream")
    spells: dict[str, list[Spell]] = {CALM: [], STORM: [], SAME_KEY: []}
    with storm.daemon:
        most = 3 * rounds * (seconds + 2 * LEAD) + 10
        job = sender.Job(str(stream), str(storm.unix), passes=1 << 30, connections=connections, seconds=most)
        process = sender.start(job)
        try:
            storm.daemon.wait_for_metric("edm_processed_dnstap_total", 3_000_000)
            for number in range(rounds):
                for kind in list(spells)[:: 1 if number % 2 else -1]:
                    spells[kind].append(measure(storm, kind, seconds))
        finally:
            process.kill()
            process.wait()
    return spells


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a spell")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edm-storm-") as folder:
        spells = compare(Path(folder), options.rounds, options.seconds, options.workers, options.connections)
    print(f"{options.workers} workers, {options.connections} connections, {options.rounds} rounds")
    for kind, measured in spells.items():
        ratio = statistics.median(
            one.rate / calm.rate for one, calm in zip(measured, spells[CALM], strict=True)
        )
        rate, cpu, reloads, rotations = (
            statistics.median(getattr(one, name) for one in measured)
            for name in ("rate", "cpu", "reloads", "rotations")
        )
        print(
            f"{kind:20} {rate:12,.0f} frames/s  {ratio:7.1%} of calm  {cpu * 1e9:6.0f} ns CPU/frame"
            f"  {reloads:5.1f} reloads/s  {rotations:4.1f} rotations/s"
        )


if __name__ == "__main__":
    main()
