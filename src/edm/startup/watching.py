"""Watching a daemon: history, health, the status board, and the metrics read from its parts at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edm.engine import Engine
from edm.input.peers import Sender
from edm.observe.ledger import FATE_NAMES
from edm.observe.status.board import Board
from edm.observe.status.findings import Watch
from edm.observe.status.health import Health
from edm.observe.status.history import History
from edm.observe.status.routes import Status
from edm.startup import sections
from edm.startup.sections import Parts, identity_text, make_sections, new_names, stage_seconds
from edm.startup.status_checks import Checks
from edm.worker import Worker

_NETSTAT = "/proc/net/netstat"

Rows = Iterator[tuple[Sequence[str], float]]


def make_history(engine: Engine) -> History:
    """Return the history of frames by fate, bytes, new names and losses; it is not started yet."""

    metrics = engine.metrics

    def read() -> list[int]:
        lost = sum(metrics.faults.counts().values())
        return [*metrics.fates(), metrics.total("input_bytes"), new_names(engine), lost]

    return History((*FATE_NAMES, "bytes", "new_names", "lost"), read)


def watch(parts: Parts) -> Status:
    """Return the object that the status routes use, and register the metrics of the parts."""
    _add_metrics(parts)
    health = Health(Watch(Checks(parts).all()))
    add = parts.engine.metrics.callback
    add("edm_live", "Whether a restart would not help, as /livez says", lambda: float(health.live))
    add(
        "edm_ready",
        "Whether frames are taken and results written, as /readyz says",
        lambda: float(health.ready),
    )
    return Status(Board(make_sections(parts), parts.engine.metrics.faults), health, parts.history)


def _add_metrics(parts: Parts) -> None:
    _show_work(parts.engine)
    _show_senders(parts)
    _show_state(parts)
    if Path(_NETSTAT).exists() and not parts.config.input_unix:
        parts.engine.metrics.callback(
            "edm_tcp_listen_drops_total",
            "Connections that the system dropped before anybody could accept them, of all programs here",
            _listen_drops,
        )


def _show_work(engine: Engine) -> None:
    def by_worker(value: Callable[[Worker], float]) -> Callable[[], Rows]:
        return lambda: (((str(slot),), value(worker)) for slot, worker in enumerate(engine.workers))

    table = engine.metrics.table
    table(
        "edm_worker_busy_seconds_total",
        "Time that a worker spent on blocks",
        ("worker",),
        by_worker(lambda worker: worker.busy_seconds),
    )
    table(
        "edm_worker_blocks_total",
        "Blocks that a worker finished",
        ("worker",),
        by_worker(lambda worker: worker.blocks),
    )
    table(
        "edm_worker_frames_total",
        "Frames in the blocks that a worker finished",
        ("worker",),
        by_worker(lambda worker: worker.frames),
    )
    table(
        "edm_stage_cpu_seconds_total",
        "Processor time by stage, estimated from one batch in 256",
        ("stage",),
        lambda: (((stage,), seconds) for stage, seconds in stage_seconds(engine).items()),
    )


def _show_senders(parts: Parts) -> None:
    def by_sender(value: Callable[[Sender], float]) -> Callable[[], Rows]:
        def rows() -> Rows:
            merged: dict[tuple[str, str], Sender] = {}
            for each in parts.source.senders()[1]:
                key = each.peer, identity_text(each.identity)  # two identities may look the same
                merged.setdefault(key, Sender(each.peer)).add(each)
            return ((key, value(total)) for key, total in merged.items())

        return rows

    table = parts.engine.metrics.table
    table(
        "edm_sender_frames_total",
        "Frames by sender",
        ("peer", "identity"),
        by_sender(lambda sender: sender.frames),
    )
    table(
        "edm_sender_bytes_total",
        "Bytes by sender",
        ("peer", "identity"),
        by_sender(lambda sender: sender.bytes),
    )
    table(
        "edm_sender_blocked_seconds_total",
        "Time for which a sender could not be read",
        ("peer", "identity"),
        by_sender(lambda sender: sender.blocked),
    )
    table(
        "edm_sender_last_frame_timestamp_seconds",
        "When the last frame of a sender came",
        ("peer", "identity"),
        by_sender(lambda sender: sender.last_frame),
    )


def _show_state(parts: Parts) -> None:
    engine = parts.engine
    table = engine.metrics.table
    table(
        "edm_queue_depth",
        "What waits in each queue",
        ("queue",),
        lambda: (((each["queue"],), each["depth"]) for each in sections.queues(parts)),
    )
    table(
        "edm_queue_bound",
        "Most that may wait in each queue that has a bound",
        ("queue",),
        lambda: (
            ((each["queue"],), each["bound"]) for each in sections.queues(parts) if each["bound"] is not None
        ),
    )
    table(
        "edm_list_entries",
        "Entries of each list in use",
        ("list",),
        lambda: (((known["list"],), known["entries"]) for known in sections.lists(engine)),
    )
    table(
        "edm_list_age_seconds",
        "Time since each list came into use",
        ("list",),
        lambda: (((known["list"],), known["age_seconds"]) for known in sections.lists(engine)),
    )
    table(
        "edm_key_info",
        "Always 1; the fingerprint of the key of the pseudonyms is the label",
        ("fingerprint",),
        lambda: iter([((engine.cell.current.pseudonyms.fingerprint,), 1.0)]),
    )
    table(
        "edm_certificate_seconds_left",
        "Time until each certificate in use expires; negative if it has",
        ("use",),
        lambda: (((each["use"],), each["seconds_left"]) for each in sections.certificates(parts)),
    )


def _listen_drops() -> float:
    text = Path(_NETSTAT).read_text(encoding="ascii")
    lines = [line.split() for line in text.splitlines() if line.startswith("TcpExt:")]
    return float(dict(zip(lines[0], lines[1], strict=True))["ListenDrops"])


__all__ = ["make_history", "watch"]
