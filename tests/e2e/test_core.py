"""The whole daemon and its two outputs: frames go in at the socket, real peers receive events and histograms."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edm.captures.reading import CaptureReader
from edm.captures.replay import Sender, connect, replay
from edm.engine import EVENT_FLOOR
from edm.startup.warmup import sample_frame
from edm.tapir.events.chunks import CHUNK_EVENTS
from edm.tapir.events.queue_file import FILE_NAME
from edm.tapir.mqtt.session import WINDOW
from support import golden, upload_site
from support.daemon import HISTOGRAMS, Daemon
from support.events import verified
from support.gate import Gate
from support.mosquitto import Mosquitto, Subscriber
from support.pki import Authority, Pair, signing_jwk, write_jwk
from support.processes import wait_until
from support.receiver import CREATED, Receiver, Reply

pytestmark = pytest.mark.e2e

KID = "test-site"
TOPIC = f"events/up/{KID}/new_qname"
PROCESSED = "edm_processed_dnstap_total"
MIB = 1 << 20


class Site:
    """A site: its daemon, the broker and the receiver that it reports to, and everybody's keys."""

    def __init__(self, folder: Path, socket: Path) -> None:
        self.folder = folder
        self.files = upload_site.Site(folder / "http")
        self.authority = self.files.authority
        self.jwk = signing_jwk(KID)
        write_jwk(folder / "mqtt-signer.jwk", self.jwk)
        self.mqtt_cert, self.mqtt_key = folder / "mqtt.pem", folder / "mqtt-key.pem"
        self.show_to_broker(self.authority.client("site-1"))
        self.broker = Mosquitto(folder / "broker", self.authority)
        self.gate = Gate(self.broker.port)
        self.subscribers: list[Subscriber] = []
        self.socket = socket
        self._senders: list[Sending] = []

    def show_to_broker(self, pair: Pair) -> None:
        """Put another client certificate, with its key, where the daemon reads them."""
        self.mqtt_cert.write_bytes(pair.cert.read_bytes())
        self.mqtt_key.write_bytes(pair.key.read_bytes())

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of a daemon that sends events."""
        return {
            **golden.LIST_SETTINGS,
            "input_unix": self.socket,
            "disable_mqtt": False,
            "mqtt_signing_key_file": self.folder / "mqtt-signer.jwk",
            "mqtt_client_cert_file": self.mqtt_cert,
            "mqtt_client_key_file": self.mqtt_key,
            "mqtt_ca_file": self.authority.ca,
            "mqtt_server": re.sub(r"\d+$", str(self.gate.port), self.broker.url),
        }

    def upload_settings(self, url: str) -> dict[str, Any]:
        """Settings of a daemon that uploads histograms."""
        folder = self.files.folder
        return {
            "disable_histogram_sender": False,
            "http_url": url,
            "http_signing_key_file": folder / "signer.jwk",
            "http_client_key_file": folder / "client-key.pem",
            "http_client_cert_file": folder / "client.pem",
            "http_ca_file": folder / "ca.pem",
        }

    def open_broker(self) -> None:
        """Start the broker; the daemon reaches it when somebody listens to what the broker is told."""
        self.broker.start()
        self.subscribers.append(Subscriber(self.broker, self.authority.client("subscriber")))
        self.gate.open()

    def replace_broker(self) -> None:
        """Let the broker die of a power cut and come back."""
        self.gate.shut()
        self.broker.kill()
        self.open_broker()

    def sending(self) -> Sending:
        """Connect a sender of frames."""
        sending = Sending(self.socket)
        self._senders.append(sending)
        return sending

    @property
    def messages(self) -> list[bytes]:
        return [message for subscriber in self.subscribers for _, message in subscriber.messages]

    def wait_for_messages(self, count: int) -> None:
        wait_until(
            lambda: len(set(self.messages)) >= count, lambda: f"{len(self.messages)} of {count} arrived"
        )

    def close(self) -> None:
        for sending in self._senders:
            sending.sock.close()
        for subscriber in self.subscribers:
            subscriber.close()
        if self.broker.process is not None:
            self.broker.stop()
        self.gate.close()


class Sending:
    """A connection over which frames are sent."""

    def __init__(self, path: Path) -> None:
        self.sock = connect(unix=str(path))
        self._sender = Sender(self.sock)

    def send(self, frames: Sequence[bytes]) -> None:
        self._sender.send(b"".join(frames))

    def finish(self) -> None:
        """Wait until the daemon has read everything."""
        self._sender.finish()
        self.sock.close()


@pytest.fixture
def site(tmp_path: Path, sockets: Path) -> Iterator[Site]:
    made = Site(tmp_path, sockets / "dnstap")
    yield made
    made.close()


@pytest.fixture
def receiver(site: Site) -> Iterator[Receiver]:
    with Receiver(site.files.public_keys, site.files.folder) as receiver:
        yield receiver


def lines_of(name: str) -> list[bytes]:
    return (golden.CAPTURES / name / "new_qname.jsonl").read_bytes().splitlines()


def send(site: Site, daemon: Daemon, frames: Sequence[bytes]) -> None:
    """Send frames and wait until they have been processed."""
    before = daemon.metric(PROCESSED)
    sending = site.sending()
    sending.send(frames)
    sending.finish()
    daemon.wait_for_metric(PROCESSED, before + len(frames))


class Account:
    """What has become of the events, as one scrape tells."""

    def __init__(self, daemon: Daemon) -> None:
        self._values = daemon.metrics()
        self.waiting_for_disk = self["edm_new_qname_ch_len"] + self["edm_mqtt_memory_events"]
        self.failed = sum(self["edm_mqtt_failed_total", r] for r in ("sign", "too_large", "refused"))
        self.dropped = sum(
            self["edm_mqtt_dropped_total", r] for r in ("queue_full", "memory_full", "shutdown")
        )

    def __getitem__(self, key: str | tuple[str, str]) -> float:
        name, label = (key, None) if isinstance(key, str) else key
        kind = "fate" if name == "edm_mqtt_lifetime_events" else "reason"
        return self._values[name, frozenset({(kind, label)} if label else ())]

    def check(self) -> None:
        """Nothing is unaccounted for, neither since the start nor over the life of the queue."""
        gone = self["edm_mqtt_sent_total"] + self.failed + self.dropped + self["edm_mqtt_damaged_total"]
        still = self["edm_mqtt_disk_events"] + self["edm_mqtt_memory_events"]
        assert self["edm_mqtt_loaded_events"] + self["edm_mqtt_queued_total"] == gone + still
        ever = {
            fate: self["edm_mqtt_lifetime_events", fate]
            for fate in ("queued", "sent", "failed", "dropped", "damaged")
        }
        assert ever.pop("queued") == sum(ever.values()) + self["edm_mqtt_disk_events"]


def all_stored(daemon: Daemon, events: float) -> Callable[[], bool]:
    """Tell whether that many events have come since the start, and none is in memory only any more."""

    def holds() -> bool:
        account = Account(daemon)
        return account["edm_mqtt_queued_total"] >= events and not account.waiting_for_disk

    return holds


def wait_until_sent(daemon: Daemon, events: float) -> Account:
    """Wait until so many events have come since the start and nothing waits any more; return the account."""
    account: list[Account] = []

    def holds() -> bool:
        account[:] = [Account(daemon)]
        now = account[0]
        return (
            now["edm_mqtt_queued_total"] >= events
            and not now.waiting_for_disk
            and not now["edm_mqtt_disk_events"]
        )

    wait_until(holds, lambda: f"everything is sent:\n{daemon.tail()}")
    account[0].check()
    return account[0]


# Events


@pytest.mark.parametrize("name", ["dnsdist", "mutated"])
def test_every_event_of_a_capture_reaches_the_broker(name: str, site: Site) -> None:
    wanted = lines_of(name)
    counters = golden.expected_counters(name)
    site.open_broker()
    with Daemon(site.folder / "edm", **site.settings) as daemon:
        with CaptureReader(golden.capture(name)) as capture, connect(unix=str(site.socket)) as sock:
            replay([capture], sock)
        daemon.wait_for_metric(PROCESSED, counters[PROCESSED])
        account = wait_until_sent(daemon, len(wanted))
        for counter in ("edm_new_qname_queued_total", "edm_new_qname_discarded_total"):
            assert account[counter] == counters[counter]
        assert daemon.stop() == 0
    site.wait_for_messages(len(wanted))
    received = verified(site.messages, site.jwk)
    # The connection was never lost, so nothing may come twice.
    assert sorted(received) == sorted(wanted)
    assert {topic for topic, _ in site.subscribers[0].messages} == {TOPIC}
    assert account["edm_mqtt_sent_total"] == account["edm_mqtt_lifetime_events", "sent"] == len(wanted)
    assert account["edm_mqtt_unconfirmed_total"] == 0


def test_events_go_both_to_the_broker_and_into_files(site: Site) -> None:
    """Over a kill, no name is missing on either way, and each way counts what it did itself."""
    frames = golden.frames("dnsdist")[:20_000]
    half = len(frames) // 2
    site.open_broker()
    with Daemon(site.folder / "edm", **site.settings, new_qname_file=True) as daemon:
        burst = site.sending()
        for first in range(0, half, 500):
            burst.send(frames[first : first + 500])
        daemon.wait_for_metric("edm_new_qname_lines_written_total", 1)
        daemon.kill()
        daemon.start()
        before = int(daemon.metric("edm_mqtt_loaded_events"))
        send(site, daemon, frames)
        queued = daemon.metric("edm_new_qname_queued_total")
        daemon.wait_for_metric("edm_new_qname_lines_written_total", queued)
        account = wait_until_sent(daemon, queued)
        assert account["edm_mqtt_queued_total"] == account["edm_new_qname_queued_total"] == queued
        assert daemon.metric("edm_new_qname_lines_written_total") == queued
        assert account["edm_mqtt_sent_total"] == before + queued
        assert daemon.stop() == 0
        assert daemon.errors() == []
    files = sorted((daemon.data / "new_qname").glob("*.jsonl"))
    lines = [line for path in files for line in path.read_bytes().splitlines()]
    assert lines_of("dnsdist")[: len(set(lines))] == list(dict.fromkeys(lines))
    site.wait_for_messages(len(set(lines)))
    assert set(lines) == set(verified(site.messages, site.jwk))


def test_a_broker_that_dies_twice_and_a_daemon_that_is_killed(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    """Every event arrives, and none whose event was on disk at the kill is reported anew.

    A name is remembered for good when its event is on disk. What was on its way there at the kill is forgotten
    together with its name, and reported when the name comes again.
    """
    frames, events = golden.frames("dnsdist"), lines_of("dnsdist")
    third = len(frames) // 3
    site.open_broker()
    with Daemon(site.folder / "edm", **site.settings) as daemon:
        send(site, daemon, frames[:third])
        names = int(daemon.metric("edm_new_qname_queued_total"))
        site.wait_for_messages(names // 4)
        site.replace_broker()
        wait_until(all_stored(daemon, names), "the first third is stored")
        # Killed with frames everywhere on the way: in the socket, in a block, in the workers.
        burst = site.sending()
        for first in range(third, 2 * third, 500):
            burst.send(frames[first : first + 500])
        daemon.kill()

        daemon.start()
        after = Account(daemon)
        after.check()
        stored = int(after["edm_mqtt_lifetime_events", "queued"])
        record_property("events_stored_at_kill", stored)
        assert names <= stored < len(events)
        assert after["edm_seen_names"] == stored

        # Sent again from the beginning: only what was not stored is new.
        send(site, daemon, frames[: 2 * third])
        site.wait_for_messages(stored + 1)
        site.replace_broker()
        send(site, daemon, frames[2 * third :])
        last = wait_until_sent(daemon, len(events) - stored)
        assert last["edm_new_qname_queued_total"] == len(events) - stored
        assert last["edm_new_qname_discarded_total"] == 0
        assert last["edm_seen_names"] == len(events)
        assert last["edm_mqtt_lifetime_events", "sent"] == len(events)
        assert daemon.stop() == 0
    site.wait_for_messages(len(events))
    received = Counter(verified(site.messages, site.jwk))
    assert set(received) == set(events)
    # Again comes only what was on the wire when a connection ended, and what the dead daemon had not noted down.
    again = received.total() - len(events)
    record_property("events_sent_again", again)
    assert again <= 3 * WINDOW[0] + CHUNK_EVENTS


def burst_of_new_names(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return frames, as they follow one another on the wire, about ``count`` names that differ."""
    label = b"n0000000"
    name = bytes([len(label)]) + label + b"\x05burst\x07example\x00"
    frame = sample_frame(name, bytes([192, 0, 2, 7]))
    wire = np.frombuffer(len(frame).to_bytes(4, "big") + frame, np.uint8)
    rows = np.tile(wire, (count, 1))
    digits = wire.tobytes().index(label) + 1
    number = np.arange(count)
    for position in range(7):
        rows[:, digits + position] = 0x30 + number // 10 ** (6 - position) % 10
    return rows


def resident(process: int, kind: str) -> int:
    """Return the memory of a process in bytes: ``VmRSS`` now, ``VmHWM`` the most that it ever was."""
    status = Path(f"/proc/{process}/status").read_text()
    match = re.search(rf"{kind}:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) * 1024


def test_a_burst_of_new_names_without_a_broker(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    count = 200_000
    rows = burst_of_new_names(count)
    assert count < EVENT_FLOOR
    with Daemon(site.folder / "edm", **site.settings, minimiser_workers=2) as daemon:
        send(site, daemon, golden.frames("unbound")[:2000])  # so that nothing is loaded for the first time
        base = Account(daemon)
        memory = resident(daemon.process.pid, "VmRSS")
        began = time.monotonic()
        sending = site.sending()
        sending.send([rows.tobytes()])
        sending.finish()
        read = time.monotonic() - began
        daemon.wait_for_metric(PROCESSED, 2000 + count)
        processed = time.monotonic() - began
        queued = Account(daemon)["edm_new_qname_queued_total"]
        wait_until(all_stored(daemon, queued), "all events are on disk")
        stored = time.monotonic() - began
        grown = resident(daemon.process.pid, "VmHWM") - memory
        account = Account(daemon)
        account.check()
        discarded = account["edm_new_qname_discarded_total"]
        for key, value in (
            ("seconds_read", read),
            ("seconds_processed", processed),
            ("seconds_stored", stored),
            ("discarded", discarded),
            ("grown_mib", grown / MIB),
            ("blocked", daemon.metric("edm_reader_blocked_seconds_total")),
        ):
            record_property(key, round(value, 3))
        assert processed < 30  # it takes a second, or a few on a machine with other things to do
        assert account["edm_seen_names"] - base["edm_seen_names"] == count
        new = account["edm_new_qname_queued_total"] - base["edm_new_qname_queued_total"]
        assert new + discarded == count
        assert discarded == 0  # even if the thread that stores them gets no turn, they fit into the queue
        assert account["edm_mqtt_disk_events"] == account["edm_new_qname_queued_total"]
        assert account["edm_mqtt_connected"] == account["edm_mqtt_sent_total"] == account.dropped == 0
        assert grown < 300 * MIB
        assert daemon.stop() == 0
    with sqlite3.connect(daemon.data / "mqtt" / FILE_NAME) as queue:
        (waiting,) = queue.execute("SELECT sum(events - done) FROM entries").fetchone()
    queue.close()
    assert waiting == account["edm_new_qname_queued_total"]


# Histograms


def test_every_histogram_is_received_once(site: Site, receiver: Receiver) -> None:
    frames = golden.frames("unbound")
    failing = True
    receiver.decide = lambda _: Reply(500) if failing else CREATED
    with Daemon(
        site.folder / "edm", **{**site.settings, "disable_mqtt": True}, **site.upload_settings(receiver.url)
    ) as daemon:
        written: dict[str, bytes] = {}
        for part in range(4):
            send(site, daemon, frames[part * 5000 : (part + 1) * 5000])
            daemon.rotate()
        # Nothing leaves the outbox as long as the receiver is ill.
        receiver.wait_for(lambda: receiver.requests)
        outbox = daemon.files(HISTOGRAMS)
        assert {path.parent.name for path in outbox} == {"outbox"}
        assert len(outbox) >= 4
        written |= {path.name: path.read_bytes() for path in outbox}
        daemon.wait_for_metric("edm_upload_attempts_total", 1, result="unexpected")
        failing = False
        daemon.reload()  # which allows the next try at once
        daemon.wait_for_metric("edm_upload_attempts_total", len(written), result="created")
        wait_until(lambda: not daemon.files("parquet/histograms/outbox/*"), "the outbox is empty")
        assert daemon.metric("edm_upload_bytes_total") == sum(map(len, written.values()))
        # The last file is written, and sent, in the course of the shutdown.
        send(site, daemon, frames[20_000:25_000])
        assert daemon.stop() == 0
        assert daemon.errors() == []
    assert daemon.files("parquet/histograms/outbox/*") == []
    sent = {path.name: path.read_bytes() for path in daemon.files("parquet/histograms/sent/*.parquet")}
    assert len(sent) > len(written)
    assert sent == {**sent, **written}
    assert Counter(request.body for request in receiver.stored) == Counter(sent.values())
    assert [request.problem for request in receiver.requests if request.problem] == []
    assert any(request.action == Reply(500) for request in receiver.requests)


# Certificates and keys


def histogram_shows(daemon: Daemon, receiver: Receiver, site: Site, frames: Sequence[bytes]) -> int | None:
    """Let the daemon upload a histogram; return the serial number of the certificate that it showed."""
    stored = len(receiver.stored)
    send(site, daemon, frames)
    daemon.rotate()
    daemon.process.send_signal(signal.SIGHUP)  # looks into the outbox at once
    receiver.wait_for(lambda: len(receiver.stored) > stored)
    return receiver.stored[-1].serial


def connected_as(site: Site, name: str) -> int:
    return site.broker.log().count(f"as {KID}-edm (p5, c0, k30, u'{name}')")


def wait_for_connection(site: Site, name: str, count: int = 1) -> None:
    wait_until(lambda: connected_as(site, name) >= count, lambda: f"{name} connects:\n{site.broker.log()}")


def reloads(daemon: Daemon) -> dict[tuple[str, str], float]:
    return {
        (dict(labels)["part"], dict(labels)["result"]): value
        for (name, labels), value in daemon.metrics().items()
        if name == "edm_reloads_total"
    }


def test_new_certificates_after_sighup(site: Site, receiver: Receiver) -> None:
    """Then a pair that does not fit: the old one stays, and the other parts are reloaded."""
    frames = golden.frames("mutated")[:3000]
    # Each name is on one certificate only, so what the broker logs tells the certificate.
    second = site.authority.client("site-2")
    first_serial = site.files.renew_client()
    site.open_broker()
    with Daemon(site.folder / "edm", **site.settings, **site.upload_settings(receiver.url)) as daemon:
        wait_for_connection(site, "site-1")
        assert histogram_shows(daemon, receiver, site, frames) == first_serial

        site.show_to_broker(second)
        second_serial = site.files.renew_client()
        assert second_serial != first_serial
        daemon.reload()
        assert histogram_shows(daemon, receiver, site, frames) == second_serial
        assert connected_as(site, "site-2") == 0  # the connection that there was goes on
        site.replace_broker()
        wait_for_connection(site, "site-2")

        # A certificate whose key has not been replaced along with it.
        site.mqtt_cert.write_bytes(site.authority.client("site-3").cert.read_bytes())
        third_serial = site.files.renew_client()
        before = reloads(daemon)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for_log("reloaded in part")
        after = reloads(daemon)
        assert after.pop(("mqtt_client_certificate", "error")) == 1
        assert before.pop(("mqtt_client_certificate", "error"), 0) == 0
        unchanged = ("mqtt_client_certificate", "ok")
        assert after.pop(unchanged) == before.pop(unchanged)
        assert {part for part, _ in after} >= {"config", "http_client_certificate", "well_known_domains"}
        # The key is derived anew only if it changed.
        assert after == {part: before[part] + (part[1] == "ok" and part[0] != "cryptopan") for part in after}
        (line,) = daemon.messages("reload failed, keeping the old state")
        assert line["part"] == "mqtt_client_certificate"
        assert str(site.mqtt_key) in line["reason"]
        assert "does not belong to the certificate" in line["reason"]
        assert histogram_shows(daemon, receiver, site, frames) == third_serial
        site.replace_broker()
        wait_for_connection(site, "site-2", 2)
        assert connected_as(site, "site-3") == 0
        assert daemon.stop() == 0


def _missing_key(site: Site) -> dict[str, Any]:
    return {"mqtt_signing_key_file": site.folder / "no-such.jwk"}


def _key_of_another_kind(site: Site) -> dict[str, Any]:
    path = site.folder / "p256.jwk"
    path.write_text(json.dumps({"kty": "EC", "crv": "P-256", "kid": KID, "x": "AA", "y": "AA", "d": "AA"}))
    return {"mqtt_signing_key_file": path}


def _key_of_another_curve(site: Site) -> dict[str, Any]:
    # Core verifies uploads with Ed25519 only.
    return {"http_signing_key_file": write_jwk(site.folder / "ed448.jwk", signing_jwk(KID, "Ed448"))}


def _certificate_of_another_key(site: Site) -> dict[str, Any]:
    return {"mqtt_client_key_file": Authority(site.folder / "other").client().key}


def _port_zero(_: Site) -> dict[str, Any]:
    return {"mqtt_server": "tls://localhost:0"}


@pytest.mark.parametrize(
    ("mistake", "reason"),
    [
        (_missing_key, "No such file"),
        (_key_of_another_kind, '"kty" must be "OKP"'),
        (_key_of_another_curve, '"crv" must be Ed25519'),
        (_certificate_of_another_key, "does not belong to the certificate"),
        (_port_zero, "nobody can be reached at port 0"),
    ],
)
def test_mistakes_that_end_the_start(
    mistake: Callable[[Site], dict[str, Any]], reason: str, site: Site
) -> None:
    ((key, value),) = (wrong := mistake(site)).items()
    daemon = Daemon(
        site.folder / "edm", **{**site.settings, **site.upload_settings("https://localhost:9"), **wrong}
    )
    daemon.start(wait=False)
    assert daemon.wait() == 1
    (line,) = daemon.errors()
    assert line["startup_error"].startswith(f"{key.replace('_', '-')}: {value}: ")
    assert reason in line["startup_error"]
    assert not site.socket.exists()
