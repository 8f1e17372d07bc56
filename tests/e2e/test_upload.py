"""Histograms over HTTPS to a receiver that requires certificates and checks digests and signatures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from edm.errors import KeyFileError
from edm.observe.metrics import Metrics
from edm.tapir.upload.post import Limits
from edm.tapir.upload.upload import Timing, Uploader
from support.pki import Authority
from support.receiver import CREATED, Action, Receiver, Reply, Request
from support.upload_site import QUICK, Site, names

pytestmark = pytest.mark.e2e


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def receiver(site: Site) -> Iterator[Receiver]:
    with Receiver(site.public_keys, site.folder) as receiver:
        yield receiver


@pytest.fixture
def start(site: Site, receiver: Receiver) -> Iterator[Callable[..., tuple[Uploader, Metrics]]]:
    """Start uploaders, each with metrics of its own, that are stopped in the end."""
    running: list[Uploader] = []

    def start(timing: Timing = QUICK, url: str = "", **settings: object) -> tuple[Uploader, Metrics]:
        metrics = Metrics()
        uploader = Uploader(site.settings(url or receiver.url, **settings), site.data, metrics, timing)
        uploader.start()
        running.append(uploader)
        return uploader, metrics

    yield start
    for uploader in running:
        uploader.stop(0)


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Poll what no event tells of: files and metrics."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.005)


def all_sent(site: Site, count: int) -> Callable[[], bool]:
    return lambda: len(names(site.data.sent)) == count and not names(site.data.outbox)


def received(receiver: Receiver) -> dict[str, bytes]:
    """Return what was stored, by interval; nothing may be stored twice, and nothing may be wrong."""
    assert [r.problem for r in receiver.requests if r.problem] == []
    stored = {r.interval: r.body for r in receiver.stored}
    assert len(stored) == len(receiver.stored)
    return stored


def test_every_file_arrives_once_and_unchanged(
    site: Site, receiver: Receiver, start: Callable[..., tuple[Uploader, Metrics]]
) -> None:
    contents = site.fill(20) | site.fill(1, size=3_000_000, first=20) | site.fill(1, size=-21, first=21)
    _, metrics = start()
    wait_until(all_sent(site, 22))
    assert received(receiver) == contents
    assert [r.interval for r in receiver.stored] == list(contents)
    assert len(receiver.requests) == 22
    assert [site.path(i, site.data.sent).read_bytes() for i in range(22)] == list(contents.values())
    assert metrics.value("edm_upload_attempts_total", result="created") == 22
    assert metrics.value("edm_upload_bytes_total") == sum(map(len, contents.values()))
    more = site.fill(2, first=30)
    wait_until(all_sent(site, 24))
    assert received(receiver) == contents | more


def test_wire_form(site: Site, receiver: Receiver, start: Callable[..., object]) -> None:
    site.fill(1)
    start()
    wait_until(all_sent(site, 1))
    (request,) = receiver.requests
    assert request.line == "POST /api/v1/aggregate/histogram HTTP/1.1"
    assert [name for name, _ in request.headers] == [
        "Host",
        "User-Agent",
        "Content-Length",
        "Aggregate-Interval",
        "Content-Digest",
        "Content-Type",
        "Signature",
        "Signature-Input",
        "Accept-Encoding",
    ]


def test_proxies_of_the_environment_are_not_used(
    site: Site, receiver: Receiver, start: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    contents = site.fill(1)
    start()
    wait_until(all_sent(site, 1))
    assert received(receiver) == contents


TROUBLE: list[Action] = [
    Reply(500, body=b"out of order"),
    Reply(401),
    Reply(429, {"Retry-After": "0"}),
    Reply(503),
    Reply(200),
    Reply(307, {"Location": "/elsewhere"}),
    "cut",
    "cut-early",
    "refuse-early",
]


@pytest.mark.parametrize("trouble", TROUBLE, ids=str)
def test_trouble_that_passes(
    site: Site, receiver: Receiver, start: Callable[..., tuple[Uploader, Metrics]], trouble: Action
) -> None:
    contents = site.fill(5, size=100_000)
    troubled: list[str] = []

    def decide(request: Request) -> Action:
        # Two files are in trouble twice each.
        if (
            request.headers
            and request.interval[14:16] in ("51", "53")
            and troubled.count(request.interval) < 2
        ):
            troubled.append(request.interval)
            return trouble
        return CREATED

    receiver.decide = decide
    _, metrics = start()
    wait_until(all_sent(site, 5))
    assert received(receiver) == contents
    assert len(troubled) == 4
    assert len(receiver.requests) == 9
    assert metrics.value("edm_upload_attempts_total", result="created") == 5
    assert names(site.data.outbox.with_name("refused")) == []


def test_a_receiver_that_falls_silent(
    site: Site, receiver: Receiver, start: Callable[..., tuple[Uploader, Metrics]]
) -> None:
    contents = site.fill(3)
    silent: list[Request] = []

    def decide(request: Request) -> Action:
        if request.interval[14:16] == "50" and not silent:
            silent.append(request)
            return "stall"
        return CREATED

    receiver.decide = decide
    _, metrics = start(Timing(scan=0.02, retry=0.02, pace=0.01, limits=Limits(answer=0.3)))
    wait_until(all_sent(site, 3))
    assert received(receiver) == contents
    assert metrics.value("edm_upload_attempts_total", result="timeout") == 1
    # The others did not wait for the one.
    assert [r.interval[14:16] for r in receiver.stored] == ["51", "52", "50"]


def test_files_refused_for_good_are_set_aside(
    site: Site, receiver: Receiver, start: Callable[..., tuple[Uploader, Metrics]]
) -> None:
    contents = site.fill(4)
    receiver.decide = lambda r: Reply(413, body=b"not you") if r.interval[14:16] in ("50", "52") else CREATED
    _, metrics = start(http_retry_limit=3)
    refused = site.data.outbox.with_name("refused")
    wait_until(lambda: len(names(refused)) == 2 and all_sent(site, 2)())
    kept = {i: site.path(i, refused).read_bytes() for i in (0, 2)}
    assert kept == {i: list(contents.values())[i] for i in (0, 2)}
    assert list(received(receiver)) == [interval for interval in contents if interval[14:16] in ("51", "53")]
    wait_until(lambda: metrics.value("edm_upload_outbox_files") == 0)
    assert metrics.value("edm_upload_refused_files_total") == 2
    assert metrics.value("edm_upload_attempts_total", result="refused") == 6
    receiver.decide = lambda request: CREATED
    for i in (0, 2):
        site.path(i, refused).rename(site.path(i))
    wait_until(all_sent(site, 4))
    assert received(receiver) == contents


@pytest.mark.parametrize("status", [401, 403, 400])
def test_while_core_does_not_accept_us_no_file_is_set_aside(
    site: Site, receiver: Receiver, start: Callable[..., tuple[Uploader, Metrics]], status: int
) -> None:
    contents = site.fill(4)
    receiver.decide = lambda r: Reply(status, body=b"The SSL certificate error" if status == 400 else b"")
    with structlog.testing.capture_logs() as lines:
        _, metrics = start(http_retry_limit=1)
        wait_until(lambda: (metrics.value("edm_upload_attempts_total", result="denied") or 0) >= 6)
    assert any(line.get("likely_cause") for line in lines)
    assert names(site.data.refused) == []
    receiver.decide = lambda request: CREATED
    wait_until(all_sent(site, 4))
    assert received(receiver) == contents


def test_a_reload_tries_again_what_was_set_aside(
    site: Site, receiver: Receiver, start: Callable[..., tuple[Uploader, Metrics]]
) -> None:
    contents = site.fill(3)
    receiver.decide = lambda r: Reply(413) if r.interval[14:16] != "51" else CREATED
    uploader, _ = start(http_retry_limit=2)
    wait_until(lambda: len(names(site.data.refused)) == 2)
    receiver.decide = lambda r: Reply(413) if r.interval[14:16] == "50" else CREATED
    uploader.reload(site.settings(receiver.url))
    wait_until(all_sent(site, 2))
    wait_until(lambda: names(site.data.refused) == [site.path(0).name])
    assert {r.interval for r in receiver.stored} == set(list(contents)[1:])


def test_interim_answers_are_not_the_answer(
    site: Site, receiver: Receiver, start: Callable[..., tuple[Uploader, Metrics]]
) -> None:
    contents = site.fill(2)
    receiver.decide = lambda r: Reply(201, interim=(100, 102, 103))
    start()
    wait_until(all_sent(site, 2))
    assert received(receiver) == contents
    assert len(receiver.requests) == 2


def test_a_reload_shows_the_new_certificate(
    site: Site, receiver: Receiver, start: Callable[..., tuple[Uploader, Metrics]]
) -> None:
    serials = [site.renew_client()]
    uploader, _ = start()
    site.fill(2)
    wait_until(all_sent(site, 2))
    # Nobody has told: a certificate renewed on disk is found before the next upload.
    serials.append(site.renew_client())
    site.fill(1, first=2)
    wait_until(all_sent(site, 3))
    assert receiver.requests[-1].serial == serials[1]
    uploader.reload(site.settings(receiver.url))
    site.fill(2, first=3)
    wait_until(all_sent(site, 5))
    site.write("client-key.pem", b"broken")
    with pytest.raises(KeyFileError, match="http-client-key-file"):
        uploader.reload(site.settings(receiver.url))
    site.fill(1, first=5)
    wait_until(all_sent(site, 6))
    assert [r.serial for r in receiver.requests] == [serials[0]] * 2 + [serials[1]] * 4


def test_an_unwelcome_certificate_until_it_is_replaced(
    site: Site, receiver: Receiver, start: Callable[..., tuple[Uploader, Metrics]]
) -> None:
    contents = site.fill(2)
    site.renew_client(Authority(site.folder / "other"))
    with structlog.testing.capture_logs() as lines:
        uploader, metrics = start()
        wait_until(lambda: metrics.value("edm_upload_attempts_total", result="unreachable") or 0)
    assert any("TLS: " in str(line.get("reason")) for line in lines)
    assert receiver.requests == []
    serial = site.renew_client()
    uploader.reload(site.settings(receiver.url))
    wait_until(all_sent(site, 2))
    assert {r.serial for r in receiver.requests} == {serial}
    assert received(receiver) == contents


def test_a_receiver_of_another_authority_gets_nothing(
    site: Site, receiver: Receiver, start: Callable[..., tuple[Uploader, Metrics]]
) -> None:
    site.fill(1)
    other = Authority(site.folder / "other").ca
    with structlog.testing.capture_logs() as lines:
        _, metrics = start(http_ca_file=str(other))
        wait_until(lambda: metrics.value("edm_upload_attempts_total", result="unreachable") or 0)
    assert any("the server's certificate: " in str(line.get("reason")) for line in lines)
    assert receiver.requests == []
    assert len(names(site.data.outbox)) == 1


def test_switching_on_and_off_at_run_time(
    site: Site, receiver: Receiver, start: Callable[..., tuple[Uploader, Metrics]]
) -> None:
    contents = site.fill(1)
    uploader, metrics = start(disable_histogram_sender=True)
    wait_until(lambda: metrics.value("edm_upload_outbox_files") == 1)
    uploader.reload(site.settings(receiver.url))
    wait_until(all_sent(site, 1))
    uploader.reload(site.settings(receiver.url, disable_histogram_sender=True))
    contents |= site.fill(1, first=1)
    wait_until(lambda: metrics.value("edm_upload_outbox_files") == 1)
    assert len(receiver.requests) == 1
    uploader.reload(site.settings(receiver.url))
    wait_until(all_sent(site, 2))
    assert received(receiver) == contents


def test_the_receiver_comes_later(site: Site, start: Callable[..., tuple[Uploader, Metrics]]) -> None:
    contents = site.fill(3)
    first = Receiver(site.public_keys, site.folder)
    first._server.server_close()  # nobody listens at its address now
    _, metrics = start(url=first.url)
    wait_until(lambda: (metrics.value("edm_upload_attempts_total", result="unreachable") or 0) >= 3)
    with Receiver(site.public_keys, site.folder, first.port) as receiver:
        wait_until(all_sent(site, 3))
        assert received(receiver) == contents


def test_a_restart_sends_what_was_left(
    site: Site, receiver: Receiver, start: Callable[..., tuple[Uploader, Metrics]]
) -> None:
    contents = site.fill(3)
    receiver.decide = lambda request: Reply(500)
    uploader, _ = start()
    receiver.wait_for(lambda: receiver.requests)
    uploader.stop(0)
    receiver.decide = lambda request: CREATED
    start()
    wait_until(all_sent(site, 3))
    assert received(receiver) == contents


LAZY = Timing(scan=1000.0)


def test_the_last_files_go_out_at_the_shutdown(
    site: Site, receiver: Receiver, start: Callable[..., tuple[Uploader, Metrics]]
) -> None:
    uploader, metrics = start(LAZY)
    wait_until(lambda: metrics.value("edm_upload_outbox_files") == 0)
    contents = site.fill(3)
    uploader.stop(20)
    assert all_sent(site, 3)()
    assert received(receiver) == contents


def test_without_grace_the_last_files_stay(
    site: Site, receiver: Receiver, start: Callable[..., tuple[Uploader, Metrics]]
) -> None:
    uploader, _ = start(LAZY)
    uploader.stop(0)
    site.fill(1)
    assert receiver.requests == []
    assert len(names(site.data.outbox)) == 1


def test_a_silent_receiver_does_not_hold_up_the_shutdown(
    site: Site, receiver: Receiver, start: Callable[..., tuple[Uploader, Metrics]]
) -> None:
    receiver.decide = lambda request: "stall"
    site.fill(3)
    uploader, metrics = start(LAZY)
    receiver.wait_for(lambda: receiver.requests)
    began = time.monotonic()
    uploader.stop(0.3)
    assert time.monotonic() - began < 1.2
    assert not uploader.running
    assert len(receiver.requests) == 1
    assert len(names(site.data.outbox)) == 3
    assert metrics.value("edm_upload_attempts_total", result="timeout") == 0
