"""Who may read the metrics address: token, TLS and client certificates over real sockets, and refusals."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edm.config import Config
from edm.config.address import is_loopback
from edm.config.validate import violations
from edm.errors import KeyFileError
from edm.observe.access import Access
from edm.observe.http import HttpServer, metrics_server
from edm.observe.metrics import Metrics
from support.pki import Authority
from support.processes import wait_until

TOKEN = "correct-horse-battery-staple"


class Site:
    """A metrics server with an access, whose files a test may change."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.metrics = Metrics()
        self.config = Config(**settings)  # type: ignore[arg-type]
        self.access = Access(self.config)
        self.server: HttpServer = metrics_server(self.metrics, "127.0.0.1:0", access=self.access)
        assert self.server.start()

    def refused(self, reason: str) -> float:
        return self.metrics.value("edm_http_refused_total", endpoint="metrics", reason=reason) or 0.0

    def ask(self, path: str = "/metrics", token: str = "", context: ssl.SSLContext | None = None) -> int:
        port = self.server.port
        if context is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        else:
            connection = http.client.HTTPSConnection("localhost", port, timeout=20, context=context)
        try:
            connection.request("GET", path, headers={"Authorization": token} if token else {})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def made(**settings: str) -> Site:
        sites.append(Site(tmp_path, **settings))
        return sites[-1]

    yield made
    for site in sites:
        assert site.server.stop(5.0)


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


@pytest.mark.parametrize(
    "given",
    [
        "",
        TOKEN,
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        "Bearer \xff",
    ],
)
def test_without_the_token_nothing_is_told(make: Callable[..., Site], token: Path, given: str) -> None:
    site = make(metrics_token_file=str(token))
    assert site.ask(token=given) == 401
    assert site.refused("token") == 1


def test_with_the_token_it_answers_and_probes_need_none(make: Callable[..., Site], token: Path) -> None:
    site = make(metrics_token_file=str(token))
    assert site.ask(token=f"Bearer {TOKEN}") == 200
    assert site.ask(token=f"bearer  {TOKEN} ") == 200
    assert site.ask("/readyz") == 404  # let through to a server that has no status
    assert site.refused("token") == 0


def test_a_renewed_token_is_taken_up_and_a_broken_one_is_not(make: Callable[..., Site], token: Path) -> None:
    site = make(metrics_token_file=str(token))
    token.write_text("short")
    site.access.refresh()
    assert site.ask(token=f"Bearer {TOKEN}") == 200
    token.write_text("a-new-token-of-some-length")
    site.access.refresh()
    assert site.ask(token=f"Bearer {TOKEN}") == 401
    assert site.ask(token="Bearer a-new-token-of-some-length") == 200
    token.unlink()
    with pytest.raises(KeyFileError, match="metrics-token-file"):
        site.access.reload(site.config)
    assert site.ask(token="Bearer a-new-token-of-some-length") == 200


@pytest.mark.parametrize(
    "text",
    [
        "",
        "short",
        "two words of sixteen",
        "umlaut-\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4",
        "x" * 5000,
    ],
)
def test_a_token_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(KeyFileError, match=f"metrics-token-file: {path}: "):
        Access(Config(metrics_token_file=str(path)))


def test_tls_with_client_certificates(tmp_path: Path, make: Callable[..., Site]) -> None:
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b", "another authority")
    server = authority.server()
    site = make(
        metrics_tls_cert_file=str(server.cert),
        metrics_tls_key_file=str(server.key),
        metrics_tls_client_ca_file=str(authority.ca),
    )

    def context(client: object = None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(authority.ca))
        if client is not None:
            made.load_cert_chain(client.cert, client.key)  # type: ignore[attr-defined]
        return made

    assert site.ask(context=context(authority.client())) == 200
    for refused in (None, other.client()):
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            site.ask(context=context(refused))
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        site.ask()  # in the clear
    wait_until(lambda: site.refused("tls") >= 3, "they are counted")
    assert site.access.certificate_ends is not None
    assert site.access.certificate_ends > time.time()


def test_who_says_nothing_in_the_handshake_keeps_nobody_out(
    tmp_path: Path, make: Callable[..., Site]
) -> None:
    authority = Authority(tmp_path / "a")
    server = authority.server()
    site = make(metrics_tls_cert_file=str(server.cert), metrics_tls_key_file=str(server.key))
    context = ssl.create_default_context(cafile=str(authority.ca))
    silent = [socket.create_connection(("127.0.0.1", site.server.port)) for _ in range(20)]
    try:
        assert site.ask(context=context) == 200
    finally:
        for sock in silent:
            sock.close()


def test_the_certificate_of_the_next_connection_is_the_renewed_one(
    tmp_path: Path, make: Callable[..., Site]
) -> None:
    old, new = Authority(tmp_path / "a"), Authority(tmp_path / "b", "another authority")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    for authority in (old, new):
        pair = authority.server()
        cert.write_bytes(Path(pair.cert).read_bytes())
        key.write_bytes(Path(pair.key).read_bytes())
        if authority is old:
            site = make(metrics_tls_cert_file=str(cert), metrics_tls_key_file=str(key))
        assert site.ask(context=ssl.create_default_context(cafile=str(authority.ca))) == 200


# What a configuration may ask for


def found(**settings: str) -> list[str]:
    basic = {"cryptopan_key": "k" * 20, "well_known_domains_file": "x", "data_dir": "y", "input_unix": "s"}
    config = Config(**basic, disable_mqtt=True, disable_histogram_sender=True, **settings)  # type: ignore[arg-type]
    return [f"{name}: {reason}" for name, reason in violations(config, "daemon")]


@pytest.mark.parametrize(
    "address", ["127.0.0.1:2112", "[::1]:1", "localhost:1", "127.8.9.1:0", "", "x.localhost:1"]
)
def test_loopback_needs_nothing(address: str) -> None:
    assert found(metrics_address=address, debug_address=address) == []


@pytest.mark.parametrize(
    "address", [":2112", "0.0.0.0:2112", "[::]:1", "192.0.2.1:1", "host.example:1", "[2001:db8::1]:1"]
)
def test_any_other_address_needs_tls_and_somebody_known(address: str) -> None:
    tls = {"metrics_tls_cert_file": "c", "metrics_tls_key_file": "k"}
    for settings in ({}, tls, {"metrics_token_file": "t"}):
        (line,) = found(metrics_address=address, **settings)
        assert line.startswith("metrics-address: others than this machine could read it")
    assert found(metrics_address=address, **tls, metrics_token_file="t") == []
    assert found(metrics_address=address, **tls, metrics_tls_client_ca_file="a") == []
    assert found(debug_address=address)[0].startswith("debug-address: others")


def test_half_of_tls_is_an_error() -> None:
    assert found(metrics_tls_cert_file="c")[0].startswith("metrics-tls-key-file: must not be empty")
    assert found(metrics_tls_client_ca_file="c")[0].startswith("metrics-tls-cert-file: must not be empty")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("", False), ("fe80::1%eth0", False), ("a.b", False)],
)
def test_what_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
