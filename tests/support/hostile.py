"""Hostile senders: each kind of attack at full speed, in a process of its own.

``python -m support.hostile KIND TARGET COUNT`` does it until the process is killed. TARGET is the path of a Unix
socket or ``host:port``; COUNT is the number of connections. A line ``ready`` tells that it is under way.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edm.captures.replay import Sender, connect
from edm.errors import EdmError
from edm.stages.framestream.protocol import CONTENT_TYPE, READY, encode_control
from support.costly_messages import MESSAGES, ordinary
from support.processes import end_child, start_child

ODD_CONTROL = encode_control(99)


def open_socket(target: str) -> socket.socket:
    if ":" not in target:
        return connect(unix=target)
    sock = connect(tcp=target)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def shaken(target: str) -> socket.socket:
    """Return a connection whose handshake is done."""
    sock = open_socket(target)
    Sender(sock)
    return sock


def reset(sock: socket.socket) -> None:
    """Close a TCP connection with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _pour(piece: bytes) -> Callable[[str, int], None]:
    """Send ``piece`` over and over on all connections, and connect anew where one was closed."""

    def act(target: str, count: int) -> None:
        data = piece * max(1, 65536 // len(piece))
        socks = [shaken(target) for _ in range(count)]
        for sock in socks:
            sock.setblocking(False)
        rest = [b""] * count
        _ready()
        while True:
            for i, sock in enumerate(socks):
                try:
                    sent = sock.send(rest[i] or data)
                    rest[i] = (rest[i] or data)[sent:]
                except BlockingIOError:
                    continue
                except OSError:
                    with contextlib.suppress(OSError, EdmError):
                        socks[i] = shaken(target)
                        socks[i].setblocking(False)
                        rest[i] = b""

    return act


def _stall(target: str, count: int) -> None:
    """Keep ``count`` connections in the handshake, whatever becomes of them."""
    socks: list[socket.socket] = []
    for turn in range(10**9):
        with contextlib.suppress(OSError, EdmError):
            sock = open_socket(target)
            sock.sendall(encode_control(READY, (CONTENT_TYPE,))[:10])
            socks.append(sock)
        if turn == count:
            _ready()
        if len(socks) > count:
            socks.pop(0).close()


def _churn(target: str, _count: int) -> None:
    """Connect and close."""
    _ready()
    while True:
        with contextlib.suppress(OSError, EdmError):
            open_socket(target).close()


def _trickle(target: str, count: int) -> None:
    """Be a heavy sender for a moment, and then a very slow one."""
    socks = [shaken(target) for _ in range(count)]
    for sock in socks:
        sock.setblocking(False)
    burst = (b"\0\0\0\x01x") * 10000
    _ready()
    while True:
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.send(burst)
        for _ in range(50):
            for sock in socks:
                with contextlib.suppress(OSError):
                    sock.send(b"\0\0\0\x01x")
            time.sleep(0.001)


def _chorus(target: str, count: int) -> None:
    """Send one byte on all connections at the same moment, again and again."""
    socks = [shaken(target) for _ in range(count)]
    _ready()
    while True:
        for sock in socks:
            sock.sendall(b"\0\0\0\x01x")


def _reset(target: str, _count: int) -> None:
    """Vanish inside a frame with a reset."""
    _ready()
    while True:
        with contextlib.suppress(OSError, EdmError):
            sock = shaken(target)
            sock.sendall(b"\0\0\0\x01x\0\0\0\x09half")
            reset(sock)


def _framed(message: bytes) -> bytes:
    """Return a Frame Streams frame: dnstap with ``message`` as the response to a client."""
    inner = bytes.fromhex("080610011801") + b"\x22\4" + bytes([192, 0, 2, 200])
    inner += b"\x72" + _varint(len(message)) + message
    frame = b"\x72" + _varint(len(inner)) + inner + b"\x78\1"
    return len(frame).to_bytes(4, "big") + frame


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _costly(target: str, count: int) -> None:
    """Send frames of the largest size whose DNS messages make a careless reader work, of each kind in turn."""
    _pour(b"".join(_framed(make(COSTLY_BYTES)) for make in MESSAGES.values()))(target, count)


def _plain(target: str, count: int) -> None:
    """Send frames as large as the costly ones, with ordinary records."""
    _pour(_framed(ordinary(COSTLY_BYTES)))(target, count)


COSTLY_BYTES = 261_000
"""Bytes of the messages of costly frames: just below the default of ``max-frame-size``."""

KINDS: dict[str, Callable[[str, int], None]] = {
    "garbage": _pour(b"\0\0\0\x64" + b"\xff" * 100),
    "tiny": _pour(b"\0\0\0\x01x"),
    "oversized": _pour((262_145).to_bytes(4, "big") + bytes(262_145)),
    "control": _pour(ODD_CONTROL),
    "stall": _stall,
    "churn": _churn,
    "trickle": _trickle,
    "chorus": _chorus,
    "reset": _reset,
    "costly": _costly,
    "plain": _plain,
}


def _ready() -> None:
    print("ready", flush=True)


@contextmanager
def mischief(kind: str, target: str | Path, count: int) -> Iterator[None]:
    """Have a hostile process at work meanwhile."""
    command = [sys.executable, "-m", "support.hostile", kind, str(target), str(count)]
    # The folder of the tests is in the path of this process, but not in that of another.
    process = start_child(command, stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parent.parent)
    assert process.stdout is not None
    with process.stdout as output:
        try:
            assert output.readline() == b"ready\n"
            yield
            if process.poll() is not None:
                raise AssertionError("the hostile process gave up")
        finally:
            end_child(process)


if __name__ == "__main__":
    KINDS[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
