"""The golden captures, through files and through the socket: rows, events and counters equal the Go daemon's."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard

from edm.captures.minimiser import minimise
from edm.captures.reading import CaptureReader
from edm.captures.replay import connect, replay
from edm.kernel.jit import JIT_DISABLED
from edm.observe.metrics import Metrics
from edm.stages.framestream.protocol import CONTENT_TYPE, START, STOP, encode_control
from support import golden
from support.daemon import HISTOGRAMS, SESSIONS, Daemon

SKIP = "60,000 frames take minutes without JIT; the kernels' own tests cover that mode"


def check_files(data: Path, name: str, *, ordered: bool) -> None:
    expected = golden.CAPTURES / name
    histogram = golden.histogram_rows(golden.read_all(data, "parquet/histograms/outbox/*.parquet"))
    wanted = golden.histogram_rows(pq.read_table(expected / "histogram.parquet"))
    assert histogram.equals(wanted.cast(histogram.schema))
    session = golden.read_all(data, "parquet/sessions/*.parquet")
    assert session.column_names == pq.read_schema(expected / "session.parquet").names
    assert golden.session_rows(session, ordered=ordered) == golden.session_rows(
        pq.read_table(expected / "session.parquet"), ordered=ordered
    )


@pytest.mark.skipif(JIT_DISABLED, reason=SKIP)
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("name", golden.NAMES)
def test_files_give_the_golden_results(name: str, workers: int, tmp_path: Path) -> None:
    metrics = Metrics()
    config = golden.golden_config(tmp_path, workers)
    summary = minimise(config, [str(golden.capture(name))], lambda *_: None, metrics)

    assert summary.problems == []
    check_files(tmp_path, name, ordered=workers == 1)
    # Also with several workers: the first response to arrive makes the event.
    lines = (tmp_path / "new_qname.jsonl").read_text().splitlines()
    assert lines == (golden.CAPTURES / name / "new_qname.jsonl").read_text().splitlines()
    for counter, value in golden.expected_counters(name).items():
        if workers == 1 or not counter.startswith("edm_cryptopan"):  # each worker has a cache of its own
            assert metrics.value(counter) == value, counter
    assert summary.frames["imbalance"] == summary.frames["pending"] == 0


@pytest.mark.skipif(JIT_DISABLED, reason=SKIP)
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("name", golden.NAMES)
def test_the_daemons_socket_gives_the_golden_results(name: str, workers: int, tmp_path: Path) -> None:
    daemon = through_the_socket(tmp_path / "first", name, workers)
    if len(daemon.files(HISTOGRAMS)) > 1:  # a full minute fell into it: the same names are in two intervals
        daemon = through_the_socket(tmp_path / "second", name, workers)
    check_files(daemon.data, name, ordered=workers == 1 and len(daemon.files(SESSIONS)) == 1)
    for kind in (SESSIONS, HISTOGRAMS):
        for path in daemon.files(kind):
            assert pq.read_metadata(path).metadata[b"edm.ledger.closed"] == b"true"


def through_the_socket(folder: Path, name: str, workers: int) -> Daemon:
    folder.mkdir()
    settings = {**golden.LIST_SETTINGS, "input_unix": folder / "dnstap.sock", "minimiser_workers": workers}
    with Daemon(folder, **settings) as daemon:
        with (
            CaptureReader(golden.capture(name)) as capture,
            connect(unix=str(folder / "dnstap.sock")) as sock,
        ):
            replay([capture], sock)
        counters = golden.expected_counters(name)
        daemon.wait_for_metric("edm_processed_dnstap_total", counters["edm_processed_dnstap_total"])
        for counter, value in counters.items():
            if counter.startswith("edm_new_qname") or (workers > 1 and counter.startswith("edm_cryptopan")):
                continue  # events need a broker: see the tests of the MQTT output
            assert daemon.metric(counter) == value, counter
        assert daemon.stop() == 0
    return daemon


def test_several_files_and_forms_are_one_run(tmp_path: Path) -> None:
    frames = golden.frames("mutated")[:2000]
    head = encode_control(START, (CONTENT_TYPE,))
    plain = tmp_path / "a.fstrm"
    plain.write_bytes(head + b"".join(frames[:700]) + encode_control(STOP))
    packed = tmp_path / "b"
    packed.write_bytes(gzip.compress(head + b"".join(frames[700:1300]) + encode_control(STOP)))
    third = tmp_path / "c.bin"
    third.write_bytes(zstandard.compress(head + b"".join(frames[1300:]) + encode_control(STOP)))
    whole = tmp_path / "whole"
    whole.write_bytes(head + b"".join(frames) + encode_control(STOP))

    parts = minimise(
        golden.golden_config(tmp_path / "1"), [str(plain), str(packed), str(third)], lambda *_: None
    )
    once = minimise(golden.golden_config(tmp_path / "2"), [str(whole)], lambda *_: None)
    assert parts.frames == once.frames
    assert parts.frames["frames_received"] == 2000
    assert parts.problems == once.problems == []
    sessions = [golden.read_all(tmp_path / n, "parquet/sessions/*.parquet") for n in "12"]
    assert golden.session_rows(sessions[0], ordered=True) == golden.session_rows(sessions[1], ordered=True)


def test_what_is_whole_of_a_damaged_file_is_minimised(tmp_path: Path) -> None:
    frames = golden.frames("mutated")[:100]
    cut = tmp_path / "cut.fstrm"
    cut.write_bytes(encode_control(START, (CONTENT_TYPE,)) + b"".join(frames)[:-3])
    summary = minimise(golden.golden_config(tmp_path / "data"), [str(cut)], lambda *_: None)
    assert summary.frames["frames_received"] == 99
    assert len(summary.problems) == 1
    assert "ends inside the frame" in summary.problems[0]
    assert str(cut) in summary.problems[0]
