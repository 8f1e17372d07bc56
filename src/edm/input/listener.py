"""The one listener of the daemon: a Unix, TCP or TLS socket that accepts dnstap senders."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import ssl
import stat
import threading
import time
from pathlib import Path
from typing import Protocol

from edm.config.address import bind, parse_address, reason_of
from edm.config.values import shorten
from edm.errors import InputError, KeyFileError
from edm.files.pem import EncryptedKeyError, load_pair, read_pem
from edm.input.blocks import Intake
from edm.input.connection import Connection, End, Limits

BACKLOG = 1024
"""Connections that the system holds until they are accepted (less where the system allows less)."""

UNIX_PATH_MAX = 107
"""Longest path of a Unix socket, bytes (``sun_path`` of Linux less its final NUL)."""

_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))

_RETRY = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ECONNABORTED,
    errno.EAGAIN,
    errno.EINTR,
    errno.ENOBUFS,
    errno.ENOMEM,
}


class Events(Protocol):
    """What a listener tells: see :class:`edm.startup.listening.ConnectionLog` for the one that logs and counts."""

    def opened(self) -> None:
        """A sender connected."""

    def closed(self, end: End) -> None:
        """A connection ended."""

    def refused(self, reason: str) -> None:
        """A connection was closed as soon as it was accepted, or accepting failed for now."""

    def failed(self, reason: str) -> None:
        """Accepting failed for good."""


def open_unix(path: str, mode: str = "", owner: str = "") -> socket.socket:
    """Listen on the Unix socket ``path``; a stale socket file is removed first.

    Raises
    ------
    InputError
        The path is too long, is not a socket, belongs to a living process, or cannot be bound.
    """
    if len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise InputError(f"input-unix: {path}: longer than the {UNIX_PATH_MAX} bytes a socket path may have")
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise InputError(f"input-unix: {path}: exists and is not a socket")
        _refuse_living(path)
        Path(path).unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"input-unix: {path}: {error.strerror}") from error
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Nobody can connect before listen(), so nobody does while mode and owner are still those of the umask.
        sock.bind(path)
        if mode:
            Path(path).chmod(int(mode, 8))
        if owner:
            _change_owner(path, owner)
        sock.listen(BACKLOG)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise InputError(f"input-unix: {path}: {error.strerror}") from error
        raise
    return sock


def _refuse_living(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except OSError:
            return
    raise InputError(f"input-unix: {path}: in use by another process")


def _change_owner(path: str, owner: str) -> None:
    user, _, group = owner.partition(":")
    try:
        if user:
            shutil.chown(path, user=user)
        if group:
            shutil.chown(path, group=group)
    except LookupError as error:
        raise InputError(f"input-unix-owner: {error}") from error


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


def tls_context(cert_file: str, key_file: str, client_ca_file: str) -> ssl.SSLContext:
    """Return the TLS 1.3 server context; with a client CA file, client certificates are required.

    Raises
    ------
    KeyFileError
        A file is missing, unreadable, not PEM, or certificate and key do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A sender connects once and stays, so it has no use for session tickets; and unbound (1.17, say), when it is
    # busy, trips over those that come after the handshake and ends the connection with an alert.
    context.num_tickets = 0
    chain, key = read_pem("input-tls-cert-file", cert_file), read_pem("input-tls-key-file", key_file)
    try:
        load_pair(context, (cert_file, chain), (key_file, key))
    except EncryptedKeyError:
        raise KeyFileError(f"input-tls-key-file: {key_file}: the key is encrypted") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise KeyFileError(
                f"input-tls-key-file: {key_file}: does not belong to the certificate in {cert_file}"
            ) from error
        raise KeyFileError(
            f"input-tls-cert-file {cert_file} / input-tls-key-file {key_file}: not usable PEM ({error.reason or error})"
        ) from error
    if client_ca_file:
        authorities = read_pem("input-tls-client-ca-file", client_ca_file)
        try:
            context.load_verify_locations(cadata=authorities.decode("ascii", "replace"))
        except (ssl.SSLError, ValueError) as error:
            raise KeyFileError(f"input-tls-client-ca-file: {client_ca_file}: not usable PEM") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Listener:
    """Accepts senders and keeps their connections.

    When all places are taken, a new connection takes the place of the one that has been in its handshake for the
    longest time, so that senders which never get on cannot keep out those that do; if there is none, it is refused.

    Parameters
    ----------
    sock : socket
        A listening socket.
    limits : Limits
    most : int
        Connections at once.
    """

    def __init__(
        self,
        sock: socket.socket,
        intake: Intake,
        limits: Limits,
        events: Events,
        *,
        most: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._sock = sock
        self._intake = intake
        self._limits = limits
        self._events = events
        self._most = most
        self._tls = tls
        self._connections: set[Connection] = set()
        self._greeting: dict[Connection, None] = {}  # in order of arrival; with some whose handshake is over
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._unix_path = sock.getsockname() if sock.family == socket.AF_UNIX else ""
        self.thread = threading.Thread(target=self._run, name="edm-listener", daemon=True)

    @property
    def address(self) -> str:
        """The address listened on, with the port that was really bound."""
        if self._unix_path:
            return str(self._unix_path)
        host, port = self._sock.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._connections)

    def start(self) -> None:
        """Begin to accept."""
        self.thread.start()

    def _run(self) -> None:
        delay = 0.005
        while not self._closing.is_set():
            try:
                sock, _peer = self._sock.accept()
            except OSError as error:
                if self._closing.is_set():
                    return
                reason = error.strerror or type(error).__name__
                if error.errno not in _RETRY and not isinstance(error, TimeoutError):
                    self._events.failed(reason)
                    return
                self._events.refused(reason)
                self._closing.wait(delay)
                delay = min(1.0, 2 * delay)
                continue
            delay = 0.005
            self._accepted(sock)

    def _accepted(self, sock: socket.socket) -> None:
        if not self._make_room():
            sock.close()
            self._events.refused(f"more than {self._most} connections (input-max-connections)")
            return
        if sock.family != socket.AF_UNIX:
            _keep_alive(sock)
        connection = Connection(
            sock, self._intake, self._limits, self._ended, tls=self._tls, crowd=lambda: len(self._connections)
        )
        with self._lock:
            self._connections.add(connection)
            self._greeting[connection] = None
        self._events.opened()
        try:
            connection.start()
        except RuntimeError as error:  # no further thread can be had
            self._ended(connection, End("error", str(error)))
            sock.close()

    def _make_room(self) -> bool:
        """Tell whether another connection may be had; one that is still in its handshake gives way to it."""
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
        # At a flood of connections this keeps down the number of threads that are about to end.
        slowest.thread.join(1.0)
        return True

    def _ended(self, connection: Connection, end: End) -> None:
        with self._lock:
            displaced = connection not in self._connections
            self._connections.discard(connection)
            self._greeting.pop(connection, None)
        if not displaced:  # that was told when it happened
            self._events.closed(end)

    def close(self, timeout: float) -> None:
        """Stop accepting, let each connection read what has already arrived, and wait for its end.

        Parameters
        ----------
        timeout : float
            Seconds, for all connections together.
        """
        deadline = time.monotonic() + timeout
        self._closing.set()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._sock.close()
        if self._unix_path:
            with contextlib.suppress(OSError):
                Path(self._unix_path).unlink()
        if self.thread.is_alive():
            self.thread.join(timeout)  # or a connection accepted just now would be missed
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.close()
        for connection in connections:
            connection.thread.join(max(0.0, deadline - time.monotonic()))


def _keep_alive(sock: socket.socket) -> None:
    """Have the system find out when the sender's host has vanished: nobody would ever close such a connection."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
