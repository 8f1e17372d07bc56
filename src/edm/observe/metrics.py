"""Metrics: those of the Go daemon with the same names and meaning, and further ones.

A labelled ``inc`` of the client library costs nearly a microsecond, so frames are never counted one by one. A
worker passes one array per batch, which is added to a total; a scrape turns the total into samples. Gauges ask
their owner at scrape time. Nothing here is global: two :class:`Metrics` are independent.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterable, Sequence

import prometheus_client as prometheus
from prometheus_client import exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from edm import __version__
from edm.input.connection import RESULTS
from edm.kernel.columns import I64Array
from edm.observe.collectors import Callback, Table, Totals
from edm.observe.faults import KINDS, Faults
from edm.observe.intervals import Intervals
from edm.observe.ledger import Ledger
from edm.observe.logs import dropped_lines
from edm.observe.senders import Senders
from edm.observe.stage_clock import RowLatency

# The library has only this process-wide switch. Creation times would double the size of a scrape without use.
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]

LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
ROTATION_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """All metrics of one daemon, in a registry of their own.

    A metric is declared once, with its name and meaning. What workers count is declared here; every other part adds its
    own with :meth:`counter`, :meth:`gauge`, :meth:`histogram` and :meth:`callback`.

    Attributes
    ----------
    registry : prometheus_client.CollectorRegistry
    faults : Faults
        Where defects and losses are reported; they count in ``edm_faults_total``.
    senders : Senders
        Frames by message type and identity.
    intervals : Intervals
        The last intervals, and what became of them.
    """

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry(auto_describe=False)
        self._totals = Totals()
        self._declare_totals()
        self.registry.register(self._totals)
        self.senders = Senders()
        self.registry.register(self.senders)
        self.intervals = Intervals()
        self._declare_gauges()
        self._declare_counters()
        self._declare_latencies()
        faults = self.counter(
            "edm_faults_total", "What was lost or went wrong by kind; must stay 0", ("kind",)
        )
        for kind in KINDS:
            faults.labels(kind)
        self.faults = Faults(lambda kind, count: faults.labels(kind).inc(count))
        prometheus.ProcessCollector(registry=self.registry)
        prometheus.PlatformCollector(registry=self.registry)
        prometheus.GCCollector(registry=self.registry)

    def _declare_totals(self) -> None:
        declare = self._totals.declare
        declare("edm_frames_received_total", "Frames located in blocks, counted apart from their fates")
        declare("edm_frames_oversized_total", "Frames above the size limit, skipped before decoding")
        declare("edm_input_bytes_total", "Bytes of frame data read")
        declare("edm_blocks_total", "Blocks handed to the workers")
        declare("edm_new_qname_queued_total", "new_qname events queued")
        declare("edm_new_qname_discarded_total", "new_qname events discarded because the queue was full")
        declare("edm_new_qname_dropped_total", "new_qname events queued that have no form, so were dropped")
        declare("edm_cryptopan_lru_hit_total", "Addresses whose pseudonym was in the cache")
        declare("edm_cryptopan_lru_evicted_total", "Pseudonyms evicted from the cache")
        declare("edm_seen_qname_lru_evicted_total", "Names evicted from the in-memory part of the seen set")
        declare("edm_histogram_rows_total", "Histogram rows written")
        declare("edm_session_rows_written_total", "Session rows written")
        declare("edm_session_rows_shed_total", "Session rows dropped because they could not be written")
        declare("edm_log_suppressed_total", "Repeated errors that the rate limit kept out of the log")

    def _declare_gauges(self) -> None:
        self.callback(
            "edm_log_dropped_total", "Log lines that were dropped, since nobody read the log", dropped_lines
        )
        info = self.gauge("edm_build_info", "Always 1; the versions are labels", ("version", "python"))
        info.labels(__version__, platform.python_version()).set(1)

    def _declare_latencies(self) -> None:
        self.row_latency = RowLatency(
            self.histogram(
                "edm_response_to_row_seconds",
                "Time from a response to its session row, sampled",
                buckets=LATENCY_BUCKETS,
            )
        )
        self.file_latency = self.histogram(
            "edm_interval_to_file_seconds",
            "Time from the end of an interval to its file",
            ("kind",),
            LATENCY_BUCKETS,
        )
        for kind in ("histogram", "session", "new_qname"):
            self.file_latency.labels(kind)

    def _declare_counters(self) -> None:
        self.connections_total = self.counter(
            "edm_connections_total", "Connections by how they ended", ("result",)
        )
        self.socket_files = self.counter(
            "edm_socket_file_made_again_total", "How often the Unix socket's file was gone and was made again"
        )
        self.reloads = self.counter("edm_reloads_total", "Reloads by part and result", ("part", "result"))
        self.reload_last_success = self.gauge(
            "edm_reload_last_success_timestamp_seconds", "When a part was last loaded", ("part",)
        )
        self.reload_last_failure = self.gauge(
            "edm_reload_last_failure_timestamp_seconds", "When a part could last not be reloaded", ("part",)
        )
        self.rotation_seconds = self.histogram(
            "edm_rotation_seconds", "Time from publishing the next snapshot to handing over the old interval"
        )
        self.rotations = self.counter("edm_rotations_total", "Rotations by result", ("result",))
        self.files_written = self.counter(
            "edm_files_written_total", "Output files by kind and result", ("kind", "result")
        )
        self.ledgers = self.counter(
            "edm_ledger_intervals_total", "Intervals by whether their ledger closed", ("result",)
        )
        self.http_refused = self.counter(
            "edm_http_refused_total",
            "HTTP requests and connections that were refused",
            ("endpoint", "reason"),
        )
        # Same names as the HTTP handler of the Go client library.
        self.scrapes = self.counter(
            "promhttp_metric_handler_requests_total", "Scrapes by HTTP status code", ("code",)
        )
        self.scrapes_in_flight = self.gauge(
            "promhttp_metric_handler_requests_in_flight", "Scrapes being served now"
        )
        for code in ("200", "500", "503"):
            self.scrapes.labels(code)
        for result in RESULTS:
            self.connections_total.labels(result)
        for result in ("closed", "imbalance"):
            self.ledgers.labels(result)
        for result in ("ok", "error"):
            self.rotations.labels(result)
            for kind in ("histogram", "session"):
                self.files_written.labels(kind, result)

    # Adding metrics

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> prometheus.Counter:
        """Add a counter; ``name`` ends in ``_total``. Not for anything counted per frame."""
        return prometheus.Counter(name, documentation, labels, registry=self.registry)

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> prometheus.Gauge:
        """Add a gauge that its owner sets."""
        return prometheus.Gauge(name, documentation, labels, registry=self.registry)

    def histogram(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = ROTATION_BUCKETS,
    ) -> prometheus.Histogram:
        """Add a histogram with upper bounds ``buckets``, in the unit that ``name`` ends in."""
        return prometheus.Histogram(name, documentation, labels, buckets=buckets, registry=self.registry)

    def callback(self, name: str, documentation: str, function: Callable[[], float]) -> None:
        """Add a metric without labels; ``function`` returns its value at scrape time.

        The owner of the value calls this. A name that ends in ``_total`` becomes a counter, any other a gauge.
        ``function`` runs in the HTTP thread: it must be quick and must not block.
        """
        family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        self.registry.register(Callback(family, name, documentation, function))

    def table(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        function: Callable[[], Iterable[tuple[Sequence[str], float]]],
    ) -> None:
        """Add a metric with labels whose samples are asked for at scrape time, as with :meth:`callback`.

        ``function`` returns pairs: the values of the labels, and that of the sample. Their number must be bounded.
        """
        family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        self.registry.register(Table(family, name, documentation, labels, function))

    # Counting in bulk

    def count_fates(self, counts: I64Array) -> None:
        """Add the fates of one batch, ``int64[N_FATES]``; the Go daemon's per-frame counters follow from them."""
        with self._totals.lock:
            self._totals.fates += counts

    def add(self, **amounts: int) -> None:
        """Add to unlabelled totals, named without ``edm_`` and ``_total``: ``add(histogram_rows=7)``.

        Raises
        ------
        KeyError
            There is no such total.
        """
        self._totals.add({f"edm_{name}_total": amount for name, amount in amounts.items()})

    def count_block(self, size: int) -> None:
        """Count one block of ``size`` bytes handed to the workers."""
        self._totals.add({"edm_blocks_total": 1, "edm_input_bytes_total": size})

    def count_received(self, frames: int) -> None:
        """Count frames located in a block."""
        self._totals.add({"edm_frames_received_total": frames})

    def count_oversized(self, frames: int) -> None:
        """Count frames skipped because of their size."""
        self._totals.add({"edm_frames_oversized_total": frames})

    def count_pseudonyms(self, hits: int, evicted: int) -> None:
        """Count the cache hits and evictions of one batch in the pseudonym cache."""
        self._totals.add({"edm_cryptopan_lru_hit_total": hits, "edm_cryptopan_lru_evicted_total": evicted})

    def count_new_qnames(self, queued: int, discarded: int, dropped: int = 0) -> None:
        """Count new_qname events of one batch by whether the queue took them.

        Parameters
        ----------
        queued : int
            Events that the queue took, plus the ``dropped`` ones (the Go daemon counts them here too).
        discarded : int
            Events for which the queue had no room.
        dropped : int
            Events whose time cannot be written (beyond the year 9999).
        """
        self._totals.add(
            {
                "edm_new_qname_queued_total": queued,
                "edm_new_qname_discarded_total": discarded,
                "edm_new_qname_dropped_total": dropped,
            }
        )

    def count_suppressed(self, lines: int) -> None:
        """Count repeated errors that were not logged (see :class:`edm.observe.logs.RateLimited`)."""
        self._totals.add({"edm_log_suppressed_total": lines})

    # Events

    def reloaded(self, part: str, ok: bool) -> None:
        """Count a reload of ``part`` (for example ``config`` or ``ignored_clients``) and store its time."""
        self.reloads.labels(part, "ok" if ok else "error").inc()
        last = self.reload_last_success if ok else self.reload_last_failure
        last.labels(part).set(time.time())

    def loaded(self, part: str) -> None:
        """Store the time at which ``part`` was loaded at start; its reload counters begin at 0."""
        self.reload_last_success.labels(part).set(time.time())
        for result in ("ok", "error"):
            self.reloads.labels(part, result)

    def rotated(self, seconds: float, ok: bool = True) -> None:
        """Count a rotation that took ``seconds``."""
        self.rotations.labels("ok" if ok else "error").inc()
        self.rotation_seconds.observe(seconds)

    def file_written(self, kind: str, ok: bool, stop_us: int = 0, rows: int = 0) -> None:
        """Count an output file; ``kind`` is ``histogram``, ``session`` or ``new_qname``.

        One that was written has the ``rows`` of an interval that ended at ``stop_us``.
        """
        self.files_written.labels(kind, "ok" if ok else "error").inc()
        if ok:
            seconds = max(0.0, time.time() - stop_us / 1e6)
            self.file_latency.labels(kind).observe(seconds)
            self.intervals.wrote(kind, stop_us, rows, seconds)

    def connection_ended(self, result: str) -> None:
        """Count a connection by how it ended; ``result`` must come from a fixed set, never from the peer."""
        self.connections_total.labels(result).inc()

    def ledger_retired(self, ledger: Ledger) -> None:
        """Count an interval by whether its ledger closed. Call it after the grace period."""
        self.ledgers.labels("closed" if ledger.closed else "imbalance").inc()

    # Exposition

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics and the media type, in the text format that an ``Accept`` header prefers."""
        encoder, media_type = exposition.choose_encoder(accept)
        return encoder(self.registry), media_type

    def fates(self) -> list[int]:
        """Return the frames so far by fate, in the order of ``FATE_NAMES``."""
        with self._totals.lock:
            counts: list[int] = self._totals.fates.tolist()
        return counts

    def total(self, name: str) -> int:
        """Return an unlabelled total, named as for :meth:`add`."""
        return self._totals.plain[f"edm_{name}_total"]

    @staticmethod
    def quantiles(histogram: prometheus.Histogram) -> dict[str, float | None]:
        """Return count, median and 99th percentile of a histogram, over all its labels.

        A quantile is the upper bound of the bucket that holds it; None if there is none, or it is beyond the last.
        """
        buckets: dict[float, float] = {}
        for family in histogram.collect():
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    bound = float(sample.labels["le"])
                    buckets[bound] = buckets.get(bound, 0.0) + sample.value
        count = buckets.get(math.inf, 0.0)

        def quantile(part: float) -> float | None:
            reached = (bound for bound in sorted(buckets) if count and buckets[bound] >= part * count)
            bound = next(reached, math.inf)
            return bound if bound < math.inf else None

        return {"count": count, "p50": quantile(0.5), "p99": quantile(0.99)}

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of one sample, or None if there is no such sample. For summaries and tests."""
        result: float | None = self.registry.get_sample_value(name, labels)
        return result


__all__ = ["ROTATION_BUCKETS", "Metrics"]
