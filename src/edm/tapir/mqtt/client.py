"""The library's MQTT client (paho), held in check: what it may read, how long it may wait, why it lost a connection.

The protocol is the library's work; its threads and its reconnecting are not used. A broker has nothing to send to us
but answers, so anything else ends the connection, before it is read.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

CONNECT_SECONDS = 30.0
"""For everything from the host name to the answer to the greeting; certificates take seconds over a slow line."""
PACKET_MAX = 16 * 1024
"""Bytes of the largest packet that is read; an answer has some dozens, with a reason in words some hundreds."""
SLOWEST = 1000
"""Bytes in a second that are taken for the slowest line there is, when an answer is waited for."""

_TCP_SECONDS = 10.0
_COLLECTED_MAX = 64 * 1024
_RECEIVE = 4096
_CONNACK, _PUBACK, _PINGRESP, _DISCONNECT = 0x20, 0x40, 0xD0, 0xE0
_ANSWERS = (_CONNACK, _PUBACK, _PINGRESP, _DISCONNECT)


class _BrokerError(OSError):
    """The broker sent what it must not."""


class Client(paho.Client):
    """The library's client, with pings at our will too and not only when a connection is idle.

    It also collects what the library sends packet by packet, and sends it in a few large pieces: a system call
    and a TLS record for each message would cost as much as signing it.

    Attributes
    ----------
    pings, pongs : int
        Sent and answered.
    cause : str or None
        What is known of the end of the connection beyond what the library tells.
    by_peer : bool
        The other side ended it.
    """

    def __init__(self, client_id: str, transport: Literal["tcp", "websockets"]) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5, transport=transport)
        self.pings = 0
        self.pongs = 0
        self.collecting = True
        self.cause: str | None = None
        self.by_peer = False
        self._collected = bytearray()
        self._received = b""
        self._greeted = False
        self._waiting_since = 0.0  # for the answer to a ping; 0 if for none
        self._written = 0  # bytes since the beginning
        self._answered_to = 0  # so many of them are known to have been read
        self._ping_places: deque[int] = deque()  # how much came before each ping that is not answered
        self._raw: socket.socket | None = None
        self._opened: list[socket.socket] = []

    # Connecting

    @contextlib.contextmanager
    def cut_in_time(self) -> Iterator[None]:
        """Break the connection if what is done meanwhile takes too long; a wait for the other side then fails."""

        def cut() -> None:
            if self._raw is not None:
                # Not the method of the TLS socket, which would pull the TLS state from under the other thread.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._raw, socket.SHUT_RDWR)

        timer = threading.Timer(CONNECT_SECONDS, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _create_socket_connection(self) -> socket.socket:
        connection = socket.create_connection((self._host, self._port), timeout=_TCP_SECONDS)
        # The TLS socket takes the descriptor over; this one stays with the connection.
        self._raw = connection.dup()
        self._opened += [self._raw, connection]
        return connection

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        wrapped = super()._ssl_wrap_socket(tcp_sock)
        self._opened.append(wrapped)
        return wrapped

    def forget(self) -> None:
        """Close what is left of the connection: the library leaves a socket open whose WebSocket greeting failed."""
        for opened in self._opened:
            with contextlib.suppress(OSError):
                opened.close()

    # Writing

    @property
    def congested(self) -> bool:
        """There is something to be written that the socket has not taken."""
        return bool(self._collected) or self.want_write()

    def write_packets(self, packets: Iterable[bytes]) -> None:
        """Append packets that were made elsewhere to what is to be written."""
        self._collected += b"".join(packets)

    def flush(self) -> None:
        """Write as much as the socket takes."""
        self.loop_write()
        while self._collected and self.socket() is not None:
            try:
                written = super()._sock_send(self._collected)
            except BlockingIOError:
                return
            except OSError:
                self._collected.clear()
                return  # the next attempt to read tells why
            self._written += written
            del self._collected[:written]
            self.loop_write()

    def _sock_send(self, buf: bytes | bytearray) -> int:
        if not self.collecting:
            return super()._sock_send(buf)
        if len(self._collected) >= _COLLECTED_MAX:
            raise BlockingIOError
        self._collected += buf
        return len(buf)

    # Reading

    @property
    def unread(self) -> bool:
        """There are bytes that were received and not worked off; the socket is not readable for them."""
        pending = getattr(self.socket(), "pending", None)  # of TLS and WebSocket
        return bool(self._received) or (pending is not None and pending() > 0)

    def _sock_recv(self, bufsize: int) -> bytes:
        try:
            self._check_packet(bufsize)
            # The library asks for a packet in three pieces, the first two of them single bytes.
            if not self._received:
                self._received = super()._sock_recv(_RECEIVE)
                if not self._received:
                    self._ended("closed by the other side without a reason")
                # A WebSocket frame is gathered whole before it is known to be done.
                if len(getattr(self.socket(), "_readbuffer", b"")) > 2 * PACKET_MAX:
                    raise _BrokerError("the broker sent a WebSocket frame without an end")
        except BlockingIOError:
            raise
        except _BrokerError as error:
            self.cause, self.by_peer = str(error), False
            raise
        except ssl.SSLError as error:
            self._ended(_tls_cause(error))
            raise
        except ConnectionError as error:
            self._ended(error.strerror or "closed by the other side without a reason")
            raise
        except OSError as error:
            self.cause = self.cause or error.strerror or str(error)
            raise
        piece, self._received = self._received[:bufsize], self._received[bufsize:]
        return piece

    def _ended(self, cause: str) -> None:
        self.cause, self.by_peer = self.cause or cause, True

    def _check_packet(self, wanted: int) -> None:
        """Refuse a packet for which there is no reason, or too large a one, before its content is read."""
        packet = self._in_packet
        if not packet["command"]:
            return
        kind = packet["command"] & 0xF0
        if kind not in _ANSWERS or (kind == _CONNACK) == self._greeted:
            raise _BrokerError(f"the broker sent a packet that nobody asked for (type {kind >> 4})")
        if packet["have_remaining"] and wanted > PACKET_MAX:
            raise _BrokerError(
                f"the broker sent a packet of {wanted} bytes; more than {PACKET_MAX} are not read"
            )

    def _handle_connack(self) -> MQTTErrorCode:
        self._greeted = True
        return super()._handle_connack()

    # Pings

    def ping(self) -> int:
        """Append a ping to what is to be written; returns its number, counted from 1."""
        self._send_pingreq()
        return self.pings

    def _send_pingreq(self) -> MQTTErrorCode:
        code = super()._send_pingreq()
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._ping_t = 0.0  # or the library would give up after the time between two pings
            self._waiting_since = self._waiting_since or time.monotonic()
            self._ping_places.append(self._written + len(self._collected))
            self.pings += 1
        return code

    def _handle_pingresp(self) -> MQTTErrorCode:
        code = super()._handle_pingresp()
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS:
            if self.pongs >= self.pings:
                self.cause = "the broker answered a ping that was not sent"
                return MQTTErrorCode.MQTT_ERR_PROTOCOL
            self.pongs += 1
            self._answered(self._ping_places.popleft())
        return code

    def _handle_pubackcomp(self, cmd: Any) -> MQTTErrorCode:
        # Each message has its own, so what comes before the next one is little.
        self._answered(self._written)
        return super()._handle_pubackcomp(cmd)

    def _answered(self, place: int) -> None:
        self._answered_to = place
        self._waiting_since = time.monotonic() if self.pongs < self.pings else 0.0

    def _check_keepalive(self) -> None:
        # The library's own check gives up when the answer to a ping takes longer than the keep-alive. But on a slow
        # line what was written before the ping takes its time; the system has taken it, and nobody sees it leave.
        now = time.monotonic()
        if not self._keepalive or self._sock is None or not self._greeted:
            return
        if self._waiting_since:
            patience = self._keepalive + max(0, self._written - self._answered_to) / SLOWEST
            if now - self._waiting_since >= patience:
                self.cause = f"no answer for {patience:.0f} seconds"
                self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_KEEPALIVE)
        elif now - max(self._last_msg_out, self._last_bytes_received) >= self._keepalive:
            self._send_pingreq()


class TlsSocket(ssl.SSLSocket):
    """Closed at once, not some time later, when the greeting fails."""

    def do_handshake(self, block: bool = False) -> None:
        """See the class it is derived from."""
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def _tls_cause(error: ssl.SSLError) -> str:
    # In TLS 1.3 a server judges the client's certificate after the client believes the handshake complete.
    reason = error.reason or ""
    words = reason.lower().replace("_", " ")
    if "ALERT" not in reason:
        return f"TLS: {words or 'connection ended'}"
    alert = words.partition("alert ")[2]
    if any(word in alert for word in ("certificate", "unknown ca", "access denied")):
        return f"TLS: the broker does not accept the client certificate: {alert}"
    return f"TLS: alert of the broker: {alert}"


__all__ = ["CONNECT_SECONDS", "PACKET_MAX", "SLOWEST", "Client", "TlsSocket"]
