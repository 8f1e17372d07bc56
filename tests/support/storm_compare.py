"""Throughput with and without a storm: ``PYTHONPATH=src:tests python -m support.storm_compare``.

A daemon works off the bundled dnsdist capture, which another process sends at full speed over several connections.
Spells of calm and of three kinds of storm alternate, so that what else goes on in the machine touches all of them. In
each storm there are ten reloads a second and a rotation every two seconds. A reload changes all lists (ignored clients,
ignored names, 36,000 well-known domains), or one thing in turn (key, salt, and each list), or all of these.
Printed are the median over the rounds of the throughput, as a share of that in the calm spell next to it,
and the daemon's CPU time for each frame.

The switches stay as they are: without session files, or with a disk that is waited for, there is other work to do,
not the same work under a storm.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
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

CALM, LISTS, IN_TURN, ALL = "calm", "all lists", "one thing in turn", "everything"
LEAD = 0.5
"""Seconds before a spell is measured."""

LIST_PARTS = ("clients", "names", "domains")
PARTS = ("key", "salt", *LIST_PARTS)


class CaptureStorm(Storm):
    """A storm with the lists of the captures, and with a thing or two more in them.

    Attributes
    ----------
    kind : str
        What a reload changes.
    """

    rotate_every = 2.0

    def __init__(self, folder: Path, **settings: Any) -> None:
        known = list(Dawg.open(golden.LISTS / "well-known.dawg"))
        self._known = [write_dawg(known), write_dawg(known[: len(known) * 99 // 100])]
        ignored = list(Dawg.open(golden.LISTS / "ignored-names.dawg"))
        self._ignored = [write_dawg(ignored), write_dawg([*ignored, "never.asked.test."])]
        self._clients = (golden.LISTS / "ignored-clients").read_text()
        self._changes = Counter[str]()
        self.kind = ALL
        super().__init__(folder, **settings)

    def _place(self) -> dict[str, Any]:
        settings = super()._place()
        number = self.generations[-1].number
        changed = {LISTS: LIST_PARTS, IN_TURN: [PARTS[number % len(PARTS)]]}
        self._changes.update(changed.get(self.kind, PARTS))
        changes = self._changes
        Path(settings["ignored_client_ips_file"]).write_text(
            f"{self._clients}192.0.2.{changes['clients'] % 256}/32\n"
        )
        Path(settings["ignored_question_names_file"]).write_bytes(self._ignored[changes["names"] % 2])
        self._replace(self.folder / "domains", self._known[changes["domains"] % 2])
        return {
            **settings,
            "cryptopan_key": f"storm key {changes['key']}",
            "cryptopan_key_salt": f"storm salt {changes['salt']}",
            "pebble_sync": False,
        }


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
    storm.kind = kind

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


def compare(
    folder: Path, rounds: int, seconds: float, workers: int, connections: int
) -> dict[str, list[Spell]]:
    """Measure all kinds of spells, ``rounds`` times each, in changing order."""
    storm = CaptureStorm(folder, minimiser_workers=workers)
    stream = streams.from_capture("dnsdist").save(folder / "stream")
    spells: dict[str, list[Spell]] = {kind: [] for kind in (CALM, LISTS, IN_TURN, ALL)}
    with storm.daemon:
        most = 4 * rounds * (seconds + 2 * LEAD) + 10
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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.5, help="of a spell")
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
