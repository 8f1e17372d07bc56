"""Receiving from the socket of a connection, plain or TLS, without waiting."""

from __future__ import annotations

import select
import socket
import ssl

from edm.input.reader import SHARED_RECEIVE

HEAVY = SHARED_RECEIVE // 2
"""A receive of at least this many bytes is large; a connection with several in a row gets blocks of its own."""

_RECORDS = 1024  # most TLS records taken in one receive


class StreamSource:
    """Receives from a socket, plain or TLS, without waiting."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self._ended: Exception | bool = False
        self._buffer = memoryview(bytearray(HEAVY if self._tls is not None else 0))
        self._staged = self._buffer[:0]

    def wait(self, timeout: float | None) -> bool:
        """Wait until bytes can be received or the stream has ended; return False after ``timeout`` seconds."""
        if self._tls is not None and (self._staged or self._ended or self._tls.pending()):
            return True
        return bool(self._poll.poll(None if timeout is None else max(0, round(timeout * 1000))))

    def stage(self) -> bool:
        """Receive and decrypt over TLS what the next :meth:`receive` returns; return False if nothing has come.

        Call it before :meth:`receive` is called under a lock. The sender decides how long decryption takes: it may
        send each byte in a record of its own, or empty records. Without TLS this does nothing.
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
        """Receive into ``view``; return the bytes received, 0 at the end of the stream, -1 if nothing has come."""
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
        # TLS gives one record at a time, which may hold a single frame. Receive until there is no more, so that the
        # size of a receive shows the sender's rate as it does without TLS.
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
            # The same, followed by a reset: Python 3.11 raises SSLEOFError for it, Python 3.13 one of these. OpenSSL
            # 3.5 raises these too when its alert about the missing close_notify reaches a sender that has closed.
            if self._tls is None:
                raise
            return 0
