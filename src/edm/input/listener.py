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
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edm.errors import InputError
from edm.input.blocks import Intake
from edm.input.connection import Connection, End, Limits
from edm.input.tls import tls_context as tls_context

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
    """What a listener tells: see :class:`edm.daemon.Daemon` for the one that logs and counts."""

    def opened(self) -> None:
        """A sender connected."""

    def closed(self, end: End) -> None:
        """A connection ended."""

    def refused(self, reason: str) -> None:
        """A connection was closed as soon as it was accepted, or accepting failed for now."""

    def failed(self, reason: str) -> None:
        """Accepting failed for good."""


def split_host_port(address: str, key: str) -> tuple[str, int]:
    """Split ``host:port`` (``[v6]:port``, ``:port``).

    Raises
    ------
    InputError
        The address is not of that form; the message names ``key``.
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InputError(f"{key}: {address!r}: an IPv6 address needs brackets, as in [::1]:6000")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise InputError(f"{key}: {address!r} is not of the form host:port")
    return host, int(port)


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
    host, port = split_host_port(address, key)
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
            )
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][
            0
        ]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if isinstance(error.errno, int) and error.errno > 0 else str(error)
        raise InputError(f"{key}: {address}: {reason}") from error


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
    tls : ssl.SSLContext, callable or None
        None for a listener without TLS. What a callable returns holds for one connection: it is asked for each.
    """

    def __init__(
        self,
        sock: socket.socket,
        intake: Intake,
        limits: Limits,
        events: Events,
        *,
        most: int,
        tls: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
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
        tls = self._tls() if callable(self._tls) else self._tls
        connection = Connection(
            sock, self._intake, self._limits, self._ended, tls=tls, crowd=lambda: len(self._connections)
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
