"""A slow line to a server on loopback: limited bytes per second each way, with a small buffer."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from support.processes import free_port

_ROOM = 4096


class Throttle:
    """Forwards TCP connections from :attr:`port` to ``target``.

    Parameters
    ----------
    rate : float
        Bytes a second, each way.

    Attributes
    ----------
    connections : int
        Opened so far.
    up : int
        Bytes that went to the server.
    """

    def __init__(self, target: int, rate: float) -> None:
        self.port = free_port()
        self.rate = rate
        self.connections = 0
        self.up = 0
        self._target = target
        self._over = threading.Event()
        self._ends: list[socket.socket] = []
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Before listen(), or the system has offered a large window already.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (self._listener, *self._ends):
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self.connections += 1
            self._ends += [client, server]
            for source, sink, up in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._pipe, args=(source, sink, up), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pipe(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        piece = max(1, min(65536, int(self.rate / 20)))
        due = time.monotonic()
        with contextlib.suppress(OSError):
            while not self._over.is_set() and (data := source.recv(piece)):
                due = max(due, time.monotonic()) + len(data) / self.rate
                if self._over.wait(due - time.monotonic()):
                    break
                sink.sendall(data)
                self.up += len(data) * up
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
