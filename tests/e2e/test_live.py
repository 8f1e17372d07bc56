"""Real DNS servers are queried and send their dnstap; the output files agree with the queries."""

from __future__ import annotations

import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dns.message
import pyarrow.parquet as pq
import pytest

from oracles.cryptopan import CryptoPan
from oracles.framestream import capture_frames, capture_stream, control, frames_of
from support import golden
from support.daemon import (
    HISTOGRAMS,
    SECRET,
    SECRET_KEY,
    SESSIONS,
    START,
    Daemon,
    Interval,
    running,
    to_toml,
)
from support.pki import Authority
from support.processes import free_port, has_ipv6, need
from support.servers import (
    CONTENT_TYPE,
    Dnsdist,
    DnstapTarget,
    FstrmCapture,
    Unbound,
    finish_dnsperf,
    fstrm_replay,
    start_dnsperf,
)
from support.traffic import (
    FAIL,
    IGNORED_CLIENT,
    RECORDS,
    REFUSED,
    Asker,
    Expected,
    ask,
    labels_of,
    make_askers,
)

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("resolver_tools")]

RECEIVER = "edm.test"
CLIENTS = [
    ("127.0.0.2", "udp"),
    ("127.0.0.3", "tcp"),
    ("127.0.0.40", "udp"),
    (IGNORED_CLIENT, "udp"),
]
QUESTIONS = 250

OTHER_KEY = bytes.fromhex("2be502e9809c222baec21f41799295b5ac4f1c47de7f15b9f90418346bb1c99d")
"""The Crypto-PAn key that Argon2id makes of key1 and the salt aabbccddeeffgghh."""

SessionKey = tuple[tuple[str | None, ...], tuple[object, ...], int, int, int]


@dataclass(frozen=True)
class Input:
    """An input of the daemon: its settings, and how a sender reaches it."""

    settings: dict[str, Any]
    target: DnstapTarget


def make_input(transport: str, sockets: Path, authority: Authority | None = None) -> Input:
    if transport == "unix":
        path = sockets / "dnstap"
        return Input({"input_unix": path}, DnstapTarget(unix=path))
    port = free_port()
    if transport == "tcp":
        return Input({"input_tcp": f"127.0.0.1:{port}"}, DnstapTarget(port=port))
    assert authority is not None
    server, client = authority.server("receiver", [RECEIVER]), authority.client("sender")
    return Input(
        {
            "input_tls": f"127.0.0.1:{port}",
            "input_tls_cert_file": server.cert,
            "input_tls_key_file": server.key,
            "input_tls_client_ca_file": authority.ca,
        },
        DnstapTarget(port=port, authority=authority.ca, name=RECEIVER, client=(client.cert, client.key)),
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def askers(tmp_path: Path) -> list[Asker]:
    folder = tmp_path / "questions"
    folder.mkdir()
    return make_askers(folder, CLIENTS, QUESTIONS)


def unbound(tmp_path: Path, target: DnstapTarget | None, **more: Any) -> Unbound:
    return Unbound(
        tmp_path / f"unbound-{len(list(tmp_path.iterdir()))}", RECORDS, target, refused=REFUSED, **more
    )


def pseudonym(cryptopan: CryptoPan, address: str) -> tuple[object, ...]:
    """The three columns of an address: IPv4, IPv6 network and host."""
    result = cryptopan.field(ipaddress.ip_address(address).packed)
    assert result is not None
    if len(result) == 4:
        return int.from_bytes(result, "big"), None, None
    return None, int.from_bytes(result[:8], "big"), int.from_bytes(result[8:], "big")


def address_columns(row: dict[str, Any], side: str) -> tuple[object, ...]:
    return row[f"{side}_ipv4"], row[f"{side}_ipv6_network"], row[f"{side}_ipv6_host"]


def session_key(row: dict[str, Any]) -> SessionKey:
    """What a row tells: labels and source from its columns, type and RCODE from the message it carries."""
    message = dns.message.from_wire(row["response_message"])
    (question,) = message.question
    labels = tuple(row[f"label{i}"] for i in range(10))
    assert labels_of(question.name.to_text()) == labels
    return labels, address_columns(row, "source"), row["dns_protocol"], question.rdtype, message.rcode()


def expected_sessions(expected: Expected, cryptopan: CryptoPan) -> Counter[SessionKey]:
    counted: Counter[SessionKey] = Counter()
    for (name, client, *rest), count in expected.sessions.items():
        protocol, kind, rcode = rest
        counted[labels_of(name), pseudonym(cryptopan, client), protocol, kind, rcode] += count
    return counted


def check_interval(files: Interval, expected: Expected, servers: set[str], since: float) -> None:
    """Compare what was written with what was asked."""
    rows = sorted(files.histogram(), key=lambda row: [row[f"label{i}"] or "" for i in range(10)])
    for row in rows:
        assert row.pop("start_time").timestamp() >= since - 1
    wanted = sorted(expected.rows(), key=lambda row: [row[f"label{i}"] or "" for i in range(10)])
    assert rows == wanted

    cryptopan = CryptoPan(SECRET_KEY)
    sessions = files.session()
    assert Counter(map(session_key, sessions)) == expected_sessions(expected, cryptopan)
    destinations = {pseudonym(cryptopan, "127.0.0.1"), pseudonym(cryptopan, "::1")}
    for row in sessions:
        assert address_columns(row, "dest") in destinations
        assert row["server_id"].decode() in servers
        assert row["source_port"] > 0
        assert since - 1 <= row["response_time"].timestamp() <= time.time()
    assert {row["server_id"].decode() for row in sessions} == servers

    ledgers = files.ledgers()
    assert len(ledgers) == 2
    for ledger in ledgers:
        assert ledger["closed"] == "true"
        assert int(ledger["frames_received"]) == expected.frames
        counted = {fate: int(ledger[fate]) for fate in expected.fates}
        assert counted == dict(expected.fates)


def check_privacy(daemon: Daemon) -> None:
    """No client's address is in the log."""
    log = json.dumps(daemon.log)
    for client, _ in CLIENTS:
        assert f"{client}:" not in log
        assert f'{client}"' not in log


def in_one_interval(
    daemon: Daemon, port: int, askers: list[Asker], expected: Expected, answers: Counter[str] | None = None
) -> Interval:
    """Ask, wait until every frame has come, and return the files.

    ``expected`` is what comes of all frames; ``answers`` what dnsperf reports, if that is not the same.
    """

    def act() -> None:
        before = daemon.metric("edm_processed_dnstap_total")
        assert ask(askers, port) == (expected.rcodes if answers is None else answers)
        daemon.wait_for_metric("edm_processed_dnstap_total", before + expected.frames)
        assert daemon.metric("edm_processed_dnstap_total") == before + expected.frames

    return daemon.interval(act)


@pytest.mark.parametrize("transport", ["unix", "tcp", "tls"])
def test_unbound(
    transport: str,
    tmp_path: Path,
    sockets: Path,
    lists: dict[str, Any],
    authority: Authority,
    askers: list[Asker],
) -> None:
    entrance = make_input(transport, sockets, authority)
    if has_ipv6():
        askers += make_askers(tmp_path, [("::1", "udp")], QUESTIONS)
    expected = Expected().add_unbound(askers)
    since = time.time()
    with running(tmp_path / "edm", **lists, **entrance.settings) as daemon:
        with unbound(tmp_path, entrance.target) as server:
            files = in_one_interval(daemon, server.port, askers, expected)
            check_interval(files, expected, {"unbound.test"}, since)
            assert daemon.metric("edm_seen_names") == len(expected.names)
            assert daemon.metric("edm_open_connections") == 1
        daemon.wait_for_metric("edm_connections_total", 1, result="closed")
        assert daemon.metric("edm_open_connections") == 0
    check_privacy(daemon)


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_dnsdist_before_unbound(
    transport: str, tmp_path: Path, sockets: Path, lists: dict[str, Any], askers: list[Asker]
) -> None:
    need("dnsdist")
    entrance = make_input(transport, sockets)
    expected = Expected().add_dnsdist(askers)
    answers = +expected.rcodes
    servers = {"dnsdist.test"}
    behind = None
    if transport == "unix":  # there both servers send to the same socket
        expected.add_behind_dnsdist(askers)
        servers.add("unbound.test")
        behind = entrance.target
    since = time.time()
    with (
        running(tmp_path / "edm", **lists, **entrance.settings) as daemon,
        unbound(tmp_path, behind) as backend,
        Dnsdist(tmp_path / "dnsdist", backend.port, entrance.target, fail=FAIL) as server,
    ):
        files = in_one_interval(daemon, server.port, askers, expected, answers)
        check_interval(files, expected, servers, since)
        assert daemon.metric("edm_seen_names") == len(expected.names)
    check_privacy(daemon)


def greeted(port: int, context: ssl.SSLContext) -> bool:
    """Whether the daemon answers a sender that speaks TLS under ``context``."""
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        try:
            with context.wrap_socket(sock, server_hostname=RECEIVER) as tls:
                tls.sendall(control(4, CONTENT_TYPE.encode()))  # READY
                return tls.recv(64) == control(1, CONTENT_TYPE.encode())  # ACCEPT
        except (ssl.SSLError, ConnectionError):
            return False


def test_sender_without_a_client_certificate_is_refused(
    tmp_path: Path, sockets: Path, lists: dict[str, Any], authority: Authority, askers: list[Asker]
) -> None:
    entrance = make_input("tls", sockets, authority)
    good = entrance.target
    assert good.client is not None
    stranger = Authority(tmp_path / "stranger", "stranger").client()
    contexts = {
        name: ssl.create_default_context(cafile=str(authority.ca))
        for name in ("good", "without", "stranger", "old TLS")
    }
    contexts["good"].load_cert_chain(*good.client)
    contexts["stranger"].load_cert_chain(stranger.cert, stranger.key)
    contexts["old TLS"].load_cert_chain(*good.client)
    contexts["old TLS"].maximum_version = ssl.TLSVersion.TLSv1_2
    without = DnstapTarget(port=good.port, authority=authority.ca, name=RECEIVER)
    expected = Expected().add_unbound(askers)
    since = time.time()
    with Daemon(tmp_path / "edm", **lists, **entrance.settings) as daemon:
        assert {name: greeted(good.port, context) for name, context in contexts.items()} == {
            "good": True,
            "without": False,
            "stranger": False,
            "old TLS": False,
        }
        # The good one said READY and left, so it was no probe.
        daemon.wait_for_metric("edm_connections_total", 4, result="handshake_error")
        with unbound(tmp_path, without, identity="refused.test") as refused:
            daemon.wait_for_metric("edm_connections_total", 5, result="handshake_error")
            ask(askers, refused.port)
            with unbound(tmp_path, good, identity="good.test") as server:
                files = in_one_interval(daemon, server.port, askers, expected)
        check_interval(files, expected, {"good.test"}, since)
        assert daemon.stop() == 0
    reasons = [entry.get("reason", "") for entry in daemon.errors()]
    assert any("PEER_DID_NOT_RETURN_A_CERTIFICATE" in reason for reason in reasons)
    check_privacy(daemon)


@pytest.mark.parametrize(("transport", "workers"), [("unix", 1), ("tcp", 4)])
def test_fstrm_replay_gives_the_golden_results(
    transport: str, workers: int, tmp_path: Path, sockets: Path
) -> None:
    need("fstrm_replay")
    entrance = make_input(transport, sockets)
    settings = {**golden.LIST_SETTINGS, **entrance.settings, "minimiser_workers": workers}
    names: set[tuple[object, ...]] = set()
    with Daemon(tmp_path / "edm", **settings) as daemon:
        for name in golden.NAMES:
            plain = tmp_path / f"{name}.fstrm"
            plain.write_bytes(capture_stream(name))
            files = daemon.interval(partial(replay, daemon, entrance, plain, name))
            check_golden(files, name, ordered=workers == 1)
            names |= names_in(golden.CAPTURES / name / "session.parquet")
        assert daemon.metric("edm_seen_names") == len(names)
        assert daemon.stop() == 0


def replay(daemon: Daemon, entrance: Input, capture: Path, name: str) -> None:
    """Let libfstrm send a capture, and check the counters."""
    expected = {
        counter: value
        for counter, value in golden.expected_counters(name).items()
        # No events without MQTT; and what the caches hold is left from the captures before.
        if "new_qname" not in counter and "cryptopan" not in counter
    }
    before = {counter: daemon.metric(counter) for counter in expected}
    fstrm_replay(entrance.target, [capture])
    processed = "edm_processed_dnstap_total"
    daemon.wait_for_metric(processed, before[processed] + expected[processed])
    assert {counter: daemon.metric(counter) - before[counter] for counter in expected} == expected


def check_golden(files: Interval, name: str, *, ordered: bool) -> None:
    """Compare an interval's files with those of the Go daemon."""
    folder = golden.CAPTURES / name
    (histogram_file,), (session_file,) = files.histograms, files.sessions
    histogram = golden.histogram_rows(pq.read_table(histogram_file))
    wanted = golden.histogram_rows(pq.read_table(folder / "histogram.parquet"))
    assert histogram.equals(wanted.cast(histogram.schema))
    assert golden.session_rows(pq.read_table(session_file), ordered=ordered) == golden.session_rows(
        pq.read_table(folder / "session.parquet"), ordered=ordered
    )


def names_in(sessions: Path) -> set[tuple[object, ...]]:
    """The names of session rows, as labels in lower case."""
    rows = pq.read_table(sessions, columns=golden.LABELS).to_pylist()
    return {tuple(label and label.lower() for label in row.values()) for row in rows}


def edm(*arguments: str | Path) -> None:
    """Run a command of the program to its end."""
    command = [sys.executable, "-m", "edm.cli.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=START, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_edm_replay_is_understood_by_fstrm_capture(tmp_path: Path, sockets: Path) -> None:
    need("fstrm_capture")
    names = ("mutated", "unbound")
    with FstrmCapture(tmp_path, DnstapTarget(unix=sockets / "capture")) as receiver:
        edm("replay", "--unix", sockets / "capture", *(golden.capture(name) for name in names))
    sent = [frame for name in names for frame in capture_frames(name)]
    assert frames_of(receiver.file.read_bytes()) == sent


def test_minimise_reads_what_fstrm_capture_wrote(
    tmp_path: Path, lists: dict[str, Any], askers: list[Asker]
) -> None:
    need("fstrm_capture")
    expected = Expected().add_unbound(askers)
    target = DnstapTarget(port=free_port())
    since = time.time()
    with FstrmCapture(tmp_path, target, trace=True) as receiver, unbound(tmp_path, target) as server:
        assert ask(askers, server.port) == expected.rcodes
        receiver.wait_for_frames(expected.frames)
    config = tmp_path / "edm.toml"
    config.touch(0o600)
    data = tmp_path / "data"
    config.write_text(to_toml({"cryptopan_key": SECRET, "data_dir": data, **lists}))
    edm("minimise", "--config-file", config, receiver.file)
    files = Interval(sorted(data.glob(HISTOGRAMS)), sorted(data.glob(SESSIONS)))
    check_interval(files, expected, {"unbound.test"}, since)


def test_new_key_and_client_list_while_questions_come(
    tmp_path: Path, sockets: Path, lists: dict[str, Any]
) -> None:
    """Every row is wholly under the old key or wholly under the new one; no frame is lost."""
    entrance = make_input("unix", sockets)
    first, second = make_askers(tmp_path, [("127.0.0.2", "udp"), ("127.0.0.3", "udp")], 2000)
    (late,) = make_askers(tmp_path / "lists", [("127.0.0.2", "udp")], 100)
    clients = tmp_path / "more-ignored-clients"
    clients.write_text("127.0.0.3/32\n")
    processed = "edm_processed_dnstap_total"
    with running(tmp_path / "edm", **lists, **entrance.settings) as daemon:
        with unbound(tmp_path, entrance.target, queries=False) as server:
            asking = start_dnsperf(first.query_file, server.port, client=first.client, rate=1500)
            try:
                daemon.wait_for_metric(processed, 200)
                daemon.reload(
                    cryptopan_key="key1",
                    cryptopan_key_salt="aabbccddeeffgghh",
                    ignored_client_ips_file=clients,
                )
            finally:
                finish_dnsperf(asking)
            ask([second, late], server.port)
            expected = Expected().add_unbound([first, late])
            ignored = len(second.questions())
            frames = expected.rcodes.total() + ignored
            daemon.wait_for_metric(processed, frames)
        assert daemon.metric("edm_ignored_client_ip_total") == ignored
        assert daemon.metric("edm_reloads_total", part="cryptopan", result="ok") == 1
        # The last files are written when it stops.
    sessions = [row for path in daemon.files(SESSIONS) for row in pq.read_table(path).to_pylist()]
    ledgers = Interval(daemon.files(HISTOGRAMS), daemon.files(SESSIONS)).ledgers()
    assert {ledger["closed"] for ledger in ledgers} == {"true"}

    addresses = {
        key: (pseudonym(CryptoPan(key), first.client), pseudonym(CryptoPan(key), "127.0.0.1"))
        for key in (SECRET_KEY, OTHER_KEY)
    }
    used = [(address_columns(row, "source"), address_columns(row, "dest")) for row in sessions]
    old, new = (used.count(addresses[key]) for key in addresses)
    assert old > 0
    assert new >= sum(Expected().add_unbound([late]).sessions.values())
    assert used == [addresses[SECRET_KEY]] * old + [addresses[OTHER_KEY]] * new
    assert len(used) == expected.sessions.total()


def test_unbound_finds_the_daemon_again_when_it_comes_back(
    tmp_path: Path, sockets: Path, lists: dict[str, Any], askers: list[Asker]
) -> None:
    entrance = make_input("unix", sockets)
    expected = Expected().add_unbound(askers)
    since = time.time()
    with (
        Daemon(tmp_path / "edm", **lists, **entrance.settings) as daemon,
        unbound(tmp_path, entrance.target) as server,
    ):
        assert ask(askers, server.port) == expected.rcodes
        daemon.wait_for_metric("edm_processed_dnstap_total", expected.frames)
        assert daemon.stop() == 0
        assert daemon.errors() == []
        daemon.start()
        assert daemon.metric("edm_seen_names") == len(expected.names)
        daemon.wait_for_metric("edm_open_connections", 1)
        files = in_one_interval(daemon, server.port, askers, expected)
        check_interval(files, expected, {"unbound.test"}, since)
        assert daemon.metric("edm_seen_names") == len(expected.names)
        assert daemon.stop() == 0
    check_privacy(daemon)


def test_killed_while_writing_leaves_whole_files(
    tmp_path: Path, sockets: Path, lists: dict[str, Any], askers: list[Asker]
) -> None:
    entrance = make_input("unix", sockets)
    expected = Expected().add_unbound(askers)
    since = time.time()
    with Daemon(tmp_path / "edm", **lists, **entrance.settings) as daemon:
        with unbound(tmp_path, entrance.target) as server:
            asking = start_dnsperf(askers[0].query_file, server.port, client=askers[0].client, rate=200)
            try:
                for count in (50, 150, 250):
                    daemon.wait_for_metric("edm_processed_dnstap_total", count)
                    daemon.rotate(settle=False)
                daemon.kill()
            finally:
                finish_dnsperf(asking)
        whole = [*daemon.files(HISTOGRAMS), *daemon.files(SESSIONS)]
        assert len(whole) >= 4
        for path in whole:
            assert pq.read_table(path).num_rows > 0
        daemon.start()
        assert daemon.files("parquet/**/*.tmp") == []
        assert set(whole) <= {*daemon.files(HISTOGRAMS), *daemon.files(SESSIONS)}
        assert daemon.metric("edm_seen_names") <= len(expected.names)
        with unbound(tmp_path, entrance.target) as server:
            files = in_one_interval(daemon, server.port, askers, expected)
            check_interval(files, expected, {"unbound.test"}, since)
        assert daemon.metric("edm_seen_names") == len(expected.names)
        assert daemon.stop() == 0
