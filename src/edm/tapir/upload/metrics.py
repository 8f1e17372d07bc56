"""What the upload of histograms counts and measures."""

from __future__ import annotations

import time
from typing import Any

from edm.observe.metrics import Metrics
from edm.observe.privacy import told
from edm.tapir.upload.post import Target

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
        self._waiting = (0, 0)
        self._sent = self._refused = 0
        self._succeeded_at: float | None = None
        self._bytes = metrics.counter("edm_upload_bytes_total", "Bytes of the histogram files that Core took")
        self._last_success = metrics.gauge(
            "edm_upload_last_success_timestamp_seconds", "When Core last took a histogram file"
        )
        self.seconds = metrics.histogram(
            "edm_upload_seconds", "Time from connecting to the end of a try to upload", buckets=_BUCKETS
        )
        self._outbox_files = metrics.gauge("edm_upload_outbox_files", "Histogram files that wait for upload")
        self._outbox_bytes = metrics.gauge("edm_upload_outbox_bytes", "Bytes that wait for upload")
        self._refused_files = metrics.counter(
            "edm_upload_refused_files_total", "Histogram files set aside because Core refuses them for good"
        )
        self.removed = metrics.counter(
            "edm_upload_sent_removed_total", "Sent histogram files removed because of their age"
        )

    def waiting(self, files: int, size: int) -> None:
        """Show how many files wait, and their bytes together."""
        self._waiting = files, size
        self._outbox_files.set(files)
        self._outbox_bytes.set(size)

    def gone(self, size: int) -> None:
        """Remove a file of ``size`` bytes from the queue."""
        self.waiting(self._waiting[0] - 1, self._waiting[1] - size)

    def succeeded(self, size: int) -> None:
        """Count a file of ``size`` bytes that Core took."""
        self.attempts.labels("created").inc()
        self._bytes.inc(size)
        self._sent += 1
        self._succeeded_at = time.time()
        self._last_success.set(self._succeeded_at)

    def set_aside(self) -> None:
        """Count a file that Core refuses for good."""
        self._refused += 1
        self._refused_files.inc()

    def status(self, enabled: bool, target: Target | None, last: tuple[float, str] | None) -> dict[str, Any]:
        """Return the section ``uploads`` of the status; ``last`` is the last error."""
        receiver = f"http{'s' if target.tls else ''}://{target.authority}" if target is not None else None
        return {
            "enabled": enabled,
            "receiver": receiver,
            "files": self._waiting[0],
            "bytes": self._waiting[1],
            "sent": self._sent,
            "refused": self._refused,
            "last_success": self._succeeded_at,
            "last_error": told(last),
        }


__all__ = ["RESULTS", "UploadMetrics"]
