"""New names to a real broker (mosquitto): TLS 1.3 with client certificates, through all kinds of failures."""

from __future__ import annotations

import json
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edm.tapir.mqtt.session import WINDOW
from support import golden
from support.events import payload, verified
from support.gate import Gate
from support.mosquitto import Mosquitto, Subscriber
from support.mqtt_driver import Driver
from support.pki import Authority, signing_jwk, write_jwk
from support.processes import wait_until
from support.throttle import Throttle

pytestmark = pytest.mark.e2e

KID = "test-site"
TOPIC = f"events/up/{KID}/new_qname"
CAPTURE = golden.CAPTURES / "dnsdist" / "new_qname.jsonl"
EVENTS = CAPTURE.read_bytes().splitlines()


class Site:
    """A site and the broker that it reports to."""

    def __init__(self, folder: Path, *, tls: bool = True, websocket: bool = False) -> None:
        self.folder = folder
        self.authority = Authority(folder / "ca")
        self.pair = self.authority.client("site-1")
        self.jwk = signing_jwk(KID)
        write_jwk(folder / "signer.pem", self.jwk)
        self.broker = Mosquitto(folder / "broker", self.authority if tls else None, websocket=websocket)
        self.subscribers: list[Subscriber] = []
        self.gate = Gate(self.broker.port)
        self.gate.open()
        self._drivers: list[Driver] = []

    def settings(self, **changes: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "mqtt_signing_key_file": str(self.folder / "signer.pem"),
            "mqtt_client_cert_file": str(self.pair.cert),
            "mqtt_client_key_file": str(self.pair.key),
            "mqtt_ca_file": str(self.authority.ca),
            "mqtt_server": re.sub(r"\d+$", str(self.gate.port), self.broker.url),
        }
        return {**settings, **changes}

    def driver(self, **changes: Any) -> Driver:
        driver = Driver(self.folder, self.settings(**changes))
        self._drivers.append(driver)
        return driver

    def subscribe(self) -> Subscriber:
        subscriber = Subscriber(self.broker, self.authority.client("subscriber"))
        self.subscribers.append(subscriber)
        return subscriber

    @property
    def messages(self) -> list[bytes]:
        return [message for subscriber in self.subscribers for _, message in subscriber.messages]

    def close(self) -> None:
        for driver in self._drivers:
            driver.close()
        for subscriber in self.subscribers:
            subscriber.close()
        if self.broker.process is not None:
            self.broker.stop()
        self.gate.close()


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make(**options: Any) -> Site:
        sites.append(Site(tmp_path, **options))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    made = make_site()
    made.broker.start()
    made.subscribe()
    return made


def events_file(folder: Path, count: int) -> Path:
    path = folder / "events.jsonl"
    path.write_bytes(b"\n".join(payload(number) for number in range(count)))
    return path


@pytest.mark.parametrize(("qos", "count"), [(0, len(EVENTS)), (1, 2000)])
def test_every_event_of_a_capture_arrives_once_and_signed(site: Site, qos: int, count: int) -> None:
    driver = site.driver(mqtt_qos=qos)
    driver.put(CAPTURE, 0, count)
    driver.wait("sent_total", count)
    wait_until(lambda: len(site.messages) >= count, "everything has arrived")
    metrics = driver.stop()

    assert verified(site.messages, site.jwk) == EVENTS[:count]
    (subscriber,) = site.subscribers
    assert {topic for topic, _ in subscriber.messages} == {TOPIC}
    assert subscriber.qos == {qos}
    assert not subscriber.retained
    assert metrics["sent_total"] == metrics["signed_total"] == metrics["queued_total"] == count
    assert metrics["disk_events"] == metrics["memory_events"] == metrics["unconfirmed_total"] == 0
    assert metrics["round_trip_seconds_count"] > 0
    assert metrics["last_success_timestamp_seconds"] > 0
    # MQTT 5, clean start off, keep-alive, user from the certificate.
    assert f"as {KID}-edm (p5, c0, k30, u'site-1')" in site.broker.log()


def test_a_broker_that_dies_twice_costs_nothing(site: Site) -> None:
    driver = site.driver()
    third = len(EVENTS) // 3
    for round_ in (1, 2):
        driver.put(CAPTURE, (round_ - 1) * third, round_ * third)
        wanted = (round_ - 1) * third + third // 2
        wait_until(lambda wanted=wanted: len(site.messages) >= wanted, "half of it has arrived")  # type: ignore[misc]
        # The broker must not be reached again before somebody listens to what it is told.
        site.gate.shut()
        site.broker.kill()
        site.broker.start()
        site.subscribe()
        site.gate.open()
    driver.put(CAPTURE, 2 * third, len(EVENTS))
    driver.wait("sent_total", len(EVENTS))
    metrics = driver.stop()
    wait_until(lambda: len(set(site.messages)) >= len(EVENTS), "everything has arrived")

    received = Counter(verified(site.messages, site.jwk))
    assert set(received) == set(EVENTS)
    again = received.total() - len(EVENTS)
    assert again <= metrics["unconfirmed_total"] <= 2 * WINDOW[0]
    assert metrics["sent_total"] == metrics["lifetime_sent"] == len(EVENTS)
    assert metrics["disk_events"] == 0
    assert site.gate.passed >= 3


def test_kill_9_loses_nothing_that_was_stored(site: Site) -> None:
    first = site.driver()
    third = len(EVENTS) // 3
    first.put(CAPTURE, 0, third)
    first.wait("sent_total", third)
    # The broker reads no more: whatever is sent from here on is still on the wire when the end comes.
    assert site.broker.process is not None
    site.broker.process.send_signal(signal.SIGSTOP)
    first.put(CAPTURE, third, len(EVENTS))
    first.wait("disk_events", len(EVENTS) - third)
    first.wait("signed_total", third + 100)
    first.kill()
    site.broker.process.send_signal(signal.SIGCONT)

    second = site.driver()
    loaded = second.ask("metrics")["loaded_events"]
    assert loaded == len(EVENTS) - third
    second.wait("sent_total", loaded)
    wait_until(lambda: len(set(site.messages)) >= len(EVENTS), "everything has arrived")
    metrics = second.stop()

    received = Counter(verified(site.messages, site.jwk))
    assert set(received) == set(EVENTS)
    assert received.total() - len(EVENTS) <= WINDOW[0]
    # The account over both runs.
    assert metrics["lifetime_queued"] == metrics["lifetime_sent"] == len(EVENTS)
    assert metrics["disk_events"] == 0


def test_events_wait_for_a_broker_and_for_the_next_start(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.gate.shut()
    first = site.driver()
    first.put(CAPTURE, 0, 3000)
    first.wait("disk_events", 3000)
    assert first.stop(1.0)["sent_total"] == 0
    second = site.driver()
    second.put(CAPTURE, 3000, 4000)
    assert second.wait("disk_events", 4000)["loaded_events"] == 3000
    site.broker.start()
    site.subscribe()
    site.gate.open()
    second.wait("sent_total", 4000)
    wait_until(lambda: len(site.messages) >= 4000, "everything has arrived")
    assert verified(site.messages, site.jwk) == EVENTS[:4000]
    second.stop()


def test_without_a_disk_queue(site: Site) -> None:
    driver = site.driver(disable_mqtt_filequeue=True)
    driver.put(CAPTURE, 0, 2000)
    metrics = driver.stop()
    assert metrics["sent_total"] == 2000
    assert metrics["dropped"] == 0
    wait_until(lambda: len(site.messages) >= 2000, "everything has arrived")
    assert verified(site.messages, site.jwk) == EVENTS[:2000]
    assert not (site.folder / "data").exists()


def test_new_certificates_are_shown_at_the_next_connection(site: Site) -> None:
    driver = site.driver()
    driver.put(CAPTURE, 0, 10)
    driver.wait("sent_total", 10)
    second = site.authority.client("site-2")
    settings = site.settings(mqtt_client_cert_file=str(second.cert), mqtt_client_key_file=str(second.key))
    driver.ask(f"reload {json.dumps(settings)}")
    driver.put(CAPTURE, 10, 20)
    driver.wait("sent_total", 20)
    assert "u'site-2'" not in site.broker.log()
    site.broker.kill()
    site.broker.start()
    driver.put(CAPTURE, 20, 30)
    driver.wait("sent_total", 30)
    assert f"as {KID}-edm (p5, c0, k30, u'site-2')" in site.broker.log()
    driver.stop()


def test_a_broker_of_another_authority_is_not_spoken_to(site: Site) -> None:
    other = Authority(site.folder / "other", "other")
    driver = site.driver(mqtt_ca_file=str(other.ca))
    driver.put(CAPTURE, 0, 10)
    wait_until(lambda: "cannot connect" in driver.log(), "the attempt has failed")
    assert "certificate is not accepted" in driver.log()
    assert driver.stop(0.5)["disk_events"] == 10
    assert site.messages == []


def test_a_client_certificate_that_the_broker_does_not_know(site: Site) -> None:
    stranger = Authority(site.folder / "other", "other").client()
    driver = site.driver(mqtt_client_cert_file=str(stranger.cert), mqtt_client_key_file=str(stranger.key))
    driver.put(CAPTURE, 0, 10)
    wait_until(lambda: "cannot connect" in driver.log(), "the attempt has failed")
    assert driver.stop(0.5)["disk_events"] == 10
    assert site.messages == []


@pytest.mark.parametrize(
    ("tls", "websocket"), [(False, False), (False, True), (True, True)], ids=["mqtt", "ws", "wss"]
)
def test_other_ways_to_connect(
    make_site: Callable[..., Site], tmp_path: Path, tls: bool, websocket: bool
) -> None:
    site = make_site(tls=tls, websocket=websocket)
    site.broker.start()
    driver = site.driver()
    driver.put(events_file(tmp_path, 1000), 0, 1000)
    metrics = driver.wait("sent_total", 1000)
    driver.stop()
    # The broker says what it has read.
    assert site.broker.log().count(f"Received PUBLISH from {KID}-edm (d0, q0, r0, m0, '{TOPIC}'") == 1000
    assert metrics["unconfirmed_total"] == 0


def test_a_public_key_signs_nothing_and_is_counted(site: Site) -> None:
    write_jwk(site.folder / "signer.pem", {k: v for k, v in site.jwk.items() if k != "d"})
    driver = site.driver()
    driver.put(CAPTURE, 0, 500)
    metrics = driver.wait("failed", 500)
    assert metrics["sent_total"] == 0
    driver.wait("connected", 1)
    assert driver.stop()["disk_events"] == 0
    assert "holds only a public key" in driver.log()
    assert site.messages == []


def test_messages_of_the_go_daemon_are_sent_first_thing(site: Site) -> None:
    folder = site.folder / "data" / "mqtt" / "queue"
    folder.mkdir(parents=True)
    for number in range(300):
        message = b'{"n":%d}' % number
        topic = b"events/up/old-site/new_qname"
        body = len(topic).to_bytes(2, "big") + topic + b"\0" + message
        (folder / f"queue{number}.msg").write_bytes(bytes([0x30, len(body)]) + body)
    driver = site.driver()
    metrics = driver.wait("sent_total", 300)
    assert metrics["imported_total"] == 300
    wait_until(lambda: len(site.messages) >= 300, "everything has arrived")
    assert sorted(site.messages) == sorted(b'{"n":%d}' % number for number in range(300))
    assert {topic for topic, _ in site.subscribers[0].messages} == {"events/up/old-site/new_qname"}
    assert list(folder.iterdir()) == []
    driver.stop()


# Slow lines, brokers that refuse, second clients


@pytest.mark.parametrize(
    ("rate", "count", "keepalive"),
    [(2_000, 60, 5), (10_000, 400, 5), (100_000, 2000, 5), (1e9, 5000, 30)],
    ids=["2 KB/s", "10 KB/s", "100 KB/s", "unlimited"],
)
@pytest.mark.parametrize("qos", [0, 1])
def test_a_slow_line_gets_everything_through_once(
    site: Site, rate: float, count: int, keepalive: int, qos: int
) -> None:
    line = Throttle(site.broker.port, rate)
    try:
        driver = site.driver(
            mqtt_server=f"tls://localhost:{line.port}", mqtt_keepalive=keepalive, mqtt_qos=qos
        )
        driver.put(CAPTURE, 0, count)
        metrics = driver.wait("sent_total", count, patience=150)
        wait_until(lambda: len(site.messages) >= count, "everything has arrived")
        assert verified(site.messages, site.jwk) == EVENTS[:count]
        assert metrics["unconfirmed_total"] == 0
        assert line.connections == 1
        driver.stop()
    finally:
        line.close()


def test_an_event_that_the_broker_cannot_bear_is_set_aside(site: Site) -> None:
    # The gate plays a broker with a limit of which it says nothing: it ends connections with a large packet.
    limit = 3000
    site.gate.close()
    site.gate = Gate(site.broker.port, largest=limit)
    site.gate.open()
    site.broker.stop()
    plain = Mosquitto(site.folder / "plain", None)
    site.broker = plain
    site.broker.start()
    site.gate.aim(plain.port)
    site.subscribers.clear()
    subscriber = Subscriber(plain, None)
    site.subscribers.append(subscriber)
    events = [payload(number, 4000 if number in (20, 21) else 0) for number in range(60)]
    path = site.folder / "events.jsonl"
    path.write_bytes(b"\n".join(events))
    driver = site.driver(mqtt_server=f"mqtt://localhost:{site.gate.port}")
    driver.put(path, 0, 60)
    metrics = driver.wait("sent_total", 58, patience=120)
    driver.wait("failed", 2, patience=120)
    metrics = driver.stop()
    assert metrics["disk_events"] == 0
    assert metrics["lifetime_failed"] == 2
    wait_until(lambda: len(set(site.messages)) >= 58, "everything has arrived")
    assert set(verified(site.messages, site.jwk)) == {event for event in events if len(event) < 3000}
    assert "new name set aside, the MQTT broker does not take it" in driver.log()


def test_a_broker_that_announces_a_tiny_packet_size_gets_nothing_and_nothing_is_lost(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    site.broker.extra = "max_packet_size 200"
    site.broker.start()
    driver = site.driver()
    driver.put(CAPTURE, 0, 50)
    wait_until(lambda: "takes no new names, they are kept" in driver.log(), "it is said")
    assert "it takes no packet above 200 bytes" in driver.log()
    metrics = driver.stop(1.0)
    assert (metrics["disk_events"], metrics["failed"], metrics["sent_total"]) == (50, 0, 0)


def test_a_broker_that_does_not_authorise_us_gets_nothing_and_nothing_is_lost(
    make_site: Callable[..., Site], tmp_path: Path
) -> None:
    site = make_site()
    (tmp_path / "acl").write_text("user site-1\ntopic write other/#\n")
    (tmp_path / "acl").chmod(0o644)
    site.broker.extra = f"acl_file {tmp_path / 'acl'}"
    site.broker.start()
    driver = site.driver(mqtt_qos=1)
    driver.put(CAPTURE, 0, 50)
    wait_until(lambda: "takes no new names, they are kept" in driver.log(), "it is said")
    assert "Not authorized" in driver.log()
    metrics = driver.ask("metrics")
    assert (metrics["disk_events"], metrics["failed"], metrics["sent_total"]) == (50, 0, 0)
    # Mended, and told so by a reload, it goes on at once.
    (tmp_path / "acl").write_text("user site-1\ntopic readwrite #\n")
    assert site.broker.process is not None
    site.broker.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "Reloading config" in site.broker.log(), "the broker has seen it")
    driver.ask(f"reload {json.dumps(site.settings(mqtt_qos=1))}")
    driver.wait("sent_total", 50)
    assert driver.stop()["failed"] == 0


def test_a_refused_client_certificate_is_told_as_tls_tells_it(site: Site) -> None:
    stranger = Authority(site.folder / "other", "other").client()
    driver = site.driver(mqtt_client_cert_file=str(stranger.cert), mqtt_client_key_file=str(stranger.key))
    wait_until(lambda: "does not accept the client certificate" in driver.log(), "it is said")
    assert "Unspecified error" not in driver.log()
    driver.stop(0.5)


def test_two_daemons_with_one_key_do_not_throw_each_other_out_without_a_pause(site: Site) -> None:
    first = site.driver()
    (site.folder / "second").mkdir()
    second = Driver(site.folder / "second", site.settings())
    site._drivers.append(second)
    began = time.monotonic()
    for number in range(40):
        first.put(CAPTURE, number, number + 1)
        second.put(CAPTURE, number, number + 1)
        wait_until(lambda end=began + number / 5: time.monotonic() >= end, "the next moment")  # type: ignore[misc]
    wait_until(lambda: "is there a second client with the ID" in first.log() + second.log(), "it is said", 60)
    assert "Unspecified error" not in first.log() + second.log()
    # Twice a second before; now each waits longer after every time.
    assert site.gate.passed < 4 + 2 * 6
    first.stop(0.5)
    second.stop(0.5)


def test_a_new_signing_key_is_used_without_a_restart(site: Site) -> None:
    driver = site.driver()
    driver.put(CAPTURE, 0, 10)
    driver.wait("sent_total", 10)
    renewed = signing_jwk(KID)
    write_jwk(site.folder / "signer.pem", renewed)
    driver.ask(f"reload {json.dumps(site.settings())}")
    driver.put(CAPTURE, 10, 20)
    driver.wait("sent_total", 20)
    wait_until(lambda: len(site.messages) >= 20, "everything has arrived")
    assert verified(site.messages[10:], renewed) == EVENTS[10:20]
    assert site.gate.passed == 1
    # Another name is another client and another topic.
    write_jwk(site.folder / "signer.pem", signing_jwk("other-site"))
    driver.ask(f"reload {json.dumps(site.settings())}")
    driver.put(CAPTURE, 20, 30)
    driver.wait("sent_total", 30)
    wait_until(lambda: len(site.messages) >= 30, "everything has arrived")
    assert {topic for topic, _ in site.subscribers[0].messages[20:]} == {"events/up/other-site/new_qname"}
    assert "as other-site-edm (p5, c0" in site.broker.log()
    assert driver.stop()["unconfirmed_total"] == 0
