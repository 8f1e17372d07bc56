"""A gate between a client and a server on loopback: connections pass only while it is open."""

from __future__ import annotations

import contextlib
import socket
import threading

from support.processes import free_port


class Gate:
    """Forwards TCP connections from :attr:`port` to ``target``; shut, it turns new ones away.

    With ``largest``, it ends a connection of MQTT without TLS at the first packet to the server that is larger.
    """

    def __init__(self, target: int, largest: int | None = None) -> None:
        self._largest = largest
        self.port = free_port()
        self.passed = 0
        self._target = target
        self._open = False
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        self._pipes: list[threading.Thread] = []

    def open(self) -> None:
        self._open = True

    def aim(self, target: int) -> None:
        self._target = target

    def shut(self) -> None:
        self._open = False

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for pipe in self._pipes:
            pipe.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._open:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self.passed += 1
            pipe = threading.Thread(target=self._serve, args=(client, server), daemon=True)
            self._pipes.append(pipe)
            pipe.start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._pipe, args=(server, client), daemon=True)
        back.start()
        if self._largest is None:
            self._pipe(client, server)
        else:
            self._pipe_packets(client, server, self._largest)
        back.join()
        client.close()
        server.close()

    @staticmethod
    def _pipe(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _pipe_packets(source: socket.socket, sink: socket.socket, largest: int) -> None:
        with contextlib.suppress(OSError), source.makefile("rb") as stream:
            while head := stream.read(1):
                length, shift = 0, 0
                while True:
                    octet = stream.read(1)
                    head += octet
                    length |= (octet[0] & 0x7F) << shift
                    shift += 7
                    if octet[0] < 0x80:
                        break
                if length > largest:
                    break
                sink.sendall(head + stream.read(length))
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
