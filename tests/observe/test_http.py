from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from edm.errors import OutputError
from edm.observe import serving
from edm.observe.http import (
    HttpServer,
    RotationTimeoutError,
    ShuttingDownError,
    debug_server,
    metrics_server,
)
from edm.observe.metrics import Metrics

Answer = tuple[int, dict[str, str], bytes]


def request(server: HttpServer, method: str, path: str, host: str = "127.0.0.1", **headers: str) -> Answer:
    connection = http.client.HTTPConnection(host, server.port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


@pytest.fixture
def serve() -> Iterator[Callable[[HttpServer], HttpServer]]:
    servers: list[HttpServer] = []

    def start(server: HttpServer) -> HttpServer:
        assert server.start()
        servers.append(server)
        return server

    yield start
    assert all(server.stop() for server in servers)


@pytest.fixture(scope="module")
def debug() -> Iterator[HttpServer]:
    server = debug_server("127.0.0.1:0")
    assert server.start()
    yield server
    assert server.stop()


class Rotating:
    """A metrics server whose rotation ends as a test wants it to."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.error: Exception | None = None
        self.timeouts: list[float] = []
        self.server = metrics_server(self.metrics, "127.0.0.1:0", rotate=self.rotate)

    def rotate(self, timeout: float) -> None:
        self.timeouts.append(timeout)
        if self.error is not None:
            raise self.error


@pytest.fixture(scope="module")
def rotating() -> Iterator[Rotating]:
    rotating = Rotating()
    assert rotating.server.start()
    yield rotating
    assert rotating.server.stop()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "BREW"])
def test_metrics_by_any_method(rotating: Rotating, method: str) -> None:
    rotating.metrics.count_block(512)
    status, headers, body = request(rotating.server, method, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    total = rotating.metrics.value("edm_input_bytes_total")
    assert f"\nedm_input_bytes_total {total:.1f}\n".encode() in body
    assert b"\npromhttp_metric_handler_requests_in_flight 1.0\n" in body


def test_metrics_as_openmetrics_and_head(serve: Callable[[HttpServer], HttpServer]) -> None:
    metrics = Metrics()
    server = serve(metrics_server(metrics, "127.0.0.1:0"))
    status, headers, body = request(server, "HEAD", "/metrics")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 1000
    _, headers, body = request(
        server, "GET", "/metrics", Accept="application/openmetrics-text; version=1.0.0"
    )
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(body.decode())}
    (sample,) = (s for s in families["promhttp_metric_handler_requests"].samples if s.labels["code"] == "200")
    assert sample.value == 1
    assert metrics.value("promhttp_metric_handler_requests_total", code="200") == 2


def test_many_scrapes_at_once(serve: Callable[[HttpServer], HttpServer]) -> None:
    metrics = Metrics()
    server = serve(metrics_server(metrics, "127.0.0.1:0"))
    statuses: list[int] = []

    def scrape() -> None:
        statuses.extend(request(server, "GET", "/metrics")[0] for _ in range(5))

    threads = [threading.Thread(target=scrape) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 20
    assert metrics.value("promhttp_metric_handler_requests_in_flight") == 0


def test_no_rotation_unless_enabled(serve: Callable[[HttpServer], HttpServer]) -> None:
    server = serve(metrics_server(Metrics(), "127.0.0.1:0"))
    assert request(server, "POST", "/debug/rotate-parquet")[0] == 404
    assert request(server, "GET", "/")[2] == b"404 page not found\n"


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (None, 202, b"rotation requested\n"),
        (OutputError("cannot write x: disk full"), 500, b"cannot write x: disk full\n"),
        (RuntimeError("client 192.0.2.1 broke it"), 500, b"client <address> broke it\n"),
        (RuntimeError(), 500, b"RuntimeError\n"),
        (ShuttingDownError("x"), 503, b"edm is shutting down\n"),
        (RotationTimeoutError("x"), 504, b"timed out waiting for parquet rotation\n"),
    ],
)
def test_rotation(rotating: Rotating, error: Exception | None, status: int, body: bytes) -> None:
    rotating.error = error
    rotating.timeouts.clear()
    with structlog.testing.capture_logs():
        answer = request(rotating.server, "POST", "/debug/rotate-parquet")
    assert rotating.timeouts == [9.0]
    assert answer[0] == status
    assert answer[2] == body
    assert answer[1]["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "BREW"])
def test_rotation_needs_post(rotating: Rotating, method: str) -> None:
    rotating.timeouts.clear()
    status, headers, body = request(rotating.server, method, "/debug/rotate-parquet")
    assert rotating.timeouts == []
    assert status == 405
    assert headers["allow"] == "POST"
    assert body == (b"" if method == "HEAD" else b"method not allowed\n")


def test_a_slow_rotation_does_not_hold_up_scrapes(serve: Callable[[HttpServer], HttpServer]) -> None:
    entered, finish = threading.Event(), threading.Event()

    def rotate(timeout: float) -> None:
        entered.set()
        finish.wait(timeout)

    server = serve(metrics_server(Metrics(), "127.0.0.1:0", rotate=rotate))
    answers: list[Answer] = []
    poster = threading.Thread(target=lambda: answers.append(request(server, "POST", "/debug/rotate-parquet")))
    poster.start()
    assert entered.wait(5)
    assert request(server, "GET", "/metrics")[0] == 200
    assert answers == []
    finish.set()
    poster.join()
    assert answers[0][0] == 202


def test_address_in_use_is_logged_with_the_reason(serve: Callable[[HttpServer], HttpServer]) -> None:
    first = serve(metrics_server(Metrics(), "127.0.0.1:0"))
    second = metrics_server(Metrics(), f"127.0.0.1:{first.port}")
    with structlog.testing.capture_logs() as entries:
        assert second.start() is False
    assert entries == [
        {
            "event": "cannot serve HTTP",
            "log_level": "error",
            "endpoint": "metrics",
            "address": f"127.0.0.1:{first.port}",
            "reason": "Address already in use",
        }
    ]
    assert second.port == 0
    assert second.stop()


def test_malformed_address_is_logged() -> None:
    with structlog.testing.capture_logs() as entries:
        assert debug_server("nonsense").start() is False
    assert entries[0]["reason"].startswith("must be HOST:PORT")


@pytest.mark.parametrize(("address", "host"), [("[::1]:0", "::1"), (":0", "127.0.0.1")])
def test_other_addresses(serve: Callable[[HttpServer], HttpServer], address: str, host: str) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 here")
    server = serve(metrics_server(Metrics(), address))
    assert request(server, "GET", "/metrics", host=host)[0] == 200


def test_stop_frees_the_port_and_is_bounded_while_work_is_stuck() -> None:
    entered, finish = threading.Event(), threading.Event()

    def rotate(timeout: float) -> None:
        entered.set()
        finish.wait(30)

    server = metrics_server(Metrics(), "127.0.0.1:0", rotate=rotate)
    assert server.start()
    stuck = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    stuck.sendall(b"POST /debug/rotate-parquet HTTP/1.1\r\nHost: localhost\r\n\r\n")
    idle = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    half = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    half.sendall(b"GET /metr")
    assert entered.wait(5)
    start = time.monotonic()
    assert server.stop(timeout=0.5)
    assert time.monotonic() - start < 5
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=10)
    assert server.stop()
    finish.set()
    for client in (stuck, idle, half):
        client.close()


def test_stop_right_after_start_and_start_again() -> None:
    server = debug_server("127.0.0.1:0")
    assert server.stop()
    assert server.start()
    assert server.stop()


def test_silent_and_half_requests_are_cut_off(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[[HttpServer], HttpServer]
) -> None:
    monkeypatch.setattr(serving, "IDLE_SECONDS", 0.05)
    server = serve(metrics_server(Metrics(), "127.0.0.1:0"))
    for text in (b"", b"GET /metrics HTTP/1.1\r\nHos"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(text)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""


def test_endless_answers_are_cut_off(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[[HttpServer], HttpServer]
) -> None:
    monkeypatch.setattr(serving, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(serving, "AGE_SECONDS", 0.2)
    finish = threading.Event()
    server = serve(metrics_server(Metrics(), "127.0.0.1:0", rotate=lambda _: finish.wait(30) and None))
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        request(server, "POST", "/debug/rotate-parquet")
    finish.set()


def test_signal_handlers_stay(debug: HttpServer) -> None:
    import signal

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    request(debug, "GET", "/debug/pprof/")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_debug_index_links_to_what_is_there(debug: HttpServer) -> None:
    status, headers, body = request(debug, "GET", "/debug/pprof/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    links = [part.split('"')[0] for part in body.decode().split('href="')[1:]]
    assert set(links) == {f"/debug/pprof/{name}" for name in ("threads", "profile", "heap", "cmdline")}
    for link in links:
        assert request(debug, "GET", link + "?seconds=0.02")[0] == 200
    assert request(debug, "GET", "/debug/pprof/nothing")[0] == 404


def test_threads_and_heap(debug: HttpServer) -> None:
    assert b"http-debug (native id" in request(debug, "GET", "/debug/pprof/threads")[2]
    assert b"VmRSS:" in request(debug, "GET", "/debug/pprof/heap")[2]


def test_cmdline_hides_the_key(debug: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["edm", "run", "--cryptopan-key", "mysecret"])
    assert request(debug, "GET", "/debug/pprof/cmdline")[2] == b"edm\0run\0--cryptopan-key\0***"


def test_profile_formats(debug: HttpServer) -> None:
    status, _, body = request(debug, "GET", "/debug/pprof/profile?seconds=0.05")
    assert status == 200
    stack, count = body.decode().splitlines()[0].rsplit(" ", 1)
    assert int(count) > 0
    assert ";" in stack
    status, headers, body = request(debug, "GET", "/debug/pprof/profile?seconds=0.05&hz=50&format=speedscope")
    assert headers["content-type"] == "application/json"
    assert "MainThread" in [profile["name"] for profile in json.loads(body)["profiles"]]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("seconds=x", b"seconds and hz must be numbers\n"),
        ("seconds=1e9", b"seconds must be above 0 and at most 60\n"),
        ("seconds=nan", b"seconds must be above 0 and at most 60\n"),
        ("seconds=1&hz=100000", b"hz must be between 1 and 250\n"),
        ("seconds=1&format=svg", b"format must be collapsed or speedscope\n"),
    ],
)
def test_profile_refuses(debug: HttpServer, query: str, reason: bytes) -> None:
    status, _, body = request(debug, "GET", f"/debug/pprof/profile?{query}")
    assert (status, body) == (400, reason)


def test_stop_cuts_a_profile_short() -> None:
    server = debug_server("127.0.0.1:0")
    assert server.start()
    answers: list[Any] = []
    asker = threading.Thread(
        target=lambda: answers.append(request(server, "GET", "/debug/pprof/profile?seconds=60"))
    )
    asker.start()
    while not any(t.name == "http-work" for t in threading.enumerate()):
        time.sleep(0)
    start = time.monotonic()
    assert server.stop()
    asker.join()
    assert time.monotonic() - start < 5
    assert answers[0][0] == 200
