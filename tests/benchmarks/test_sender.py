"""The benchmark sender: it sends the whole stream as often as asked, and learns when it has been read."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from benchmarks.sender import Job, run
from benchmarks.streams import Parameters, Stream, generate, renew

from edm.stages.framestream.protocol import FINISH, ServerHandshake, encode_control

STOP = bytes(4) + (4).to_bytes(4, "big") + (3).to_bytes(4, "big")


class Receiver:
    """Accepts ``connections`` senders and keeps what they send."""

    def __init__(self, path: Path, connections: int) -> None:
        self.received: list[bytes] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._threads = [threading.Thread(target=self._serve) for _ in range(connections)]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        connection, _ = self._server.accept()
        with connection:
            connection.settimeout(30)
            handshake = ServerHandshake()
            while not handshake.done:
                handshake.receive(connection.recv(4096))
                connection.sendall(handshake.to_send())
            data = bytearray(handshake.trailing)
            while not data.endswith(STOP):
                data += connection.recv(1 << 20)
            connection.sendall(encode_control(FINISH))
        self.received.append(bytes(data[: -len(STOP)]))

    def finish(self) -> list[bytes]:
        for thread in self._threads:
            thread.join()
        self._server.close()
        return self.received


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    made = generate(Parameters(frames=2000, clients=100, names=100, other_names=10, novelty_share=0.1))
    made.save(tmp_path / "stream")
    return made


def test_passes_differ_in_never_seen_names_only(stream: Stream, tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "socket", 2)
    sent = run(
        Job(str(tmp_path / "stream"), unix=str(tmp_path / "socket"), passes=3, first_pass=7, connections=2)
    )
    expected = b""
    for number in (7, 8, 9):
        renew(stream.data, stream.novel, number)
        expected += stream.data.tobytes()
    assert receiver.finish() == [expected, expected]
    assert sent.frames == 2 * 3 * 2000 == sent.responses
    assert sent.bytes == 2 * len(expected)
    assert sent.seconds > 0


def test_a_light_sender_keeps_to_its_rate(stream: Stream, tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "socket", 2)
    job = Job(str(tmp_path / "stream"), unix=str(tmp_path / "socket"), connections=2, rate=250.0, seconds=0.5)
    sent = run(job)
    received = receiver.finish()
    assert sent.frames == 250
    assert sum(map(len, received)) == int(sum(size for size in _sizes(stream)[:250]))
    assert sent.seconds >= 0.45


def _sizes(stream: Stream) -> list[int]:
    sizes, position = [], 0
    while position < len(stream.data):
        size = 4 + int.from_bytes(stream.data[position : position + 4].tobytes(), "big")
        sizes.append(size)
        position += size
    return sizes
