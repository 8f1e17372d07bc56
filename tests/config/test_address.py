"""Addresses: one parser and one way to bind, with the same results for all users of them."""

import socket
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from edm.captures.replay import connect
from edm.config.address import Address, bind, parse_address
from edm.config.schema import KEYS
from edm.errors import InputError
from edm.input.listener import open_tcp
from edm.observe.http import metrics_server
from edm.observe.metrics import Metrics

GOOD = [
    ("127.0.0.1:2112", ("127.0.0.1", 2112)),
    (":5353", ("", 5353)),
    (":", ("", 0)),
    ("[::]:53", ("::", 53)),
    ("[::1]:53", ("::1", 53)),
    ("[fe80::1%eth0]:53", ("fe80::1%eth0", 53)),
    ("[fe80::1%1]:53", ("fe80::1%1", 53)),
    ("[::ffff:192.0.2.1]:53", ("192.0.2.1", 53)),
    ("[::ffff:c000:201]:53", ("192.0.2.1", 53)),
    ("[127.0.0.1]:53", ("127.0.0.1", 53)),
    ("example.com:", ("example.com", 0)),
    ("example.com.:1", ("example.com.", 1)),
    ("bücher.example:1", ("bücher.example", 1)),
    ("localhost:65535", ("localhost", 65535)),
    ("localhost:00053", ("localhost", 53)),
    ("localhost:domain", ("localhost", 53)),
]
BAD = [
    "",
    "53",
    "127.0.0.1",
    "::1:53",
    "fe80::1%eth0:53",
    "[::1]",
    "[::1:53",
    "::1]:53",
    "a]:1",
    "[]]:1",
    "[[::1]]:1",
    "[::1]]:1",
    "[::1]x:1",
    "[::g]:1",
    "[1:2]:1",
    "[fe80::1%]:1",
    "[fe80::1%a%b]:1",
    "[fe80::1%a/b]:1",
    "[::ffff:1.2.3.256]:1",
    "h:65536",
    "h:99999999999999999999",
    "h:-1",
    "h:+1",
    "h:0x10",
    "h:1_0",
    "h:٣",
    "h:no-such-service",
    "h: 1",
    " h:1",
    "h:1 ",
    "h :1",
    "h:1\n",
    "h\0:1",
    "\x1b[31mh:1",
    "a..b:1",
    f"{'x' * 64}.example:1",
    "user@h:1",
    "tcp://h:1",
    "h/path:1",
    "h%eth0:1",
]


@pytest.mark.parametrize(("text", "address"), GOOD)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_address_is_refused_by_all_who_take_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must ") as reason:
        parse_address(text)
    why = str(reason.value)
    with pytest.raises(InputError) as listener:
        open_tcp(text, "input-tcp")
    assert str(listener.value).startswith(f"input-tcp: {why} (found ")
    assert str(listener.value).isprintable()
    with structlog.testing.capture_logs() as entries:
        assert metrics_server(Metrics(), text).start() is False
    assert [entry["reason"] for entry in entries] == [why]
    if text:
        with pytest.raises(InputError, match="cannot connect: must "):
            connect(tcp=text)
        for name in ("input-tcp", "input-tls", "metrics-address", "debug-address"):
            with pytest.raises(ValueError) as refused:
                KEYS[name].parse(text)
            # A NUL is found before.
            assert str(refused.value) == why or "\0" in text


@given(st.one_of(st.text(), st.text("[]:%.0123456789abf \0", max_size=12)))
def test_any_text_has_an_answer(text: str) -> None:
    try:
        host, port = parse_address(text)
    except ValueError:
        return
    assert isinstance(host, str)
    assert 0 <= port <= 65535


def reaches(port: int, host: str) -> bool:
    try:
        socket.create_connection((host, port), 2).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 on this machine")
@pytest.mark.parametrize("host", ["", "0.0.0.0", "[::]"])
def test_all_addresses_are_those_of_both_families(host: str) -> None:
    with open_tcp(f"{host}:0", "input-tcp") as sock:
        port = sock.getsockname()[1]
        assert reaches(port, "127.0.0.1")
        assert reaches(port, "::1")
    server = metrics_server(Metrics(), f"{host}:0")
    assert server.start()
    try:
        assert reaches(server.port, "127.0.0.1")
        assert reaches(server.port, "::1")
    finally:
        assert server.stop()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 on this machine")
def test_one_address_is_that_address_only() -> None:
    with open_tcp("[::1]:0", "input-tcp") as sock:
        assert not reaches(sock.getsockname()[1], "127.0.0.1")
    with open_tcp("[::ffff:127.0.0.1]:0", "input-tcp") as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
    with open_tcp("localhost:0", "input-tcp") as sock:  # its first IPv4 address, as in Go
        assert sock.getsockname()[0].startswith("127.")


def test_a_zone_reaches_the_system() -> None:
    for name in Path("/proc/net/if_inet6").read_text().splitlines():
        address, index, _, scope, _, interface = name.split()
        if scope == "20":  # link-local
            text = ":".join(address[i : i + 4] for i in range(0, 32, 4))
            with open_tcp(f"[{text}%{interface}]:0", "input-tcp") as sock:
                assert sock.getsockname()[3] == int(index, 16)
    with pytest.raises(InputError, match=r"^input-tcp: \[fe80::1%no-such\]:0: [A-Z]"):
        open_tcp("[fe80::1%no-such]:0", "input-tcp")


def test_a_bound_address_does_not_listen() -> None:
    with bind(Address("127.0.0.1", 0)) as sock:
        assert not reaches(sock.getsockname()[1], "127.0.0.1")
