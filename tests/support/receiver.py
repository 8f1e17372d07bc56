"""A receiver of histograms like Core's: HTTPS with client certificates, and checks of what it receives.

Digest and signature are verified with the http-message-signatures library. What it answers can be chosen, and it
remembers every request it has seen.
"""

from __future__ import annotations

import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver
from http_message_signatures.algorithms import ED25519
from http_message_signatures.exceptions import InvalidSignature

PATH = "/api/v1/aggregate/histogram"
COMPONENTS = ("content-type", "content-length", "content-digest")


@dataclass(frozen=True)
class Reply:
    """An ordinary answer; ``interim`` are the statuses of those before it."""

    status: int = 201
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    interim: tuple[int, ...] = ()


Action = Reply | Literal["stall", "cut", "cut-early", "refuse-early"]
"""Answer; or hold the connection open in silence; or break it after or before reading the content; or answer 413
without reading it."""

CREATED = Reply()


@dataclass
class Request:
    """A request, in the order of arrival.

    Attributes
    ----------
    line : the request line.
    headers : names and values as they were sent.
    serial : serial number of the client's certificate; None without TLS.
    problem : what is wrong with digest or signature; None if nothing.
    action : what was done about it.
    """

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    serial: int | None
    problem: str | None = None
    action: Action = CREATED

    @property
    def interval(self) -> str:
        return dict(self.headers)["Aggregate-Interval"]


class _Keys(HTTPSignatureKeyResolver):
    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self.keys = keys

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:
        return self.keys[key_id]


@dataclass
class _Message:
    """What the verifier wants to know of a request."""

    method: str
    url: str
    headers: dict[str, str]


class Receiver:
    """The server. As a context manager it runs; ``decide`` may be replaced at any time.

    Parameters
    ----------
    keys : public keys by key ID.
    folder : of ``ca.pem``, ``server.pem`` and ``server-key.pem``; None does without TLS.
    port : 0 takes any that is free.
    """

    def __init__(self, keys: Mapping[str, Ed25519PublicKey], folder: Path | None, port: int = 0) -> None:
        self.decide: Callable[[Request], Action] = lambda request: CREATED
        self.requests: list[Request] = []
        self.failed_connections: list[str] = []
        self._verifier = HTTPMessageVerifier(signature_algorithm=ED25519, key_resolver=_Keys(keys))
        self._changed = threading.Condition()
        self.closing = threading.Event()
        self.tls = _tls(folder) if folder else None
        self._server = _Server(self, port)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="receiver")

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def stored(self) -> list[Request]:
        """The requests that were answered with 201."""
        return [r for r in self.requests if isinstance(r.action, Reply) and r.action.status == 201]

    def wait_for(self, condition: Callable[[], Any], timeout: float = 20.0) -> None:
        """Wait until ``condition`` holds, which is looked at after every event."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout), (self.requests, self.failed_connections)

    # For the handler

    def check(self, request: Request) -> None:
        """Verify digest and signature; a request that is wrong gets a 400 whatever was decided."""
        headers = dict(request.headers)
        try:
            if request.line != f"POST {PATH} HTTP/1.1":
                raise InvalidSignature(f"wrong request line {request.line!r}")
            message = _Message("POST", f"https://{headers['Host']}{PATH}", headers)
            self._verifier.verify(message, require_components=COMPONENTS, body=request.body)
        except InvalidSignature as error:
            request.problem = str(error)
            request.action = Reply(400)

    def done(self, request: Request) -> None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def connection_failed(self, error: str) -> None:
        with self._changed:
            self.failed_connections.append(error)
            self._changed.notify_all()


def _tls(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / "ca.pem")
    context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    return context


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing the server waits for its threads

    def __init__(self, receiver: Receiver, port: int) -> None:
        self.receiver = receiver
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self) -> Any:
        connection, address = super().get_request()
        if self.receiver.tls is not None:
            connection = self.receiver.tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        connection.settimeout(20)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.receiver.connection_failed(repr(sys.exc_info()[1]))


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "receiver", ""

    def setup(self) -> None:
        if self.server.receiver.tls is not None:
            self.request.do_handshake()
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        receiver = self.server.receiver
        serial = None
        if receiver.tls is not None:
            serial = x509.load_der_x509_certificate(self.request.getpeercert(True)).serial_number
        request = Request(self.requestline, list(self.headers.items()), b"", serial)
        request.action = receiver.decide(request)
        if request.action in ("cut-early", "refuse-early"):
            if request.action == "refuse-early":
                self.send_response(413)
                self.send_header("Content-Length", "0")
                self.end_headers()
            self.close_connection = True
            receiver.done(request)
            return
        request.body = self.rfile.read(int(self.headers["Content-Length"]))
        receiver.check(request)
        action = request.action
        # Before the answer, so that who has seen its effects finds the request here.
        receiver.done(request)
        if action == "stall":
            receiver.closing.wait()
            self.close_connection = True
        elif action == "cut":
            self.close_connection = True
        else:
            assert isinstance(action, Reply)
            self._reply(action)

    def _reply(self, reply: Reply) -> None:
        for status in reply.interim:
            self.send_response_only(status)
            self.end_headers()
        self.send_response(reply.status)
        headers = {"Content-Length": str(len(reply.body)), **reply.headers}
        if reply.status == 201:
            headers.setdefault("Location", f"{PATH}/{time.monotonic_ns()}")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)
