"""Each DNS server runs with its snippet of docs/operations.md unchanged, and no frame is missing."""

from __future__ import annotations

import contextlib
import itertools
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rdatatype
import dns.zone
import pyarrow.parquet as pq
import pytest

from support import documented
from support.daemon import SESSIONS, Daemon, running
from support.documented import ZONE, Documented, questions, version_of
from support.pki import Authority
from support.processes import find, free_port, listening, need, wait_until
from support.servers import finish_dnsperf, start_dnsperf

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("resolver_tools")]

BURST = 16_000
CALM = 1_000  # questions a second
PORTION = 200  # questions whose frames fit into the queue of a server that has no setting for it: 512 frames
PROCESSED = "edm_processed_dnstap_total"

ALONE: dict[str, type[Documented]] = {
    kind.title: kind
    for kind in (
        documented.Unbound,
        documented.Bind,
        documented.Knot,
        documented.KnotResolver,
        documented.Nsd,
    )
}
BEFORE: dict[str, Callable[[Path, Path, int], Documented]] = {
    kind.title: kind for kind in (documented.Dnsdist, documented.Recursor)
}
"""Servers that ask another one."""
SERVERS = [*ALONE, *BEFORE]
AUTHORITIES = ["Knot DNS", "NSD"]


@contextlib.contextmanager
def serving(
    title: str, folder: Path, socket: Path, prepare: Callable[[Documented], object] = bool
) -> Iterator[Documented]:
    """Run the server that the page calls ``title``; ``prepare`` gets it before it starts."""
    with contextlib.ExitStack() as stack:
        if title in ALONE:
            server = ALONE[title](folder, socket)
        else:
            behind = stack.enter_context(documented.Unbound(folder / "behind", socket, dnstap=False))
            server = BEFORE[title](folder / "front", socket, behind.port)
        prepare(server)
        yield stack.enter_context(server)


def ask(server: Documented, folder: Path, count: int, prefix: str, rate: int = 0) -> None:
    """Ask for ``count`` names that no other call with another ``prefix`` asks for."""
    file = questions(folder / prefix, count, prefix)
    answers = finish_dnsperf(start_dnsperf(file, server.port, rate=rate))
    assert answers.rcodes == {"NOERROR": count}


def until_it_sends(server: Documented, daemon: Daemon, folder: Path, prefix: str) -> int:
    """Ask again and again until a frame comes; return how many questions that took."""
    number = itertools.count(1)
    asked = 0

    def comes() -> bool:
        nonlocal asked
        ask(server, folder, 10, f"{prefix}{next(number)}")
        asked += 10
        return daemon.metric(PROCESSED) > 0

    wait_until(comes, f"{server.title} sends dnstap")
    return asked


def test_every_snippet_is_tried() -> None:
    assert sorted(documented.titles()) == sorted(SERVERS)


@pytest.mark.parametrize("title", SERVERS)
def test_every_answer_comes(title: str, tmp_path: Path, sockets: Path, lists: dict[str, Any]) -> None:
    """A burst where the page sets the server's queue or the server has room, portions elsewhere.

    However slow the machine is, no queue overflows: a portion is asked for when the one before it has come.
    """
    portions = [PORTION] * 2 if title in ("Knot DNS", "Knot Resolver", "NSD") else [BURST]
    count = sum(portions)
    with running(tmp_path / "edm", **lists, input_unix=sockets / "s") as daemon:
        with serving(title, tmp_path / "server", sockets / "s") as server:
            daemon.wait_for_metric("edm_open_connections", 1)
            for number, come in enumerate(itertools.accumulate(portions)):
                ask(server, tmp_path, portions[number], f"host{number}")
                daemon.wait_for_metric("edm_frames_total", come, fate="session")
        others = daemon.metric("edm_frames_total", fate="query") if title == "Knot Resolver" else 0
        assert daemon.metric(PROCESSED) == count + others


@pytest.mark.parametrize("title", SERVERS)
def test_it_comes_back_after_a_restart_of_the_daemon(
    title: str, tmp_path: Path, sockets: Path, lists: dict[str, Any]
) -> None:
    with (
        running(tmp_path / "edm", **lists, input_unix=sockets / "s") as daemon,
        serving(title, tmp_path / "server", sockets / "s") as server,
    ):
        daemon.wait_for_metric("edm_open_connections", 1)
        until_it_sends(server, daemon, tmp_path, "before")
        assert daemon.stop() == 0
        ask(server, tmp_path, 10, "meanwhile")
        daemon.start()
        asked = until_it_sends(server, daemon, tmp_path, "after")
        if title == "unbound":
            daemon.wait_for_metric(PROCESSED, asked + 10)


@pytest.mark.parametrize("title", [title for title in SERVERS if title != "Knot Resolver"])
def test_it_may_start_before_the_daemon(
    title: str, tmp_path: Path, sockets: Path, lists: dict[str, Any]
) -> None:
    with serving(title, tmp_path / "server", sockets / "s") as server:
        ask(server, tmp_path, 10, "before")
        with running(tmp_path / "edm", **lists, input_unix=sockets / "s") as daemon:
            until_it_sends(server, daemon, tmp_path, "after")


def test_knot_resolver_does_not_send_if_it_starts_first(
    tmp_path: Path, sockets: Path, lists: dict[str, Any]
) -> None:
    """The page says so; a version that does send makes the sentence wrong."""
    with serving("Knot Resolver", tmp_path / "server", sockets / "s") as server:
        ask(server, tmp_path, 10, "before")
        with running(tmp_path / "edm", **lists, input_unix=sockets / "s") as daemon:
            ask(server, tmp_path, 6 * CALM, "after", CALM)
            assert daemon.metric(PROCESSED) == 0


@pytest.mark.parametrize("title", AUTHORITIES)
def test_zone_transfers_become_session_rows(
    title: str, tmp_path: Path, sockets: Path, lists: dict[str, Any]
) -> None:
    with running(tmp_path / "edm", **lists, input_unix=sockets / "s") as daemon:
        with serving(title, tmp_path / "server", sockets / "s") as server:
            daemon.wait_for_metric("edm_open_connections", 1)

            def comes() -> bool:
                messages = dns.query.xfr("127.0.0.1", ZONE, port=server.port, lifetime=20, relativize=False)
                assert len(dns.zone.from_xfr(messages, relativize=False).nodes) == 3
                return daemon.metric("edm_frames_total", fate="session") > 0

            wait_until(comes, "a row of the transfer")
        daemon.rotate()
        rows = [row for path in daemon.files(SESSIONS) for row in pq.read_table(path).to_pylist()]
    messages = [dns.message.from_wire(row["response_message"]) for row in rows]
    assert {message.question[0].rdtype for message in messages} == {dns.rdatatype.AXFR}


def test_zone_transfers_of_bind_do_not_come(tmp_path: Path, sockets: Path, lists: dict[str, Any]) -> None:
    """The page says so; a version that sends them makes the sentence wrong."""
    with running(tmp_path / "edm", **lists, input_unix=sockets / "s") as daemon:
        with serving("BIND", tmp_path / "server", sockets / "s") as server:
            daemon.wait_for_metric("edm_open_connections", 1)
            messages = dns.query.xfr("127.0.0.1", ZONE, port=server.port, lifetime=20, relativize=False)
            assert len(dns.zone.from_xfr(messages, relativize=False).nodes) == 3
            ask(server, tmp_path, 10, "after")
            daemon.wait_for_metric("edm_frames_total", 10, fate="session")
        assert daemon.metric(PROCESSED) == 10


def over_tls(port: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    query = dns.message.make_query(f"secret.{ZONE}.", "A")
    dns.query.tls(query, "127.0.0.1", 20, port=port, ssl_context=context)


def over_https(port: int) -> None:
    need("dig")
    words = ["+https", "+tries=1", "+time=20", "-p", str(port), "@127.0.0.1"]
    command = [str(find("dig")), *words, f"secret.{ZONE}", "A"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert "192.0.2.2" in shown.stdout


ENCRYPTED = {"TLS": (Documented.with_tls, over_tls), "HTTPS": (Documented.with_https, over_https)}


def told(title: str, transport: str) -> int | None:
    """Return the protocol that a server tells: of later versions that of dnstap, as dnsdist does."""
    if title == "dnsdist" or (title in NAMED_SINCE and version_of(title) >= NAMED_SINCE[title]):
        return {"TLS": 3, "HTTPS": 4}[transport]
    return None if (title, transport) == ("unbound", "HTTPS") else 2


NAMED_SINCE = {"unbound": (1, 20), "BIND": (9, 20)}


@pytest.mark.parametrize(
    ("transport", "title"),
    [
        ("TLS", "unbound"),
        ("TLS", "BIND"),
        ("TLS", "NSD"),
        ("TLS", "dnsdist"),
        ("HTTPS", "unbound"),
        ("HTTPS", "BIND"),
        ("HTTPS", "dnsdist"),
    ],
)
def test_how_encrypted_dns_arrives(
    transport: str, title: str, tmp_path: Path, sockets: Path, lists: dict[str, Any]
) -> None:
    certificate = Authority(tmp_path / "pki").server("server", ["dns.test"])
    port = free_port()
    listen, question = ENCRYPTED[transport]

    def prepare(server: Documented) -> None:
        listen(server, port, certificate.cert, certificate.key)

    with running(tmp_path / "edm", **lists, input_unix=sockets / "s") as daemon:
        with serving(title, tmp_path / "server", sockets / "s", prepare):
            wait_until(lambda: listening(port), f"the server takes DNS over {transport}")
            daemon.wait_for_metric("edm_open_connections", 1)
            question(port)
            daemon.wait_for_metric("edm_frames_total", 1, fate="session")
        daemon.rotate()
        rows = [row for path in daemon.files(SESSIONS) for row in pq.read_table(path).to_pylist()]
    assert [row["dns_protocol"] for row in rows] == [told(title, transport)]


def test_answers_of_other_types_are_left_out_and_counted(
    tmp_path: Path, sockets: Path, lists: dict[str, Any]
) -> None:
    """The Recursor's are resolver responses, and only answers to clients are wanted here."""
    settings = {"input_unix": sockets / "s", "input_message_types": "CLIENT_RESPONSE"}
    with (
        running(tmp_path / "edm", **lists, **settings) as daemon,
        serving("PowerDNS Recursor", tmp_path / "server", sockets / "s") as server,
    ):
        daemon.wait_for_metric("edm_open_connections", 1)
        ask(server, tmp_path, 100, "host")
        daemon.wait_for_metric("edm_frames_total", 100, fate="type_ignored")
        assert daemon.metric("edm_frames_by_message_type_total", type="RESOLVER_RESPONSE") == 100
        assert daemon.metric("edm_frames_total", fate="session") == 0


def test_unbound_with_two_kinds_of_answers_is_warned_of(
    tmp_path: Path, sockets: Path, lists: dict[str, Any]
) -> None:
    """Each question that unbound hands on becomes two frames, and the log says so once."""
    with (
        running(tmp_path / "edm", **lists, input_unix=sockets / "s") as daemon,
        documented.Unbound(tmp_path / "behind", sockets / "s", dnstap=False) as behind,
        documented.ForwardingUnbound(tmp_path / "server", sockets / "s", behind.port) as server,
    ):
        daemon.wait_for_metric("edm_open_connections", 1)
        ask(server, tmp_path, 50, "host")
        daemon.wait_for_metric("edm_frames_total", 100, fate="session")
        warnings = [entry for entry in daemon.log if "two kinds of answers" in entry["msg"]]
        assert [entry["kinds"] for entry in warnings] == ["CLIENT_RESPONSE, FORWARDER_RESPONSE"]
