"""One connection: the handshake, then the data phase, in a thread of its own."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edm.errors import ProtocolError
from edm.framestream.protocol import FINISH, ServerHandshake, encode_control
from edm.input.blocks import Intake
from edm.input.reader import SHARED_RECEIVE, FrameReader

HEAVY = SHARED_RECEIVE // 2
"""Bytes in one receive from which on a connection fills blocks of its own."""

_AIM = 8192  # bytes per receive that a light connection's pauses aim at
_FILL_WAIT = 0.002  # seconds a heavy connection waits for more before its block is closed


@dataclass(frozen=True)
class Limits:
    """What a connection may do: largest frame (bytes), handshake timeout and linger (seconds)."""

    max_frame: int
    handshake_timeout: float
    linger: float


class StreamSource:
    """A socket, plain or TLS, received from without waiting."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self._ended: Exception | bool = False

    def wait(self, timeout: float | None) -> bool:
        """Wait until something can be received (or the stream has ended); tell whether it can."""
        if self._tls is not None and (self._ended or self._tls.pending()):
            return True
        return bool(self._poll.poll(None if timeout is None else max(0, round(timeout * 1000))))

    def receive(self, view: memoryview) -> int:
        """Receive into ``view``: bytes, 0 at the end of the stream, -1 if nothing is there now."""
        if self._tls is None:
            return self._receive(view)
        if isinstance(self._ended, Exception):
            raise self._ended
        if self._ended:
            return 0
        got = self._receive(view)
        # TLS gives one record at a time, which may hold a single frame: go on until there is no more, so that
        # the size of a receive tells of the sender's rate as it does without TLS.
        more = got
        while more > 0 and got < len(view):
            try:
                more = self._receive(view[got:])
            except OSError as error:  # what came before it still counts
                self._ended = error
                break
            if more == 0:
                self._ended = True
            got += max(more, 0)
        return got

    def _receive(self, view: memoryview) -> int:
        try:
            return self._sock.recv_into(view)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return -1
        except ssl.SSLEOFError:  # closed without a TLS close_notify, as most senders do
            return 0


class Connection:
    """Serves one sender until it stops, breaks the protocol, or :meth:`close` is called.

    ``on_end`` is called once with the connection and, if it did not end normally, the reason.
    """

    def __init__(
        self,
        sock: socket.socket,
        intake: Intake,
        limits: Limits,
        on_end: Callable[[Connection, str | None], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._sock = sock
        self._tls = tls
        self._limits = limits
        self._on_end = on_end
        self._closing = False
        self._handshaken = False
        self.reader = FrameReader(intake, limits.max_frame)
        self.thread = threading.Thread(target=self._run, name="edm-reader", daemon=True)

    @property
    def handshaken(self) -> bool:
        """Whether the data phase was reached."""
        return self._handshaken

    def start(self) -> None:
        """Begin to serve."""
        self.thread.start()

    def close(self) -> None:
        """Stop receiving: what the kernel has already received is still read, then the thread ends."""
        self._closing = True
        # Not SSLSocket.shutdown: that one drops the TLS state which the reading thread still uses.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RD)

    def _run(self) -> None:
        reason: str | None = None
        try:
            self._serve()
        except ProtocolError as error:
            reason = str(error)
        except TimeoutError:
            reason = "timeout in the handshake"
        except ssl.SSLError as error:
            reason = f"TLS: {error.reason or error}"
        except OSError as error:
            reason = error.strerror or type(error).__name__
        finally:
            with contextlib.suppress(OSError):
                self._sock.close()
            self._on_end(self, None if self._closing else reason)

    def _serve(self) -> None:
        self._sock.settimeout(self._limits.handshake_timeout)
        if self._tls is not None:
            self._sock = self._tls.wrap_socket(self._sock, server_side=True)
        handshake = ServerHandshake()
        while not handshake.done:
            data = self._sock.recv(4096)
            if not data:
                raise ProtocolError("closed in the handshake")
            handshake.receive(data)
            if reply := handshake.to_send():
                self._sock.sendall(reply)
        self._handshaken = True
        self.reader.prime(handshake.trailing)
        self._sock.setblocking(False)
        self._data_phase(StreamSource(self._sock))
        if self.reader.stopped and handshake.bidirectional:
            self._finish()
        elif not self._closing and self.reader.inside_frame:
            raise ProtocolError("the stream ended inside a frame")

    def _finish(self) -> None:
        # A sender may go without waiting for FINISH, as unbound does: everything it sent is here all the same.
        with contextlib.suppress(OSError):
            self._sock.settimeout(self._limits.handshake_timeout)
            self._sock.sendall(encode_control(FINISH))
            if isinstance(self._sock, ssl.SSLSocket):
                self._sock.unwrap()

    def _data_phase(self, source: StreamSource) -> None:
        reader = self.reader
        linger = self._limits.linger
        pause = 0.0
        heavy = False
        while not reader.stopped:
            source.wait(None)
            if heavy:
                got = reader.pump_block(source.receive, lambda: source.wait(_FILL_WAIT))
            else:
                # A sender of many small writes: let the kernel collect them, so that waking up costs per
                # pause and not per write. The pause shrinks before the sender could fill its buffer.
                if pause > 0.0005 and not self._closing:
                    time.sleep(pause)
                got = reader.pump_shared(source.receive)
                if got > 0:
                    pause = min(linger, max(pause, 0.0005) * min(2.0, _AIM / got))
            if got == 0:
                return
            heavy = got >= HEAVY
