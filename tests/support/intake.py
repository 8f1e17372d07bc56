"""A listener with a worker that only collects: the input side of the daemon without its engine."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edm.captures.replay import Sender
from edm.input.blocks import Block, Intake
from edm.input.connection import End, Limits
from edm.input.listener import Listener, open_tcp
from edm.input.unix_socket import UnixSocket
from edm.stages.framestream.protocol import CONTENT_TYPE, READY, encode_control
from support.processes import wait_until

MAX_FRAME = 65536
BLOCK = 2 * MAX_FRAME + 65536
LIMITS: dict[str, float] = {
    "max_frame": MAX_FRAME,
    "handshake_timeout": 20.0,
    "handshake_deadline": 20.0,
    "idle_timeout": 0.0,
    "linger": 0.005,
}
READY_FRAME = encode_control(READY, (CONTENT_TYPE,))


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


class Site:
    """A listener, its events, and all frames that came through it.

    Parameters
    ----------
    folder : Path
        For the Unix socket, which is listened on unless ``tcp``.
    limits
        Over those of :data:`LIMITS`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tcp: bool = False,
        tls: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
        most: int = 100,
        blocks: int = 6,
        **limits: Any,
    ) -> None:
        self.intake = Intake(blocks, BLOCK, 0.005)
        sock = open_tcp("127.0.0.1:0", "input-tcp") if tcp or tls else UnixSocket(str(folder / "s"))
        self.listener = Listener(sock, self.intake, Limits(**{**LIMITS, **limits}), self, most=most, tls=tls)
        self.frames: list[bytes] = []
        self.oversized = 0
        self.ends: list[End] = []
        self.refusals: list[str] = []
        self.failure = ""
        self.made_again = 0
        self.lost: list[str] = []
        self.begun = 0
        self._worker = threading.Thread(target=self._work)
        self._sockets: list[socket.socket] = []

    # Events of the listener

    def opened(self) -> None:
        self.begun += 1

    def closed(self, end: End) -> None:
        self.ends.append(end)

    def refused(self, reason: str) -> None:
        self.refusals.append(reason)

    def failed(self, reason: str) -> None:
        self.failure = reason

    def socket_file_made_again(self) -> None:
        self.made_again += 1

    def socket_file_lost(self, reason: str) -> None:
        self.lost.append(reason)

    def _work(self) -> None:
        while (block := self.intake.get()) is not None:
            self.take(block)
            self.intake.release(block)

    def take(self, block: Block) -> None:
        """Handle a block; tests that want to look at it put theirs in its place."""
        self.frames += [
            bytes(block.buf[int(o) : int(o) + int(n)])
            for o, n in zip(block.off[: block.frames], block.length[: block.frames], strict=True)
        ]
        self.oversized += block.oversized

    def connect(self) -> socket.socket:
        """Return a connection on which nothing has been said; it is closed at the end."""
        address = self.listener.address
        if address.startswith("/"):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(address)
        else:
            host, _, port = address.rpartition(":")
            sock = socket.create_connection((host, int(port)))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(20)
        self._sockets.append(sock)
        return sock

    def sender(self, sock: socket.socket | None = None) -> socket.socket:
        """Return a connection whose handshake is done."""
        sock = sock or self.connect()
        Sender(sock)
        sock.settimeout(20)
        return sock

    def results(self) -> Counter[str]:
        """Return how many connections have ended in which way."""
        return Counter(end.result for end in self.ends)

    def wait_for_end(self, result: str, count: int = 1) -> str | None:
        """Wait until ``count`` connections have ended in this way; return the reason of the last."""
        wait_until(lambda: self.results()[result] >= count, lambda: f"{result}: {self.ends}", 20)
        return [end for end in self.ends if end.result == result][count - 1].reason

    def wait_for_frames(self, *payloads: bytes) -> None:
        """Wait until these frames, and no others, have come in this order."""
        wait_until(lambda: len(self.frames) >= len(payloads), lambda: f"{len(self.frames)} frames", 20)
        assert self.frames == list(payloads)

    def serves(self, payload: bytes) -> None:
        """Check that an ordinary sender is served now."""
        sock = self.sender()
        sock.sendall(frame(payload))
        wait_until(lambda: payload in self.frames, "the frame of an ordinary sender", 20)

    def __enter__(self) -> Self:
        self._worker.start()
        self.listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.listener.close(5.0)
        self.intake.close()
        self._worker.join(20)
        for sock in self._sockets:
            sock.close()
        assert not self._worker.is_alive()
