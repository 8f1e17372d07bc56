"""Light traffic, a rotation in the middle of a flood, and memory in ten minutes of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks import sender
from benchmarks.end_to_end import MIB, NO_SESSIONS, Ground, rotate
from benchmarks.processes import Daemon, cpu_of, peak_rss_of, rss_of, wait_for
from benchmarks.results import Result, median
from benchmarks.sender import Job
from benchmarks.streams import Parameters, generate

FEW_SEEN = {"qname_seen_store_entries": 1_000_000}
ENDURED: Sequence[tuple[str, str, Mapping[str, object]]] = (
    ("capture dnsdist, sessions", "capture responses", {}),
    ("capture dnsdist, no sessions", "capture responses", NO_SESSIONS),
    ("1 % never-seen names, sessions", "responses", {}),
    ("1 % never-seen names, no sessions", "responses", NO_SESSIONS),
    ("and at most 1,000,000 of them kept", "responses", {**NO_SESSIONS, **FEW_SEEN}),
)


def light_traffic(ground: Ground) -> list[Result]:
    """Twenty senders of 500 frames a second each, one frame a write."""
    connections, each = 20, 500.0
    seconds = ground.scale.light_seconds
    with Daemon(ground.settings("light")) as daemon:
        stream = str(ground.stream("light"))
        sender.run(Job(stream, unix=daemon.socket))
        rotate(daemon)
        idle_from = cpu_of(daemon.child.pid)
        time.sleep(2.0)
        before = cpu_of(daemon.child.pid)
        idle = (before - idle_from) / 2.0
        job = Job(stream, unix=daemon.socket, connections=connections, rate=each, seconds=seconds)
        sent = sender.run(job)
        used = cpu_of(daemon.child.pid) - before
        daemon.stop()
    share = used / sent.seconds
    return [
        Result(
            f"light: {connections} senders of {each:.0f} frames/s",
            cpu=used / sent.frames,
            rate=sent.frames / sent.seconds,
            note=f"{share:.1%} of one core (at most 10 %), {idle:.1%} when idle",
            extra={"core_share": share, "idle_share": idle},
        )
    ]


def rotation(ground: Ground, names: int, frames: int) -> list[Result]:
    """Rotate in the middle of a flood, after ``frames`` responses about ``names`` well-known names and others."""
    name = f"rotation {names}"
    passes = max(1, frames // ground.scale.frames)
    parameters = Parameters(frames=ground.scale.frames, names=names, skew=0.0, novelty_share=0.0)
    ground.add(name, generate(parameters))
    settings = {"well_known_domains_file": ground.list_file(names)}
    with Daemon(settings) as daemon:
        stream = str(ground.stream(name))
        sender.run(Job(stream, unix=daemon.socket))
        rotate(daemon)
        process = sender.start(Job(stream, unix=daemon.socket, passes=passes + 2))
        received = daemon.metric("edm_processed_dnstap_total")
        wait_for(
            lambda: daemon.metric("edm_processed_dnstap_total") - received >= passes * ground.scale.frames,
            "the flood",
            600.0,
            pause=0.1,
        )
        before = daemon.metric("edm_reader_longest_blocked_seconds")
        began = time.monotonic()
        daemon.http("POST", "/debug/rotate-parquet")
        request = time.monotonic() - began
        sent = sender.finish(process)
        after = daemon.metric("edm_reader_longest_blocked_seconds")
        peak = peak_rss_of(daemon.child.pid) / MIB
        rotate(daemon)
        daemon.stop()
    note = (
        f"longest wait of the reader {after * 1000:.0f} ms ({before * 1000:.0f} ms before it); answered in "
        f"{request * 1000:.0f} ms; peak {peak:.0f} MiB"
    )
    return [
        Result(
            f"rotation in a flood: {names:,} names, {passes * ground.scale.frames:,} responses",
            rate=sent.frames / sent.seconds,
            note=note,
            extra={"longest_blocked": after, "longest_blocked_before": before, "peak_rss": peak},
        )
    ]


def _thin_out(daemon: Daemon) -> None:
    """Remove finished session files: in ten minutes they would come to tens of gigabytes."""
    for path in (daemon.folder / "data" / "parquet" / "sessions").glob("*.parquet"):
        path.unlink(missing_ok=True)


def endurance(ground: Ground, seconds: float) -> list[Result]:
    """Flood the daemon for a long time and watch its memory."""
    results = []
    for name, stream, more in ENDURED:
        with Daemon({**ground.settings(stream), **more}) as daemon:
            job = Job(str(ground.stream(stream)), unix=daemon.socket, passes=1 << 20, seconds=seconds)
            process = sender.start(job)
            memory = []
            while process.poll() is None:
                memory.append(rss_of(daemon.child.pid) / MIB)
                _thin_out(daemon)
                time.sleep(0.25)
            sent = sender.finish(process)
            rotate(daemon)
            peak = peak_rss_of(daemon.child.pid) / MIB
            names = daemon.metric("edm_seen_names")
            blocked = daemon.metric("edm_reader_longest_blocked_seconds")
            used = cpu_of(daemon.child.pid) - daemon.startup_cpu
            daemon.stop()
        # The first quarter fills caches and pools.
        quarters = [median(list(part)) for part in np.array_split(memory, 4)]
        medians = "/".join(f"{quarter:.0f}" for quarter in quarters)
        results.append(
            Result(
                f"endurance: {seconds:.0f} s, {name}",
                cpu=used / sent.frames,
                rate=sent.frames / sent.seconds,
                note=f"{sent.frames:,} frames, {names:,.0f} seen names; peak {peak:.0f} MiB, median of each quarter "
                f"{medians}; longest wait of the reader {blocked * 1000:.0f} ms",
                extra={"peak_rss": peak, "seen_names": names, "longest_blocked": blocked}
                | {f"quarter_{number}": quarter for number, quarter in enumerate(quarters, 1)},
            )
        )
    return results
