"""The HTTP servers with clients that misbehave, over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import logging
import resource
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import structlog

from edm.observe import logs, serving
from edm.observe.http import HttpServer, debug_server, metrics_server
from edm.observe.metrics import Metrics
from support.processes import wait_until


class Site:
    """A metrics server with a rotation that waits, and what it refused."""

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self.metrics = Metrics()
        self.rotated = 0
        self.entered, self.finish = threading.Event(), threading.Event()
        self.finish.set()
        self.server = metrics_server(self.metrics, "127.0.0.1:0", self.rotate, names)
        assert self.server.start()

    def rotate(self, timeout: float) -> None:
        self.entered.set()
        self.finish.wait(timeout)
        self.rotated += 1

    def refused(self, reason: str) -> float:
        return self.metrics.value("edm_http_refused_total", endpoint="metrics", reason=reason) or 0.0

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(
            ("127.0.0.1", self.server.port), timeout=10, source_address=(source, 0)
        )

    def ask(self, method: str = "GET", path: str = "/metrics", **headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            answer.read()
            return answer.status


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.finish.set()
    assert site.server.stop()


@contextlib.contextmanager
def many(site: Site, count: int, data: bytes, source: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(site.connect(source)) for _ in range(count)]
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.sendall(data)
        yield socks


@pytest.mark.parametrize("data", [b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"])
def test_half_open_connections_keep_nobody_out(site: Site, data: bytes) -> None:
    for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
        with many(site, 70, data, source):
            assert site.ask() == 200
    assert site.refused("displaced") >= 100


def test_connections_that_rest_keep_nobody_out(site: Site) -> None:
    with many(site, 70, b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        assert site.ask() == 200


def test_requests_that_wait_leave_places_to_others(site: Site) -> None:
    site.finish.clear()
    assert site.ask() == 200
    with many(site, 70, b"POST /debug/rotate-parquet HTTP/1.1\r\nHost: localhost\r\n\r\n", "127.0.0.2"):
        assert site.entered.wait(10)
        assert site.ask() == 200
        site.finish.set()


def test_malformed_requests_are_counted_and_limited_and_cost_little(site: Site) -> None:
    with structlog.testing.capture_logs() as entries:
        stop = time.monotonic() + 3
        before = resource.getrusage(resource.RUSAGE_SELF)
        threads = [threading.Thread(target=spoil, args=(site, stop)) for _ in range(4)]
        for thread in threads:
            thread.start()
        while time.monotonic() < stop:
            assert site.ask() == 200
        for thread in threads:
            thread.join()
        after = resource.getrusage(resource.RUSAGE_SELF)
    assert site.refused("malformed") > 50
    assert {entry["event"] for entry in entries} == {"malformed HTTP request"}
    assert len(entries) <= 7
    # The senders are in it, too; the server alone takes a tenth.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def spoil(site: Site, stop: float) -> None:
    while time.monotonic() < stop:
        with contextlib.suppress(OSError), site.connect() as sock:
            sock.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
            while sock.recv(4096):
                pass


def test_what_is_malformed_during_an_answer_ends_the_connection_without_a_trace(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.finish.clear()
    with site.connect() as sock:
        sock.sendall(
            b"POST /debug/rotate-parquet HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert site.entered.wait(10)
        sock.sendall(b"zzz\r\n")
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(4096):
                pass
    wait_until(lambda: site.refused("malformed") == 1, "it to be counted")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_request_in_pieces_is_answered_and_a_slow_one_is_not(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site.connect() as sock:
        for piece in (
            b"GET /metr",
            b"ics HTTP/1.1\r\nHo",
            b"st: localhost\r\nConnection: close\r\n",
            b"\r\n",
        ):
            sock.sendall(piece)
        answer = b""
        while data := sock.recv(65536):
            answer += data
        assert answer.startswith(b"HTTP/1.1 200")
    monkeypatch.setattr(serving, "IDLE_SECONDS", 0.3)
    began = time.monotonic()
    with site.connect() as sock, contextlib.suppress(OSError):
        sock.sendall(b"GET /metrics HTTP/1.1\r\n")
        sock.settimeout(0.01)
        while time.monotonic() - began < 5:
            sock.sendall(b"A: b\r\n")
            with contextlib.suppress(TimeoutError):
                if not sock.recv(100):
                    break
    assert time.monotonic() - began < 3
    wait_until(lambda: site.refused("timeout") == 1, "it to be counted")


def test_an_endless_body_is_not_read(site: Site) -> None:
    with site.connect() as sock:
        sock.sendall(b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000000\r\n\r\n")
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 1 << 30:
                sent += sock.send(bytes(1 << 16))
        assert sent < 64 << 20


def test_names_that_are_not_ours_are_refused_and_configured_ones_are_not() -> None:
    site = Site(names=("metrics.example.net",))
    try:
        assert site.ask(Host="metrics.example.net:2112") == 200
        assert site.ask(Host="localhost") == 200
        with structlog.testing.capture_logs() as entries:
            assert site.ask(Host="evil.example") == 403
            assert site.ask("POST", "/debug/rotate-parquet", Host="evil.example") == 403
        assert [entry["event"] for entry in entries] == [
            "HTTP request for a name that is not ours (http-names)"
        ] * 2
        assert site.refused("host") == 2
        assert site.rotated == 0
    finally:
        assert site.server.stop()


def test_stacks_are_not_shown_under_a_foreign_name() -> None:
    metrics = Metrics()
    server = debug_server("127.0.0.1:0", metrics=metrics)
    assert server.start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/debug/pprof/threads", headers={"Host": "evil.example"})
            answer = connection.getresponse()
            assert (answer.status, b"Thread" in answer.read()) == (403, False)
        assert metrics.value("edm_http_refused_total", endpoint="debug", reason="host") == 1
    finally:
        assert server.stop()


def test_a_foreign_page_may_not_rotate(site: Site) -> None:
    path = "/debug/rotate-parquet"
    assert site.ask("POST", path, Origin="http://evil.example") == 403
    assert site.ask("POST", path, Sec_Fetch_Site="cross-site") == 403
    assert site.rotated == 0
    assert site.ask("POST", path, Origin=f"http://127.0.0.1:{site.server.port}") == 202
    assert site.ask("POST", path) == 202
    assert site.refused("origin") == 2


def test_stop_is_bounded_whatever_is_open(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    site.finish.clear()
    with (
        many(site, 20, b"POST /debug/rotate-parquet HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        many(site, 5, b"GET"),
    ):
        assert site.entered.wait(10)
        began = time.monotonic()
        assert site.server.stop(timeout=0.2)
        assert time.monotonic() - began < 1.2
    site.finish.set()
    assert not caplog.records


def test_stop_waits_for_an_answer_that_comes_in_time() -> None:
    site = Site()
    site.finish.clear()
    with site.connect() as sock:
        sock.sendall(b"POST /debug/rotate-parquet HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert site.entered.wait(10)
        threading.Timer(0.2, site.finish.set).start()
        assert site.server.stop()
        assert sock.recv(4096).startswith(b"HTTP/1.1 202")


def test_lines_of_libraries_are_limited(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("json")
        for number in range(1000):
            logging.getLogger("some.library").warning("trouble %d", number)
        assert 1 <= capsys.readouterr().err.count("trouble") <= 5
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
        structlog.reset_defaults()


def test_a_server_that_was_never_started_stops() -> None:
    assert HttpServer("x", "127.0.0.1:0", lambda *_: None).stop()  # type: ignore[arg-type,return-value]
