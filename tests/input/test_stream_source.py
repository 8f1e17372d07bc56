"""Receiving over TLS: one receive returns everything that has come, for records of any size."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edm.input.stream import StreamSource
from edm.input.tls import tls_context
from support.pki import Authority

RECORDS = [bytes([i]) * (1 + i) for i in range(40)]  # few enough for the buffer of a socket


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """The sender's and the receiver's end of a TLS connection."""
    authority = Authority(tmp_path)
    server, client = authority.server(), authority.client()
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.load_cert_chain(client.cert, client.key)
    outer, inner = socket.socketpair()
    outer.settimeout(10)
    inner.settimeout(10)
    connected: list[ssl.SSLSocket] = []
    thread = threading.Thread(
        target=lambda: connected.append(context.wrap_socket(outer, server_hostname="localhost"))
    )
    thread.start()
    receiver = tls_context(str(server.cert), str(server.key), str(authority.ca)).wrap_socket(
        inner, server_side=True
    )
    thread.join(10)
    receiver.setblocking(False)
    with connected[0] as sender, receiver:
        yield sender, receiver


def test_one_receive_takes_all_records_that_are_there(ends: tuple[ssl.SSLSocket, ssl.SSLSocket]) -> None:
    sender, receiver = ends
    for record in RECORDS:
        sender.sendall(record)
    source = StreamSource(receiver)
    view = memoryview(bytearray(65536))
    assert source.wait(10)
    count = source.receive(view)
    assert bytes(view[:count]) == b"".join(RECORDS)
    assert source.receive(view) == -1
    assert not source.wait(0)


def test_a_small_view_leaves_the_rest_for_later(ends: tuple[ssl.SSLSocket, ssl.SSLSocket]) -> None:
    sender, receiver = ends
    sender.sendall(bytes(range(100)))
    source = StreamSource(receiver)
    view = memoryview(bytearray(64))
    assert source.wait(10)
    assert source.receive(view) == 64
    assert source.wait(0)  # nothing more will come, yet there is something to receive
    assert source.receive(view) == 36
    assert bytes(view[:36]) == bytes(range(64, 100))


@pytest.mark.parametrize("notify", [True, False])
def test_what_came_before_the_end_is_received_first(
    notify: bool, ends: tuple[ssl.SSLSocket, ssl.SSLSocket]
) -> None:
    sender, receiver = ends
    sender.sendall(b"last words")
    if notify:
        sender.settimeout(0)
        with pytest.raises(ssl.SSLWantReadError):
            sender.unwrap()  # says good-bye, and would wait for the answer
    else:
        sender.close()
    source = StreamSource(receiver)
    view = memoryview(bytearray(64))
    assert source.wait(10)
    assert source.receive(view) == 10
    assert source.wait(10)
    assert source.receive(view) == 0
    assert source.wait(0)
    assert source.receive(view) == 0


def test_a_broken_record_does_not_take_away_what_came_before(
    ends: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    sender, receiver = ends
    sender.sendall(b"whole")
    socket.socket.send(sender, b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that nobody encrypted
    source = StreamSource(receiver)
    view = memoryview(bytearray(64))
    assert source.wait(10)
    assert source.receive(view) == 5
    assert source.wait(10)
    with pytest.raises(ssl.SSLError, match=r"DECRYPTION_FAILED_OR_BAD_RECORD_MAC|RECORD_LAYER_FAILURE"):
        source.receive(view)
