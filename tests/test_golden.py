"""The golden captures through files: the same rows, events and counters as the Go daemon's."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from edm.jit import JIT_DISABLED
from edm.minimiser import minimise
from edm.observe.metrics import Metrics
from support import golden

WORKERS = [1] if JIT_DISABLED else [1, 4]
NAMES = ["unbound"] if JIT_DISABLED else golden.NAMES


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("name", NAMES)
def test_minimise_gives_the_golden_results(name: str, workers: int, tmp_path: Path) -> None:
    if JIT_DISABLED:
        pytest.skip("60,000 frames take minutes without JIT; the kernels' own tests cover that mode")
    metrics = Metrics()
    config = golden.golden_config(tmp_path, workers)
    summary = minimise(config, [str(golden.capture(name))], lambda *_: None, metrics)

    assert summary.problems == []
    ordered = workers == 1
    expected = golden.CAPTURES / name
    histogram = golden.read_all(tmp_path, "parquet/histograms/outbox/*.parquet")
    assert golden.histogram_rows(histogram).equals(
        golden.histogram_rows(pq.read_table(expected / "histogram.parquet")).cast(
            golden.histogram_rows(histogram).schema
        )
    )
    session = golden.read_all(tmp_path, "parquet/sessions/*.parquet")
    assert session.column_names == pq.read_schema(expected / "session.parquet").names
    assert golden.session_rows(session, ordered=ordered) == golden.session_rows(
        pq.read_table(expected / "session.parquet"), ordered=ordered
    )
    lines = (tmp_path / "new_qname.jsonl").read_text().splitlines()
    wanted = (expected / "new_qname.jsonl").read_text().splitlines()
    assert lines == wanted  # also with several workers: the first response to arrive makes the event
    for counter, value in golden.expected_counters(name).items():
        if workers > 1 and counter.startswith("edm_cryptopan"):
            continue  # each worker has a cache of its own, in the Go daemon too
        assert metrics.value(counter) == value, counter
    assert summary.frames["imbalance"] == 0
    assert summary.frames["pending"] == 0
