"""What the disk budget counts and shows."""

from __future__ import annotations

from edm.observe.metrics import Metrics
from edm.output.usage import KINDS, Usage


class BudgetMetrics:
    """The metrics ``edm_disk_*``."""

    def __init__(self, metrics: Metrics) -> None:
        self._bytes = metrics.gauge("edm_disk_bytes", "Bytes stored below the data directory", ("kind",))
        self._files = metrics.gauge("edm_disk_files", "Files stored below the data directory", ("kind",))
        self._free = metrics.gauge(
            "edm_disk_free_bytes", "Free bytes on the file system where files of a kind lie", ("kind",)
        )
        self._state = metrics.gauge(
            "edm_disk_budget_state",
            "0 room enough, 1 session data give way, 2 the rest gives way too, 3 the bounds cannot be kept",
        )
        self._shed_files = metrics.counter(
            "edm_disk_shed_files_total", "Files removed to make room on the disk", ("kind",)
        )
        self._shed_bytes = metrics.counter(
            "edm_disk_shed_bytes_total", "Bytes removed to make room on the disk", ("kind",)
        )
        self._shed_rows = metrics.counter(
            "edm_disk_shed_rows_total", "Rows in the files removed to make room on the disk", ("kind",)
        )
        self.errors = metrics.counter(
            "edm_disk_budget_errors_total", "Files that could not be removed, looks at the disk that failed"
        )
        for kind in KINDS:
            for counter in (self._shed_files, self._shed_bytes, self._shed_rows):
                counter.labels(kind)

    def show(self, usage: Usage, state: int) -> None:
        """Show what was found on the disk (before anything was removed)."""
        for kind in KINDS:
            self._bytes.labels(kind).set(usage.size(kind))
            self._files.labels(kind).set(len(usage.files[kind]))
            self._free.labels(kind).set(usage.free_beside(kind))
        self._state.set(state)

    def shed(self, kind: str, files: int, size: int, rows: int) -> None:
        """Count what was removed."""
        self._shed_files.labels(kind).inc(files)
        self._shed_bytes.labels(kind).inc(size)
        self._shed_rows.labels(kind).inc(rows)


__all__ = ["BudgetMetrics"]
