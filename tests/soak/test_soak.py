"""A steady load for some time: the daemon must not grow, and every frame must get a fate.

``EDM_SOAK_SECONDS`` sets how long (20), ``EDM_SOAK_RATE`` the frames a second (50,000), ``EDM_SOAK_INPUT`` the way
in (``unix`` or ``tls``), ``EDM_SOAK_REPORT`` a file for the figures. A soak that says something takes an hour.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from benchmarks.streams import Parameters, generate, well_known_words

from edm.captures.replay import Sender, connect
from edm.stages.domains.dawg.writer import write_dawg
from soak.load import Connect, SteadyLoad
from soak.watch import Sample, Watch
from support import upload_site
from support.daemon import SESSIONS, START, Daemon
from support.long_runs import MARKS, report
from support.mosquitto import Mosquitto
from support.pki import signing_jwk, write_jwk
from support.processes import free_port, wait_until
from support.receiver import Receiver

pytestmark = MARKS

SECONDS = float(os.environ.get("EDM_SOAK_SECONDS", "20"))
RATE = int(os.environ.get("EDM_SOAK_RATE", "50000"))
INPUT = os.environ.get("EDM_SOAK_INPUT", "unix")

EVERY = min(60.0, SECONDS / 8)
"""Seconds between two rotations on request, and between two reloads. The minute comes on top."""

GROWTH = 16.0 if SECONDS >= 1200 else 40.0
"""MiB by which the last quarter may lie above the second: caches and pools fill in the first minutes, and the memory
goes up and down by 30 MiB with each interval."""

QUANTITIES = ("rss", "handles", "threads", "mappings")

EXPECTED_ERRORS = {"dnstap connection closed with an error"}  # of senders that end in the middle of a frame


class Site:
    """Settings of a daemon with both of its outputs, and the peers that take them."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.files = upload_site.Site(folder / "http")
        self.broker = Mosquitto(folder / "broker", self.files.authority)
        self._lists = folder / "lists"
        self._lists.mkdir()
        (self._lists / "known.dawg").write_bytes(write_dawg(well_known_words(36_000)))
        (self._lists / "ignored").write_text("198.51.100.0/24\n")
        write_jwk(folder / "signer.jwk", signing_jwk())
        client = self.files.authority.client("site")
        http = self.files.folder
        self.settings: dict[str, Any] = {
            "well_known_domains_file": self._lists / "known.dawg",
            "ignored_client_ips_file": self._lists / "ignored",
            "minimiser_workers": 2,
            # Small enough that the caches are full and the store expires names within minutes.
            "cryptopan_address_entries": 20_000,
            "qname_seen_store_entries": 20_000,
            "disable_mqtt": False,
            "mqtt_server": self.broker.url,
            "mqtt_ca_file": self.files.authority.ca,
            "mqtt_signing_key_file": folder / "signer.jwk",
            "mqtt_client_cert_file": client.cert,
            "mqtt_client_key_file": client.key,
            "disable_histogram_sender": False,
            "http_signing_key_file": http / "signer.jwk",
            "http_client_key_file": http / "client-key.pem",
            "http_client_cert_file": http / "client.pem",
            "http_ca_file": http / "ca.pem",
        }
        self.connect = self._input(sockets)

    def _input(self, sockets: Path) -> Connect:
        if INPUT == "unix":
            path = sockets / "dnstap"
            self.settings["input_unix"] = path
            return lambda: connect(unix=str(path))
        http, port = self.files.folder, free_port()
        self.settings.update(
            input_tls=f"127.0.0.1:{port}",
            input_tls_cert_file=http / "server.pem",
            input_tls_key_file=http / "server-key.pem",
            input_tls_client_ca_file=http / "ca.pem",
        )
        context = ssl.create_default_context(cafile=str(http / "ca.pem"))
        context.load_cert_chain(http / "client.pem", http / "client-key.pem")

        def open_tls() -> socket.socket:
            return context.wrap_socket(
                socket.create_connection(("127.0.0.1", port)), server_hostname="localhost"
            )

        return open_tls


@pytest.fixture
def site(tmp_path: Path, sockets: Path) -> Iterator[Site]:
    made = Site(tmp_path, sockets)
    with made.broker, Receiver(made.files.public_keys, made.files.folder) as receiver:
        made.settings["http_url"] = receiver.url
        yield made


class Harvest:
    """Adds up what the output files hold, and removes them: they would fill the disk."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.rows = self.files = 0
        self.open_ledgers: list[str] = []

    def take(self) -> None:
        """Take the session files, and the histograms that Core has: others may just be under way."""
        for path in [*self._daemon.files(SESSIONS), *self._daemon.files("parquet/histograms/sent/*.parquet")]:
            metadata = pq.read_metadata(path)
            ledger = {key.decode(): value.decode() for key, value in metadata.metadata.items()}
            if ledger["edm.ledger.closed"] != "true":
                self.open_ledgers.append(path.name)
            if path.match(SESSIONS):
                assert metadata.num_rows == int(ledger["edm.ledger.session"])
                self.rows += metadata.num_rows
            self.files += 1
            path.unlink()


def warm_up(daemon: Daemon, connect: Connect) -> int:
    """Let the daemon do everything once, so that no kernel has to be compiled later; return the frames sent."""
    stream = generate(Parameters(frames=20_000, queries=True, seed=2))
    with connect() as sock:
        sender = Sender(sock)
        sender.send(stream.data.data)
        sender.finish()
    daemon.wait_for_metric("edm_processed_dnstap_total", stream.frames, patience=START)
    daemon.rotate()
    return stream.frames


def soak(daemon: Daemon, load: SteadyLoad, harvest: Harvest) -> None:
    """Let the time pass; rotate and reload every now and then, look at the metrics every second."""
    end = time.monotonic() + SECONDS
    turn = 0
    while time.monotonic() < end:
        turn += 1
        due = min(end, time.monotonic() + EVERY)
        while time.monotonic() < due:
            daemon.metrics()
            pause = time.monotonic() + 1.0
            wait_until(lambda pause=pause: time.monotonic() >= pause, "a second has passed")
        assert load.error is None, load.error
        daemon.rotate(settle=False)
        daemon.reload(cryptopan_key_salt=f"edm-kdf-salt-{turn % 2}")
        harvest.take()


def fates(daemon: Daemon) -> dict[str, int]:
    """Return how many frames ended how."""
    return {
        dict(labels)["fate"]: int(value)
        for (name, labels), value in daemon.metrics().items()
        if name == "edm_frames_total"
    }


def summary(watch: Watch) -> dict[str, Any]:
    """Return how the daemon's needs developed."""
    return {
        "seconds": round(watch.samples[-1].time - watch.samples[0].time),
        "share_of_a_core": round(watch.busy, 3),
        "quarters": {name: [round(v, 1) for v in watch.parts(name)] for name in QUANTITIES},
        "slope_per_hour": {name: round(watch.slope(name), 2) for name in QUANTITIES},
    }


def test_a_steady_load_leaves_nothing_behind(site: Site, tmp_path: Path) -> None:
    with Daemon(tmp_path / "edm", **site.settings) as daemon:
        pid = daemon.process.pid
        daemon.wait_for_log("connected to the MQTT broker")
        sent = warm_up(daemon, site.connect)
        idle = Sample.of(pid)
        load = SteadyLoad(site.connect, rate=RATE)
        harvest = Harvest(daemon)
        with Watch(pid) as watch:
            load.start()
            soak(daemon, load, harvest)
        sent += load.stop()
        daemon.wait_for_metric("edm_processed_dnstap_total", sent)
        daemon.rotate()
        wait_until(lambda: daemon.metric("edm_open_connections") == 0, "all connections are closed")
        wait_until(lambda: not daemon.files("parquet/histograms/outbox/*"), "all histograms are uploaded")
        wait_until(lambda: daemon.metric("edm_mqtt_disk_events") == 0, "all events are sent")
        left = Sample.of(pid)
        harvest.take()
        ended = fates(daemon)
        values = {
            name: int(daemon.metric(name))
            for name in ("edm_frames_received_total", "edm_new_qname_queued_total", "edm_mqtt_sent_total")
        }
        imbalances = daemon.metric("edm_ledger_intervals_total", result="imbalance")
        assert daemon.stop() == 0
        errors = [entry for entry in daemon.errors() if entry["msg"] not in EXPECTED_ERRORS]

    figures = {
        **summary(watch),
        "frames_sent": sent,
        "fates": ended,
        "reconnects": load.reconnects,
        "files": harvest.files,
        "handles_idle_before_and_after": [idle.handles, left.handles],
        "mappings_after": left.mappings,
        **values,
    }
    report(figures, "EDM_SOAK_REPORT")
    # Every frame sent has one fate, and every row is in a file.
    assert sent == values["edm_frames_received_total"] == sum(ended.values())
    assert harvest.rows == ended["session"] > 0
    assert ended["well_known"] > 0
    assert imbalances == 0
    assert harvest.open_ledgers == []
    assert values["edm_mqtt_sent_total"] == values["edm_new_qname_queued_total"] > 0
    assert errors == []
    # Nothing grows.
    second, last = watch.parts("rss")[1], watch.parts("rss")[3]
    assert last - second < GROWTH, watch.parts("rss")
    for name in ("handles", "threads"):
        quarters = watch.parts(name)
        assert quarters[3] <= quarters[1] + 2, (name, quarters)
    assert left.handles <= idle.handles + 2
    assert left.threads <= watch.parts("threads")[1]
