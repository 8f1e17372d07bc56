"""The sections of ``/api/status``, filled from the parts of a daemon in the form that the schema asks for."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edm import __version__
from edm.config import Config
from edm.engine import Engine
from edm.files.visible import visible
from edm.input.peers import Sender
from edm.input.source import Source
from edm.observe.access import Access
from edm.observe.ledger import FATE_NAMES
from edm.observe.privacy import redact
from edm.observe.status.board import Rates, Section
from edm.observe.status.history import History
from edm.output.budget import STATES, DiskBudget
from edm.output.session_writer import QUEUE_BATCHES
from edm.output.sink import Sinks

SENDERS = 50
"""Most connections that are listed; the others are only counted."""

INTERVAL_SECONDS = 60.0


class Outcome(Protocol):
    """The outcome of a reload; :class:`edm.reload.outcome.ReloadOutcome` is one."""

    @property
    def finished(self) -> float:
        """When it was done, seconds since 1970."""

    @property
    def parts(self) -> Mapping[str, tuple[str, tuple[str, ...]]]:
        """Result and reasons by part."""

    @property
    def failed(self) -> tuple[str, ...]:
        """Parts that keep their old state."""


class Reloads(Protocol):
    """The reloads of a daemon; :class:`edm.reload.reload.Reloader`, in a layer above, has them."""

    @property
    def waiting(self) -> int:
        """Number of changed parts that wait."""

    @property
    def outcome(self) -> Outcome:
        """Outcome of the last reload, or of the start."""

    @property
    def history(self) -> Sequence[Outcome]:
        """The last reloads, the newest last."""


@dataclass(frozen=True)
class Parts:
    """The parts of a running daemon that the status is read from.

    ``heartbeat`` returns when the main loop last turned (monotonic seconds), ``rotated`` when it last rotated (seconds
    since 1970), and ``stopping`` whether the daemon is stopping. ``started`` is in seconds since 1970.
    """

    config: Config
    engine: Engine
    source: Source
    sinks: Sinks
    budget: DiskBudget
    reloads: Reloads
    history: History
    heartbeat: Callable[[], float]
    rotated: Callable[[], float]
    stopping: Callable[[], bool]
    started: float
    names_at_start: int
    access: Access


def make_sections(parts: Parts) -> dict[str, Section]:
    """Return the sections by name; each sink adds its own."""
    rates = Rates()

    def program() -> dict[str, Any]:
        rates.next_look()  # this section is the first of each document
        return _program(parts)

    return {
        "program": program,
        "input": lambda: _input(parts, rates),
        "frames": lambda: _frames(parts),
        "workers": lambda: _workers(parts, rates),
        "stages": lambda: _stages(parts),
        "queues": lambda: queues(parts),
        "novelty": lambda: _novelty(parts),
        "events": lambda: {"enabled": False},
        "uploads": lambda: {"enabled": False},
        **{sink.section: sink.status for sink in parts.sinks.in_order()},
        "rotation": lambda: _rotation(parts),
        "reload": lambda: _reload(parts),
        "snapshot": lambda: _snapshot(parts),
        "certificates": lambda: certificates(parts),
        "disk": lambda: _disk(parts),
        "latency": lambda: _latency(parts),
        "process": lambda: _process(rates),
    }


def _program(parts: Parts) -> dict[str, Any]:
    return {
        "name": "edm",
        "version": __version__,
        "host": platform.node(),
        "started": parts.started,
        "uptime_seconds": time.time() - parts.started,
        "python": platform.python_version(),
        "pid": os.getpid(),
    }


def identity_text(identity: bytes) -> str:
    """Return an identity as text that is safe to show: at most 80 characters, without addresses."""
    return visible(redact(identity.decode("utf-8", "backslashreplace")))[:80]


def _sender(number: int, sender: Sender, rates: Rates) -> dict[str, Any]:
    return {
        "sender": number,
        "peer": visible(redact(sender.peer)),
        "identity": identity_text(sender.identity),
        "since": sender.since,
        "frames": sender.frames,
        "bytes": sender.bytes,
        "frames_per_second": rates.of(("sender", sender.peer, sender.since), sender.frames),
        "last_frame": sender.last_frame or None,
        "blocked_seconds": sender.blocked,
    }


def _input(parts: Parts, rates: Rates) -> dict[str, Any]:
    open_now, _ = parts.source.senders()
    open_now.sort(key=lambda sender: -sender.frames)
    metrics = parts.engine.metrics
    return {
        "address": parts.source.address,
        "listening": parts.source.listening,
        "connections": parts.source.connections,
        "message_types": metrics.senders.by_type(),
        "senders": [_sender(i, sender, rates) for i, sender in enumerate(open_now[:SENDERS])],
        "senders_beyond": max(0, len(open_now) - SENDERS),
        "dropped_by_senders": [],
    }


def _frames(parts: Parts) -> dict[str, Any]:
    metrics = parts.engine.metrics
    rates = parts.history.rates()
    fates = dict(zip(FATE_NAMES, metrics.fates(), strict=True))
    return {
        "total": metrics.total("frames_received"),
        "per_second": sum(rates[name] for name in FATE_NAMES),
        "per_second_by_fate": {name: rates[name] for name in FATE_NAMES if rates[name]},
        "bytes_total": metrics.total("input_bytes"),
        "bytes_per_second": rates["bytes"],
        "oversized": metrics.total("frames_oversized"),
        "lost": metrics.faults.counts().get("frames_lost", 0),
        "fates": fates,
    }


def _workers(parts: Parts, rates: Rates) -> list[dict[str, Any]]:
    return [
        {
            "worker": slot,
            "busy_share": min(1.0, rates.of(("busy", slot), worker.busy_seconds)),
            "blocks": worker.blocks,
            "frames": worker.frames,
            "frames_per_second": rates.of(("frames", slot), worker.frames),
        }
        for slot, worker in enumerate(parts.engine.workers)
    ]


def stage_seconds(engine: Engine) -> dict[str, float]:
    """Return the processor seconds of each stage, over all workers."""
    total: dict[str, float] = {}
    for worker in engine.workers:
        for stage, seconds in worker.pipeline.clock.seconds().items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total


def _stages(parts: Parts) -> list[dict[str, Any]]:
    seconds = stage_seconds(parts.engine)
    whole = sum(seconds.values()) or 1.0
    return [
        {"stage": stage, "cpu_seconds": spent, "share": spent / whole}
        for stage, spent in seconds.items()
        if spent or stage != "debug file"
    ]


def queues(parts: Parts) -> list[dict[str, Any]]:
    """Return depth and bound of each queue; a bound of None means that there is none."""
    engine = parts.engine
    found: list[tuple[str, float, float | None, str]] = [
        ("blocks", engine.intake.depth, engine.intake.blocks, "blocks"),
        ("session rows", engine.session_writer.batches_waiting, QUEUE_BATCHES, "batches"),
        ("intervals", engine.session_writer.pending + engine.histogram_writer.pending, None, "intervals"),
        ("new names", engine.event_queue.events, engine.event_queue.limit_events, "events"),
    ]
    for sink in parts.sinks.in_order():
        status = sink.status()
        if sink.section == "events":
            found.append(("events on disk", status["disk_bytes"], status["disk_bound_bytes"], "bytes"))
        elif sink.section == "uploads":
            found.append(("uploads", status["files"], None, "files"))
    return [
        {"queue": queue, "depth": depth, "bound": bound, "unit": unit} for queue, depth, bound, unit in found
    ]


def new_names(engine: Engine) -> int:
    """Return a number that grows by one with each new name."""
    return engine.seen.names + engine.seen.evicted


def _novelty(parts: Parts) -> dict[str, Any]:
    engine = parts.engine
    return {
        "seen_names": engine.seen.names,
        "bound": parts.config.seen_store_entries,
        "new_total": new_names(engine) - parts.names_at_start,
        "new_per_second": parts.history.rates()["new_names"],
        "discarded": engine.metrics.total("new_qname_discarded"),
        "unsaved": engine.seen.unsaved,
    }


def _rotation(parts: Parts) -> dict[str, Any]:
    last = parts.rotated()
    intervals = [
        {**vars(record), "written": record.write_seconds is not None}
        for record in parts.engine.metrics.intervals.records()
    ]
    return {"last": last, "next": (last // INTERVAL_SECONDS + 1) * INTERVAL_SECONDS, "intervals": intervals}


def _reload(parts: Parts) -> dict[str, Any]:
    return {
        "waiting": parts.reloads.waiting,
        "history": [
            {
                "time": outcome.finished,
                "ok": not outcome.failed,
                "parts": [
                    {
                        "part": part,
                        "outcome": result,
                        "text": "; ".join(visible(redact(reason))[:300] for reason in reasons),
                    }
                    for part, (result, reasons) in outcome.parts.items()
                ],
            }
            for outcome in reversed(parts.reloads.history)
        ],
    }


def lists(engine: Engine) -> list[dict[str, Any]]:
    """Return entries, digest and age (seconds) of each list in use."""
    snapshot, now = engine.cell.current, time.time()
    names = snapshot.ignored_names
    return [
        {"list": name, "entries": entries, "digest": digest, "age_seconds": now - engine.loaded_at[field]}
        for name, field, entries, digest in (
            (
                "well_known_domains",
                "well_known",
                len(snapshot.well_known),
                snapshot.well_known.digest.hex()[:16],
            ),
            (
                "ignored_question_names",
                "ignored_names",
                len(names) if names is not None else 0,
                names.digest.hex()[:16] if names is not None else None,
            ),
            ("ignored_client_ips", "clients", len(snapshot.clients), None),
        )
    ]


def _snapshot(parts: Parts) -> dict[str, Any]:
    snapshot = parts.engine.cell.current
    key = {"fingerprint": snapshot.pseudonyms.fingerprint, "since": parts.engine.loaded_at["pseudonyms"]}
    return {"generation": snapshot.generation, "key": key, "lists": lists(parts.engine)}


def certificates(parts: Parts) -> list[dict[str, Any]]:
    """Return each certificate in use and when it expires."""
    ends: list[tuple[str, float]] = []
    for sink in parts.sinks.in_order():
        ends.extend(sink.certificates())
    for use, end in (("input", parts.source.certificate_ends), ("metrics", parts.access.certificate_ends)):
        if end is not None:
            ends.append((use, end))
    now = time.time()
    return [{"use": use, "seconds_left": end - now, "not_after": end} for use, end in ends]


def _disk(parts: Parts) -> dict[str, Any]:
    usage, state = parts.budget.seen
    limits = parts.budget.limits
    return {
        "state": STATES[state],
        "free_bytes": min(usage.free.values(), default=0) if usage is not None else None,
        "used_bytes": usage.total if usage is not None else None,
        "bound_bytes": limits.total or None,
        "least_free_bytes": limits.free or None,
        "kinds": usage.sizes() if usage is not None else {},
    }


def _latency(parts: Parts) -> dict[str, Any]:
    metrics = parts.engine.metrics
    return {
        "response_to_row": metrics.quantiles(metrics.row_latency.histogram),
        "interval_to_file": metrics.quantiles(metrics.file_latency),
    }


def _process(rates: Rates) -> dict[str, Any]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    told = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    lines = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    return {
        "memory_bytes": int(lines["VmRSS"].split()[0]) * 1024,
        "cpu_seconds": cpu,
        "cpu_share": rates.of("cpu", cpu),
        "threads": int(lines["Threads"]),
        "open_files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "open_files_bound": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


__all__ = [
    "INTERVAL_SECONDS",
    "SENDERS",
    "Parts",
    "Reloads",
    "certificates",
    "identity_text",
    "lists",
    "make_sections",
    "new_names",
    "queues",
    "stage_seconds",
]
