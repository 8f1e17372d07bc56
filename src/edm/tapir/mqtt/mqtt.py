"""One connection to an MQTT 5 broker, driven by a loop of our own.

The protocol is the library's work (paho); its threads and its reconnecting are not used, since every connection
gets a new client object: nothing can leak from one connection to the next, and each takes the client certificate
that is current when it is opened.

At quality of service 0 the broker confirms nothing. But it works off a connection's packets in order, so its
answer to a ping proves that it has read every message written before the ping: what a broken connection has
swallowed is known and can be sent again.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from edm.tapir.mqtt.broker import Broker
from edm.tapir.mqtt.packets import publish_packets

CONNECT_SECONDS = 10.0

_PACKET_OVERHEAD = 12
_COLLECTED_MAX = 64 * 1024
_GOODBYE_SECONDS = 0.5
_RECEIVE = 4096


class ConnectError(Exception):
    """No connection could be made; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The broker's word on a message of quality of service 1; ``refused`` is its reason if it did not take it."""

    mid: int
    refused: str | None


class _Client(paho.Client):
    """The library's client, with pings at our will too and not only when a connection is idle.

    It also collects what the library sends packet by packet, and sends it in a few large pieces: a system call
    and a TLS record for each message would cost as much as signing it.
    """

    def __init__(self, client_id: str, transport: Literal["tcp", "websockets"]) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5, transport=transport)
        self.pings = 0
        self.pongs = 0
        self.collecting = True
        self._collected = bytearray()
        self._received = b""

    @property
    def congested(self) -> bool:
        """There is something to be written that the socket has not taken."""
        return bool(self._collected) or self.want_write()

    @property
    def unread(self) -> bool:
        """There are bytes that were received and not worked off; the socket is not readable for them."""
        pending = getattr(self.socket(), "pending", None)  # of TLS and WebSocket
        return bool(self._received) or (pending is not None and pending() > 0)

    def write_packets(self, packets: Iterable[bytes]) -> None:
        """Append packets that were made elsewhere to what is to be written."""
        self._collected += b"".join(packets)

    def flush(self) -> None:
        """Write as much as the socket takes."""
        self.loop_write()
        while self._collected and self.socket() is not None:
            try:
                del self._collected[: super()._sock_send(self._collected)]
            except BlockingIOError:
                return
            except OSError:
                self._collected.clear()
                return  # the next attempt to read tells why
            self.loop_write()

    def _sock_recv(self, bufsize: int) -> bytes:
        # The library asks for a packet in three pieces, the first two of them single bytes.
        if not self._received:
            self._received = super()._sock_recv(_RECEIVE)
        piece, self._received = self._received[:bufsize], self._received[bufsize:]
        return piece

    def _sock_send(self, buf: bytes | bytearray) -> int:
        if not self.collecting:
            return super()._sock_send(buf)
        if len(self._collected) >= _COLLECTED_MAX:
            raise BlockingIOError
        self._collected += buf
        return len(buf)

    def ping(self) -> int:
        """Append a ping to what is to be written; returns its number, counted from 1."""
        self._send_pingreq()
        return self.pings

    def _send_pingreq(self) -> MQTTErrorCode:
        code = super()._send_pingreq()
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self.pings += 1
        return code

    def _handle_pingresp(self) -> MQTTErrorCode:
        code = super()._handle_pingresp()
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self.pongs += 1
        return code


class _TlsSocket(ssl.SSLSocket):
    """Closed at once, not some time later, when the greeting fails."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class Connection:
    """A connection from its first byte to its last. Only one thread may use it, but for :class:`Waker`.

    Parameters
    ----------
    broker : Broker
    client_id : str
    keepalive : int
        Seconds.
    context : ssl.SSLContext or None
        For a broker with TLS.

    Attributes
    ----------
    established : bool
        The broker has accepted the connection.
    lost : str or None
        Why the connection ended, once it has.
    refused : bool
        It ended because the broker did not accept it.
    confirmations : deque of Confirmation
        To be taken from the left.
    receive_maximum, maximum_qos, maximum_packet : int
        What the broker allows.
    """

    def __init__(
        self, broker: Broker, client_id: str, keepalive: int, context: ssl.SSLContext | None
    ) -> None:
        self.established = False
        self.refused = False
        self.lost: str | None = None
        self.confirmations: deque[Confirmation] = deque()
        self.receive_maximum = 65535
        self.maximum_qos = 2
        self.maximum_packet = 1 << 28
        self._broker = broker
        self._keepalive = keepalive
        self._selector = selectors.DefaultSelector()
        self._registered: Any = None
        client = _Client(client_id, "tcp" if broker.websocket_path is None else "websockets")
        client.connect_timeout = CONNECT_SECONDS
        client.max_inflight_messages_set(65535)
        if broker.tls and context is not None:
            context.sslsocket_class = _TlsSocket
            client.tls_set_context(context)
        if broker.websocket_path is not None:
            client.ws_set_options(path=broker.websocket_path)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_socket_open = self._on_socket_open
        client.on_publish = self._on_publish
        # Without this the library would write each message at once, in the middle of publish().
        client.on_socket_register_write = lambda *_: None
        self._client = client

    def open(self) -> None:
        """Connect and say hello; :attr:`established` or :attr:`lost` follow.

        Raises
        ------
        ConnectError
        """
        try:
            self._client.connect(self._broker.host, self._broker.port, self._keepalive, clean_start=False)
        except ssl.SSLCertVerificationError as error:
            raise ConnectError(f"the broker's certificate is not accepted: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise ConnectError(f"TLS: {error.reason or error}") from error
        except TimeoutError as error:
            raise ConnectError("timed out") from error
        except socket.gaierror as error:
            raise ConnectError(f"host name: {error.strerror}") from error
        except OSError as error:
            raise ConnectError(error.strerror or str(error)) from error
        except ValueError as error:  # WebSocket handshake, host name that is none
            raise ConnectError(str(error)) from error
        self._deadline = time.monotonic() + CONNECT_SECONDS

    def publish(self, topic: str, message: bytes) -> int:
        """Append a message of quality of service 1 to what is to be written; returns its packet identifier."""
        return self._client.publish(topic, message, 1).mid

    def publish_all(self, topic: str, messages: Sequence[bytes]) -> None:
        """Append messages of quality of service 0 to what is to be written."""
        # The library takes a third of the time of signing for each, all of it holding the interpreter lock.
        self._client.write_packets(publish_packets(topic, messages))

    def largest(self, topic: str) -> int:
        """Return how long a message may be for the broker."""
        return self.maximum_packet - len(topic.encode()) - _PACKET_OVERHEAD

    def ping(self) -> int:
        """Append a ping to what is to be written; returns its number.

        The library sends pings of its own, so only the number tells which of them an answer belongs to.
        """
        return self._client.ping()

    @property
    def pongs(self) -> int:
        """Return how many pings have been answered, the library's own included."""
        return self._client.pongs

    @property
    def congested(self) -> bool:
        """What is to be written does not fit into the socket at present."""
        return self._client.congested

    def write(self) -> None:
        """Write as much as the socket takes."""
        if self.lost is None:
            self._client.flush()

    def turn(self, timeout: float, waker: Waker) -> None:
        """Wait for the socket or the waker, at most ``timeout`` seconds, and do what is to be done."""
        sock = self._client.socket()
        if self.lost is not None or sock is None:
            self.lost = self.lost or "the connection ended"
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.congested else 0)
        if self._registered is None:
            self._selector.register(sock, events)
            self._selector.register(waker.receiver, selectors.EVENT_READ)
            self._registered = sock
        else:
            self._selector.modify(sock, events)
        self._selector.select(timeout)
        waker.clear()
        self._client.loop_read()
        while self.lost is None and self._client.unread:
            self._client.loop_read()
        self.write()
        if self.lost is None:
            self._client.loop_misc()
        if not self.established and self.lost is None and time.monotonic() > self._deadline:
            self.lost = "no answer to the greeting"

    def close(self) -> None:
        """Say goodbye if possible, and close."""
        if self.established and self.lost is None:
            self.lost = "closed"
            self._say_goodbye(time.monotonic() + _GOODBYE_SECONDS)
        self._selector.close()
        sock = self._client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    def _say_goodbye(self, end: float) -> None:
        client, poll = self._client, select.poll()
        poll.register(client.socket(), select.POLLOUT)  # type: ignore[arg-type]
        client.flush()
        while client.congested and client.socket() is not None and time.monotonic() < end:
            poll.poll(50)
            client.flush()
        if not client.congested:
            # The library closes the socket as soon as the last packet is written.
            client.collecting = False
            client.disconnect()
            client.loop_write()

    # What the library reports

    def _on_socket_open(self, _client: paho.Client, _data: Any, sock: Any) -> None:
        # A lone message must not wait for the acknowledgement of what came before it.
        with contextlib.suppress(AttributeError, OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_connect(self, _client: paho.Client, _data: Any, _flags: Any, code: Any, properties: Any) -> None:
        if code.is_failure:
            self.refused = True
            self.lost = f"refused by the broker: {code}"
            return
        self.established = True
        self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
        self.maximum_qos = getattr(properties, "MaximumQoS", self.maximum_qos)
        self.maximum_packet = getattr(properties, "MaximumPacketSize", self.maximum_packet)

    def _on_disconnect(
        self, _client: paho.Client, _data: Any, flags: Any, code: Any, _properties: Any
    ) -> None:
        if self.lost is None:
            by = "ended by the broker: " if flags.is_disconnect_packet_from_server else ""
            self.lost = f"{by}{code}"

    def _on_publish(self, _client: paho.Client, _data: Any, mid: int, code: Any, _properties: Any) -> None:
        self.confirmations.append(Confirmation(mid, str(code) if code.is_failure else None))


class Waker:
    """Wakes the thread that waits in :meth:`Connection.turn`; any thread may call :meth:`wake`."""

    def __init__(self) -> None:
        self.receiver, self._sender = socket.socketpair()
        self.receiver.setblocking(False)
        self._sender.setblocking(False)

    def wake(self) -> None:
        """Make the waiting, or the next wait, end at once."""
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: nobody waits
            self._sender.send(b"\0")

    def clear(self) -> None:
        """Forget earlier calls of :meth:`wake`."""
        with contextlib.suppress(OSError):
            while len(self.receiver.recv(4096)) == 4096:
                pass

    def close(self) -> None:
        """Close it; waking is then without effect."""
        self.receiver.close()
        self._sender.close()


__all__ = ["CONNECT_SECONDS", "Confirmation", "ConnectError", "Connection", "Waker"]
