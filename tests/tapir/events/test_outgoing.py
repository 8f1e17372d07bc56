"""Events out without a broker: start, store, stop. The end-to-end tests have a broker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edm.config import Config
from edm.errors import ConfigError, EdmError, KeyFileError, OutputError
from edm.observe.metrics import Metrics
from edm.stages.new_qname.queue import EventQueue
from edm.stages.new_qname.seen.log import NameLog
from edm.stages.new_qname.seen.unsaved import Unsaved
from edm.tapir.events.outgoing import EventsOut
from edm.tapir.mqtt.publisher import BACKOFF_MOST, Backoff
from support.events import block_of, payloads
from support.pki import Authority, signing_jwk, write_jwk
from support.processes import free_port, wait_until


class Site:
    """Everything that events out needs, with no broker at the other end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "ca")
        self.pair = self.authority.client()
        self.key = write_jwk(folder / "signer.jwk", signing_jwk())
        self.port = free_port()
        self.running: list[tuple[EventsOut, EventQueue]] = []

    def config(self, **changes: Any) -> Config:
        values: dict[str, Any] = {
            "mqtt_signing_key_file": str(self.key),
            "mqtt_client_cert_file": str(self.pair.cert),
            "mqtt_client_key_file": str(self.pair.key),
            "mqtt_ca_file": str(self.authority.ca),
            "mqtt_server": f"127.0.0.1:{self.port}",
            "mqtt_sign_workers": 1,
        }
        return Config(**{**values, **changes})

    def start(self, **changes: Any) -> tuple[EventsOut, EventQueue, Metrics]:
        queue, metrics = EventQueue(100_000), Metrics()
        out = EventsOut(self.config(**changes), queue, self.folder / "data", metrics)
        out.start()
        self.running.append((out, queue))
        return out, queue, metrics


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    for out, queue in made.running:
        queue.close()
        out.stop(0.1)


def test_without_a_broker_events_wait_on_disk_for_the_next_run(site: Site) -> None:
    out, queue, metrics = site.start()
    queue.put(block_of(payloads(0, 3000)))
    wait_until(lambda: metrics.value("edm_mqtt_disk_events") == 3000, "events are on disk")
    queue.put(block_of(payloads(3000, 3100)))
    queue.close()
    with capture_logs() as logs:
        out.stop(1.0)
    assert not [line for line in logs if line["log_level"] == "error" and "lost" in line["event"]]
    assert (site.folder / "data" / "mqtt" / "queue.sqlite3").exists()
    _, _, metrics = site.start()
    assert metrics.value("edm_mqtt_loaded_events") == 3100
    assert metrics.value("edm_mqtt_lifetime_events", fate="queued") == 3100
    assert metrics.value("edm_mqtt_sent_total") == 0


@dataclass
class Names(Unsaved):
    """Notes how many events were on disk when the names were saved."""

    metrics: Metrics = field(default_factory=Metrics)
    found: list[float] = field(default_factory=list)

    def save(self, *, at_once: bool = True) -> None:
        assert at_once
        self.found.append(self.metrics.value("edm_mqtt_disk_events") or 0)


def test_names_are_saved_after_their_events_and_stored_with_them(site: Site) -> None:
    out, queue, metrics = site.start()
    log = NameLog.create(site.folder, 1, bytes(16))
    unsaved = [
        Names(bytes(16), [(log, 64, number.to_bytes(8, "little"), 0)], bool, metrics) for number in (1, 2)
    ]
    for first, names in zip((0, 100), unsaved, strict=True):
        queue.put(replace(block_of(payloads(first, first + 100)), unsaved=names))
    wait_until(lambda: metrics.value("edm_mqtt_disk_events") == 200, "events are on disk")
    wait_until(lambda: bool(unsaved[1].found), "the names are saved")
    # In one transaction or in two, but never before it.
    assert ([names.found for names in unsaved]) in ([[200], [200]], [[100], [200]])
    queue.close()
    out.stop(1.0)
    log.close()
    again, _, _ = site.start()
    record = again.backlog.names
    assert record[:16] == bytes(16)
    assert record[16:].endswith((2).to_bytes(8, "little"))


def test_without_a_disk_queue_what_cannot_be_sent_is_counted(site: Site) -> None:
    out, queue, metrics = site.start(disable_mqtt_filequeue=True)
    queue.put(block_of(payloads(0, 500)))
    wait_until(lambda: metrics.value("edm_mqtt_memory_events") == 500, "events are taken up")
    queue.close()
    with capture_logs() as logs:
        out.stop(0.3)
    assert metrics.value("edm_mqtt_dropped_total", reason="shutdown") == 500
    assert [line["events"] for line in logs if "lost at shutdown" in line["event"]] == [500]
    assert not (site.folder / "data").exists()


def test_failed_attempts_to_connect_are_counted_and_logged(site: Site) -> None:
    with capture_logs() as logs:
        _, _, metrics = site.start()
        wait_until(
            lambda: (metrics.value("edm_mqtt_connects_total", result="error") or 0) >= 2, "two attempts"
        )
    errors = [line for line in logs if line["event"] == "cannot connect to the MQTT broker"]
    assert errors[0]["server"] == f"tls://127.0.0.1:{site.port}"
    assert "refused" in errors[0]["reason"]
    assert metrics.value("edm_mqtt_connected") == 0


def test_the_folder_of_the_queue(site: Site) -> None:
    site.start()
    folder = site.folder / "data" / "mqtt"
    assert folder.stat().st_mode & 0o777 == 0o750
    assert (folder / "queue.sqlite3").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        (
            {"mqtt_signing_key_file": "/nonexistent"},
            KeyFileError,
            "mqtt-signing-key-file: /nonexistent: No such",
        ),
        (
            {"mqtt_client_cert_file": "/nonexistent"},
            KeyFileError,
            "mqtt-client-cert-file: /nonexistent: No such",
        ),
        (
            {"mqtt_client_key_file": "/nonexistent"},
            KeyFileError,
            "mqtt-client-key-file: /nonexistent: No such",
        ),
        ({"mqtt_ca_file": "/nonexistent"}, KeyFileError, "mqtt-ca-file: /nonexistent: No such"),
        ({"mqtt_server": "ftp://host:1"}, ConfigError, "mqtt-server"),
    ],
)
def test_start_failures(site: Site, changes: dict[str, str], kind: type[EdmError], text: str) -> None:
    with pytest.raises(kind, match=text):
        site.start(**changes)


@pytest.mark.parametrize("kid", ["a+b", "a#", "a\0b"])
def test_a_key_id_that_cannot_be_in_a_topic(site: Site, kid: str) -> None:
    write_jwk(site.key, signing_jwk(kid))
    with pytest.raises(KeyFileError, match="cannot be part of an MQTT topic"):
        site.start()


def test_a_data_directory_that_cannot_be_used(site: Site) -> None:
    (site.folder / "data").touch()
    with pytest.raises(OutputError, match="data"):
        site.start()


def test_reload_takes_a_new_pair_and_keeps_the_old_one_if_it_is_broken(site: Site) -> None:
    out, _, _ = site.start()
    new = site.authority.client()
    out.reload(site.config(mqtt_client_cert_file=str(new.cert), mqtt_client_key_file=str(new.key)))
    assert out.certificate.serial == new.serial
    with pytest.raises(KeyFileError, match="does not belong"):
        out.reload(site.config(mqtt_client_cert_file=str(new.cert)))
    assert out.certificate.serial == new.serial


def test_a_reload_takes_key_and_authorities_part_by_part(site: Site, tmp_path: Path) -> None:
    out, _, _ = site.start()
    other = Authority(tmp_path / "other", "other")
    write_jwk(site.key, signing_jwk("new-site"))
    serial = out.certificate.serial
    with pytest.raises(KeyFileError, match="mqtt-client-key-file: /nowhere"):
        out.reload(site.config(mqtt_client_key_file="/nowhere", mqtt_ca_file=str(other.ca)))
    assert out.certificate.serial == serial
    assert [c["subject"][0][0][1] for c in out.certificate.context.get_ca_certs()] == ["other"]  # type: ignore[index]
    identity = out._key.value
    assert (identity.client_id, identity.topic) == ("new-site-edm", "events/up/new-site/new_qname")
    # Who could sign does not stop to by a reload: every event would be given up.
    members = signing_jwk("new-site", private=False)
    for broken in (members, signing_jwk("a+b")):
        write_jwk(site.key, broken)
        with pytest.raises(KeyFileError, match="mqtt-signing-key-file"):
            out.reload(site.config())
        assert out._key.value is identity


def test_what_was_renewed_on_disk_is_used_for_the_next_connection(site: Site) -> None:
    with capture_logs() as lines:
        site.start()
        write_jwk(site.key, signing_jwk("new-site"))
        wait_until(lambda: any(line["event"] == "renewed on disk, taken up" for line in lines), "it is found")
    assert {line["part"] for line in lines if "renewed" in line["event"]} == {"mqtt_signing_key"}


def test_stop_without_start(tmp_path: Path) -> None:
    EventsOut(Config(), EventQueue(1), tmp_path, Metrics()).stop(1.0)


def test_a_burst_is_moved_to_disk_at_once_and_bounded(site: Site) -> None:
    _, queue, metrics = site.start(mqtt_queue_bytes=1 << 20)
    queued = sum(queue.put(block_of(payloads(first, first + 2000)))[0] for first in range(0, 60_000, 2000))
    assert queued == 60_000

    def settled() -> bool:
        return metrics.value("edm_mqtt_queued_total") == 60_000 and not metrics.value(
            "edm_mqtt_memory_events"
        )

    wait_until(settled, "everything is moved")
    on_disk = metrics.value("edm_mqtt_disk_events") or 0
    dropped = metrics.value("edm_mqtt_dropped_total", reason="queue_full") or 0
    assert 0 < (metrics.value("edm_mqtt_disk_bytes") or 0) <= 1 << 20
    assert on_disk + dropped == 60_000


def test_backoff_is_bounded_and_starts_over() -> None:
    backoff = Backoff()
    delays = [backoff.delay() for _ in range(20)]
    assert max(delays) <= BACKOFF_MOST
    assert delays[0] < 0.5
    assert min(delays[10:]) >= BACKOFF_MOST / 2
    backoff.reset()
    assert backoff.delay() < 0.5
