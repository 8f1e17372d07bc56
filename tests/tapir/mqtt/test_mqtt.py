from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from edm.tapir.mqtt import client, mqtt
from edm.tapir.mqtt.broker import Broker
from edm.tapir.mqtt.client import PACKET_MAX
from edm.tapir.mqtt.mqtt import ConnectError, Connection, Waker


def connection_to(server: str) -> Connection:
    return Connection(Broker.parse(server), "site-edm", 30, None)


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        connection = connection_to(f"mqtt://127.0.0.1:{probe.getsockname()[1]}")
        with pytest.raises(ConnectError, match="refused"):
            connection.open()
        connection.close()


class PlayedBroker:
    """Answers with prepared bytes, each after it has received at least so many bytes more."""

    def __init__(self, *script: tuple[int, bytes]) -> None:
        self.received = b""
        self._script = script
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(10)
        self.url = f"mqtt://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def _play(self) -> None:
        peer, _ = self._socket.accept()
        with peer:
            peer.settimeout(10)
            for count, answer in self._script:
                end = len(self.received) + count
                while len(self.received) < end:
                    data = peer.recv(4096)
                    if not data:
                        return
                    self.received += data
                with contextlib.suppress(ConnectionError):
                    peer.sendall(answer)
            with contextlib.suppress(ConnectionError):
                while data := peer.recv(4096):
                    self.received += data

    def close(self) -> None:
        self._thread.join(10)
        self._socket.close()
        assert not self._thread.is_alive()


CONNECT = b"\x10\x15\x00\x04MQTT\x05\x00\x00\x1e\x00\x00\x08site-edm"
CONNACK = bytes.fromhex("2003000000")


@pytest.fixture
def waker() -> Iterator[Waker]:
    made = Waker()
    yield made
    made.close()


def turn_until_settled(connection: Connection, waker: Waker) -> None:
    while connection.lost is None and not connection.established:
        connection.turn(1.0, waker)


def test_the_greeting_publishing_and_pings(waker: Waker) -> None:
    # CONNECT (MQTT 5.0, 3.1): clean start off, keep-alive 30, no properties, no will, no user.
    message = b'{"payload"}'
    publish = b"\x30\x11\x00\x03a/b\x00" + message
    ping = b"\xc0\x00"
    broker = PlayedBroker(
        (len(CONNECT), CONNACK), (2 * len(publish) + len(ping), b"\xd0\x00"), (len(ping), b"\xd0\x00")
    )
    connection = connection_to(broker.url)
    connection.open()
    turn_until_settled(connection, waker)
    assert connection.established
    connection.publish_all("a/b", [message, message])
    assert connection.ping() == 1
    assert connection.pongs == 0
    while connection.pongs < 1:
        connection.turn(1.0, waker)
    assert connection.ping() == 2
    while connection.pongs < 2:
        connection.turn(1.0, waker)
    connection.close()
    broker.close()
    assert broker.received == CONNECT + 2 * publish + ping + ping + b"\xe0\x00"


def test_confirmations_and_limits_of_the_broker(waker: Waker) -> None:
    # Receive Maximum 10, Maximum QoS 1, Maximum Packet Size 200
    connack = bytes.fromhex("200d00000a21000a24012700 0000c8".replace(" ", ""))
    publish_size = 2 + 2 + 3 + 2 + 1 + 1
    pubacks = bytes.fromhex("40020001" + "4004000287 00".replace(" ", ""))
    broker = PlayedBroker((len(CONNECT), connack), (2 * publish_size, pubacks))
    connection = connection_to(broker.url)
    connection.open()
    turn_until_settled(connection, waker)
    assert (connection.receive_maximum, connection.maximum_qos, connection.maximum_packet) == (10, 1, 200)
    assert 180 <= connection.largest("a/b") < 195
    mids = [connection.publish("a/b", b"x") for _ in range(2)]
    while len(connection.confirmations) < 2:
        connection.turn(1.0, waker)
    assert [c.mid for c in connection.confirmations] == mids
    assert connection.confirmations[0].refused is None
    assert connection.confirmations[1].refused == "Not authorized"
    connection.close()
    broker.close()


@pytest.mark.parametrize(
    ("answer", "refused", "reason"),
    [
        ("2003008700", True, "refused by the broker: Not authorized"),
        ("2003008900", True, "refused by the broker: Server busy"),
        ("2003000000e0018e", False, "ended by the broker: Session taken over"),
    ],
)
def test_a_broker_that_does_not_want_us(waker: Waker, answer: str, refused: bool, reason: str) -> None:
    broker = PlayedBroker((len(CONNECT), bytes.fromhex(answer)))
    connection = connection_to(broker.url)
    connection.open()
    while connection.lost is None:
        connection.turn(1.0, waker)
    assert (connection.refused, connection.lost) == (refused, reason)
    connection.close()
    broker.close()


def test_a_broker_that_says_nothing(waker: Waker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = PlayedBroker()
    connection = connection_to(broker.url)
    monkeypatch.setattr(mqtt, "CONNECT_SECONDS", 0.0)
    connection.open()
    while connection.lost is None:
        connection.turn(0.01, waker)
    assert connection.lost == "no answer to the greeting"
    connection.close()
    broker.close()


def test_no_tls_where_tls_is_wanted() -> None:
    broker = PlayedBroker((1, b"220 not TLS\r\n" * 10))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    connection = Connection(Broker.parse(broker.url.replace("mqtt:", "tls:")), "c", 30, context)
    with pytest.raises(ConnectError, match="TLS: WRONG_VERSION_NUMBER"):
        connection.open()
    connection.close()
    broker.close()


def test_waking(waker: Waker) -> None:
    broker = PlayedBroker((len(CONNECT), CONNACK))
    connection = connection_to(broker.url)
    connection.open()
    turn_until_settled(connection, waker)
    for _ in range(100_000):
        waker.wake()
    connection.turn(30.0, waker)
    timer = threading.Timer(0.05, waker.wake)
    timer.start()
    connection.turn(30.0, waker)
    timer.join()
    connection.close()
    broker.close()


# Brokers that are hostile


def until_lost(connection: Connection, waker: Waker, patience: float = 20.0) -> str:
    end = time.monotonic() + patience
    while connection.lost is None and time.monotonic() < end:
        connection.turn(0.1, waker)
    assert connection.lost is not None
    return connection.lost


def packet(first: int, body: bytes) -> bytes:
    length, head = len(body), bytearray([first])
    while length > 127:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + body


PUBLISH_QOS_2 = b"\x00\x03a/b\x00\x01\x00"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (packet(0x34, PUBLISH_QOS_2 + bytes(4 << 20)), "nobody asked for (type 3)"),
        (packet(0x30, b"\x00\x03a/b\x00x"), "nobody asked for (type 3)"),
        (b"\x30\x00", "nobody asked for (type 3)"),
        (packet(0x62, b"\x00\x01"), "nobody asked for (type 6)"),
        (packet(0x50, b"\x00\x01"), "nobody asked for (type 5)"),
        (b"\xc0\x00", "nobody asked for (type 12)"),
        (CONNACK, "nobody asked for (type 2)"),
        (packet(0x90, b"\x00\x01\x00\x00"), "nobody asked for (type 9)"),
        (packet(0xF0, b"\x00\x00"), "nobody asked for (type 15)"),
        (packet(0x40, bytes(PACKET_MAX + 1)), f"more than {PACKET_MAX} are not read"),
        (b"\x40\xff\xff\xff\x7f", f"more than {PACKET_MAX} are not read"),
        (b"\xd0\x00", "answered a ping that was not sent"),
    ],
)
def test_what_a_broker_has_no_reason_to_send_ends_the_connection(
    waker: Waker, sent: bytes, reason: str
) -> None:
    broker = PlayedBroker((len(CONNECT), CONNACK + sent))
    connection = connection_to(broker.url)
    connection.open()
    assert reason in until_lost(connection, waker)
    assert not connection.by_peer
    assert len(connection._client._in_packet["packet"]) <= PACKET_MAX
    connection.close()
    broker.close()


@pytest.mark.parametrize("answer", [CONNACK, b""])
def test_a_connection_that_ends_without_a_reason_is_not_given_one(waker: Waker, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = connection_to(f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        connection.open()
        connection.turn(0.0, waker)
        peer, _ = server.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(answer)
        assert until_lost(connection, waker) == "closed by the other side without a reason"
        assert connection.by_peer
        connection.close()


def test_a_websocket_frame_without_an_end_is_not_gathered(waker: Waker) -> None:
    def serve() -> None:
        peer, _ = server.accept()
        with peer, contextlib.suppress(OSError):
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += peer.recv(4096)
            key = next(line for line in request.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key"))
            key = key.split(b": ")[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key).digest())
            peer.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            # One frame of 1 GiB, whose content is CONNACK and then answers that say nothing.
            peer.sendall(b"\x82\x7f" + (1 << 30).to_bytes(8, "big") + CONNACK)
            while True:
                peer.sendall(packet(0x40, b"\x00\x01") * 4096)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        connection = connection_to(f"ws://127.0.0.1:{server.getsockname()[1]}/")
        connection.open()
        assert until_lost(connection, waker) == "the broker sent a WebSocket frame without an end"
        connection.close()
        thread.join()


def drip(peer: socket.socket, data: bytes, over: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while not over.wait(0.02):
            peer.sendall(data)


@pytest.mark.parametrize(
    ("scheme", "data"),
    [("ws", b"X"), ("ws", b"HTTP/1.1 101 x\r\n"), ("ws", b"X: y\r\n"), ("tls", b"\x16"), ("ws", b"")],
)
def test_one_deadline_for_everything_up_to_the_greeting(
    monkeypatch: pytest.MonkeyPatch, scheme: str, data: bytes
) -> None:
    for where in (mqtt, client):
        monkeypatch.setattr(where, "CONNECT_SECONDS", 0.5)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                drip(peer, data, over)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"{scheme}://127.0.0.1:{server.getsockname()[1]}"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        connection = Connection(Broker.parse(url), "c", 30, context)
        began = time.monotonic()
        with pytest.raises(ConnectError):
            connection.open()
        assert time.monotonic() - began < 5
        connection.close()
        over.set()
        thread.join()


def test_the_answer_to_the_greeting_may_not_drip_either(
    monkeypatch: pytest.MonkeyPatch, waker: Waker
) -> None:
    for where in (mqtt, client):
        monkeypatch.setattr(where, "CONNECT_SECONDS", 0.5)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = connection_to(f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        connection.open()
        peer, _ = server.accept()
        peer.sendall(b"\x20\xff\x01")
        thread = threading.Thread(target=drip, args=(peer, b"\0", over))
        thread.start()
        assert until_lost(connection, waker, 5) == "no answer to the greeting"
        over.set()
        thread.join()
        connection.close()
        peer.close()


def test_a_late_answer_is_waited_for_as_long_as_a_slow_line_needs(
    monkeypatch: pytest.MonkeyPatch, waker: Waker
) -> None:
    now = 1000.0
    monkeypatch.setattr(client.time, "monotonic", lambda: now)
    broker = PlayedBroker((len(CONNECT), CONNACK))
    connection = Connection(Broker.parse(broker.url), "site-edm", 5, None)
    connection.open()
    turn_until_settled(connection, waker)
    connection.publish_all("a/b", [bytes(20_000)])
    connection.ping()
    connection.turn(0.0, waker)
    now += 24
    connection.turn(0.0, waker)
    assert connection.lost is None
    now += 2
    connection.turn(0.0, waker)
    assert connection.lost == "no answer for 25 seconds"
    assert not connection.by_peer
    connection.close()
    broker.close()


def test_what_is_still_on_the_line_behind_an_answer_is_waited_for_too(
    monkeypatch: pytest.MonkeyPatch, waker: Waker
) -> None:
    now = 1000.0
    monkeypatch.setattr(client.time, "monotonic", lambda: now)
    broker = PlayedBroker((len(CONNECT), CONNACK), (30_000, b"\xd0\x00"))
    connection = Connection(Broker.parse(broker.url), "site-edm", 5, None)
    connection.open()
    turn_until_settled(connection, waker)
    for _ in range(2):
        connection.publish_all("a/b", [bytes(20_000)])
        connection.ping()
    while connection.pongs < 1:
        connection.turn(0.1, waker)
    now += 24
    connection.turn(0.0, waker)
    assert connection.lost is None
    now += 2
    connection.turn(0.0, waker)
    assert connection.lost == "no answer for 25 seconds"
    connection.close()
    broker.close()
