"""The metrics of the events on their way out, and their ledger."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from edm.observe.metrics import Metrics
from edm.tapir.events.backlog import Backlog
from edm.tapir.events.queue_file import TOTALS

FAILURES = ("sign", "too_large", "refused")
DROPS = ("queue_full", "memory_full", "disk_budget", "shutdown")
CONNECTS = ("ok", "refused", "error")
_ROUND_TRIP_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class EventsMetrics:
    """The metrics of events: their fates, the queue, and the state of the connection.

    The ledger since the start is: loaded + queued = sent + failed + dropped + damaged + on disk + in memory.

    Parameters
    ----------
    metrics : Metrics
    """

    def __init__(self, metrics: Metrics) -> None:
        self._failed = metrics.counter(
            "edm_mqtt_failed_total", "new_qname events given up, by reason", ("reason",)
        )
        self._dropped = metrics.counter(
            "edm_mqtt_dropped_total", "new_qname events dropped for want of room, by reason", ("reason",)
        )
        self._connects = metrics.counter(
            "edm_mqtt_connects_total", "Attempts to connect to the MQTT broker, by result", ("result",)
        )
        self._signed = metrics.counter(
            "edm_mqtt_signed_total", "new_qname events signed, again ones included"
        )
        self._unconfirmed = metrics.counter(
            "edm_mqtt_unconfirmed_total",
            "Messages on the wire when a connection ended: sent again, so that they may arrive twice",
        )
        self._last_success = metrics.gauge(
            "edm_mqtt_last_success_timestamp_seconds", "When the MQTT broker last confirmed a message"
        )
        self._round_trip = metrics.histogram(
            "edm_mqtt_round_trip_seconds",
            "Time until the MQTT broker confirms: a message (QoS 1), or the ping after messages (QoS 0)",
            buckets=_ROUND_TRIP_BUCKETS,
        )
        for reason in FAILURES:
            self._failed.labels(reason)
        for reason in DROPS:
            self._dropped.labels(reason)
        for result in CONNECTS:
            self._connects.labels(result)
        self._metrics = metrics

    def watch(self, backlog: Backlog, connected: Callable[[], bool]) -> None:
        """Add the metrics that are asked for at a scrape."""
        add = self._metrics.callback
        add(
            "edm_mqtt_queued_total",
            "new_qname events taken up for sending, imported ones included",
            lambda: backlog.queued,
        )
        add(
            "edm_mqtt_imported_total",
            "Messages taken over from the queue of the Go daemon",
            lambda: backlog.imported,
        )
        add("edm_mqtt_sent_total", "new_qname events that the MQTT broker has received", lambda: backlog.sent)
        add("edm_mqtt_damaged_total", "new_qname events lost to damage on disk", lambda: backlog.damaged)
        add(
            "edm_mqtt_loaded_events",
            "new_qname events of earlier runs found on disk at the start",
            lambda: backlog.loaded,
        )
        add("edm_mqtt_disk_events", "new_qname events waiting on disk", lambda: backlog.disk_events)
        add("edm_mqtt_disk_bytes", "Bytes of new_qname events waiting on disk", lambda: backlog.disk_bytes)
        add(
            "edm_mqtt_memory_events",
            "new_qname events waiting in memory, not on disk",
            lambda: backlog.memory_events,
        )
        add("edm_mqtt_connected", "Whether there is a connection to the MQTT broker", connected)
        backlog.on_dropped = lambda reason, events: self._dropped.labels(reason).inc(events)
        totals = self._metrics.gauge(
            "edm_mqtt_lifetime_events",
            "What became of all new_qname events since the queue file was made; "
            "queued = sent + failed + dropped + damaged + waiting on disk",
            ("fate",),
        )
        for name in TOTALS:
            totals.labels(name).set_function(partial(_total, backlog, name))

    def failed(self, reason: str) -> None:
        """Count an event given up; ``reason`` is one of :data:`FAILURES`."""
        self._failed.labels(reason).inc()

    def connects(self, result: str) -> None:
        """Count an attempt to connect; ``result`` is one of :data:`CONNECTS`."""
        self._connects.labels(result).inc()

    def signed(self, count: int) -> None:
        """Count signed events."""
        self._signed.inc(count)

    def unconfirmed(self, count: int) -> None:
        """Count messages of which nothing was known when their connection ended."""
        self._unconfirmed.inc(count)

    def round_trip(self, seconds: float) -> None:
        """Observe how long the broker took to confirm."""
        self._round_trip.observe(seconds)

    def succeeded(self) -> None:
        """Note the time of a confirmation."""
        self._last_success.set(time.time())


def _total(backlog: Backlog, name: str) -> float:
    return backlog.totals.get(name, 0)


__all__ = ["CONNECTS", "DROPS", "FAILURES", "EventsMetrics"]
