from __future__ import annotations

import platform
import threading

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from edm import __version__
from edm.kernel.columns import N_FATES, SESSION, UNDECODABLE, Fate
from edm.observe.ledger import Ledger
from edm.observe.metrics import Metrics

GO_DAEMON_COUNTERS = [
    "edm_processed_dnstap_total",
    "edm_ignored_dns_parse_error_total",
    "edm_ignored_client_ip_error_total",
    "edm_ignored_client_ip_total",
    "edm_ignored_empty_question_section_total",
    "edm_ignored_invalid_question_name_total",
    "edm_ignored_question_name_total",
    "edm_new_qname_queued_total",
    "edm_new_qname_discarded_total",
    "edm_cryptopan_lru_hit_total",
    "edm_cryptopan_lru_evicted_total",
    "edm_seen_qname_lru_evicted_total",
]
OURS = [
    "edm_frames_received_total",
    "edm_frames_oversized_total",
    "edm_undecodable_frames_total",
    "edm_input_bytes_total",
    "edm_blocks_total",
    "edm_histogram_rows_total",
    "edm_session_rows_written_total",
    "edm_session_rows_shed_total",
    "edm_log_suppressed_total",
]


def samples(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f"|{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def test_all_names_are_there_and_start_at_zero() -> None:
    body, media_type = Metrics().render()
    found = samples(body.decode())
    for name in GO_DAEMON_COUNTERS + OURS:
        assert found[name] == 0, name
    for fate in Fate:
        assert found[f"edm_frames_total|fate={fate.name.lower()}"] == 0
    assert found[f"edm_build_info|python={platform.python_version()}|version={__version__}"] == 1
    assert found["process_resident_memory_bytes"] > 0
    assert any(name.startswith("python_info|") for name in found)
    assert not any("_created" in name for name in found)
    assert media_type.startswith("text/plain; version=0.0.4")


def test_fates_feed_the_go_daemons_counters() -> None:
    metrics = Metrics()
    counts = np.array([0, *(10**k for k in range(N_FATES - 1))], np.int64)
    metrics.count_fates(counts)
    metrics.count_fates(counts)
    expected = {
        "edm_processed_dnstap_total": int(counts.sum()),
        "edm_ignored_client_ip_total": counts[Fate.CLIENT_IGNORED],
        "edm_ignored_client_ip_error_total": counts[Fate.CLIENT_ADDRESS_INVALID],
        "edm_ignored_dns_parse_error_total": counts[Fate.DNS_PARSE_ERROR],
        "edm_ignored_empty_question_section_total": counts[Fate.EMPTY_QUESTION],
        "edm_ignored_invalid_question_name_total": counts[Fate.INVALID_NAME],
        "edm_ignored_question_name_total": counts[Fate.QUESTION_IGNORED],
        "edm_undecodable_frames_total": counts[Fate.UNDECODABLE],
    }
    for name, once in expected.items():
        assert metrics.value(name) == 2 * once, name
    for fate in Fate:
        assert metrics.value("edm_frames_total", fate=fate.name.lower()) == 2 * counts[fate]


def test_the_callers_array_is_not_kept() -> None:
    metrics = Metrics()
    counts = np.zeros(N_FATES, np.int64)
    counts[SESSION] = 3
    metrics.count_fates(counts)
    counts[:] = 0
    assert metrics.value("edm_frames_total", fate="session") == 3


def test_two_metrics_do_not_share_anything() -> None:
    one, two = Metrics(), Metrics()
    counts = np.zeros(N_FATES, np.int64)
    counts[UNDECODABLE] = 1
    one.count_fates(counts)
    one.rotated(0.2)
    assert two.value("edm_undecodable_frames_total") == 0
    assert two.value("edm_rotations_total", result="ok") == 0


def test_bulk_counters() -> None:
    metrics = Metrics()
    metrics.count_block(1000)
    metrics.count_block(24)
    metrics.count_received(7)
    metrics.count_oversized(2)
    metrics.count_pseudonyms(hits=5, evicted=1)
    metrics.count_new_qnames(queued=4, discarded=3)
    metrics.count_suppressed(9)
    metrics.add(histogram_rows=6, session_rows_written=8, seen_qname_lru_evicted=1)
    expected = {
        "edm_blocks_total": 2,
        "edm_input_bytes_total": 1024,
        "edm_frames_received_total": 7,
        "edm_frames_oversized_total": 2,
        "edm_cryptopan_lru_hit_total": 5,
        "edm_cryptopan_lru_evicted_total": 1,
        "edm_new_qname_queued_total": 4,
        "edm_new_qname_discarded_total": 3,
        "edm_log_suppressed_total": 9,
        "edm_histogram_rows_total": 6,
        "edm_session_rows_written_total": 8,
        "edm_session_rows_shed_total": 0,
        "edm_seen_qname_lru_evicted_total": 1,
    }
    assert {name: metrics.value(name) for name in expected} == expected
    with pytest.raises(KeyError):
        metrics.add(no_such_total=1)


def test_events() -> None:
    metrics = Metrics()
    metrics.reloaded("ignored_clients", ok=True)
    first = metrics.value("edm_reload_last_success_timestamp_seconds", part="ignored_clients")
    metrics.reloaded("ignored_clients", ok=False)
    metrics.rotated(0.02)
    metrics.rotated(20.0, ok=False)
    metrics.file_written("histogram", ok=True)
    metrics.file_written("session", ok=False)
    metrics.connection_ended("protocol_error")
    metrics.callback("edm_reader_blocked_seconds_total", "Time waited", lambda: 0.5)
    assert first is not None
    assert first > 1.7e9
    assert metrics.value("edm_reload_last_success_timestamp_seconds", part="ignored_clients") == first
    assert metrics.value("edm_reloads_total", part="ignored_clients", result="ok") == 1
    assert metrics.value("edm_reloads_total", part="ignored_clients", result="error") == 1
    assert metrics.value("edm_rotations_total", result="error") == 1
    assert metrics.value("edm_rotation_seconds_count") == 2
    assert metrics.value("edm_rotation_seconds_bucket", le="0.05") == 1
    assert metrics.value("edm_files_written_total", kind="histogram", result="ok") == 1
    assert metrics.value("edm_files_written_total", kind="session", result="error") == 1
    assert metrics.value("edm_connections_total", result="protocol_error") == 1
    assert metrics.value("edm_reader_blocked_seconds_total") == 0.5


def test_retired_ledgers_are_counted_by_whether_they_close() -> None:
    metrics = Metrics()
    ledger = Ledger()
    metrics.ledger_retired(ledger)
    ledger.receive(0, 1)
    metrics.ledger_retired(ledger)
    assert metrics.value("edm_ledger_intervals_total", result="closed") == 1
    assert metrics.value("edm_ledger_intervals_total", result="imbalance") == 1


def test_gauges_ask_their_owner_at_scrape_time() -> None:
    metrics = Metrics()
    depth = [3]
    metrics.callback("edm_block_queue_depth", "Blocks waiting", lambda: depth[0])
    assert metrics.value("edm_block_queue_depth") == 3
    depth[0] = 4
    assert metrics.value("edm_block_queue_depth") == 4
    with pytest.raises(ValueError, match="Duplicated"):
        metrics.callback("edm_block_queue_depth", "again", lambda: 0)


def test_owner_that_fails_costs_its_own_sample_only() -> None:
    metrics = Metrics()

    def closed() -> float:
        raise OSError("closed")

    metrics.callback("edm_open_connections", "Connections open now", closed)
    found = samples(metrics.render()[0].decode())
    assert "edm_open_connections" not in found
    assert found["edm_processed_dnstap_total"] == 0


def test_others_add_theirs() -> None:
    metrics = Metrics()
    sent = metrics.counter("edm_mqtt_events_total", "Events by result", ("result",))
    sent.labels("sent").inc(2)
    metrics.callback("edm_mqtt_queue_bytes", "Bytes on disk", lambda: 12)
    metrics.callback("edm_mqtt_bytes_total", "Bytes sent", lambda: 34)
    found = samples(metrics.render()[0].decode())
    assert found["edm_mqtt_events_total|result=sent"] == 2
    assert found["edm_mqtt_queue_bytes"] == 12
    assert found["edm_mqtt_bytes_total"] == 34
    for name in ("edm_mqtt_events_total", "edm_blocks_total", "edm_mqtt_bytes_total"):
        with pytest.raises(ValueError, match="Duplicated"):
            metrics.counter(name, "again")


def test_openmetrics_is_valid() -> None:
    metrics = Metrics()
    metrics.callback("edm_open_connections", "Connections open now", lambda: 0)
    metrics.connection_ended("closed")
    metrics.reloaded("config", ok=True)
    body, media_type = metrics.render("application/openmetrics-text; version=1.0.0, text/plain;q=0.5")
    assert media_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(body.decode())}
    assert families["edm_processed_dnstap"].type == "counter"
    assert families["edm_open_connections"].type == "gauge"
    assert families["edm_connections"].type == "counter"


def test_adding_from_many_threads_loses_nothing() -> None:
    metrics = Metrics()
    counts = np.ones(N_FATES, np.int64)

    def work() -> None:
        for _ in range(300):
            metrics.count_fates(counts)
            metrics.count_block(2)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.value("edm_processed_dnstap_total") == 1200 * N_FATES
    assert metrics.value("edm_blocks_total") == 1200
    assert metrics.value("edm_input_bytes_total") == 2400
