"""The two small HTTP servers: one for metrics and rotation on request, one for profiles.

Each runs in its own daemon thread. Neither is essential: if an address cannot be bound, the error is logged and
the program runs without that server.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edm.config.address import bind, parse_address, reason_of
from edm.errors import EdmError
from edm.files.visible import visible
from edm.observe import profiles
from edm.observe.access import Access
from edm.observe.metrics import Metrics
from edm.observe.origin import Origins
from edm.observe.privacy import redact
from edm.observe.serving import Desk, Gate, Patient, Server, make_server
from edm.observe.status.routes import Status, routes
from edm.observe.turns import Turns

log = structlog.get_logger("edm.http")

METRICS_ADDRESS = "127.0.0.1:2112"
DEBUG_ADDRESS = "127.0.0.1:6060"
ROTATION_TIMEOUT = 9.0
"""Longest time in seconds that a rotation request waits for the rotation."""

T = TypeVar("T")
Handler = Callable[[Request], Any]


class RotationTimeoutError(EdmError):
    """A rotation did not finish within the caller's time limit."""


class ShuttingDownError(EdmError):
    """The daemon is stopping and takes no more requests."""


def _listen(text: str) -> socket.socket:
    sock = bind(parse_address(text))
    try:
        sock.listen()
    except BaseException:
        sock.close()
        raise
    return sock


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Run a blocking function in a daemon thread; unlike a pool's thread, it cannot delay the program's exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = function(*arguments)
        except Exception as reason:
            error = reason
        with contextlib.suppress(RuntimeError):  # the event loop has closed in the meantime
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="http-work", daemon=True).start()
    return await future


class HttpServer:
    """Serves an ASGI application from a daemon thread.

    Parameters
    ----------
    name : str
        Names the server in logs and its thread.
    address : str
        ``host:port``; with port 0 the system chooses one, see :attr:`port`.
    app : ASGI application
    on_stop : callable, optional
        Called at the start of :meth:`stop`; ends requests that take long.
    names : sequence of str
        Further names allowed in ``Host``, see :class:`edm.observe.origin.Origins`.
    metrics : Metrics, optional
        Where refused requests are counted.
    access : Access, optional
        Who is let in, and how it is encrypted; all in the clear without it.
    """

    def __init__(
        self,
        name: str,
        address: str,
        app: ASGIApp,
        on_stop: Callable[[], None] | None = None,
        *,
        names: Sequence[str] = (),
        metrics: Metrics | None = None,
        access: Access | None = None,
    ) -> None:
        self.name = name
        self.address = address
        self._app = app
        self._on_stop = on_stop
        self._names = names
        self._metrics = metrics
        self._access = access
        self._socket: socket.socket | None = None
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The TCP port in use; 0 before :meth:`start` or if it failed."""
        return self._port

    def start(self) -> bool:
        """Bind and serve; return whether that worked. A failure is logged with the address and the reason."""
        try:
            self._socket = _listen(self.address)
        except (ValueError, OSError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else str(error)
            log.error("cannot serve HTTP", endpoint=self.name, address=self.address, reason=reason)
            return False
        self._port = self._socket.getsockname()[1]
        desk = Desk(self.name, self._on_refused, self._on_suppressed)
        # Requests may use the name that the operator configured as the address.
        origins = Origins([*self._names, parse_address(self.address)[0]])
        gate = Gate(self._app, origins, desk, self._access)
        self._server = make_server(Patient(Turns(gate)), desk, self._access)
        # uvicorn installs signal handlers only in the main thread; there they would replace ours.
        self._thread = threading.Thread(target=self._run, name=f"http-{self.name}", daemon=True)
        self._thread.start()
        log.info("serving HTTP", endpoint=self.name, address=self.address, port=self._port)
        return True

    def _on_refused(self, reason: str) -> None:
        if self._metrics is not None:
            self._metrics.http_refused.labels(self.name, reason).inc()

    def _on_suppressed(self, lines: int) -> None:
        if self._metrics is not None:
            self._metrics.count_suppressed(lines)

    def _run(self) -> None:
        assert self._server is not None
        assert self._socket is not None
        try:
            self._server.run(sockets=[self._socket])
        except Exception:
            log.exception("HTTP server failed", endpoint=self.name, address=self.address)

    def stop(self, timeout: float = 5.0) -> bool:
        """Stop serving; running requests may finish within ``timeout`` seconds.

        Returns whether the thread has ended. Calling it twice, or before :meth:`start`, is allowed.
        """
        if self._on_stop is not None:
            self._on_stop()
        if self._server is None or self._thread is None or self._socket is None:
            return True
        self._server.should_exit = True
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._server.abort()
            self._thread.join(1.0)
        self._socket.close()
        return not self._thread.is_alive()


class _AnyMethod:
    """Wraps a handler as an ASGI application, so that Starlette routes every HTTP method to it."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response = await self.handler(Request(scope, receive))
        await response(scope, receive, send)


def _plain(text: str, status: int = 200, **headers: str) -> PlainTextResponse:
    return PlainTextResponse(text, status, {"X-Content-Type-Options": "nosniff", **headers})


async def _not_found(_request: Request, _error: Exception) -> Response:
    return _plain("404 page not found\n", 404)


def metrics_app(
    metrics: Metrics, rotate: Callable[[float], None] | None = None, status: Status | None = None
) -> Starlette:
    """Return the application of the metrics server.

    Parameters
    ----------
    metrics : Metrics
    rotate : callable, optional
        Called with a time limit in seconds. Rotates, and returns when the data has been handed to the
        writers. Raises :class:`RotationTimeoutError`, :class:`ShuttingDownError` or another exception, whose
        text becomes the answer. Without it there is no ``/debug/rotate-parquet``.
    status : Status, optional
        What the page, ``/api/status`` and the probes show; without it there are none of them.
    """

    async def expose(request: Request) -> Response:
        with metrics.scrapes_in_flight.track_inprogress():
            try:
                body, media_type = metrics.render(request.headers.get("accept", ""))
            except Exception:
                metrics.scrapes.labels("500").inc()
                raise
        metrics.scrapes.labels("200").inc()
        return Response(body, headers={"Content-Type": media_type})

    async def rotate_parquet(request: Request) -> Response:
        assert rotate is not None
        if request.method != "POST":
            return _plain("method not allowed\n", 405, Allow="POST")
        try:
            await in_thread(rotate, ROTATION_TIMEOUT)
        except ShuttingDownError:
            return _plain("edm is shutting down\n", 503)
        except RotationTimeoutError:
            return _plain("timed out waiting for parquet rotation\n", 504)
        except Exception as reason:
            log.error(
                "rotation on request failed", exc_info=not isinstance(reason, EdmError), reason=str(reason)
            )
            return _plain(f"{visible(redact(str(reason))) or type(reason).__name__}\n", 500)
        return _plain("rotation requested\n", 202)

    found: list[BaseRoute] = [Route("/metrics", _AnyMethod(expose))]
    if status is not None:
        found += routes(status)
    if rotate is not None:
        found.append(Route("/debug/rotate-parquet", _AnyMethod(rotate_parquet)))
    return Starlette(routes=found, exception_handlers={404: _not_found})


_PROFILES = {
    "threads": "stack of every thread",
    "profile": "sampled stacks of all threads: ?seconds=30&amp;hz=100&amp;format=collapsed|speedscope",
    "heap": "memory, garbage collector, and allocation sites if they are traced",
    "cmdline": "command line, secrets hidden",
}


def debug_app(profiler: profiles.Profiler) -> Starlette:
    """Return the application of the debug server: ``/debug/pprof/`` and the profiles listed there."""

    async def index(_request: Request) -> Response:
        items = "".join(
            f'<li><a href="/debug/pprof/{name}">{html.escape(name)}</a>: {text}</li>'
            for name, text in _PROFILES.items()
        )
        return HTMLResponse(f"<!doctype html><title>/debug/pprof/</title><h1>Profiles</h1><ul>{items}</ul>\n")

    async def threads(_request: Request) -> Response:
        return _plain(await in_thread(profiles.thread_stacks))

    async def heap(_request: Request) -> Response:
        return _plain(await in_thread(profiles.heap_summary))

    async def cmdline(_request: Request) -> Response:
        return _plain(profiles.command_line(sys.argv))

    async def profile(request: Request) -> Response:
        query = request.query_params
        style = query.get("format", "collapsed")
        if style not in ("collapsed", "speedscope"):
            return _plain("format must be collapsed or speedscope\n", 400)
        try:
            seconds, hertz = float(query.get("seconds", "30")), float(query.get("hz", "100"))
        except ValueError:
            return _plain("seconds and hz must be numbers\n", 400)
        try:
            samples = await in_thread(profiler.sample, seconds, hertz)
        except profiles.ProfileError as reason:
            return _plain(f"{reason}\n", 400)
        if style == "speedscope":
            return Response(await in_thread(samples.speedscope), media_type="application/json")
        return _plain(await in_thread(samples.collapsed))

    handlers = {"": index, "threads": threads, "profile": profile, "heap": heap, "cmdline": cmdline}
    found = [Route(f"/debug/pprof/{name}", handler) for name, handler in handlers.items()]
    return Starlette(routes=found, exception_handlers={404: _not_found})


def metrics_server(
    metrics: Metrics,
    address: str = METRICS_ADDRESS,
    rotate: Callable[[float], None] | None = None,
    names: Sequence[str] = (),
    status: Status | None = None,
    access: Access | None = None,
) -> HttpServer:
    """Return the metrics server, not started; see :func:`metrics_app`."""
    app = metrics_app(metrics, rotate, status)
    return HttpServer("metrics", address, app, names=names, metrics=metrics, access=access)


def debug_server(
    address: str = DEBUG_ADDRESS, names: Sequence[str] = (), metrics: Metrics | None = None
) -> HttpServer:
    """Return the profile server, not started; see :func:`debug_app`."""
    profiler = profiles.Profiler()
    return HttpServer(
        "debug", address, debug_app(profiler), on_stop=profiler.stop, names=names, metrics=metrics
    )


__all__ = [
    "DEBUG_ADDRESS",
    "METRICS_ADDRESS",
    "ROTATION_TIMEOUT",
    "HttpServer",
    "RotationTimeoutError",
    "ShuttingDownError",
    "debug_app",
    "debug_server",
    "metrics_app",
    "metrics_server",
]
