"""The checks behind health and findings: each checks one thing and says what is wrong and what to do."""

from __future__ import annotations

import time
from typing import Any

from edm.observe.faults import FRAMES
from edm.observe.status.findings import Check, Finding
from edm.output.budget import CANNOT_BE_KEPT, REST_GIVES_WAY, SESSIONS_GIVE_WAY
from edm.startup.sections import INTERVAL_SECONDS, Parts, certificates

STUCK_SECONDS = 30.0
"""Longest time that a worker may spend on one block, or that readers may wait while no block is finished."""
LATE_SECONDS = 30.0
"""Longest time by which an interval may end late, or its files be written late."""
LOOP_SECONDS = 60.0
"""Longest time between two turns of the main loop."""
AWAY_SECONDS = 60.0
"""Time without a connection to the broker after which a finding says so."""
QUIET_SECONDS = 300.0
"""Time without a frame after which a finding says so."""
EXPIRING_SECONDS = 14 * 86400.0
"""Time before a certificate expires from which a finding says so."""

_LEAST = 100  # with fewer frames, nothing is said about their types


class Checks:
    """All checks of a daemon. One thread at a time may run them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._finished: tuple[int, float] = (-1, time.monotonic())
        self._connected = time.monotonic()
        self._frames: tuple[int, float] = (-1, time.monotonic())

    def all(self) -> tuple[Check, ...]:
        """Return the checks, in the order of their groups below."""
        return (
            self.main_loop,
            self.workers_alive,
            self.listening,
            self.worker_stuck,
            self.stalled,
            self.interval,
            self.ledger,
            self.disk,
            self.stopping,
            self.losses,
            self.broker,
            self.uploads,
            self.reload,
            self.certificate,
            self.frames,
            self.queries_only,
            self.duplicates,
            self.log_lines,
        )

    # Faults that make a daemon not live

    def main_loop(self) -> Finding | None:
        """Find a main loop that hangs."""
        still = time.monotonic() - self._parts.heartbeat()
        if still < LOOP_SECONDS:
            return None
        return Finding(
            "main-loop-stuck",
            "error",
            f"The main loop has not turned for {still:.0f} s: intervals do not end.",
            "Restart EDM and report it with the stacks of /debug/pprof/threads.",
        )

    def workers_alive(self) -> Finding | None:
        """Find a worker whose thread has ended."""
        workers = self._parts.engine.workers
        dead = sum(not worker.thread.is_alive() for worker in workers)
        if not dead or self._parts.stopping():
            return None
        return Finding(
            "worker-dead",
            "error",
            f"{dead} of {len(workers)} workers have ended.",
            "Restart EDM and report what the log says.",
        )

    # Faults that make it not ready

    def listening(self) -> Finding | None:
        """Find an input to which no sender can connect."""
        if self._parts.source.listening or self._parts.stopping():
            return None
        return Finding(
            "not-listening",
            "error",
            "No sender can connect.",
            "See the log for the reason, then restart EDM.",
        )

    def worker_stuck(self) -> Finding | None:
        """Find a worker that does not finish a block."""
        longest = max(worker.stuck_seconds for worker in self._parts.engine.workers)
        if longest < STUCK_SECONDS:
            return None
        return Finding(
            "worker-stuck",
            "error",
            f"A worker has been at the same block for {longest:.0f} s.",
            "Look whether the disk or the processor is overloaded; if not, report the stacks of "
            "/debug/pprof/threads.",
        )

    def stalled(self) -> Finding | None:
        """Find readers that wait while no block is finished."""
        engine, now = self._parts.engine, time.monotonic()
        finished = sum(worker.blocks for worker in engine.workers)
        if finished != self._finished[0] or not engine.intake.scarce:
            self._finished = finished, now
        still = now - self._finished[1]
        if still < STUCK_SECONDS:
            return None
        return Finding(
            "stalled",
            "error",
            f"Senders have been waiting for {still:.0f} s: no block of frames gets finished.",
            "The DNS server drops what it cannot send. Look at disk and processor.",
        )

    def interval(self) -> Finding | None:
        """Find an interval that does not end, or whose files are not written."""
        parts = self._parts
        late = time.time() - parts.rotated() - INTERVAL_SECONDS
        if late > LATE_SECONDS and not parts.stopping():
            return Finding(
                "interval-late",
                "error",
                f"The interval should have ended {late:.0f} s ago.",
                "Look whether the processor is overloaded or the clock was set.",
            )
        writer = parts.engine.histogram_writer.oldest_stop, parts.engine.session_writer.oldest_stop
        waits = [time.time() - stop for stop in writer if stop is not None]
        if not waits or max(waits) < LATE_SECONDS:
            return None
        return Finding(
            "interval-late",
            "error",
            f"The files of an interval that ended {max(waits):.0f} s ago are not written yet.",
            "See the log for the reason: is the disk full, slow, or read-only?",
        )

    def ledger(self) -> Finding | None:
        """Find an interval whose ledger does not balance."""
        records = self._parts.engine.metrics.intervals.records()
        if not records or records[0].closed:
            return None
        return Finding(
            "ledger-imbalance",
            "error",
            f"The ledger of the last interval does not close: {records[0].missing} of {records[0].frames} frames "
            "have no fate.",
            "This is a defect of EDM: report it with the log.",
        )

    def disk(self) -> Finding | None:
        """Find a disk budget that must remove files, or cannot be kept."""
        _, state = self._parts.budget.seen
        if state == SESSIONS_GIVE_WAY:
            return Finding(
                "disk-shedding",
                "error",
                "The disk budget is reached: the oldest session files are removed, or session rows dropped.",
                "Make room, move session files away sooner, or raise disk-budget-bytes.",
            )
        if state == REST_GIVES_WAY:
            return Finding(
                "disk-shedding",
                "error",
                "The disk is full: histograms, events or seen names are removed to make room.",
                "Make room on the file system of data-dir now.",
            )
        if state == CANNOT_BE_KEPT:
            return Finding(
                "disk-full",
                "error",
                "The disk is full, and nothing that EDM may remove would change that.",
                "Make room on the file system of data-dir now: somebody else has filled it.",
            )
        return None

    def stopping(self) -> Finding | None:
        """Find a daemon that is stopping."""
        if not self._parts.stopping():
            return None
        return Finding("stopping", "info", "EDM is stopping.", "")

    # Findings that change neither

    def losses(self) -> Finding | None:
        """Find losses since the start."""
        faults = self._parts.engine.metrics.faults
        if not faults:
            return None
        severity = "error" if FRAMES in faults.counts() else "warning"
        return Finding(
            "losses",
            severity,  # type: ignore[arg-type]
            f"Since the start: {'; '.join(faults.lines())}.",
            "The log says when and why. A restart begins to count anew.",
        )

    def _section(self, name: str) -> dict[str, Any]:
        for sink in self._parts.sinks.in_order():
            if sink.section == name:
                return sink.status()
        return {"enabled": False}

    def broker(self) -> Finding | None:
        """Find a broker without a connection."""
        events, now = self._section("events"), time.monotonic()
        if not events["enabled"] or events["connected"]:
            self._connected = now
            return None
        if now - self._connected < AWAY_SECONDS:
            return None
        error = events["last_error"]
        return Finding(
            "broker-away",
            "warning",
            f"There is no connection to the MQTT broker{': ' + error['text'] if error else ''}.",
            f"{events['disk'] + events['memory']} events wait and nothing is lost so far. Check the network, the "
            "certificate and mqtt-server.",
        )

    def uploads(self) -> Finding | None:
        """Find uploads that fail."""
        uploads = self._section("uploads")
        if not uploads["enabled"] or not uploads["files"] or uploads["last_error"] is None:
            return None
        if (uploads["last_success"] or 0.0) > uploads["last_error"]["time"]:
            return None
        return Finding(
            "uploads-failing",
            "warning",
            f"Histograms cannot be uploaded: {uploads['last_error']['text']}.",
            f"{uploads['files']} files wait and nothing is lost so far. Check the network, the keys and http-url.",
        )

    def reload(self) -> Finding | None:
        """Find a reload that failed in part."""
        failed = self._parts.reloads.outcome.failed
        if not failed:
            return None
        return Finding(
            "reload-failed",
            "warning",
            f"The last reload failed for {', '.join(failed)}: the old state stays in use.",
            "See the reasons under Reloads, mend them, and run edm reload.",
        )

    def certificate(self) -> Finding | None:
        """Find a certificate that has expired or expires soon."""
        soonest = min(certificates(self._parts), key=lambda c: c["seconds_left"], default=None)
        if soonest is None or soonest["seconds_left"] > EXPIRING_SECONDS:
            return None
        days = soonest["seconds_left"] / 86400
        if days <= 0:
            what = f"The certificate for {soonest['use']} has expired."
        else:
            what = f"The certificate for {soonest['use']} expires in {days:.1f} days."
        return Finding(
            "certificate-expiring",
            "error" if days <= 0 else "warning",
            what,
            "Renew it; EDM takes it up by itself.",
        )

    def frames(self) -> Finding | None:
        """Find an input from which no frames come."""
        parts, now = self._parts, time.monotonic()
        frames = parts.engine.metrics.total("frames_received")
        if frames != self._frames[0]:
            self._frames = frames, now
        quiet = now - self._frames[1]
        if quiet < QUIET_SECONDS:
            return None
        who = "no sender is connected" if not parts.source.connections else "the senders send nothing"
        return Finding(
            "no-frames",
            "warning",
            f"No frame has come for {quiet / 60:.0f} minutes: {who}.",
            "Check the dnstap settings of the DNS server; edm doctor looks further.",
        )

    def queries_only(self) -> Finding | None:
        """Find senders that send only queries, which EDM does not use."""
        types = self._parts.engine.metrics.senders.by_type()
        if sum(types.values()) < _LEAST or any(
            count for name, count in types.items() if name.endswith("_RESPONSE")
        ):
            return None
        return Finding(
            "queries-only",
            "warning",
            "Only queries are logged, no answers: EDM makes its data from answers.",
            "Let the DNS server log client responses, too.",
        )

    def duplicates(self) -> Finding | None:
        """Find answers that are logged twice."""
        doubled = self._parts.engine.metrics.senders.doubled()
        if not doubled:
            return None
        return Finding(
            "duplicate-logging",
            "warning",
            f"The same answers are logged as two message types by {', '.join(doubled[:3])}: they count twice.",
            "Let the server log one kind only, or set input-message-types.",
        )

    def log_lines(self) -> Finding | None:
        """Find log lines that were dropped."""
        dropped = int(self._parts.engine.metrics.value("edm_log_dropped_total") or 0)
        if not dropped:
            return None
        return Finding(
            "log-lines-lost",
            "info",
            f"{dropped} log lines were dropped, since nobody read the log.",
            "Look at what reads the standard error of EDM.",
        )


__all__ = ["Checks"]
