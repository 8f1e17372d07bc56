"""The HTTP server below the applications: limits connections, time to receive a request, and CPU time for both.

These limits apply before a request is complete, and so before :class:`edm.observe.turns.Turns`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import time
from collections.abc import Callable

import h11
import structlog
import uvicorn
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from edm.observe import profiles
from edm.observe.access import Access
from edm.observe.logs import RateLimited
from edm.observe.origin import Origins
from edm.observe.places import Places, peer_of

IDLE_SECONDS = 10.0
"""Longest time that a connection may stay open without a complete request."""
AGE_SECONDS = IDLE_SECONDS + profiles.MAX_SECONDS + 10.0
"""Longest time without an answer, including the time before the request."""
GRACE_SECONDS = 3.0
"""Longest time that running requests may take when the server stops."""
SHARE = 0.1
"""Largest share of one core for accepting connections when they arrive without a pause."""
HANDSHAKES = 32
"""TLS handshakes at once."""
HANDSHAKE_SECONDS = 5.0
BACKLOG = 128
REASONS = ("malformed", "host", "origin", "token", "tls", "full", "displaced", "timeout")
"""Why a request or a connection was refused; see ``edm_http_refused_total`` in docs/operations.md."""

_BURST = 0.25  # CPU seconds that an idle server may use at once
_LONGEST_PAUSE = 0.5
_PIECE_PAUSE = 0.01
_LONGEST_PIECE_PAUSE = 0.25
_NO_MORE = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK)
_TOLD_BY_US = ("Invalid HTTP request", "Unsupported upgrade", "No supported WebSocket")

_TEXTS = {
    "malformed": "malformed HTTP request",
    "host": "HTTP request for a name that is not ours (http-names)",
    "origin": "HTTP request from a page of another site",
    "token": "HTTP request without the right token (metrics-token-file)",
    "tls": "HTTPS connection failed in its handshake",
    "full": "HTTP connection refused, all places taken",
    "displaced": "HTTP connection gave way to a new one",
}


def _is_ours_to_tell(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_TOLD_BY_US)


# uvicorn logs each malformed request without a limit. Desk.refuse counts them and limits the log lines.
logging.getLogger("uvicorn.error").addFilter(_is_ours_to_tell)


class Desk:
    """State shared by the connections of one server: the places, and the count and log of refusals.

    Parameters
    ----------
    endpoint : str
        Names the server in logs.
    on_refused : callable
        Called with one of :data:`REASONS` at each refusal.
    on_suppressed : callable
        See :class:`RateLimited`.
    """

    def __init__(
        self, endpoint: str, on_refused: Callable[[str], None], on_suppressed: Callable[[int], None]
    ) -> None:
        self.places = Places()
        self._endpoint = endpoint
        self._on_refused = on_refused
        self._limited = RateLimited(structlog.get_logger("edm.http"), on_suppressed=on_suppressed)

    def refuse(self, reason: str, peer: str = "") -> None:
        """Count and log a request or connection that was refused."""
        if reason == "malformed":
            self.places.misbehaved(peer)
        self._on_refused(reason)
        if text := _TEXTS.get(reason):
            self._limited.warning(text, endpoint=self._endpoint)

    def failed(self, reason: str) -> None:
        """Log that accepting a connection failed; the server tries again."""
        self._limited.error("HTTP connection cannot be accepted", endpoint=self._endpoint, reason=reason)


class Connection(H11Protocol):
    """A connection that holds a place, and is closed when it makes no progress in time."""

    def __init__(self, server: uvicorn.Server, desk: Desk, peer: str) -> None:
        super().__init__(server.config, server.server_state, {}, asyncio.get_running_loop())
        self.peer = peer
        self.answered = False
        self._desk = desk
        self._since = self.loop.time()
        self._pieces = 0

    @property
    def waiting(self) -> bool:
        """Whether no complete request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def displace(self) -> None:
        """Close at once, to make room for another connection."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the place."""
        super().connection_made(transport)
        self._desk.places.take(self)
        self._check = self.loop.call_later(IDLE_SECONDS, self._expire)

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the place."""
        self._check.cancel()
        self._desk.places.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request; the pause before the next read grows with the number of pieces."""
        try:
            super().data_received(data)
        except Exception:  # input that is not HTTP may bring the library into a state where it cannot answer
            self._desk.refuse("malformed", self.peer)
            self.transport.abort()
            return
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing():
            self._pieces += 1
            self.flow.pause_reading()
            self.loop.call_later(min(_LONGEST_PIECE_PAUSE, _PIECE_PAUSE * self._pieces), self._read_on)
        if not self.waiting and self.conn.their_state is h11.SEND_BODY:
            # No handler reads a body, so the connection is closed after the answer.
            self.cycle.keep_alive = False

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request with status 400."""
        self._desk.refuse("malformed", self.peer)
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # an earlier request is still being answered
            self.transport.abort()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self.answered = True
        self._since = self.loop.time()
        self._pieces = 0
        super().on_response_complete()

    def _expire(self) -> None:
        left = self._since + (IDLE_SECONDS if self.waiting else AGE_SECONDS) - self.loop.time()
        if left > 0:
            self._check = self.loop.call_later(min(left, IDLE_SECONDS), self._expire)
            return
        if not self.answered or not self.waiting:
            self._desk.refuse("timeout")
        self.transport.abort()


class Gate:
    """An ASGI application that refuses requests of foreign origin and remembers peers with good requests."""

    def __init__(self, app: ASGIApp, origins: Origins, desk: Desk, access: Access | None = None) -> None:
        self._app = app
        self._origins = origins
        self._desk = desk
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it with status 403 and the reason."""
        headers = Headers(scope=scope)
        reason, code = self._origins.objection(scope["method"], headers), 403
        if reason is None and self._access is not None and not self._access.admits(scope["path"], headers):
            reason, code = "token", 401
        if reason is not None:
            self._desk.refuse(reason)
            told = {"X-Content-Type-Options": "nosniff"}
            if code == 401:
                told["WWW-Authenticate"] = "Bearer"
            await PlainTextResponse(f"{_TEXTS[reason]}\n", code, told)(scope, receive, send)
            return
        client = scope.get("client")

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 300 and client:
                self._desk.places.behaved(peer_of(client[0]))
            await send(message)

        await self._app(scope, receive, watch)


class Server(uvicorn.Server):
    """uvicorn's server with its own accept loop and a time limit for shutdown.

    Connections are accepted one by one. After each, the loop pauses in proportion to the CPU time used, so that the
    server stays within :data:`SHARE`; :class:`edm.observe.turns.Turns` does the same for requests.
    """

    def __init__(self, config: uvicorn.Config, desk: Desk, access: Access | None = None) -> None:
        super().__init__(config)
        self._desk = desk
        self._access = access
        self._loop: asyncio.AbstractEventLoop | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._shaking: set[asyncio.Task[None]] = set()
        self._credit = _BURST

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        assert sockets is not None
        self._loop = asyncio.get_running_loop()
        self.servers = []
        for sock in sockets:
            sock.setblocking(False)
            sock.listen(BACKLOG)
        self._accepting = self._loop.create_task(self._accept(sockets[0]))
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting; running requests may take :data:`GRACE_SECONDS`, or until :meth:`abort`."""
        for task in (self._accepting, *self._shaking):
            if task is not None:
                task.cancel()
        for sock in sockets or ():
            sock.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        end = time.monotonic() + GRACE_SECONDS
        while (state.connections or state.tasks) and not self.force_exit and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # lets the connections handle the abort
        for task in list(state.tasks):
            task.cancel()

    def abort(self) -> None:
        """Stop at once, without waiting for running requests; any thread may call this."""
        self.should_exit = self.force_exit = True

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        mark, when = time.thread_time(), loop.time()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in _NO_MORE:
                    return
                self._desk.failed(error.strerror or type(error).__name__)
                await asyncio.sleep(_LONGEST_PAUSE)
                continue
            try:
                await self._admit(sock, peer_of(address[0]))
            except OSError:  # the peer has already closed it
                sock.close()
            cost, now = time.thread_time(), loop.time()
            credit = min(_BURST, self._credit + (now - when) * SHARE) - (cost - mark)
            # The debt is at most one pause: peers that wait in the backlog did not cause it.
            self._credit = max(credit, -_LONGEST_PAUSE * SHARE)
            mark, when = cost, now
            if self._credit < 0:
                await asyncio.sleep(-self._credit / SHARE)

    async def _admit(self, sock: socket.socket, peer: str) -> None:
        room, displaced = self._desk.places.make_room(peer)
        if displaced:
            self._desk.refuse("displaced")
        if not room:
            self._desk.refuse("full")
            sock.close()
            return
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        context = self._access.context() if self._access is not None else None
        if context is None:
            await loop.connect_accepted_socket(lambda: Connection(self, self._desk, peer), sock)
        elif len(self._shaking) >= HANDSHAKES:
            self._desk.refuse("full")
            sock.close()
        else:
            task = loop.create_task(self._shake_hands(sock, peer, context))
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    async def _shake_hands(self, sock: socket.socket, peer: str, context: ssl.SSLContext) -> None:
        # Beside accepting: a peer that says nothing must not keep the next one waiting.
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                lambda: Connection(self, self._desk, peer),
                sock,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        except (OSError, ssl.SSLError):  # TimeoutError is one of them
            self._desk.refuse("tls")
            sock.close()


def make_server(app: ASGIApp, desk: Desk, access: Access | None = None) -> Server:
    """Return a server of an application, not started; ``access`` says who is let in, and how it is encrypted."""
    config = uvicorn.Config(
        app,
        http=H11Protocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=int(IDLE_SECONDS),
    )
    return Server(config, desk, access)


class Patient:
    """An ASGI application that ends silently when the server cancels its requests at shutdown."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        with contextlib.suppress(asyncio.CancelledError):
            await self._app(scope, receive, send)


__all__ = [
    "AGE_SECONDS",
    "BACKLOG",
    "GRACE_SECONDS",
    "IDLE_SECONDS",
    "REASONS",
    "SHARE",
    "Connection",
    "Desk",
    "Gate",
    "Patient",
    "Server",
    "make_server",
]
