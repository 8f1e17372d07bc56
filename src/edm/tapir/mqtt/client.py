"""A subclass of paho's MQTT client that limits packet sizes and waiting times, and records why a connection ended.

paho implements the protocol; its threads and its reconnecting are not used. A broker sends us only answers. Any other
packet ends the connection before its content is read.
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
"""Time limit from the host name lookup to the CONNACK; on a slow line, certificates take seconds."""
PACKET_MAX = 16 * 1024
"""Bytes of the largest packet that is read. An answer has some tens of bytes, with a reason text some hundreds."""
SLOWEST = 1000
"""Bytes per second of the slowest line assumed, for the time limit of an answer."""

_TCP_SECONDS = 10.0
_COLLECTED_MAX = 64 * 1024
_RECEIVE = 4096
_CONNACK, _PUBACK, _PINGRESP, _DISCONNECT = 0x20, 0x40, 0xD0, 0xE0
_ANSWERS = (_CONNACK, _PUBACK, _PINGRESP, _DISCONNECT)


class _BrokerError(OSError):
    """The broker sent a packet that it must not send."""


class Client(paho.Client):
    """paho's client, with pings at any time and not only when the connection is idle.

    It also collects the packets that the library sends and writes them in a few large pieces. A system call and a
    TLS record for each message would cost as much as signing the message.

    Attributes
    ----------
    pings, pongs : int
        Pings sent, and pings answered.
    cause : str or None
        Why the connection ended, if more is known than the library reports.
    by_peer : bool
        Whether the broker ended the connection.
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
        self._waiting_since = 0.0  # deadline for the answer to a ping; 0 without one
        self._written = 0  # bytes since the connection began
        self._answered_to = 0  # of these, bytes that the broker has certainly read
        self._ping_places: deque[int] = deque()  # bytes written before each unanswered ping
        self._raw: socket.socket | None = None
        self._opened: list[socket.socket] = []

    # Connecting

    @contextlib.contextmanager
    def cut_in_time(self) -> Iterator[None]:
        """Shut the socket down if the body takes too long, so that a blocking read or write in it fails."""

        def cut() -> None:
            if self._raw is not None:
                # Not the TLS socket's method: it would remove the TLS state while the other thread uses it.
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
        # The TLS socket takes over the descriptor; this duplicate stays valid for the whole connection.
        self._raw = connection.dup()
        self._opened += [self._raw, connection]
        return connection

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        wrapped = super()._ssl_wrap_socket(tcp_sock)
        self._opened.append(wrapped)
        return wrapped

    def forget(self) -> None:
        """Close the socket if it is still open: the library does not after a failed WebSocket handshake."""
        for opened in self._opened:
            with contextlib.suppress(OSError):
                opened.close()

    # Writing

    @property
    def congested(self) -> bool:
        """Whether bytes are queued that the socket has not taken yet."""
        return bool(self._collected) or self.want_write()

    def write_packets(self, packets: Iterable[bytes]) -> None:
        """Append complete packets to the bytes to be written."""
        self._collected += b"".join(packets)

    def flush(self) -> None:
        """Write as many bytes as the socket takes."""
        self.loop_write()
        while self._collected and self.socket() is not None:
            try:
                written = super()._sock_send(self._collected)
            except BlockingIOError:
                return
            except OSError:
                self._collected.clear()
                return  # the next read reports the reason
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
        """Whether received bytes are buffered; the socket does not become readable for them."""
        pending = getattr(self.socket(), "pending", None)  # buffers of TLS and WebSocket
        return bool(self._received) or (pending is not None and pending() > 0)

    def _sock_recv(self, bufsize: int) -> bytes:
        try:
            self._check_packet(bufsize)
            # The library reads a packet in three pieces; the first two are single bytes.
            if not self._received:
                self._received = super()._sock_recv(_RECEIVE)
                if not self._received:
                    self._ended("closed by the other side without a reason")
                # The library collects a whole WebSocket frame before it returns any of it.
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
        """Refuse an unexpected or too large packet before its content is read."""
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
        """Append a ping to the bytes to be written; return its number, counted from 1."""
        self._send_pingreq()
        return self.pings

    def _send_pingreq(self) -> MQTTErrorCode:
        code = super()._send_pingreq()
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._ping_t = 0.0  # otherwise the library would close the connection after one ping interval
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
        # Each message has its own, so few bytes come before the next one.
        self._answered(self._written)
        return super()._handle_pubackcomp(cmd)

    def _answered(self, place: int) -> None:
        self._answered_to = place
        self._waiting_since = time.monotonic() if self.pongs < self.pings else 0.0

    def _check_keepalive(self) -> None:
        # The library's own check gives up when the answer to a ping takes longer than the keep-alive. But on a slow
        # line the bytes before the ping need time too; they are in the system's buffer, where we cannot see them.
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
    """Closes the socket at once if the handshake fails, not only when it is garbage-collected."""

    def do_handshake(self, block: bool = False) -> None:
        """See the base class."""
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def _tls_cause(error: ssl.SSLError) -> str:
    # In TLS 1.3 the server checks the client's certificate after the handshake is complete for the client.
    reason = error.reason or ""
    words = reason.lower().replace("_", " ")
    if "ALERT" not in reason:
        return f"TLS: {words or 'connection ended'}"
    alert = words.partition("alert ")[2]
    if any(word in alert for word in ("certificate", "unknown ca", "access denied")):
        return f"TLS: the broker does not accept the client certificate: {alert}"
    return f"TLS: alert of the broker: {alert}"


__all__ = ["CONNECT_SECONDS", "PACKET_MAX", "SLOWEST", "Client", "TlsSocket"]
