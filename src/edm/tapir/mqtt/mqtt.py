"""One connection to an MQTT 5 broker, driven by our own loop.

Every connection gets a new client object. So no state passes from one connection to the next, and each connection
uses the client certificate that is current when it is opened.

At QoS 0 the broker confirms nothing. But it processes a connection's packets in order, so its answer to a ping proves
that it has read every message written before the ping. Messages without that proof are sent again after a broken
connection.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho

from edm.tapir.mqtt.broker import Broker
from edm.tapir.mqtt.client import CONNECT_SECONDS, Client, TlsSocket
from edm.tapir.mqtt.packets import publish_packets

_PACKET_OVERHEAD = 12
_TEXT_MAX = 200
_GOODBYE_SECONDS = 0.5
_READS = 1000
"""Most packets that are processed at a time, before other work."""


class ConnectError(Exception):
    """The connection could not be made; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The broker's answer to a message of QoS 1.

    Attributes
    ----------
    refused : str or None
        The broker's reason if it refused the message.
    code : int
        The reason code (MQTT 5.0, 2.4).
    """

    mid: int
    refused: str | None
    code: int = 0


class Connection:
    """One connection to the broker. Only one thread may use it; others wake it through :class:`Waker`.

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
        Whether the broker has accepted the connection.
    lost : str or None
        Why the connection ended; None while it is open.
    code : int or None
        The reason code (MQTT 5.0, 2.4) with which the broker refused or ended the connection, if it gave one.
    by_peer : bool
        Whether the broker ended the connection, with or without a reason.
    refused : bool
        Whether the connection ended because the broker did not accept it.
    confirmations : deque of Confirmation
        Confirmations not processed yet, the oldest on the left.
    receive_maximum, maximum_qos, maximum_packet : int
        Limits that the broker gave: unconfirmed messages, QoS, and bytes of a packet.
    """

    def __init__(
        self, broker: Broker, client_id: str, keepalive: int, context: ssl.SSLContext | None
    ) -> None:
        self.established = False
        self.refused = False
        self.lost: str | None = None
        self.code: int | None = None
        self.by_peer = False
        self.confirmations: deque[Confirmation] = deque()
        self.receive_maximum = 65535
        self.maximum_qos = 2
        self.maximum_packet = 1 << 28
        self._broker = broker
        self._keepalive = keepalive
        self._selector = selectors.DefaultSelector()
        self._registered: Any = None
        client = Client(client_id, "tcp" if broker.websocket_path is None else "websockets")
        client.max_inflight_messages_set(65535)
        if broker.tls and context is not None:
            context.sslsocket_class = TlsSocket
            client.tls_set_context(context)
        if broker.websocket_path is not None:
            client.ws_set_options(path=broker.websocket_path)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_socket_open = self._on_socket_open
        client.on_publish = self._on_publish
        # Without this the library would write each message at once, within publish().
        client.on_socket_register_write = lambda *_: None
        self._client = client

    def open(self) -> None:
        """Open the connection and send CONNECT; :attr:`established` or :attr:`lost` is set later.

        Raises
        ------
        ConnectError
        """
        # One deadline for name, TCP, TLS, WebSocket and CONNECT: a peer can make each of them slow.
        self._deadline = time.monotonic() + CONNECT_SECONDS
        try:
            with self._client.cut_in_time():
                self._client.connect(self._broker.host, self._broker.port, self._keepalive, clean_start=False)
        except ssl.SSLCertVerificationError as error:
            raise ConnectError(f"the broker's certificate is not accepted: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise ConnectError(self._too_late() or f"TLS: {error.reason or error}") from error
        except TimeoutError as error:
            raise ConnectError("timed out") from error
        except socket.gaierror as error:
            raise ConnectError(f"host name: {error.strerror}") from error
        except OSError as error:
            raise ConnectError(self._too_late() or error.strerror or str(error)) from error
        except ValueError as error:  # WebSocket handshake, invalid host name
            raise ConnectError(self._too_late() or str(error)[:_TEXT_MAX]) from error

    def _too_late(self) -> str | None:
        return "timed out" if time.monotonic() >= self._deadline else None

    def publish(self, topic: str, message: bytes) -> int:
        """Append a message of QoS 1 to the bytes to be written; return its packet identifier."""
        return self._client.publish(topic, message, 1).mid

    def publish_all(self, topic: str, messages: Sequence[bytes]) -> None:
        """Append messages of QoS 0 to the bytes to be written."""
        # For each message the library would take a third of the signing time, while holding the GIL.
        self._client.write_packets(publish_packets(topic, messages))

    def largest(self, topic: str) -> int:
        """Return the largest payload in bytes that the broker takes."""
        return self.maximum_packet - len(topic.encode()) - _PACKET_OVERHEAD

    def ping(self) -> int:
        """Append a ping to the bytes to be written; return its number.

        The library sends pings too, so only the number shows which ping an answer belongs to.
        """
        return self._client.ping()

    @property
    def pongs(self) -> int:
        """Return the number of answered pings, including those that the library sent."""
        return self._client.pongs

    @property
    def congested(self) -> bool:
        """Whether bytes are queued that the socket does not take at present."""
        return self._client.congested

    def write(self) -> None:
        """Write as many bytes as the socket takes."""
        if self.lost is None:
            self._client.flush()

    def turn(self, timeout: float, waker: Waker) -> None:
        """Wait at most ``timeout`` seconds for the socket or the waker, then read and write."""
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
        self._selector.select(0.0 if self._client.unread else timeout)
        waker.clear()
        self._client.loop_read()
        for _ in range(_READS):
            if self.lost is not None or not self._client.unread:
                break
            self._client.loop_read()
        self.write()
        if self.lost is None:
            self._client.loop_misc()
        if not self.established and self.lost is None and time.monotonic() > self._deadline:
            self.lost = "no answer to the greeting"

    def close(self) -> None:
        """Send DISCONNECT if possible, and close."""
        if self.established and self.lost is None:
            self.lost = "closed"
            self._say_goodbye(time.monotonic() + _GOODBYE_SECONDS)
        self._selector.close()
        sock = self._client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()
        self._client.forget()

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
        # Without Nagle's algorithm: a single message must not wait for the acknowledgement of earlier bytes.
        with contextlib.suppress(AttributeError, OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_connect(self, _client: paho.Client, _data: Any, _flags: Any, code: Any, properties: Any) -> None:
        if code.is_failure:
            self.refused = True
            self.code = code.value
            self.lost = f"refused by the broker: {code}"
            return
        self.established = True
        self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
        self.maximum_qos = getattr(properties, "MaximumQoS", self.maximum_qos)
        self.maximum_packet = getattr(properties, "MaximumPacketSize", self.maximum_packet)

    def _on_disconnect(
        self, _client: paho.Client, _data: Any, flags: Any, code: Any, _properties: Any
    ) -> None:
        if self.lost is not None:
            return
        if flags.is_disconnect_packet_from_server:
            self.by_peer, self.code = True, code.value
            self.lost = f"ended by the broker: {code}"
        else:
            self.by_peer = self._client.by_peer
            self.lost = self._client.cause or str(code)

    def _on_publish(self, _client: paho.Client, _data: Any, mid: int, code: Any, _properties: Any) -> None:
        self.confirmations.append(Confirmation(mid, str(code) if code.is_failure else None, code.value))


class Waker:
    """Wakes the thread that waits in :meth:`Connection.turn`; any thread may call :meth:`wake`."""

    def __init__(self) -> None:
        self.receiver, self._sender = socket.socketpair()
        self.receiver.setblocking(False)
        self._sender.setblocking(False)

    def wake(self) -> None:
        """End the current wait, or the next one, at once."""
        with contextlib.suppress(OSError):  # full: a wake-up is pending already; closed: no thread waits
            self._sender.send(b"\0")

    def clear(self) -> None:
        """Forget earlier calls of :meth:`wake`."""
        with contextlib.suppress(OSError):
            while len(self.receiver.recv(4096)) == 4096:
                pass

    def close(self) -> None:
        """Close the waker; :meth:`wake` then has no effect."""
        self.receiver.close()
        self._sender.close()


__all__ = ["CONNECT_SECONDS", "Confirmation", "ConnectError", "Connection", "Waker"]
