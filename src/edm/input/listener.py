"""The listener of the daemon: a Unix, TCP or TLS socket that accepts dnstap senders."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeAlias

from edm.config import Config
from edm.config.address import bind, parse_address, reason_of
from edm.config.values import shorten
from edm.errors import InputError
from edm.input.blocks import Intake
from edm.input.connection import Connection, End, Limits
from edm.input.peers import Sender, Tally
from edm.input.tls import ServerCertificate
from edm.input.unix_socket import BACKLOG, UnixSocket

_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))

_LOOK = 1.0  # seconds between two checks of the socket's file

_RETRY = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ECONNABORTED,
    errno.EAGAIN,
    errno.EINTR,
    errno.ENOBUFS,
    errno.ENOMEM,
}


Listening: TypeAlias = socket.socket | UnixSocket
"""A socket that listens; of a Unix socket, also its file."""


class Events(Protocol):
    """Gets the events of a listener; :class:`edm.startup.listening.ConnectionLog` logs and counts them."""

    def opened(self) -> None:
        """A sender connected and sent its first byte."""

    def closed(self, end: End) -> None:
        """A connection ended."""

    def refused(self, reason: str) -> None:
        """A connection was closed as soon as it was accepted, or accepting failed for now."""

    def failed(self, reason: str) -> None:
        """Accepting failed for good."""

    def socket_file_made_again(self) -> None:
        """The Unix socket's file was gone; it was made again."""

    def socket_file_lost(self, reason: str) -> None:
        """The Unix socket's file is gone, and making it again failed for now."""


def open_tcp(address: str, key: str) -> socket.socket:
    """Listen on the TCP address ``host:port``.

    Raises
    ------
    InputError
        The address is malformed, cannot be resolved, or cannot be bound (in use, not of this host, ...).
    """
    try:
        sock = bind(parse_address(address))
    except OSError as error:
        raise InputError(f"{key}: {address}: {reason_of(error)}") from error
    except ValueError as error:
        raise InputError(f"{key}: {error} (found {shorten(address)})") from None
    try:
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise InputError(f"{key}: {address}: {reason_of(error)}") from error
    return sock


class Listener:
    """Accepts senders and keeps their connections.

    With ``most`` connections open, a new one replaces the one that has been in its handshake for the longest time, so
    that senders that never finish it cannot keep others out. If none is in its handshake, the new one is refused.

    Parameters
    ----------
    sock : socket or UnixSocket
        A listening socket. The file of a Unix socket is made again if it is gone, and removed at the end.
    limits : Limits
        Of each connection.
    most : int
        Most connections at the same time.
    tls : ssl.SSLContext, callable or None
        None for a listener without TLS. A callable is called for each connection and returns its context.
    certificate : ServerCertificate, optional
        What ``tls`` is made from, for reloads and renewals.
    """

    def __init__(
        self,
        sock: Listening,
        intake: Intake,
        limits: Limits,
        events: Events,
        *,
        most: int,
        tls: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
        certificate: ServerCertificate | None = None,
    ) -> None:
        self._file = sock if isinstance(sock, UnixSocket) else None
        self._sock = sock.sock if isinstance(sock, UnixSocket) else sock
        if self._file is not None:
            self._sock.settimeout(_LOOK)
        self._next_look = 0.0
        self._lost = ""
        self._intake = intake
        self._limits = limits
        self._events = events
        self._most = most
        self._tls = tls
        self._certificate = certificate
        self._connections: set[Connection] = set()
        self._greeting: dict[
            Connection, None
        ] = {}  # in order of arrival; may hold some whose handshake is done
        self._tally = Tally()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.thread = threading.Thread(target=self._run, name="edm-listener", daemon=True)

    @property
    def address(self) -> str:
        """The address listened on, with the port that was bound."""
        if self._file is not None:
            return self._file.path
        host, port = self._sock.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def listening(self) -> bool:
        """Whether senders can connect."""
        return self.thread.is_alive() and not self._lost

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._connections)

    def senders(self) -> tuple[list[Sender], list[Sender]]:
        """Return the senders connected now, and all senders so far with what they sent; see :class:`Tally`."""
        with self._lock:
            connections = list(self._connections)
        open_now = [connection.sender for connection in connections if connection.handshaken]
        return open_now, self._tally.together(open_now)

    @property
    def certificate_ends(self) -> float | None:
        """When the certificate shown to senders expires, seconds since 1970; None without TLS."""
        return self._certificate.not_after if self._certificate is not None else None

    def reload(self, config: Config) -> bool:
        """Read certificate and authorities again, for new connections; see :class:`edm.input.source.Source`."""
        if self._certificate is None:
            return False
        self._certificate.reload(config)
        return True

    def refresh(self) -> None:
        """Load a certificate that was renewed on disk."""
        if self._certificate is not None:
            self._certificate.refresh()

    def start(self) -> None:
        """Start the thread that accepts connections."""
        self.thread.start()

    def _run(self) -> None:
        delay = 0.005
        while not self._closing.is_set():
            self._look_after_file()
            try:
                sock, _peer = self._sock.accept()
            except TimeoutError as error:
                if error.errno is not None:  # from the system, about the connection, not from settimeout()
                    self._events.refused(error.strerror or "timeout")
                continue
            except OSError as error:
                if self._closing.is_set():
                    return
                reason = error.strerror or type(error).__name__
                if error.errno not in _RETRY:
                    self._events.failed(reason)
                    return
                self._events.refused(reason)
                self._closing.wait(delay)
                delay = min(1.0, 2 * delay)
                continue
            delay = 0.005
            self._accepted(sock)

    def _look_after_file(self) -> None:
        """Make the Unix socket's file again if it is gone; checks at most once a second."""
        if self._file is None or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK
        if self._file.is_there():
            self._lost = ""
            return
        try:
            old = self._file.make_again()
        except InputError as error:
            if str(error) != self._lost:
                self._lost = str(error)
                self._events.socket_file_lost(self._lost)
            return
        if old is None:
            return
        self._lost = ""
        self._file.sock.settimeout(_LOOK)
        with self._lock:
            self._sock = self._file.sock
            closing = self._closing.is_set()
        if closing:  # close() has seen only the socket before
            self._sock.close()
            self._file.remove()
            old.close()
            return
        self._events.socket_file_made_again()
        self._take_what_waits(old)

    def _take_what_waits(self, old: socket.socket) -> None:
        old.setblocking(False)
        with old, contextlib.suppress(OSError):
            while not self._closing.is_set():
                self._accepted(old.accept()[0])

    def _accepted(self, sock: socket.socket) -> None:
        if not self._make_room():
            sock.close()
            self._events.refused(f"more than {self._most} connections (input-max-connections)")
            return
        if sock.family != socket.AF_UNIX:
            _keep_alive(sock)
        tls = self._tls() if callable(self._tls) else self._tls
        connection = Connection(
            sock,
            self._intake,
            self._limits,
            self._ended,
            on_begin=self._events.opened,
            tls=tls,
            crowd=lambda: len(self._connections),
        )
        with self._lock:
            self._connections.add(connection)
            self._greeting[connection] = None
        try:
            connection.start()
        except RuntimeError as error:  # the system gives no more threads
            self._ended(connection, End("error", str(error)))
            sock.close()

    def _make_room(self) -> bool:
        """Return whether there is room for a new connection; closes one still in its handshake if needed."""
        with self._lock:
            if len(self._connections) < self._most:
                return True
            while self._greeting:
                slowest = next(iter(self._greeting))
                del self._greeting[slowest]
                if not slowest.handshaken:
                    break
            else:
                return False
            self._connections.discard(slowest)
        self._events.closed(
            End("displaced", "gave way to a new connection: all places taken, no handshake yet")
        )
        slowest.displace()
        # Without this, a flood of connections would pile up threads that are about to end.
        slowest.thread.join(1.0)
        return True

    def _ended(self, connection: Connection, end: End) -> None:
        with self._lock:
            displaced = connection not in self._connections
            self._connections.discard(connection)
            self._greeting.pop(connection, None)
        if connection.handshaken:
            self._tally.ended(connection.sender)
        if not displaced:  # the listener told of it when it happened
            self._events.closed(end)

    def close(self, timeout: float) -> None:
        """Stop accepting, let each connection read what has already arrived, and wait for its end.

        Parameters
        ----------
        timeout : float
            Seconds, for all connections together.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            self._closing.set()
            sock = self._sock
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.remove()  # before the socket closes, since after that another file may get the inode
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # wakes accept()
        sock.close()
        if self.thread.is_alive():
            self.thread.join(timeout)  # otherwise a connection accepted just now would be missed
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.close()
        for connection in connections:
            connection.thread.join(max(0.0, deadline - time.monotonic()))


def _keep_alive(sock: socket.socket) -> None:
    """Let the system detect that the sender's host is gone; without it such a connection stays open for ever."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
