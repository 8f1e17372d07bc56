"""Throughput with and without a storm: ``PYTHONPATH=src:tests python -m support.storm_compare``.

A daemon works off the bundled dnsdist capture, which another process sends at full speed over several connections.
Spells of calm and of three kinds of storm alternate, so that what else goes on in the machine touches all of them: each
storm is compared with the calm before and after it. In each storm ten reloads a second are asked for, and at its
beginning a rotation. A reload changes all lists (ignored clients, ignored names, 36,000 well-known domains), or one
thing in turn (key, salt, and each list), or all of these. Printed are the medians over the rounds of the throughput, as
a share of that in the calm around it, and of the daemon's CPU time for each frame, likewise.

The files are changed in the calm too, ten times a second, but nobody tells the daemon: what a storm costs is what the
daemon makes of it. Parts that change again and again are taken up at their own pace, as by default (``--at-once``: at
each reload).

The switches stay as they are: without session files, or with a disk that is waited for, there is other work to do,
not the same work under a storm.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import sender, streams
from edm.stages.domains.dawg.dawg import Dawg
from edm.stages.domains.dawg.writer import write_dawg
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

    rotate_every = 10.0  # so one at the beginning of each spell

    def __init__(self, folder: Path, **settings: Any) -> None:
        known = list(Dawg.open(golden.LISTS / "well-known.dawg"))
        self._known = [write_dawg(known), write_dawg(known[: len(known) * 99 // 100])]
        ignored = list(Dawg.open(golden.LISTS / "ignored-names.dawg"))
        self._ignored = [write_dawg(ignored), write_dawg([*ignored, "never.asked.test."])]
        self._clients = (golden.LISTS / "ignored-clients").read_text()
        self._changes = Counter[str]()
        self.kind = ALL
        super().__init__(folder, **settings)

    def reload(self) -> None:
        """Reload, unless it is calm."""
        if self.kind == CALM:
            self.place()
        else:
            super().reload()

    def _rotate(self) -> None:
        if self.kind != CALM:
            super()._rotate()

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

    def mean(self, other: Spell) -> Spell:
        """Return what lies between two spells."""
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Spell(*((a + b) / 2 for a, b in zip(mine, theirs, strict=True)))


def measure(storm: CaptureStorm, kind: str, seconds: float) -> Spell:
    """Let a spell of some kind go over the daemon."""
    daemon = storm.daemon
    pid = daemon.process.pid
    storm.kind = kind

    def look() -> tuple[float, float, float, int, int]:
        frames = daemon.metric("edm_processed_dnstap_total")
        return frames, time.monotonic(), Resources.of(pid).cpu, len(storm.reports()), storm.rotations

    with storm:
        time.sleep(LEAD)
        before = look()
        time.sleep(seconds)
        after = look()
    frames, passed, cpu, reloads, rotations = (b - a for a, b in zip(before, after, strict=True))
    for path in daemon.files(SESSIONS):
        path.unlink()
    return Spell(frames / passed, cpu / frames, reloads / passed, rotations / passed)


def compare(
    folder: Path, rounds: int, seconds: tuple[float, float], workers: int, connections: int, at_once: bool
) -> dict[str, list[tuple[Spell, Spell]]]:
    """Measure each kind of storm ``rounds`` times, and with each what the calm before and after it are on average."""
    storm = CaptureStorm(folder, minimiser_workers=workers, reload_at_once=at_once)
    calm_seconds, storm_seconds = seconds
    stream = streams.from_capture("dnsdist").save(folder / "stream")
    pairs: dict[str, list[tuple[Spell, Spell]]] = {kind: [] for kind in (LISTS, IN_TURN, ALL)}
    with storm.daemon:
        most = 3 * (rounds + 1) * (storm_seconds + calm_seconds + 4 * LEAD) + 30
        job = sender.Job(str(stream), str(storm.unix), passes=1 << 30, connections=connections, seconds=most)
        process = sender.start(job)
        try:
            storm.daemon.wait_for_metric("edm_processed_dnstap_total", 3_000_000)
            for _ in range(rounds):
                calm = measure(storm, CALM, calm_seconds)
                for kind, measured in pairs.items():
                    spell = measure(storm, kind, storm_seconds)
                    after = measure(storm, CALM, calm_seconds)
                    measured.append((spell, calm.mean(after)))
                    calm = after
        finally:
            process.kill()
            process.wait()
    return pairs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a storm")
    parser.add_argument("--calm", type=float, default=5.0, help="seconds of a calm")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=3)
    parser.add_argument("--at-once", action="store_true", help="take up everything at each reload")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edm-storm-") as folder:
        measured = compare(
            Path(folder),
            options.rounds,
            (options.calm, options.seconds),
            options.workers,
            options.connections,
            options.at_once,
        )
    print(f"{options.workers} workers, {options.connections} connections, {options.rounds} rounds")
    for kind, pairs in measured.items():
        rate = statistics.median(storm.rate / calm.rate for storm, calm in pairs)
        cpu = statistics.median(storm.cpu / calm.cpu for storm, calm in pairs)
        rates = [statistics.median(spell.rate for spell in spells) for spells in zip(*pairs, strict=True)]
        reloads = statistics.median(storm.reloads for storm, _ in pairs)
        rotations = sum(storm.rotations for storm, _ in pairs) / len(pairs)
        print(
            f"{kind:20} {rates[0]:12,.0f} frames/s, in the calm {rates[1]:12,.0f}: {rate:6.1%}; "
            f"CPU/frame {cpu:6.1%}; {reloads:5.1f} reloads/s, {rotations:4.2f} rotations/s"
        )


if __name__ == "__main__":
    main()
