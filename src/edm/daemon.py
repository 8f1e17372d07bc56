"""The daemon: start-up in named steps, the main loop, and a shutdown that drains."""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import signal
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
from edm.input.blocks import Intake
from edm.input.recent import Recent
from edm.input.source import Source
from edm.observe.access import Access
from edm.observe.control import ControlServer
from edm.observe.faults import DEFECT
from edm.observe.http import HttpServer, RotationTimeoutError, ShuttingDownError
from edm.observe.logs import RateLimited
from edm.observe.metrics import Metrics
from edm.observe.status.routes import Status
from edm.output.sink import Sinks
from edm.reload.answers import Answers
from edm.reload.reload import Reloader
from edm.rotation.clock import MinuteClock
from edm.service import ServiceManager
from edm.startup.listening import SWITCH_INTERVAL, ConnectionLog, open_source
from edm.startup.safety import exposures, refuse_shared_folders
from edm.startup.sections import Parts, new_names
from edm.startup.servers import http_servers
from edm.startup.sinks import make_budget, make_sinks, reloadable
from edm.startup.watching import make_history, watch


class Daemon:
    """Receives dnstap and minimises it until it is told to stop.

    Parameters
    ----------
    config : Config
    read_config : callable
        Reads the configuration again for a reload.
    reload_wanted : threading.Event, optional
        Set if a reload was asked for while there was no daemon yet to take the signal.
    sinks : callable
        Makes what takes events and finished files away.
    source : callable
        Opens what frames come from.
    """

    def __init__(
        self,
        config: Config,
        read_config: Callable[[], Config],
        reload_wanted: threading.Event | None = None,
        sinks: Callable[[Config, Engine], Sinks] = make_sinks,
        source: Callable[[Config, Intake, ConnectionLog], Source] = open_source,
    ) -> None:
        self.config = config
        self.log = structlog.get_logger()
        self.metrics = Metrics()
        self._limited = RateLimited(self.log, on_suppressed=self.metrics.count_suppressed)
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._reload_wanted = reload_wanted or threading.Event()
        self._failed: str | None = None
        self._status = "starting"
        self._read_config = read_config
        self._make_sinks = sinks
        self._open_source = source
        self._connections = ConnectionLog(self.metrics, self._accepting_failed)
        self._servers: list[HttpServer] = []
        self._control: ControlServer | None = None
        self._recent: Recent | None = None
        self._manager = ServiceManager(os.environ)
        self._turned = time.monotonic()  # when the main loop last did
        self._rotated = time.time()
        self.ready = threading.Event()

    # Start

    def start(self) -> None:
        """Start everything; an error names what cannot be used.

        Raises
        ------
        EdmError
        """
        sys.setswitchinterval(SWITCH_INTERVAL)
        refuse_shared_folders(self.config)
        for warning in (*self.config.warnings, *exposures(self.config)):
            self.log.warning(warning)
        self.access = Access(self.config)
        self.engine = Engine(self.config, self.metrics, events=False)  # until a sink takes them
        self.sinks = self._make_sinks(self.config, self.engine)
        try:
            self._start_sinks()
            self.budget = make_budget(self.config, self.engine, self.sinks)
            self.source = self._open_source(self.config, self.engine.intake, self._connections)
            parts = reloadable(self.config, self.engine, self.sinks, self.budget, self.source, self.access)
            self.reloader = Reloader(self.engine, self._read_config, parts)
        except BaseException:
            self._abandon_start()
            raise
        self._show_metrics()
        self._watched = self._watch()
        self._servers = http_servers(
            self.config, self.metrics, self.rotate_on_request, self._watched, self.access
        )
        for server in self._servers:
            server.start()
        self.budget.start()
        self._listen_to_questions()
        self.engine.start()
        self._watched.history.start()
        self._install_signals()
        self.source.start()
        self._say_receiving()
        _keep_what_is_there()
        self._leave_outcome()
        self._status = "receiving dnstap"
        self._manager.ready(self._state())
        self.metrics.faults.on_first = lambda: self._tasks.put(self._tell_faults)
        # Not before: a reload that was asked for during the start comes after it, for everybody who is told.
        threading.Thread(target=self._reload_loop, name="edm-reload", daemon=True).start()
        self.ready.set()

    def _listen_to_questions(self) -> None:
        if not self.config.control_socket:
            return
        self._recent = Recent()
        for worker in self.engine.workers:
            worker.recent = self._recent
        answers = Answers(self.engine, self._read_config, self._recent)
        self._control = ControlServer(self.engine.data.root, answers.all())
        self._control.start()

    def _start_sinks(self) -> None:
        for sink in self.sinks.in_order():
            sink.start()
        if self.sinks.events is not None:
            self.engine.send_events_to(self.sinks.events)

    def _stop_sinks(self, grace: float) -> None:
        for sink in reversed(self.sinks.in_order()):
            sink.stop(grace)

    def _abandon_start(self) -> None:
        self.engine.event_queue.close()
        self._stop_sinks(0.0)
        self.engine.seen.close()

    def _show_metrics(self) -> None:
        # Not edm_connections: OpenMetrics takes that for the family of edm_connections_total.
        self.metrics.callback("edm_open_connections", "Connections open now", lambda: self.source.connections)
        self.metrics.callback(
            "edm_reload_waiting",
            "Parts changed several times just now that wait to be taken up",
            lambda: self.reloader.waiting,
        )

    def _watch(self) -> Status:
        return watch(
            Parts(
                self.config,
                self.engine,
                self.source,
                self.sinks,
                self.budget,
                self.reloader,
                make_history(self.engine),
                heartbeat=lambda: self._turned,
                rotated=lambda: self._rotated,
                stopping=self._stopping.is_set,
                started=time.time(),
                names_at_start=new_names(self.engine),
                access=self.access,
            )
        )

    def _say_receiving(self) -> None:
        self.log.info(
            "receiving dnstap",
            address=self.source.address,
            workers=self.config.workers,
            well_known_domains=len(self.engine.cell.current.well_known),
            seen_names=self.engine.seen.names,
        )

    def _install_signals(self) -> None:
        # Handlers only enqueue; the main loop does the work.
        def stop(_number: int, _frame: FrameType | None) -> None:
            self._tasks.put(self._stopping.set)

        def reload(_number: int, _frame: FrameType | None) -> None:
            self._tasks.put(self._reload_wanted.set)

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGHUP, reload)

    def _accepting_failed(self, reason: str) -> None:
        self._failed = f"accepting dnstap connections failed: {reason}"
        self.stop()

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
            self._turned = time.monotonic()
            if self._watched.health.live:
                self._manager.alive()
            if clock.due():
                if clock.step:
                    self._limited.warning("the system clock was set", seconds=round(clock.step, 3))
                self._rotate()
                self.source.refresh()
                self.access.refresh()
                self._flush_log()
                if self._recent is not None:
                    self._recent.expire()
                if self.metrics.faults:
                    self._tell_faults()
        self.shut_down()
        if self._failed is not None:
            self.log.error(self._failed)
            return 1
        if self.metrics.faults:
            self.log.error("not all went well", faults=self.metrics.faults.lines())
            return 1
        return 0

    def _state(self) -> str:
        return "; ".join([self._status, *self.metrics.faults.lines()])

    def _tell_faults(self) -> None:
        self._manager.status(self._state())

    def _flush_log(self) -> None:
        self._limited.flush()
        self._connections.flush()

    def _rotate(self) -> None:
        try:
            self.engine.rotate()
            self._rotated = time.time()
        except Exception:
            self.metrics.rotations.labels("error").inc()
            self.metrics.faults.report(DEFECT)
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
                self._rotated = time.time()
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
                self._status = (
                    f"reload failed: {', '.join(failed)}" if failed else "receiving dnstap, reloaded"
                )
                self._manager.ready(self._state())
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
        self.source.close(timeout=5.0)
        self._watched.history.stop()
        if self._control is not None:
            self._control.stop()
        self.engine.stop(take_events=self._end_output)
        for server in self._servers:
            server.stop(5.0)
        self._flush_log()
        self.log.info("stopped", seconds=round(time.monotonic() - began, 3))

    def _end_output(self) -> None:
        self.budget.stop(1.0)
        self._stop_sinks(float(self.config.shutdown_upload_grace))


def _keep_what_is_there() -> None:
    # What start-up made stays: neither a collection under load nor the one at exit need look at it again.
    gc.collect()
    gc.freeze()


def run_daemon(
    config: Config, read_config: Callable[[], Config], reload_wanted: threading.Event | None = None
) -> int:
    """Run the daemon; return the exit code. An error of the operator's is logged in one line."""
    try:
        return Daemon(config, read_config, reload_wanted).run()
    except EdmError as error:
        structlog.get_logger().error("cannot start", startup_error=str(error))
        return 1
