"""One HTTP/1.1 POST of a file over a connection of its own, with a limit on the time of every step.

A new connection each time means that a renewed client certificate is used at once and that no connection has
gone stale; one upload a minute does not pay for keeping it open. Proxies named in the environment are not used,
redirects are not followed: the content is meant for this server alone.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import math
import os
import posixpath
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import quote, urlsplit

from edm.errors import ConfigError
from edm.files.own import open_own
from edm.tapir.upload.answer import Answer, read_answer
from edm.tapir.upload.http_signature import content_digest

CHUNK = 64 * 1024
"""Bytes read from the file at a time."""

Failure: TypeAlias = Literal["unreachable", "timeout", "broken", "file", "stopped"]
"""No usable connection; no answer in time; the connection broke; the file could not be read; cut short."""

_QUERY = "/?%:@!$&'()*+,;=~"
_PATH = _QUERY.replace("?", "")


class PostError(Exception):
    """There was no answer, for the reason that the message tells."""

    def __init__(self, failure: Failure, reason: str) -> None:
        super().__init__(reason)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that the steps of an exchange may take.

    Attributes
    ----------
    connect, tls : the TCP connection over all of the server's addresses, and the TLS handshake.
    send : each piece of at most 16 KiB of the content.
    answer : from the end of the content to the end of the answer's header. Core remembers the digest before it stores
        the content and answers 201 to a digest that it knows: who gives up too early and tries again loses the file.
    """

    connect: float = 30.0
    tls: float = 10.0
    send: float = 30.0
    answer: float = 90.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where to post to.

    Attributes
    ----------
    authority : str
        Value of the Host field.
    path : str
        Path and query as in the request.
    """

    tls: bool
    host: str
    port: int
    authority: str
    path: str

    @classmethod
    def parse(cls, setting: str, url: str, path: str) -> Target:
        """Join ``path`` to the base URL ``url``.

        Raises
        ------
        ConfigError
            It is no usable URL; the message names ``setting``.
        """
        try:
            parts = urlsplit(url)
            scheme = parts.scheme.lower()
            if scheme not in ("http", "https"):
                raise ValueError("its scheme must be https or http")
            if not parts.hostname:
                raise ValueError("it names no host")
            if "@" in parts.netloc:
                raise ValueError("it holds a user or password, but the client certificate tells who we are")
            host = parts.hostname.encode("idna").decode("ascii")
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{setting}: no usable URL: {error}") from None
        joined = "/" + posixpath.normpath(f"/{parts.path}/{path}").lstrip("/")
        target = quote(joined, safe=_PATH)
        if parts.query:
            target += "?" + quote(parts.query, safe=_QUERY)
        bracketed = f"[{host}]" if ":" in host else host
        authority = bracketed if port is None else f"{bracketed}:{port}"
        tls = scheme == "https"
        return cls(tls, host, port or (443 if tls else 80), authority, target)


class Exchange:
    """A POST under way, which another thread may cut short.

    Parameters
    ----------
    target : Target
    context : ssl.SSLContext
        Used if the target wants TLS.
    limits : Limits
    until : callable, optional
        Returns the monotonic time at which everything must have ended; asked before each step.
    """

    def __init__(
        self,
        target: Target,
        context: ssl.SSLContext,
        limits: Limits,
        until: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._target = target
        self._context = context
        self._limits = limits
        self._until = until
        self._socket: socket.socket | None = None
        self._aborted = False

    def abort(self) -> None:
        """Break the connection; a step that waits for it fails at once. Any thread may call it."""
        self._aborted = True
        if self._socket is not None:
            # Not the method of the TLS socket, which would drop the TLS state that the other thread still uses.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def run(self, headers: Iterable[tuple[str, str]], file: io.BufferedReader, length: int) -> Answer:
        """Send a request and return the answer.

        Parameters
        ----------
        headers : iterable of (str, str)
            All header fields but Host, which is put first, in ASCII.
        file : buffered file
            Its next ``length`` bytes are the content.

        Raises
        ------
        PostError
        """
        head = f"POST {self._target.path} HTTP/1.1\r\nHost: {self._target.authority}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
        try:
            connection = self._connect()
            try:
                self._send(connection, head.encode("ascii"), file, length)
            except (ConnectionError, ssl.SSLError) as error:
                return self._early_answer(connection, error)
            return self._answer(connection)
        except PostError:
            self._check_end()
            raise
        except TimeoutError:
            self._check_end()
            raise PostError("timeout", "no answer in time") from None
        except (OSError, http.client.HTTPException) as error:
            self._check_end()
            raise _broken(error) from None
        finally:
            if self._socket is not None:
                self._socket.close()

    def _left(self, limit: float) -> float:
        """Return how many seconds the next step may take."""
        self._check_end()
        if limit <= 0:
            raise TimeoutError
        return max(min(limit, self._until() - time.monotonic()), 0.001)

    def _check_end(self) -> None:
        if self._aborted or time.monotonic() >= self._until():
            raise PostError("stopped", "cut short by the shutdown")

    def _connect(self) -> socket.socket:
        try:
            plain = self._connect_tcp()
            if not self._target.tls:
                return plain
            wrapped = self._context.wrap_socket(
                plain, server_hostname=self._target.host, do_handshake_on_connect=False
            )
            self._socket = wrapped
            wrapped.settimeout(self._left(self._limits.tls))
            wrapped.do_handshake()
        except TimeoutError:
            raise PostError("unreachable", "no connection in time") from None
        except ssl.SSLCertVerificationError as error:
            raise PostError("unreachable", f"the server's certificate: {error.verify_message}") from None
        except OSError as error:
            raise PostError("unreachable", _reason(error)) from None
        return wrapped

    def _connect_tcp(self) -> socket.socket:
        addresses = socket.getaddrinfo(self._target.host, self._target.port, type=socket.SOCK_STREAM)
        deadline = time.monotonic() + self._limits.connect
        last: OSError = OSError("the name has no address")
        for i, (family, kind, protocol, _, address) in enumerate(addresses):
            share = (deadline - time.monotonic()) / (len(addresses) - i)
            try:
                connection = self._socket = socket.socket(family, kind, protocol)
                connection.settimeout(self._left(max(share, 0.001)))
                connection.connect(address)
            except OSError as error:
                last = error
                if self._socket is not None:
                    self._socket.close()
            else:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
        raise last

    def _send(self, connection: socket.socket, head: bytes, file: io.BufferedReader, length: int) -> None:
        connection.settimeout(self._left(self._limits.send))
        connection.sendall(head)
        buffer = memoryview(bytearray(min(CHUNK, max(length, 1))))
        while length:
            try:
                n = file.readinto(buffer[: min(length, len(buffer))])
            except OSError as error:
                raise PostError("file", f"cannot be read: {error.strerror}") from None
            if not n:
                raise PostError("file", "became shorter while it was sent")
            connection.settimeout(self._left(self._limits.send))
            connection.sendall(buffer[:n])
            length -= n

    def _early_answer(self, connection: socket.socket, error: OSError) -> Answer:
        """Return what a server said that did not want to read all of the request."""
        try:
            return self._answer(connection)
        except ssl.SSLError as alert:
            raise (error if isinstance(alert, ssl.SSLEOFError) else alert) from None
        except (OSError, http.client.HTTPException):
            raise error from None

    def _answer(self, connection: socket.socket) -> Answer:
        deadline = time.monotonic() + self._limits.answer
        return read_answer(_Incoming(connection, lambda: self._left(deadline - time.monotonic())))


class _Incoming(io.RawIOBase):
    """The receiving side of a socket as a file, with a time limit on the whole instead of on each read."""

    def __init__(self, connection: socket.socket, left: Callable[[], float]) -> None:
        self._connection = connection
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(self._left())
        return self._connection.recv_into(buffer)


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or 'connection ended').lower().replace('_', ' ')}"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the server closed the connection without an answer"
    if isinstance(error, http.client.HTTPException):
        return "the answer is no HTTP"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _broken(error: OSError | http.client.HTTPException) -> PostError:
    # In TLS 1.3 a server judges the client's certificate after the client believes the handshake complete.
    refused = isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")
    return PostError("unreachable" if refused else "broken", _reason(error))


def open_content(path: Path) -> tuple[io.BufferedReader, int, str]:
    """Open a file; return it with its length in bytes and its digest as ``Content-Digest`` tells it.

    Raises
    ------
    FileNotFoundError
        It is gone.
    PostError
        It cannot be read.
    """
    try:
        file = os.fdopen(open_own(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
        try:
            digest = content_digest(file)
            length = file.tell()
            file.seek(0)
        except BaseException:
            file.close()
            raise
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PostError("file", f"cannot be read: {error.strerror}") from None
    return file, length, digest


__all__ = ["Answer", "Exchange", "Failure", "Limits", "PostError", "Target", "open_content"]
