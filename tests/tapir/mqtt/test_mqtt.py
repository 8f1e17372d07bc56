from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from edm.tapir.mqtt import mqtt
from edm.tapir.mqtt.broker import Broker
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
                peer.sendall(answer)
            with contextlib.suppress(ConnectionResetError):
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
