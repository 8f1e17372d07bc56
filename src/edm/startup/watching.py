"""What watches a daemon: history, health, the status board, and the metrics that ask the parts at a scrape."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

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

_NETSTAT = "/proc/net/netstat"

Rows = Iterator[tuple[Sequence[str], float]]


def make_history(engine: Engine) -> History:
    """Return the history of frames by fate, bytes, new names and losses; not started."""

    metrics = engine.metrics

    def read() -> list[int]:
        lost = sum(metrics.faults.counts().values())
        return [*metrics.fates(), metrics.total("input_bytes"), new_names(engine), lost]

    return History((*FATE_NAMES, "bytes", "new_names", "lost"), read)


def watch(parts: Parts) -> Status:
    """Return what the status routes ask, and add the metrics of the parts."""
    _add_metrics(parts)
    health = Health(Watch(Checks(parts).all()))
    return Status(Board(make_sections(parts), parts.engine.metrics.faults), health, parts.history)


def _add_metrics(parts: Parts) -> None:
    engine = parts.engine
    table = engine.metrics.table
    worker, sender = ("worker",), ("peer", "identity")
    table(
        "edm_worker_busy_seconds_total",
        "Time that a worker spent on blocks",
        worker,
        lambda: (((str(i),), w.busy_seconds) for i, w in enumerate(engine.workers)),
    )
    table(
        "edm_worker_blocks_total",
        "Blocks that a worker finished",
        worker,
        lambda: (((str(i),), w.blocks) for i, w in enumerate(engine.workers)),
    )
    table(
        "edm_worker_frames_total",
        "Frames in the blocks that a worker finished",
        worker,
        lambda: (((str(i),), w.frames) for i, w in enumerate(engine.workers)),
    )
    table(
        "edm_stage_cpu_seconds_total",
        "Processor time by stage, estimated from one batch in 256",
        ("stage",),
        lambda: (((stage,), seconds) for stage, seconds in stage_seconds(engine).items()),
    )

    def senders(value: str) -> Rows:
        _, all_senders = parts.source.senders()
        merged: dict[tuple[str, str], Sender] = {}
        for each in all_senders:
            key = each.peer, identity_text(each.identity)
            merged.setdefault(key, Sender(each.peer)).add(each)
        for key, total in merged.items():
            yield key, getattr(total, value)

    for name, value, text in (
        ("edm_sender_frames_total", "frames", "Frames by sender"),
        ("edm_sender_bytes_total", "bytes", "Bytes by sender"),
        ("edm_sender_blocked_seconds_total", "blocked", "Time for which a sender could not be read"),
        ("edm_sender_last_frame_timestamp_seconds", "last_frame", "When a sender's last frame came"),
    ):
        table(name, text, sender, lambda value=value: senders(value))  # type: ignore[misc]
    table(
        "edm_queue_depth",
        "What waits in each queue",
        ("queue",),
        lambda: (((q["queue"],), q["depth"]) for q in sections.queues(parts)),
    )
    table(
        "edm_queue_bound",
        "Most that may wait in each queue that has a bound",
        ("queue",),
        lambda: (((q["queue"],), q["bound"]) for q in sections.queues(parts) if q["bound"] is not None),
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
        lambda: (((c["use"],), c["seconds_left"]) for c in sections.certificates(parts)),
    )
    if os.path.exists(_NETSTAT) and not parts.config.input_unix:  # noqa: PTH110
        engine.metrics.callback(
            "edm_tcp_listen_drops_total",
            "Connections that the system dropped before anybody could accept them, of all programs here",
            _listen_drops,
        )


def _listen_drops() -> float:
    with open(_NETSTAT, encoding="ascii") as file:  # noqa: PTH123
        lines = [line.split() for line in file if line.startswith("TcpExt:")]
    return float(dict(zip(lines[0], lines[1], strict=True))["ListenDrops"])


__all__ = ["make_history", "watch"]
