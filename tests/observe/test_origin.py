from __future__ import annotations

import socket

import pytest

from edm.observe.origin import Origins, host_of

OURS = "localhost:2112"


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost:2112", "localhost"),
        ("LocalHost.", "localhost"),
        ("[::1]:2112", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("a:b:c", ""),
        ("evil.example/localhost", "evil.example/localhost"),
        ("user@localhost", "user@localhost"),
        ("[localhost]", "localhost"),
        ("", ""),
    ],
)
def test_host_of(header: str, host: str) -> None:
    assert host_of(header) == host


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST:1", "127.0.0.1:2112", "127.9.9.9", "[::1]", "[fe80::1%eth0]:1", "192.0.2.1:80",
        "app.localhost", "metrics.example.net:2112", "Metrics.Example.NET.", socket.gethostname(), "",
    ],
)  # fmt: skip
def test_names_that_are_ours(host: str) -> None:
    assert Origins(["metrics.example.net", ""]).objection("GET", {"host": host}) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:2112", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost", "x",
        "1.2.3", "[evil.example]", "user@localhost", ":2112", "a b", "metrics.example.net.evil.example",
        "127.0.0.1%.evil.example",
    ],
)  # fmt: skip
def test_names_that_are_not_ours(host: str) -> None:
    assert Origins(["metrics.example.net"]).objection("GET", {"host": host}) == "host"


def test_any_name() -> None:
    assert Origins(["*"]).objection("GET", {"host": "whatever.example"}) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://localhost:2112"},
        {"origin": "https://LOCALHOST:2112", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-origin"},
    ],
)
def test_requests_from_here(headers: dict[str, str]) -> None:
    assert Origins([]).objection("POST", {"host": OURS, **headers}) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://localhost"},
        {"origin": "http://localhost:2113"},
        {"origin": "http://localhost:2112.evil.example"},
        {"origin": "http://evil.example", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    ],
)
def test_requests_of_foreign_pages(headers: dict[str, str]) -> None:
    assert Origins([]).objection("POST", {"host": OURS, **headers}) == "origin"


def test_a_link_on_a_foreign_page_may_be_followed() -> None:
    link = {"host": OURS, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert Origins([]).objection("GET", {**link, "sec-fetch-dest": "document"}) is None
    assert Origins([]).objection("GET", {**link, "sec-fetch-dest": "iframe"}) == "origin"
    assert Origins([]).objection("GET", {"host": OURS, "sec-fetch-site": "cross-site"}) == "origin"
