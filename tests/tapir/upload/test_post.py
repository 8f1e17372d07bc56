"""One POST, byte for byte, with peers that behave and peers that do not."""

import base64
import hashlib
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edm.errors import ConfigError
from edm.tapir.upload.answer import HEAD_MAX, TEXT_MAX, Answer
from edm.tapir.upload.post import Exchange, Limits, PostError, Target, open_content

PATH = "/api/v1/aggregate/histogram"
HEADERS = (("User-Agent", "edm/1"), ("Content-Length", "4"))
OK = b"HTTP/1.1 201 Created\r\nLocation: /x/1\r\nContent-Length: 0\r\n\r\n"


class Peer:
    """A TCP server that runs a script on its first connection."""

    def __init__(self, script: Callable[["Peer", socket.socket], object]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.script = script
        self.received = b""
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            connection.settimeout(20)
            try:
                self.script(self, connection)
            except OSError:
                pass

    def read(self, connection: socket.socket, end: bytes = b"PAR1") -> None:
        while not self.received.endswith(end):
            data = connection.recv(65536)
            if not data:
                return
            self.received += data

    def close(self) -> None:
        self.over.set()
        self.thread.join()
        self.listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def make(script: Callable[[Peer, socket.socket], object]) -> Peer:
        peers.append(Peer(script))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()


def post(port: int, body: bytes = b"PAR1", limits: Limits | None = None, length: int | None = None) -> Answer:
    target = Target.parse("http-url", f"http://127.0.0.1:{port}", PATH)
    exchange = Exchange(target, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), limits or Limits())
    file = io.BufferedReader(io.BytesIO(body))  # type: ignore[arg-type]
    return exchange.run(HEADERS, file, len(body) if length is None else length)


def answer_with(data: bytes) -> Callable[[Peer, socket.socket], None]:
    def script(peer: Peer, connection: socket.socket) -> None:
        peer.read(connection)
        connection.sendall(data)

    return script


def test_wire_form(serve: Callable[..., Peer]) -> None:
    peer = serve(answer_with(OK))
    answer = post(peer.port)
    assert answer == Answer(201, "Created", "/x/1", None, "")
    assert peer.received == (
        b"POST /api/v1/aggregate/histogram HTTP/1.1\r\n"
        b"Host: 127.0.0.1:%d\r\n"
        b"User-Agent: edm/1\r\n"
        b"Content-Length: 4\r\n"
        b"\r\nPAR1" % peer.port
    )


def test_a_body_of_many_chunks_is_sent_whole(serve: Callable[..., Peer]) -> None:
    body = bytes(range(251)) * 3000 + b"PAR1"
    peer = serve(answer_with(OK))
    assert post(peer.port, body).status == 201
    assert peer.received.partition(b"\r\n\r\n")[2] == body


def test_what_an_answer_tells(serve: Callable[..., Peer]) -> None:
    text = "no\n  such site " + "x" * 300
    peer = serve(
        answer_with(
            b"HTTP/1.1 100 Continue\r\n\r\n"
            b"HTTP/1.1 429 Slow Down\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n%s"
            % (len(text), text.encode())
        )
    )
    answer = post(peer.port)
    assert (answer.status, answer.reason, answer.retry_after) == (429, "Slow Down", "7")
    assert answer.text == ("no such site " + "x" * 300)[:200]


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 102 Processing\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 199 Miscellaneous\r\nDate: x\r\n\r\n",
        b"HTTP/1.1 102\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 500,
    ],
)
def test_interim_answers_are_skipped(serve: Callable[..., Peer], interim: bytes) -> None:
    peer = serve(answer_with(interim + OK))
    assert post(peer.port) == Answer(201, "Created", "/x/1", None, "")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 102 Processing\r\n\r\n" * 5000 + OK,
        b"HTTP/1.1 201 " + b"x" * HEAD_MAX + b"\r\n\r\n",
        b"HTTP/1.1 201 Created\r\n" + b"X: y\r\n" * HEAD_MAX + b"\r\n",
        b"HTTP/1.1 201 Created\r\nX: " + b"y" * 10 * HEAD_MAX,
    ],
)
def test_a_header_without_bound_is_given_up(serve: Callable[..., Peer], data: bytes) -> None:
    peer = serve(answer_with(data))
    with pytest.raises(PostError) as caught:
        post(peer.port)
    assert caught.value.failure == "broken"


def test_texts_of_an_answer_are_cut(serve: Callable[..., Peer]) -> None:
    long = "x" * 30_000
    head = f"HTTP/1.1 400 {long}\r\nLocation: {long}\r\nContent-Length: 0\r\n\r\n"
    peer = serve(answer_with(head.encode()))
    answer = post(peer.port)
    assert (answer.reason, answer.location) == ("x" * TEXT_MAX, "x" * TEXT_MAX)
    peer = serve(answer_with(f"HTTP/1.1 503 Busy\r\nRetry-After: {long}\r\nDate: {long}\r\n\r\n".encode()))
    answer = post(peer.port)
    assert (answer.retry_after, answer.date) == ("x" * TEXT_MAX, "x" * TEXT_MAX)


def test_an_answer_is_waited_for_long_enough() -> None:
    # Core remembers a digest before it has stored the content: a second try would be told 201 all the same.
    assert Limits().answer >= 90


def test_content_that_never_ends_does_not_matter(serve: Callable[..., Peer]) -> None:
    def script(peer: Peer, connection: socket.socket) -> None:
        peer.read(connection)
        connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\nbegin")
        peer.over.wait()

    peer = serve(script)
    answer = post(peer.port, limits=Limits(answer=0.2))
    assert answer.status == 201


def test_an_answer_before_the_request_was_read(serve: Callable[..., Peer]) -> None:
    def script(peer: Peer, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        # What was not read makes the kernel reset the connection when it is closed.

    peer = serve(script)
    assert post(peer.port, bytes(20_000_000)).status == 413


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the server closed the connection without an answer"),
        (b"hello\r\n\r\n", "the answer is no HTTP"),
        (b"HTTP/1.1 201 " + b"x" * 70_000, "the answer is no HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n", "the answer is no HTTP"),
    ],
)
def test_no_usable_answer(serve: Callable[..., Peer], data: bytes, reason: str) -> None:
    peer = serve(answer_with(data))
    with pytest.raises(PostError, match=reason) as caught:
        post(peer.port)
    assert caught.value.failure == "broken"


def test_a_connection_cut_in_the_middle(serve: Callable[..., Peer]) -> None:
    peer = serve(lambda peer, connection: connection.recv(1000))
    with pytest.raises(PostError) as caught:
        post(peer.port, bytes(20_000_000))
    assert caught.value.failure == "broken"


def stall(peer: Peer, connection: socket.socket) -> None:
    peer.over.wait()


def drip(peer: Peer, connection: socket.socket) -> None:
    peer.read(connection)
    for byte in OK * 1000:
        connection.sendall(bytes([byte]))
        if peer.over.wait(0.02):
            return


@pytest.mark.parametrize(("script", "size"), [(stall, 4), (drip, 4), (stall, 20_000_000)])
def test_a_peer_that_takes_its_time(
    serve: Callable[..., Peer], script: Callable[[Peer, socket.socket], None], size: int
) -> None:
    peer = serve(script)
    began = time.monotonic()
    with pytest.raises(PostError, match="no answer in time") as caught:
        post(peer.port, bytes(size - 4) + b"PAR1", Limits(send=0.2, answer=0.2))
    assert caught.value.failure == "timeout"
    assert 0.19 < time.monotonic() - began < 5


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(PostError, match="Connection refused") as caught:
        post(port)
    assert caught.value.failure == "unreachable"


def test_no_such_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_args: object, **_more: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(PostError, match="Name or service not known") as caught:
        post(1)
    assert caught.value.failure == "unreachable"


def test_all_addresses_are_tried(serve: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]
    peer = serve(answer_with(OK))
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", p)) for p in (closed, peer.port)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: found)
    assert post(1).status == 201


def test_a_tls_handshake_that_never_ends(serve: Callable[..., Peer]) -> None:
    peer = serve(stall)
    target = Target.parse("http-url", f"https://127.0.0.1:{peer.port}", PATH)
    exchange = Exchange(target, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), Limits(tls=0.1))
    with pytest.raises(PostError, match="no connection in time") as caught:
        exchange.run(HEADERS, io.BufferedReader(io.BytesIO(b"")), 0)  # type: ignore[arg-type]
    assert caught.value.failure == "unreachable"


def test_a_file_that_became_shorter(serve: Callable[..., Peer]) -> None:
    peer = serve(answer_with(OK))
    with pytest.raises(PostError, match="became shorter") as caught:
        post(peer.port, b"PAR1", length=5)
    assert caught.value.failure == "file"


def test_a_file_that_grew_is_sent_as_announced(serve: Callable[..., Peer]) -> None:
    peer = serve(answer_with(OK))
    assert post(peer.port, b"PAR1 and more", length=4).status == 201
    assert peer.received.endswith(b"\r\n\r\nPAR1")


def test_cutting_it_short(serve: Callable[..., Peer]) -> None:
    waiting = threading.Event()

    def script(peer: Peer, connection: socket.socket) -> None:
        peer.read(connection)
        waiting.set()
        peer.over.wait()

    peer = serve(script)
    target = Target.parse("http-url", f"http://127.0.0.1:{peer.port}", PATH)
    exchange = Exchange(target, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), Limits())
    caught: list[PostError] = []

    def run() -> None:
        with pytest.raises(PostError) as error:
            exchange.run(HEADERS, io.BufferedReader(io.BytesIO(b"PAR1")), 4)  # type: ignore[arg-type]
        caught.append(error.value)

    thread = threading.Thread(target=run)
    thread.start()
    assert waiting.wait(20)
    exchange.abort()
    thread.join(20)
    assert [error.failure for error in caught] == ["stopped"]


def test_no_time_left() -> None:
    target = Target.parse("http-url", "http://127.0.0.1:1", PATH)
    exchange = Exchange(target, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), Limits(), lambda: 0.0)
    with pytest.raises(PostError) as caught:
        exchange.run(HEADERS, io.BufferedReader(io.BytesIO(b"")), 0)  # type: ignore[arg-type]
    assert caught.value.failure == "stopped"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://core.example", (True, "core.example", 443, "core.example", PATH)),
        ("HTTPS://Core.Example:8443/", (True, "core.example", 8443, "core.example:8443", PATH)),
        ("https://core.example:443/base/", (True, "core.example", 443, "core.example:443", "/base" + PATH)),
        ("https://h//a/../b//c", (True, "h", 443, "h", "/b/c" + PATH)),
        ("https://h/a%20b/ö?k=v w#part", (True, "h", 443, "h", "/a%20b/%C3%B6" + PATH + "?k=v%20w")),
        ("http://127.0.0.1", (False, "127.0.0.1", 80, "127.0.0.1", PATH)),
        ("https://[::1]:8443", (True, "::1", 8443, "[::1]:8443", PATH)),
        ("https://[2001:db8::1]/", (True, "2001:db8::1", 443, "[2001:db8::1]", PATH)),
        ("https://räksmörgås.example", (True, "xn--rksmrgs-5wao1o.example", 443, None, PATH)),
    ],
)
def test_targets(url: str, expected: tuple[bool, str, int, str | None, str]) -> None:
    target = Target.parse("http-url", url, PATH)
    tls, host, port, authority, path = expected
    assert target == Target(tls, host, port, authority or host, path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "core.example",
        "ftp://h",
        "https://",
        "https://:8443",
        "https://h:99999",
        "https://h:x",
        "https://[::1",
        "https://a..b",
        "https://user:secret@h",
        f"https://{'a' * 64}.example",
    ],
)
def test_unusable_urls(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^http-url: no usable URL: ") as caught:
        Target.parse("http-url", url, PATH)
    assert "secret" not in str(caught.value)


def test_opening_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    file, length, digest = open_content(path)
    with file:
        assert (length, file.read()) == (5, b"12345")
    assert digest == f"sha-256=:{base64.b64encode(hashlib.sha256(b'12345').digest()).decode()}:"
    path.unlink()
    path.mkdir()
    with pytest.raises(PostError, match="cannot be read"):
        open_content(path)
    with pytest.raises(FileNotFoundError):
        open_content(tmp_path / "nothing")
