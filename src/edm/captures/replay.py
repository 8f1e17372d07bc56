"""Sending captures to a dnstap receiver, for replays, demonstrations and benchmarks."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from edm.captures.reading import CaptureReader
from edm.config.address import parse_address, reason_of
from edm.errors import InputError, ProtocolError
from edm.stages.framestream.locate import CONTROL, locate_frames
from edm.stages.framestream.protocol import HEADER_BYTES, ClientHandshake

CHUNK = 1 << 20
_FRAMES = 1 << 18
_TIMEOUT = 10.0


class Sender:
    """A Frame Streams sender on a connected socket.

    Raises
    ------
    ProtocolError
        The receiver broke the protocol or closed the connection.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._handshake = ClientHandshake()
        self._sock.settimeout(_TIMEOUT)
        self._sock.sendall(self._handshake.to_send())
        while not self._handshake.done:
            self._handshake.receive(sock.recv(4096))
        self._sock.sendall(self._handshake.to_send())
        self._sock.settimeout(None)

    def send(self, frames: bytes | memoryview) -> None:
        """Send whole data frames, each with its length word."""
        self._sock.sendall(frames)

    def finish(self) -> None:
        """Send STOP and wait for FINISH, which says that the receiver has read everything."""
        self._handshake.stop()
        self._sock.sendall(self._handshake.to_send())
        while not self._handshake.finished:
            self._handshake.receive(self._sock.recv(4096))


def connect(unix: str = "", tcp: str = "") -> socket.socket:
    """Connect to a receiver on a Unix socket or a TCP address ``host:port``.

    Raises
    ------
    InputError
        The address is malformed, or nothing listens there.
    """
    try:
        if unix:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(unix)
            except OSError:
                sock.close()
                raise
            return sock
        host, port = parse_address(tcp)
        return socket.create_connection((host or "localhost", port), _TIMEOUT)
    except OSError as error:
        raise InputError(f"{unix or tcp}: cannot connect: {reason_of(error)}") from error
    except ValueError as error:
        raise InputError(f"{unix or tcp}: cannot connect: {error}") from None


def data_frames(capture: CaptureReader) -> list[bytes]:
    """Read all data frames of a capture, with their length words and without control frames."""
    import numpy as np

    data = bytearray()
    view = bytearray(CHUNK)
    while count := capture.readinto(memoryview(view)):
        data += view[:count]
    buf = np.frombuffer(data, np.uint8)
    off = np.empty(_FRAMES, np.uint32)
    length = np.empty(_FRAMES, np.uint32)
    frames: list[bytes] = []
    position = 0
    while True:
        count, position, status = locate_frames(buf, position, len(buf), len(buf), off, length)
        starts, sizes = off[:count].tolist(), length[:count].tolist()
        frames += [bytes(data[o - 4 : o + n]) for o, n in zip(starts, sizes, strict=True)]
        if status == CONTROL and position + HEADER_BYTES <= len(data):
            position += HEADER_BYTES + int.from_bytes(data[position + 4 : position + 8], "big")
        elif not count:
            return frames


def replay(captures: Sequence[CaptureReader], sock: socket.socket) -> int:
    """Send the data frames of ``captures`` over one connection; return how many were sent.

    Raises
    ------
    InputError
        A capture is damaged, or the receiver closed the connection.
    """
    sent = 0
    try:
        sender = Sender(sock)
        for capture in captures:
            frames = data_frames(capture)
            sender.send(b"".join(frames))
            sent += len(frames)
        sender.finish()
    except (OSError, ProtocolError) as error:
        raise InputError(f"the receiver does not take the stream: {error}") from error
    return sent
