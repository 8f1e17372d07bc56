"""The daemon: start-up in named steps, the main loop, and a shutdown that drains."""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType

import structlog

from edm.config import Config
from edm.engine import Engine
from edm.errors import EdmError
from edm.input.connection import End, Limits
from edm.input.descriptors import room_for_connections
from edm.input.listener import Listener, open_tcp, open_unix
from edm.input.tls import InputCertificate
from edm.observe.http import (
    HttpServer,
    RotationTimeoutError,
    ShuttingDownError,
    debug_server,
    metrics_server,
)
from edm.observe.logs import RateLimited
from edm.observe.metrics import Metrics
from edm.output.budget import DiskBudget
from edm.output.budget import Limits as DiskLimits
from edm.reload.reload import Reloader
from edm.rotation.clock import MinuteClock
from edm.service import ServiceManager
from edm.tapir.events.outgoing import EventsOut
from edm.tapir.upload.upload import Uploader

SWITCH_INTERVAL = 1e-4
"""Seconds after which a thread that holds the interpreter must give way: readers must not starve."""

_FEW_CONNECTIONS = 32
_LONGEST_SWITCH_INTERVAL = 5e-3


class Daemon:
    """Receives dnstap and minimises it until it is told to stop.

    Parameters
    ----------
    config : Config
    read_config : callable
        Reads the configuration anew for a reload.
    reload_wanted : threading.Event, optional
        Set if a reload was asked for while there was no daemon yet to take the signal.
    """

    def __init__(
        self,
        config: Config,
        read_config: Callable[[], Config],
        reload_wanted: threading.Event | None = None,
    ) -> None:
        self.config = config
        self.log = structlog.get_logger()
        self.metrics = Metrics()
        self._limited = RateLimited(self.log, on_suppressed=self.metrics.count_suppressed)
        # Whoever opens and closes connections in a loop shall not fill the log with it.
        self._connection_log = RateLimited(
            self.log, burst=100, interval=1.0, on_suppressed=self.metrics.count_suppressed
        )
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._reload_wanted = reload_wanted or threading.Event()
        self._failed: str | None = None
        self._read_config = read_config
        self._servers: list[HttpServer] = []
        self._input_certificate: InputCertificate | None = None
        self._manager = ServiceManager(os.environ)
        self.ready = threading.Event()

    # Events of the listener

    def opened(self) -> None:
        """Log a sender that connected."""
        self._set_switch_interval()
        self._connection_log.info("dnstap connection opened", connections=self.listener.connections)

    def closed(self, end: End) -> None:
        """Count and log a connection's end."""
        self._set_switch_interval()
        self.metrics.connection_ended(end.result)
        if end.result == "closed":
            self._connection_log.info("dnstap connection closed", connections=self.listener.connections)
        elif end.result == "idle":
            self._connection_log.info("idle dnstap connection closed", reason=end.reason)
        else:
            self._limited.error("dnstap connection closed with an error", reason=end.reason)

    def _set_switch_interval(self) -> None:
        # Every thread that waits for the interpreter wakes up once per interval to ask for it. A thousand senders that
        # speak at the same moment would take up both the time and the processors with that.
        crowd = self.listener.connections / _FEW_CONNECTIONS
        sys.setswitchinterval(min(_LONGEST_SWITCH_INTERVAL, SWITCH_INTERVAL * max(1.0, crowd)))

    def refused(self, reason: str) -> None:
        """Count and log a connection that was not taken."""
        self.metrics.connection_ended("refused")
        self._limited.warning("dnstap connection refused", reason=reason)

    def failed(self, reason: str) -> None:
        """End the daemon: nothing can be accepted any more."""
        self._failed = f"accepting dnstap connections failed: {reason}"
        self._tasks.put(self._stopping.set)

    # Start

    def start(self) -> None:
        """Start everything; an error names what cannot be used.

        Raises
        ------
        EdmError
        """
        sys.setswitchinterval(SWITCH_INTERVAL)
        config = self.config
        for warning in config.warnings:
            self.log.warning(warning)
        self.engine = Engine(config, self.metrics, events=not config.disable_mqtt)
        self.uploader = Uploader(config, self.engine.data, self.metrics)
        self.events_out: EventsOut | None = None
        try:
            self._start_core()
            self._open_listener()
        except BaseException:
            self._abandon_start()
            raise
        self.metrics.ask("edm_open_connections", lambda: self.listener.connections)
        self._start_http()
        self.budget.start()
        self.engine.start()
        self._install_signals()
        self.listener.start()
        self.log.info(
            "receiving dnstap",
            address=self.listener.address,
            workers=config.workers,
            well_known_domains=len(self.engine.cell.current.well_known),
            seen_names=self.engine.seen.names,
        )
        # What start-up made stays: neither a collection under load nor the one at exit need look at it again.
        gc.collect()
        gc.freeze()
        self._leave_outcome()
        self._manager.ready("receiving dnstap")
        # Not before: a reload that was asked for during the start comes after it, for everybody who is told.
        threading.Thread(target=self._reload_loop, name="edm-reload", daemon=True).start()
        self.ready.set()

    def _start_core(self) -> None:
        config = self.config
        if config.input_tls:
            self._input_certificate = InputCertificate(config)
        self.uploader.start()
        if not config.disable_mqtt:
            self.events_out = EventsOut(config, self.engine.event_queue, self.engine.data.root, self.metrics)
            self.events_out.start()
            if recalled := self.engine.seen.recall(self.events_out.backlog.names):
                self.log.info("took names over from the queue of new names", names=recalled)
        engine = self.engine
        self.budget = DiskBudget(
            engine.data,
            self.metrics,
            _disk_limits(config),
            engine.session_writer,
            self.events_out.backlog if self.events_out is not None else None,
            engine.seen,
        )
        engine.session_writer.admit = self.budget.admit
        parts: dict[str, Callable[[Config], None]] = {
            "disk_budget": lambda new: self.budget.reload(_disk_limits(new)),
            "http_client_certificate": self.uploader.reload,
        }
        if self.events_out is not None:
            parts["mqtt_client_certificate"] = self.events_out.reload
        if self._input_certificate is not None:
            parts["input_tls_certificate"] = self._input_certificate.reload
        self.reloader = Reloader(self.engine, self._read_config, parts)
        self.metrics.callback(
            "edm_reload_waiting",
            "Parts changed several times just now that wait to be taken up",
            lambda: self.reloader.waiting,
        )

    def _abandon_start(self) -> None:
        self.uploader.stop(0.0)
        self.engine.event_queue.close()
        if self.events_out is not None:
            self.events_out.stop(1.0)
        self.engine.seen.close()

    def _open_listener(self) -> None:
        config = self.config
        tls: Callable[[], ssl.SSLContext] | None = None
        if config.input_unix:
            sock = open_unix(config.input_unix, config.input_unix_mode, config.input_unix_owner)
        elif config.input_tcp:
            sock = open_tcp(config.input_tcp, "input-tcp")
        else:
            assert self._input_certificate is not None
            tls = self._input_certificate.context
            sock = open_tcp(config.input_tls, "input-tls")
        limits = Limits(
            max_frame=config.max_frame_size,
            handshake_timeout=config.input_handshake_timeout,
            handshake_deadline=config.input_handshake_deadline,
            idle_timeout=config.input_idle_timeout,
            linger=config.input_linger / 1000,
        )
        most = room_for_connections(config.input_max_connections)
        if most < config.input_max_connections:
            self.log.warning(
                "fewer connections than input-max-connections: the limit of open files is too low", most=most
            )
        self.listener = Listener(sock, self.engine.intake, limits, self, most=most, tls=tls)

    def _start_http(self) -> None:
        config = self.config
        if config.metrics_address:
            rotate = self.rotate_on_request if config.enable_manual_parquet_rotation else None
            self._servers.append(metrics_server(self.metrics, config.metrics_address, rotate))
        if config.debug_address:
            self._servers.append(debug_server(config.debug_address))
        for server in self._servers:
            server.start()

    def _install_signals(self) -> None:
        # Handlers only enqueue; the main loop does the work.
        def stop(_number: int, _frame: FrameType | None) -> None:
            self._tasks.put(self._stopping.set)

        def reload(_number: int, _frame: FrameType | None) -> None:
            self._tasks.put(self._reload_wanted.set)

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGHUP, reload)

    def stop(self) -> None:
        """Ask the main loop to end; any thread may."""
        self._tasks.put(self._stopping.set)

    # Run

    def run(self) -> int:
        """Start, run until told to stop, shut down; return the exit code."""
        self.start()
        clock = MinuteClock()
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Empty):
                self._tasks.get(timeout=min(clock.wait(), self._manager.interval))()
            # From here, since the rotation waits for every worker to leave its batch: if one never does, or the
            # loop stands still for another reason, the signs of life end.
            self._manager.alive()
            if clock.due():
                if clock.step:
                    self._limited.warning("the system clock was set", seconds=round(clock.step, 3))
                self._rotate()
                if self._input_certificate is not None:
                    self._input_certificate.refresh()
                self._flush_log()
        self.shut_down()
        if self._failed is not None:
            self.log.error(self._failed)
            return 1
        return 0

    def _flush_log(self) -> None:
        self._limited.flush()
        self._connection_log.flush()

    def _rotate(self) -> None:
        try:
            self.engine.rotate()
        except Exception:
            self.metrics.rotations.labels("error").inc()
            self.log.exception("rotation failed")

    def rotate_on_request(self, timeout: float) -> None:
        """Rotate now; returns when all frames read before have been handed to the writers.

        Raises
        ------
        RotationTimeoutError, ShuttingDownError
        """
        if self._stopping.is_set():
            raise ShuttingDownError("edm is shutting down")
        deadline = time.monotonic() + timeout
        done: Future[None] = Future()

        def task() -> None:
            try:
                self.engine.intake.drain(max(0.0, deadline - time.monotonic() - 1))
                self.engine.rotate()
                done.set_result(None)
            except Exception as error:
                done.set_exception(error)

        self._tasks.put(task)
        try:
            done.result(timeout)
        except TimeoutError:
            raise RotationTimeoutError("timed out waiting for parquet rotation") from None

    def _reload_loop(self) -> None:
        # Loading may take seconds; in a thread of its own it does not hold up the rotation clock.
        while True:
            wanted = self._reload_wanted.wait(self.reloader.due)
            if self._stopping.wait(self.reloader.pause if wanted else 0.0):
                return
            if wanted:
                self._reload_wanted.clear()
                self._manager.reloading()
                self.reloader.reload()
                failed = self.reloader.outcome.failed
                self._manager.ready(
                    f"reload failed: {', '.join(failed)}" if failed else "receiving dnstap, reloaded"
                )
            else:
                self.reloader.take_up()
            self._leave_outcome()

    def _leave_outcome(self) -> None:
        """Leave the outcome of the reload, or of the start, where ``edm reload`` looks for it."""
        try:
            self.reloader.outcome.write(self.engine.data.root)
        except OSError as error:
            self.log.warning("cannot write the outcome of the reload", reason=error.strerror)

    def shut_down(self) -> None:
        """Stop accepting, drain what was read, write the last files, close everything."""
        began = time.monotonic()
        self.log.info("stopping")
        self._manager.stopping()
        self._reload_wanted.set()  # lets the reload thread end
        self.listener.close(timeout=5.0)
        grace = float(self.config.shutdown_upload_grace)

        def take_events() -> None:
            self.budget.stop(1.0)
            if self.events_out is not None:
                self.events_out.stop(max(grace, 1.0))

        self.engine.stop(take_events=take_events)
        self.uploader.stop(grace)
        for server in self._servers:
            server.stop(5.0)
        self._flush_log()
        self.log.info("stopped", seconds=round(time.monotonic() - began, 3))


def _disk_limits(config: Config) -> DiskLimits:
    return DiskLimits(config.disk_budget_bytes, config.disk_min_free_bytes)


def run_daemon(
    config: Config, read_config: Callable[[], Config], reload_wanted: threading.Event | None = None
) -> int:
    """Run the daemon; return the exit code. An error of the operator's is logged in one line."""
    try:
        return Daemon(config, read_config, reload_wanted).run()
    except EdmError as error:
        structlog.get_logger().error("cannot start", startup_error=str(error))
        return 1
