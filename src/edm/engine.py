"""The engine: workers, snapshots, rotation and writers, for frames from any source.

The daemon and the file minimiser both run this engine. They differ only in what fills the intake and what takes
the events.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import structlog

from edm import __version__
from edm.config import Config
from edm.config.message_types import parse_message_types
from edm.input.blocks import Intake
from edm.observe import faults
from edm.observe.logs import RateLimited
from edm.observe.metrics import Metrics
from edm.output.debug_writer import PATIENCE, DebugWriter
from edm.output.histogram_writer import HistogramWriter, Retired
from edm.output.new_name_file import rescue as rescue_new_names
from edm.output.paths import DataDirectory
from edm.output.session_writer import SessionWriter
from edm.output.sink import EventSink, EventTaker
from edm.pipeline import Pipeline
from edm.rotation.interval import Interval
from edm.snapshot import Snapshot, SnapshotCell
from edm.snapshot.parts import load_parts, open_well_known
from edm.stages.dnstap.json_line import frame_to_json
from edm.stages.domains.table.table import DomainTable
from edm.stages.new_qname.events import EventBlock
from edm.stages.new_qname.ordering import NewNames
from edm.stages.new_qname.queue import EventQueue
from edm.stages.new_qname.seen.store import FOLDER_NAME, SeenStore
from edm.worker import Worker

SESSION_ROWS = 32768
"""Session rows that a worker collects before they become a row group."""

EVENT_FLOOR = 262_144
"""Smallest bound of the event queue, in events.

Events come in batches, as fast as the kernels find them, and not one by one as in the Go daemon. A random subdomain
attack makes hundreds of thousands a second, and the thread that stores them competes with the workers. A waiting
event takes some 150 bytes.
"""


CHORES = 5.0
"""Seconds between two rounds of periodic work: writing seen names to disk, reporting suppressed log lines."""


def isoformat(us: int) -> str:
    """Return ``us`` (microseconds since 1970) as RFC 3339 in UTC with microseconds."""
    return (
        datetime.fromtimestamp(us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{us % 1_000_000:06d}Z"
    )


class Engine:
    """Everything between located frames and finished files.

    Parameters
    ----------
    config : Config
        Already checked.
    events : bool
        Whether new names become events from the beginning; see also :meth:`send_events_to`.
    live : bool
        Whether senders wait for this program. If not, no line of the debug file is dropped.

    Attributes
    ----------
    loaded_at : dict
        When each list and the key came into use (seconds since 1970), by field of the snapshot.

    Raises
    ------
    EdmError
        A list file, the data directory or the store of seen names cannot be used.
    """

    def __init__(self, config: Config, metrics: Metrics, *, events: bool, live: bool = True) -> None:
        self.config = config
        self.metrics = metrics
        self.log = structlog.get_logger()
        self._limited = RateLimited(self.log, on_suppressed=metrics.count_suppressed)
        self._publishing = threading.Lock()
        self._next_well_known: DomainTable | None = None
        first = self._load(config, events, live)
        self.event_queue = EventQueue(max(config.newqname_buffer, EVENT_FLOOR))
        self.event_taker: EventTaker = self.event_queue
        self.interval_ended: Callable[[int, int], None] = lambda _start_us, _stop_us: None
        self.intake = _make_intake(config)
        self.session_writer = SessionWriter(
            self.data.sessions, metrics, config.histogram_pending_bytes, unfinished=self.data.unfinished
        )
        self.histogram_writer = HistogramWriter(
            self.data.outbox, metrics, config.histogram_pending_bytes, unfinished=self.data.unfinished
        )
        self.cell = SnapshotCell(first, readers=config.workers)
        self.workers = self._make_workers(config.workers)
        self.loaded_at = dict.fromkeys(("pseudonyms", "clients", "ignored_names", "well_known"), time.time())
        self._stopped = threading.Event()
        self._chores = threading.Thread(target=self._do_chores, name="edm-chores", daemon=True)
        _show_metrics(self)

    def _load(self, config: Config, events: bool, live: bool) -> Snapshot:
        """Read the parts of the first snapshot; open the data directory, the seen names and the debug file."""
        parts = load_parts(config)
        self.data = DataDirectory(Path(config.data_dir))
        self.seen = SeenStore.open(
            self.data.root / FOLDER_NAME, limit_entries=config.seen_store_entries, sync=config.pebble_sync
        )
        try:
            # Only now: the store above cannot be opened while another process uses this data directory, and that
            # process's files must stay.
            self.data.clean()
            rescue_new_names(self.data)
            well_known = DomainTable.build(open_well_known(config))
            self._debug_writer = _open_debug_file(config, self.metrics, live)
        except BaseException:
            self.seen.close()
            raise
        return Snapshot(
            generation=1,
            config=config,
            pseudonyms=parts.pseudonyms,
            clients=parts.clients,
            ignored_names=parts.ignored_names,
            well_known=well_known,
            interval=self._begin(well_known, config),
            sessions=not config.disable_session_files,
            events=events,
        )

    def _make_workers(self, workers: int) -> list[Worker]:
        new_names = NewNames(self.seen, self._emit)
        debug = self._debug_writer is not None
        types = parse_message_types(self.config.input_message_types)
        return [
            Worker(
                slot,
                self.intake,
                self.cell,
                Pipeline(slot, new_names, self, self.metrics, debug=debug, message_types=types),
                self.metrics,
            )
            for slot in range(workers)
        ]

    def _do_chores(self) -> None:
        # Periodic work that may wait for the disk. It has a thread of its own, because the main loop must rotate
        # on time.
        evicted = 0
        last = False
        while not last:
            last = self._stopped.wait(CHORES)
            self.seen.flush()
            self.metrics.add(seen_qname_lru_evicted=self.seen.evicted - evicted)
            evicted = self.seen.evicted
            for worker in self.workers:
                worker.flush_log()
            self._limited.flush()
            if self._debug_writer is not None:
                self._debug_writer.file.flush()

    def _begin(self, table: DomainTable, config: Config) -> Interval:
        return Interval.begin(
            workers=self.config.workers,  # those that were started: a reload does not change their number
            domains=len(table),
            explicit_threshold=config.histogram_hll_explicit_threshold,
            session_rows=SESSION_ROWS,
        )

    # Outputs of the pipelines

    def _emit(self, events: EventBlock) -> None:
        queued, discarded = self.event_taker.put(events) if len(events) else (0, 0)
        if not queued:
            events.save_names(at_once=False)
        # The Go daemon counts an event as queued before it finds that its year cannot be written.
        self.metrics.count_new_qnames(queued + events.dropped, discarded, events.dropped)
        if events.dropped:
            self._limited.error("new_qname: response time beyond the year 9999", count=events.dropped)
        if discarded:
            self._limited.error("new_qname queue is full, events discarded", count=discarded)

    def session_rows(self, interval: Interval, batch: pa.RecordBatch) -> None:
        """Hand session rows to their writer; see :class:`edm.pipeline.Outputs`."""
        self.session_writer.put(interval.serial, interval.start_us, batch)

    def debug_frames(self, frames: Sequence[bytes]) -> None:
        """Hand frames to the writer of the debug file; see :class:`edm.pipeline.Outputs`."""
        if self._debug_writer is not None:
            self._debug_writer.put(frames)

    def reopen_debug_file(self) -> bool:
        """Open the debug file again if it was renamed or removed; return False if none is configured.

        Raises
        ------
        OutputError
            The new file cannot be opened; the old one stays in use.
        """
        if self._debug_writer is None:
            return False
        self._debug_writer.file.reopen()
        return True

    # Lifecycle

    def send_events_to(self, sink: EventSink) -> None:
        """Let new names become events, and hand them to ``sink``, which has been started.

        Names whose events the sink still holds count as seen. Called before :meth:`start`.
        """
        self.event_taker = sink
        with self._publishing:
            # The generation stays the first: no worker has entered it yet.
            self.cell.publish(dataclasses.replace(self.cell.current, events=True))
        if recalled := self.seen.recall(sink.names):
            self.log.info("took names over from the queue of new names", names=recalled)

    def start(self) -> None:
        """Start writers and workers."""
        self._chores.start()
        self.session_writer.start()
        self.histogram_writer.start()
        for worker in self.workers:
            worker.start()

    def rotate(self) -> None:
        """End the interval: publish the next one, wait out the grace period, hand the old one over."""
        began = time.monotonic()
        with self._publishing:
            old = self.cell.current
            table = self._next_well_known
            if table is None:  # not "if not table": the table of an empty list is false
                table = old.well_known
            self._next_well_known = None
            if table is not old.well_known:
                self.loaded_at["well_known"] = time.time()
            interval = self._begin(table, old.config)
            self.cell.publish(
                dataclasses.replace(old, generation=old.generation + 1, well_known=table, interval=interval)
            )
            self.cell.retire(old)
        self._hand_over(old, old.interval.stop_us(interval.began))
        self.metrics.rotated(time.monotonic() - began)

    def _hand_over(self, old: Snapshot, stop_us: int) -> None:
        interval = old.interval
        ledger = interval.ledger
        self.metrics.ledger_retired(ledger)
        self.metrics.intervals.retired(interval.start_us, stop_us, ledger.balance())
        if not ledger.closed:
            self.metrics.faults.report(faults.LEDGER)
            self.log.error("ledger of the interval does not balance", **ledger.balance())
        metadata = {
            "edm.version": __version__,
            "edm.interval.start": isoformat(interval.start_us),
            "edm.interval.stop": isoformat(stop_us),
            "edm.snapshot.generation": str(old.generation),
            **ledger.to_metadata(),
        }
        last = [rows.take() for rows in interval.rows if len(rows)]
        self.session_writer.retire(interval.serial, interval.start_us, stop_us, metadata, last)
        self.histogram_writer.put(
            Retired(interval.start_us, stop_us, interval.accumulators, old.well_known, metadata)
        )
        self.interval_ended(interval.start_us, stop_us)

    def publish(self, **parts: object) -> None:
        """Publish a snapshot in which ``parts`` are replaced, and wait until no worker uses the old ones."""
        with self._publishing:
            old = self.cell.current
            self.cell.publish(dataclasses.replace(old, generation=old.generation + 1, **parts))  # type: ignore[arg-type]
            for name in self.loaded_at.keys() & parts.keys():
                if parts[name] is not getattr(old, name):
                    self.loaded_at[name] = time.time()
            self.cell.retire(old)

    @property
    def latest_well_known(self) -> DomainTable:
        """The table loaded last: the one for the next interval if there is one, otherwise the one in use."""
        with self._publishing:
            table = self._next_well_known
            return self.cell.current.well_known if table is None else table

    def set_next_well_known(self, table: DomainTable) -> None:
        """Use ``table`` from the next interval on: within one, counts belong to indexes of one table."""
        with self._publishing:
            self._next_well_known = table

    def stop(self, timeout: float = 60.0, take_events: Callable[[], None] = lambda: None) -> dict[str, int]:
        """Drain: finish every block handed in, write the last interval, close everything.

        The readers must have stopped before.

        Parameters
        ----------
        timeout : float
            Seconds to wait for each thread.
        take_events : callable
            Called when no more events come; it must return only when all have been taken and their names saved.

        Returns
        -------
        dict of str to int
            The balance of the last interval's ledger, in frames.
        """
        self.intake.close()
        for worker in self.workers:
            worker.thread.join(timeout)
            if worker.thread.is_alive():
                self.metrics.faults.report(faults.DEFECT)
                self.log.error("a worker does not end", worker=worker.thread.name)
        self._hand_over(self.cell.current, self.cell.current.interval.stop_us())
        self.session_writer.close(timeout)
        self.histogram_writer.close(timeout)
        if left := self.session_writer.pending + self.histogram_writer.pending:
            self.metrics.faults.report(faults.INTERVALS, left)
            self.log.error("results were not written", intervals=left, reason="see the errors before")
        self.event_queue.close()
        self._stopped.set()
        self._chores.join(timeout)
        if self._debug_writer is not None:
            self._debug_writer.close()
        take_events()
        self.seen.close()
        return self.cell.current.interval.ledger.balance()


# Wiring: parts of an engine, made from the configuration


def _make_intake(config: Config) -> Intake:
    return Intake(
        blocks=4 + 2 * config.workers,
        block_size=max(config.block_size, 2 * config.max_frame_size + 8192),
        linger=config.input_linger / 1000,
    )


def _open_debug_file(config: Config, metrics: Metrics, live: bool) -> DebugWriter | None:
    if not config.debug_dnstap_filename:
        return None
    # Live senders must not wait for a slow disk, so lines may be dropped. Capture files can wait.
    patience = PATIENCE if live else math.inf
    return DebugWriter(Path(config.debug_dnstap_filename), metrics, frame_to_json, patience)


def _show_metrics(engine: Engine) -> None:
    """Register the metrics whose values are read from this engine at each scrape."""
    add = engine.metrics.callback
    add("edm_new_qname_ch_len", "new_qname events waiting in the queue", lambda: engine.event_queue.events)
    add("edm_block_queue_depth", "Blocks waiting for a worker", lambda: engine.intake.depth)
    add(
        "edm_pending_intervals",
        "Retired intervals not yet written out",
        lambda: engine.session_writer.pending + engine.histogram_writer.pending,
    )
    add(
        "edm_snapshot_generation",
        "Generation of the current snapshot",
        lambda: engine.cell.current.generation,
    )
    add(
        "edm_reader_blocked_seconds_total",
        "Time readers waited for workers to catch up",
        lambda: engine.intake.blocked_seconds,
    )
    add(
        "edm_reader_longest_blocked_seconds",
        "Longest time that a reader waited for workers to catch up",
        lambda: engine.intake.longest_blocked,
    )
    add("edm_seen_names", "Names in the store of seen names", lambda: engine.seen.names)
    add(
        "edm_seen_names_unsaved", "Seen names that the disk did not take in time", lambda: engine.seen.unsaved
    )
