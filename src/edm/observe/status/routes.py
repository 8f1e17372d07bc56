"""What the metrics server answers beside the metrics: the page, the status as JSON, and the probes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edm.observe.status.board import Board, Rendered
from edm.observe.status.health import Health
from edm.observe.status.history import History

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy of every answer: nothing from outside, nothing inline, in no frame."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": POLICY,
}

_ASSETS = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
_JSON = "application/json"


@dataclass(frozen=True)
class Status:
    """What the routes ask."""

    board: Board
    health: Health
    history: History


def schema() -> bytes:
    """Return the JSON schema of the documents under ``/api``."""
    return (resources.files("edm.observe.status") / "status.schema.json").read_bytes()


def _answer(
    request: Request, body: bytes, media_type: str, status: int = 200, cache: str = "no-store"
) -> Response:
    headers = {**HEADERS, "Content-Type": media_type, "Cache-Control": cache}
    if request.method not in ("GET", "HEAD"):
        return Response(b"method not allowed\n", 405, {**HEADERS, "Allow": "GET, HEAD"})
    return Response(body if request.method == "GET" else b"", status, headers)


def routes(status: Status) -> list[BaseRoute]:
    """Return the routes."""
    document = Rendered(lambda: {**status.board.document(), "health": status.health.document()})
    series = {step: Rendered(lambda step=step: status.history.series(step)) for step in (1, 60)}  # type: ignore[misc]
    folder = resources.files("edm.observe.status") / "page"

    def asset(name: str, media_type: str) -> Callable[[Request], Response]:
        body = (folder / name).read_bytes()
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'

        def answer(request: Request) -> Response:
            response = _answer(request, body, media_type, cache="no-cache")
            response.headers["ETag"] = tag
            if request.headers.get("if-none-match") == tag and response.status_code == 200:
                return Response(status_code=304, headers={**HEADERS, "ETag": tag})
            return response

        return answer

    async def api(request: Request) -> Response:
        return _answer(request, document.body(), _JSON)

    async def history(request: Request) -> Response:
        step = request.query_params.get("step", "1")
        if step not in ("1", "60"):
            return _answer(request, b'{"error":"step must be 1 or 60"}\n', _JSON, 400)
        return _answer(request, series[int(step)].body(), _JSON)

    async def show_schema(request: Request) -> Response:
        return _answer(request, schema(), "application/schema+json", cache="no-cache")

    def probe(question: str) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            good, told = status.health.answer(question)
            body = json.dumps(told).encode() + b"\n"
            return _answer(request, body, _JSON, 200 if good else 503)

        return answer

    found: list[BaseRoute] = [
        Route("/api/status", api, methods=None),
        Route("/api/history", history, methods=None),
        Route("/api/schema", show_schema, methods=None),
    ]
    for path, handler in (
        *((path, asset(*about)) for path, about in _ASSETS.items()),
        ("/livez", probe("live")),
        ("/readyz", probe("ready")),
    ):
        found.append(Route(path, _direct(handler), methods=None))
    return found


def _direct(handler: Callable[[Request], Response]) -> Callable[..., object]:
    # Not as a plain function: the library would start a thread for each request.
    async def answer(request: Request) -> Response:
        return handler(request)

    return answer


__all__ = ["HEADERS", "POLICY", "Status", "routes", "schema"]
