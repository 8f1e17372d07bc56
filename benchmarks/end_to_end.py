"""The daemon as a whole process behind its socket, and ``fstrm_capture`` behind the same sender."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import sender
from benchmarks.broker import broker, broker_program
from benchmarks.processes import (
    CAPTURE_TOOL,
    PROGRAM,
    Daemon,
    Scraper,
    capture_tool,
    capturing,
    cpu_of,
    peak_rss_of,
    rss_of,
    threads_of,
    wait_for,
)
from benchmarks.results import Result, median
from benchmarks.sender import Job
from benchmarks.streams import Parameters, Stream, from_capture, generate, well_known_words
from edm.stages.domains.dawg.writer import write_dawg

MIB = 1 << 20


@dataclass(frozen=True)
class Scale:
    """How much work a run is: frames of a stream, how often it is sent, and rounds to take medians of."""

    frames: int
    passes: int
    rounds: int
    light_seconds: float


@dataclass(frozen=True)
class Run:
    """What one run of a receiver gave: CPU seconds and frames a second; see :func:`run_daemon` for the others."""

    frames: int
    cpu: float
    rate: float
    sender_cpu: float
    seconds: float
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def cpu_per_frame(self) -> float:
        """CPU seconds per frame."""
        return self.cpu / self.frames


@dataclass(frozen=True)
class Case:
    """A way to run the daemon.

    Attributes
    ----------
    name : str
    stream : str
        Name of a prepared stream.
    floor, goal : float
        Multiples of what ``fstrm_capture`` spends that are to be reached.
    scraped : float
        How often a second a client asks for the metrics.
    published : bool
        Whether new names are signed and go to a broker.
    """

    name: str
    stream: str
    settings: Mapping[str, object] = field(default_factory=dict)
    connections: int = 1
    floor: float = 0.0
    goal: float = 0.0
    scraped: float = 0.0
    published: bool = False
    program: Sequence[str] = PROGRAM


_TWO = ", 2 workers"
_BESIDE = "; beside: "

NO_SESSIONS = {"disable_session_files": True}
TWO_WORKERS = {"minimiser_workers": 2}

CASES = (
    Case("mixed", "mixed", floor=3.0, goal=1.7),
    Case("responses, sessions", "responses", floor=6.0, goal=3.5),
    Case("responses, no sessions", "responses", NO_SESSIONS, floor=4.0, goal=2.5),
    Case("responses, sessions, 2 workers", "responses", TWO_WORKERS, 2),
    Case("responses, no sessions, 2 workers", "responses", {**NO_SESSIONS, **TWO_WORKERS}, 2),
    Case("few new names, sessions", "few new"),
    Case(f"few new names, sessions{_BESIDE}metrics 20 times/s", "few new", scraped=20.0),
    Case(f"few new names, sessions{_BESIDE}events published", "few new", published=True),
    Case(f"few new names, sessions{_BESIDE}both", "few new", scraped=20.0, published=True),
    Case(f"few new names, sessions{_BESIDE}metrics without pause", "few new", scraped=1e6),
    Case("capture dnsdist, mixed", "capture mixed", floor=3.0, goal=1.7),
    Case("capture dnsdist, responses, sessions", "capture responses", floor=6.0, goal=3.5),
    Case("never-seen names only, no sessions", "novel", NO_SESSIONS),
)
QUICK = ("mixed", "responses, sessions", "responses, no sessions")


class Ground:
    """The streams and lists that the cases of one run share, made when first needed, in one folder."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.folder = folder
        self.scale = scale
        self._lists: dict[int, str] = {}
        self._streams: dict[str, Path] = {}

    def list_file(self, names: int = Parameters.names) -> str:
        """Return the path of a list of well-known domains."""
        if names not in self._lists:
            path = self.folder / f"well-known-{names}.dawg"
            path.write_bytes(write_dawg(well_known_words(names)))
            self._lists[names] = str(path)
        return self._lists[names]

    def stream(self, name: str) -> Path:
        """Return the folder of a saved stream."""
        if name not in self._streams:
            self._streams[name] = self._make(name).save(self.folder / name)
        return self._streams[name]

    def add(self, name: str, stream: Stream) -> None:
        """Save a stream under a name of its own."""
        self._streams[name] = stream.save(self.folder / name)

    def settings(self, stream: str) -> dict[str, object]:
        """Return the settings of a daemon that fit a stream."""
        if stream.startswith("capture"):
            return {}
        return {"well_known_domains_file": self.list_file()}

    def passes(self, stream: str) -> int:
        """Return how often to send a stream, so that all runs are about equally long."""
        frames = int(np.load(self.stream(stream) / "counts.npy")[0])
        return max(1, self.scale.frames * self.scale.passes // frames)

    def _make(self, name: str) -> Stream:
        frames = self.scale.frames
        if name.startswith("capture"):
            return from_capture("dnsdist", queries=name == "capture mixed")
        if name == "novel":
            return generate(Parameters(frames=frames, known_share=0.0, novelty_share=1.0))
        if name == "few new":
            return generate(Parameters(frames=frames, novelty_share=0.001))
        if name == "light":
            return generate(Parameters(frames=20_000, queries=True))
        return generate(Parameters(frames=frames, queries=name == "mixed"))


def warm_up() -> None:
    """Start a daemon once: if the kernels must be compiled, that grows the process that does it."""
    with Daemon({}) as daemon:
        daemon.stop()


def run_capture(stream: Path, passes: int) -> Run:
    """Send a stream to ``fstrm_capture``."""
    with capturing() as (child, path):
        sender.run(Job(str(stream), unix=path))
        before = cpu_of(child.pid)
        sent = sender.run(Job(str(stream), unix=path, passes=passes))
        used = child.stop().cpu - before
    return Run(sent.frames, used, sent.frames / sent.seconds, sent.cpu, sent.seconds)


def run_daemon(
    stream: Path,
    passes: int,
    settings: Mapping[str, object],
    connections: int = 1,
    scraped: float = 0.0,
    program: Sequence[str] = PROGRAM,
) -> Run:
    """Send a stream to a daemon of its own.

    The stream is sent once to warm caches and load kernels; then the clock starts. It stops when all files of the
    frames sent are written. ``extra`` holds memory in MiB (``rss`` at the end of the stream, ``peak_rss``,
    ``start_rss``), CPU seconds of the workers (the busiest threads), of start and of exit, and seconds that readers
    waited (``longest_blocked`` at once).
    """
    with Daemon(settings, program) as daemon:
        pid = daemon.child.pid
        start_rss = rss_of(pid)
        warm = sender.run(Job(str(stream), unix=daemon.socket, connections=connections))
        rotate(daemon)
        published = wait_until_published(daemon) if not settings.get("disable_mqtt", True) else 0.0
        before, threads = cpu_of(pid), threads_of(pid)
        blocked = daemon.metric("edm_reader_blocked_seconds_total")
        scraper = Scraper(daemon.port, scraped)
        beside: AbstractContextManager[object] = scraper if scraped else nullcontext()
        with beside:
            job = Job(str(stream), unix=daemon.socket, connections=connections, passes=passes, first_pass=1)
            sent = sender.run(job)
        rss = rss_of(pid)
        rotate(daemon)
        events = wait_until_published(daemon) if published else 0.0
        used = cpu_of(pid) - before
        each = sorted(cpu - threads.get(number, 0.0) for number, cpu in threads_of(pid).items())
        handled = daemon.metric("edm_processed_dnstap_total")
        if handled != warm.frames + sent.frames:
            raise RuntimeError(f"{handled:.0f} frames came to an end, {warm.frames + sent.frames} were sent")
        extra = {
            "blocked": daemon.metric("edm_reader_blocked_seconds_total") - blocked,
            "longest_blocked": daemon.metric("edm_reader_longest_blocked_seconds"),
            "worker_cpu": sum(each[-int(str(settings.get("minimiser_workers", 1))) :]),
            "rss": rss / MIB,
            "start_rss": start_rss / MIB,
            "peak_rss": peak_rss_of(pid) / MIB,
            "start_cpu": daemon.startup_cpu,
            "start_seconds": daemon.startup_seconds,
        }
        alive = cpu_of(pid)
        if scraped:
            extra["scrape_rate"] = scraper.scrapes / sent.seconds
        if not settings.get("disable_mqtt", True):
            extra["published_rate"] = (events - published) / sent.seconds
        extra["exit_cpu"] = daemon.stop().cpu - alive
    return Run(sent.frames, used, sent.frames / sent.seconds, sent.cpu, sent.seconds, extra)


def rotate(daemon: Daemon) -> None:
    """Rotate and wait until the files of the interval are written."""
    daemon.http("POST", "/debug/rotate-parquet")

    def settled() -> bool:
        samples = dict(line.rsplit(" ", 1) for line in daemon.http("GET", "/metrics").splitlines())
        rows = float(samples['edm_frames_total{fate="session"}'])
        return (
            float(samples["edm_session_rows_written_total"]) == rows
            and float(samples["edm_pending_intervals"]) == 0
        )

    wait_for(settled, "the files of an interval", pause=0.05)


def wait_until_published(daemon: Daemon) -> float:
    """Wait until the broker has all events that were queued; return how many that are."""
    wait_for(
        lambda: daemon.metric("edm_mqtt_sent_total") >= daemon.metric("edm_new_qname_queued_total"),
        "the events at the broker",
        pause=0.1,
    )
    return daemon.metric("edm_mqtt_sent_total")


def run_case(ground: Ground, case: Case) -> Run:
    """Run one case once."""
    stream = ground.stream(case.stream)
    passes = max(1, ground.passes(case.stream) // case.connections)
    settings = {**ground.settings(case.stream), **case.settings}
    beside: AbstractContextManager[Mapping[str, object]] = broker() if case.published else nullcontext({})
    with beside as more:
        return run_daemon(stream, passes, {**settings, **more}, case.connections, case.scraped, case.program)


def measure(
    ground: Ground, cases: Sequence[Case], group: str, *, list_captures: bool = False
) -> list[Result]:
    """Run the cases round by round, and ``fstrm_capture`` with each stream in every round.

    ``list_captures``: whether ``fstrm_capture`` gets lines of its own.
    """
    cases = [case for case in cases if broker_program() is not None or not case.published]
    streams = sorted({case.stream for case in cases})
    captures: dict[str, list[Run]] = {stream: [] for stream in streams}
    runs: dict[str, list[Run]] = {case.name: [] for case in cases}
    for _ in range(ground.scale.rounds):
        if capture_tool() is not None:
            for stream in streams:
                captures[stream].append(run_capture(ground.stream(stream), ground.passes(stream)))
        for case in cases:
            runs[case.name].append(run_case(ground, case))
    results = [
        _result(f"{group}: {CAPTURE_TOOL}, {stream}", runs_of, [], "")
        for stream, runs_of in captures.items()
        if runs_of and list_captures
    ]
    for case in cases:
        results.append(
            _result(
                f"{group}: {case.name}",
                runs[case.name],
                captures[case.stream],
                _verdict(case, runs, captures),
            )
        )
    return results


def _result(name: str, runs: Sequence[Run], captures: Sequence[Run], note: str) -> Result:
    pairs = list(zip(runs, captures, strict=False))
    extra = {key: median([run.extra[key] for run in runs]) for key in runs[0].extra}
    extra["sender_cpu"] = median([run.sender_cpu / run.frames for run in runs])
    if "rss" in extra:
        note = "; ".join(filter(None, (note, f"{extra['rss']:.0f} MiB")))
    return Result(
        name,
        cpu=median([run.cpu_per_frame for run in runs]),
        rate=median([run.rate for run in runs]),
        of_capture_cpu=median([run.cpu_per_frame / other.cpu_per_frame for run, other in pairs] or [0.0]),
        of_capture_rate=median([run.rate / other.rate for run, other in pairs] or [0.0]),
        note=note,
        extra=extra,
    )


def _verdict(case: Case, runs: Mapping[str, Sequence[Run]], captures: Mapping[str, Sequence[Run]]) -> str:
    mine = runs[case.name]
    plain, beside, _ = case.name.partition(_BESIDE)
    if beside and (without := runs.get(plain)):
        share = median([a.rate / b.rate for a, b in zip(mine, without, strict=True)])
        events = median([run.extra.get("published_rate", 0.0) for run in mine])
        scrapes = median([run.extra.get("scrape_rate", 0.0) for run in mine])
        more = (f"{events:,.0f} events/s" if events else "", f"{scrapes:.0f} scrapes/s" if scrapes else "")
        return "; ".join(filter(None, (f"{share:.0%} of the rate without", *more)))
    if case.name.endswith(_TWO) and (one := runs.get(case.name.removesuffix(_TWO))):
        return _speedup(one, mine)
    if case.floor and (others := captures[case.stream]):
        ratio = median([a.cpu_per_frame / b.cpu_per_frame for a, b in zip(mine, others, strict=True)])
        reached = "goal" if ratio <= case.goal else "floor" if ratio <= case.floor else "neither"
        return f"{reached} reached (floor {case.floor:g}, goal {case.goal:g})"
    return ""


def _speedup(one: Sequence[Run], two: Sequence[Run]) -> str:
    plain = median([b.rate / a.rate for a, b in zip(one, two, strict=True)])
    cores = len(os.sched_getaffinity(0))
    # Where sender and daemon together fill all cores, the sender takes its part from the workers.
    left = [
        (a.seconds / a.frames) / ((b.seconds - b.sender_cpu / cores) / b.frames)
        for a, b in zip(one, two, strict=True)
    ]
    # And with a core for each of them, they would do as much as they need CPU time for.
    alone = [
        2 * (a.extra["worker_cpu"] / a.frames) / (b.extra["worker_cpu"] / b.frames)
        for a, b in zip(one, two, strict=True)
    ]
    busy = median([(b.cpu + b.sender_cpu) / (b.seconds * cores) for b in two])
    return (
        f"{plain:.2f} times one worker; {median(left):.2f} without the sender; {median(alone):.2f} if each had a core; "
        f"{busy:.0%} of all cores busy"
    )
