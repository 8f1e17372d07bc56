"""What a connection receives from: a socket, plain or TLS, without waiting."""

from __future__ import annotations

import select
import socket
import ssl

from edm.input.reader import SHARED_RECEIVE

HEAVY = SHARED_RECEIVE // 2
"""Bytes in one receive from which on a connection fills blocks of its own."""

_RECORDS = 1024  # most TLS records taken in one receive


class StreamSource:
    """A socket, plain or TLS, received from without waiting."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self._ended: Exception | bool = False
        self._buffer = memoryview(bytearray(HEAVY if self._tls is not None else 0))
        self._staged = self._buffer[:0]

    def wait(self, timeout: float | None) -> bool:
        """Wait until something can be received (or the stream has ended); tell whether it can."""
        if self._tls is not None and (self._staged or self._ended or self._tls.pending()):
            return True
        return bool(self._poll.poll(None if timeout is None else max(0, round(timeout * 1000))))

    def stage(self) -> bool:
        """Receive over TLS what the next :meth:`receive` gives; tell whether there is anything to receive.

        To be called before that is done under a lock: how long deciphering takes is up to the sender, who may send
        each byte in a record of its own, or records without any. Without TLS there is nothing to do.
        """
        if self._tls is None or self._staged or self._ended:
            return True
        try:
            got = self._receive_records(self._buffer)
        except OSError as error:
            self._ended = error
            return True
        if got == 0:
            self._ended = True
        self._staged = self._buffer[: max(got, 0)]
        return got >= 0

    def receive(self, view: memoryview) -> int:
        """Receive into ``view``: bytes, 0 at the end of the stream, -1 if nothing is there now."""
        if self._tls is None:
            return self._receive(view)
        if self._staged:
            got = min(len(view), len(self._staged))
            view[:got] = self._staged[:got]
            self._staged = self._staged[got:]
            return got
        if isinstance(self._ended, Exception):
            raise self._ended
        if self._ended:
            return 0
        return self._receive_records(view)

    def _receive_records(self, view: memoryview) -> int:
        # TLS gives one record at a time, which may hold a single frame: go on until there is no more, so that
        # the size of a receive tells of the sender's rate as it does without TLS.
        got = more = self._receive(view)
        records = 1
        while more > 0 and got < len(view) and records < _RECORDS:
            try:
                more = self._receive(view[got:])
            except OSError as error:  # what came before it still counts
                self._ended = error
                break
            if more == 0:
                self._ended = True
            got += max(more, 0)
            records += 1
        return got

    def _receive(self, view: memoryview) -> int:
        try:
            return self._sock.recv_into(view)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return -1
        except ssl.SSLEOFError:  # closed without a TLS close_notify, as most senders do
            return 0
        except (BrokenPipeError, ConnectionResetError):
            # The same, and a reset behind it: what is an SSLEOFError to Python 3.11 is this to 3.13. With OpenSSL 3.5
            # it is this also where its alert about the missing close_notify meets a sender that has gone.
            if self._tls is None:
                raise
            return 0
