"""What the upload of histograms counts and measures."""

from __future__ import annotations

from edm.observe.metrics import Metrics

RESULTS = ("created", "refused", "denied", "busy", "unexpected", "unreachable", "timeout", "broken", "file")
"""How a try can end: stored; the file is refused; key, certificate, clock or URL are; 429 or 503; any other
status; then the reasons for no answer."""

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class UploadMetrics:
    """The metrics ``edm_upload_*``; the time that the client certificate has left is its own."""

    def __init__(self, metrics: Metrics) -> None:
        self.attempts = metrics.counter(
            "edm_upload_attempts_total", "Tries to upload a histogram file by how they ended", ("result",)
        )
        for result in RESULTS:
            self.attempts.labels(result)
        self.bytes = metrics.counter("edm_upload_bytes_total", "Bytes of the histogram files that Core took")
        self.last_success = metrics.gauge(
            "edm_upload_last_success_timestamp_seconds", "When Core last took a histogram file"
        )
        self.seconds = metrics.histogram(
            "edm_upload_seconds", "Time from connecting to the end of a try to upload", buckets=_BUCKETS
        )
        self.outbox_files = metrics.gauge("edm_upload_outbox_files", "Histogram files that wait for upload")
        self.outbox_bytes = metrics.gauge("edm_upload_outbox_bytes", "Bytes that wait for upload")
        self.refused = metrics.counter(
            "edm_upload_refused_files_total", "Histogram files set aside because Core refuses them for good"
        )
        self.removed = metrics.counter(
            "edm_upload_sent_removed_total", "Sent histogram files removed because of their age"
        )


__all__ = ["RESULTS", "UploadMetrics"]
