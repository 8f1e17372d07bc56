"""Metrics: the Go daemon's names with their meaning, and what this program has to tell beyond them.

A labelled ``inc`` of the client library costs near a microsecond, so per-frame facts are never counted one by
one: a worker hands over one array per batch, which is added to a total, and the total becomes samples when
somebody scrapes. Gauges ask their owner at scrape time. Nothing here is global: two :class:`Metrics` know
nothing of each other.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import prometheus_client as prometheus
from prometheus_client import exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edm import __version__
from edm.input.connection import RESULTS
from edm.kernel.columns import (
    CLIENT_ADDRESS_INVALID,
    CLIENT_IGNORED,
    DNS_PARSE_ERROR,
    EMPTY_QUESTION,
    INVALID_NAME,
    N_FATES,
    QUESTION_IGNORED,
    UNDECODABLE,
    I64Array,
)
from edm.observe.faults import KINDS, Faults
from edm.observe.ledger import FATE_NAMES, Ledger
from edm.observe.logs import dropped_lines
from edm.observe.senders import Senders

# The library's own switch, for the whole process: creation times double the size of an answer for nothing.
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]

_FATE_COUNTERS = (
    ("edm_ignored_dns_parse_error_total", DNS_PARSE_ERROR, "Frames whose DNS message could not be parsed"),
    ("edm_ignored_client_ip_error_total", CLIENT_ADDRESS_INVALID, "Frames with an unusable client address"),
    ("edm_ignored_client_ip_total", CLIENT_IGNORED, "Frames from an ignored client"),
    ("edm_ignored_empty_question_section_total", EMPTY_QUESTION, "Frames without a question"),
    ("edm_ignored_invalid_question_name_total", INVALID_NAME, "Frames with an invalid question name"),
    ("edm_ignored_question_name_total", QUESTION_IGNORED, "Frames asking for an ignored name"),
    ("edm_undecodable_frames_total", UNDECODABLE, "Frames that are no dnstap message"),
)

ROTATION_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _Totals(Collector):
    """Numbers added in bulk and turned into samples at scrape time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.fates: I64Array = np.zeros(N_FATES, np.int64)
        self.plain: dict[str, int] = {}
        self.help: dict[str, str] = {}

    def declare(self, name: str, documentation: str) -> None:
        self.plain[name] = 0
        self.help[name] = documentation

    def add(self, amounts: Mapping[str, int]) -> None:
        with self.lock:
            for name, amount in amounts.items():
                self.plain[name] += amount

    def collect(self) -> Iterator[Metric]:
        with self.lock:
            fates: list[int] = self.fates.tolist()
            plain = dict(self.plain)
        for name, value in plain.items():
            yield CounterMetricFamily(name, self.help[name], value=value)
        yield CounterMetricFamily(
            "edm_processed_dnstap_total", "Frames taken from the input, whatever their fate", value=sum(fates)
        )
        for name, fate, documentation in _FATE_COUNTERS:
            yield CounterMetricFamily(name, documentation, value=fates[fate])
        by_fate = CounterMetricFamily(
            "edm_frames_total", "Frames by what became of them; pending must stay 0", labels=["fate"]
        )
        for fate_name, value in zip(FATE_NAMES, fates, strict=True):
            by_fate.add_metric([fate_name], value)
        yield by_fate

    def describe(self) -> Iterable[Metric]:
        return list(self.collect())  # lets the registry refuse a second metric of the same name


class _Callback(Collector):
    """A gauge or counter whose owner is asked for the value at scrape time.

    An owner that fails (it may be going down) leaves out this one sample instead of failing the whole scrape.
    """

    def __init__(
        self, family: type[Any], name: str, documentation: str, function: Callable[[], float]
    ) -> None:
        self.family = family
        self.name = name
        self.documentation = documentation
        self.function: Callable[[], float] = function

    def collect(self) -> Iterator[Metric]:
        try:
            value = float(self.function())
        except Exception:  # a scrape must survive whatever the owner is going through
            return
        yield self.family(self.name, self.documentation, value=value)

    def describe(self) -> Iterable[Metric]:
        return [self.family(self.name, self.documentation)]


class Metrics:
    """All metrics of one daemon, in a registry of their own.

    A metric is declared once, with its name and meaning. What workers count is declared here; every other part adds its
    own with :meth:`counter`, :meth:`gauge`, :meth:`histogram` and :meth:`callback`.

    Attributes
    ----------
    registry : prometheus_client.CollectorRegistry
    faults : Faults
        Where what is lost or goes wrong is reported; it counts as well.
    senders : Senders
        Frames by message type and identity.
    """

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry(auto_describe=False)
        self._totals = _Totals()
        self._declare_totals()
        self.registry.register(self._totals)
        self.senders = Senders()
        self.registry.register(self.senders)
        self._declare_gauges()
        self._declare_counters()
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
        # As the Go client's handler counts its own work.
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
        """Add a metric without labels whose value is asked for at scrape time.

        Whoever owns the value declares it. A name that ends in ``_total`` becomes a counter, any other a gauge.
        ``function`` runs in the HTTP thread: it must be quick and must not block.
        """
        family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        self.registry.register(_Callback(family, name, documentation, function))

    # Counting in bulk

    def count_fates(self, counts: I64Array) -> None:
        """Add the fates of one batch, ``int64[N_FATES]``; also feeds the Go daemon's per-frame counters."""
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
        """Count what one batch did to the pseudonym cache."""
        self._totals.add({"edm_cryptopan_lru_hit_total": hits, "edm_cryptopan_lru_evicted_total": evicted})

    def count_new_qnames(self, queued: int, discarded: int, dropped: int = 0) -> None:
        """Count new_qname events of one batch by whether the queue took them.

        Parameters
        ----------
        queued : int
            Those that the queue took and, as the Go daemon counts, those that were ``dropped``.
        discarded : int
            Those for which the queue had no room.
        dropped : int
            Those whose time cannot be written (beyond the year 9999).
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
        """Count a reload of ``part`` (say ``config`` or ``ignored_clients``) and remember when it worked."""
        self.reloads.labels(part, "ok" if ok else "error").inc()
        last = self.reload_last_success if ok else self.reload_last_failure
        last.labels(part).set(time.time())

    def loaded(self, part: str) -> None:
        """Remember that ``part`` was loaded at start; its reloads are counted from 0."""
        self.reload_last_success.labels(part).set(time.time())
        for result in ("ok", "error"):
            self.reloads.labels(part, result)

    def rotated(self, seconds: float, ok: bool = True) -> None:
        """Count a rotation and how long it took."""
        self.rotations.labels("ok" if ok else "error").inc()
        self.rotation_seconds.observe(seconds)

    def file_written(self, kind: str, ok: bool) -> None:
        """Count an output file; ``kind`` is ``histogram``, ``session`` or ``new_qname``."""
        self.files_written.labels(kind, "ok" if ok else "error").inc()

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

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of one sample, or None if there is no such sample. For summaries and tests."""
        result: float | None = self.registry.get_sample_value(name, labels)
        return result


__all__ = ["ROTATION_BUCKETS", "Metrics"]
