"""One connection: the handshake, then the data phase, in a thread of its own."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import ssl
import sys
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from edm.errors import ProtocolError
from edm.input.blocks import Intake
from edm.input.peers import Sender, identity_of, peer_of
from edm.input.reader import FrameReader
from edm.input.stream import HEAVY, StreamSource
from edm.stages.framestream.protocol import FINISH, ServerHandshake, encode_control

RESULTS = ("closed", "error", "handshake_error", "handshake_timeout", "displaced", "idle", "refused", "probe")
"""The ways a connection can end; see ``edm_connections_total`` in docs/operations.md."""

DRAIN = 2.0
"""Seconds for reading what senders have already delivered when the daemon stops."""

_AIM = 8192  # bytes per receive that a light connection chooses its pauses for
_HEAVY_AFTER = 3  # large receives in a row that make a heavy sender: fewer may be a backlog
_HEAVY_SHARE = 8  # to stay heavy, a sender must fill one part in this many of each block
_FILL_WAIT = 0.002  # seconds a heavy connection waits for more before its block is closed
_LEAST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.25
_CROWD = 8  # with more connections than this, the pauses grow with their number


class End(NamedTuple):
    """How a connection ended: one of :data:`RESULTS`, and the reason if it is not the normal one."""

    result: str
    reason: str | None = None


@dataclass(frozen=True)
class Limits:
    """Limits of a connection.

    Attributes
    ----------
    max_frame : int
        Largest frame, bytes.
    handshake_timeout : float
        Seconds for each read and write of the handshake, for the TLS handshake as a whole, and for FINISH.
    handshake_deadline : float
        Seconds for the handshake as a whole.
    idle_timeout : float
        Seconds without a byte in the data phase after which the connection is closed; 0 for never.
    linger : float
        Seconds for which the writes of a light sender are collected while there are few connections.
    """

    max_frame: int
    handshake_timeout: float
    handshake_deadline: float
    idle_timeout: float
    linger: float


class _IdleError(Exception):
    pass


class _ProbeError(Exception):
    """The peer only checked that the port is open, as load balancers do."""


class Connection:
    """Serves one sender until it stops, breaks the protocol, exceeds a limit, or :meth:`close` is called.

    Parameters
    ----------
    on_end : callable
        Called once, from the connection's thread, with the connection and how it ended.
    on_begin : callable, optional
        Called, from the connection's thread, when the peer has sent its first byte.
    crowd : callable
        Returns the number of connections. The more there are, the longer light ones pause between two receives, so
        that a thousand of them cost no more than a few dozen.
    """

    def __init__(
        self,
        sock: socket.socket,
        intake: Intake,
        limits: Limits,
        on_end: Callable[[Connection, End], None],
        *,
        on_begin: Callable[[], None] = lambda: None,
        tls: ssl.SSLContext | None = None,
        crowd: Callable[[], int] = lambda: 1,
    ) -> None:
        self._sock = sock
        self._on_begin = on_begin
        self._tls = tls
        self._limits = limits
        self._on_end = on_end
        self._crowd = crowd
        self._heavy_block = intake.block_size // _HEAVY_SHARE
        self._closing = False
        self._cut_off: int | None = None
        self._unread = 0  # bytes still to read while closing
        self._until = 0.0
        self._handshaken = False
        self._since = time.time()
        self._peer = ""
        self.reader = FrameReader(intake, limits.max_frame)
        self.thread = threading.Thread(target=self._run, name="edm-reader", daemon=True)

    @property
    def handshaken(self) -> bool:
        """Whether the data phase was reached."""
        return self._handshaken

    @property
    def sender(self) -> Sender:
        """The sender, with what it has sent so far."""
        reader = self.reader
        return Sender(
            self._peer or "unknown",
            identity_of(reader.first_frame),
            self._since,
            reader.frames,
            reader.bytes,
            reader.last_frame,
            reader.blocked,
        )

    def start(self) -> None:
        """Start the thread."""
        self._until = time.monotonic() + self._limits.handshake_deadline
        self.thread.start()

    def close(self) -> None:
        """Stop receiving: bytes that have arrived are read within :data:`DRAIN` seconds, then the thread ends."""
        with contextlib.suppress(OSError, ValueError):
            # Only what has arrived by now: a sender at full speed would never end.
            self._unread = int.from_bytes(fcntl.ioctl(self._sock, termios.FIONREAD, bytes(4)), sys.byteorder)
        self._until = time.monotonic() + DRAIN
        self._closing = True
        self._cut(socket.SHUT_RD)

    def displace(self) -> None:
        """End at once, in favour of another connection."""
        self._cut(socket.SHUT_RDWR)

    def _cut(self, how: int) -> None:
        # The connection's thread may be replacing this socket with its TLS socket. It then finds the mark and cuts
        # the new socket too.
        self._cut_off = how
        # Not SSLSocket.shutdown, which drops the TLS state that the reading thread still uses.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, how)

    def _run(self) -> None:
        end = End("error", "a fault in the program")
        try:
            end = self._serve_to_the_end()
        finally:
            with contextlib.suppress(OSError):
                self._sock.close()
            self._on_end(self, End("closed") if self._closing else end)

    def _serve_to_the_end(self) -> End:
        try:
            self._serve()
        except _IdleError:
            return End("idle", f"nothing came for {self._limits.idle_timeout:g} s (input-idle-timeout)")
        except _ProbeError:
            return End("probe")
        except ProtocolError as error:
            reason = str(error)
        except TimeoutError as error:
            if not self._handshaken:
                return End("handshake_timeout", self._too_slow())
            reason = error.strerror or "timeout"  # from the system: the sender's host no longer answers
        except ssl.SSLError as error:
            reason = f"TLS: {_tls_reason(error)}"
        except OSError as error:
            reason = error.strerror or type(error).__name__
        else:
            return End("closed")
        return End("error" if self._handshaken else "handshake_error", reason)

    def _too_slow(self) -> str:
        limits = self._limits
        if time.monotonic() >= self._until:
            return f"no handshake within {limits.handshake_deadline:g} s (input-handshake-deadline)"
        return f"silent for {limits.handshake_timeout:g} s in the handshake (input-handshake-timeout)"

    def _serve(self) -> None:
        handshake = self._shake_hands()
        self._peer = peer_of(self._sock)
        self._handshaken = True
        self.reader.prime(handshake.trailing)
        self._sock.setblocking(False)
        self._data_phase(StreamSource(self._sock))
        if self.reader.stopped and handshake.bidirectional:
            self._finish()
        elif not self._closing and self.reader.inside_frame:
            raise ProtocolError("the stream ended inside a frame")

    def _shake_hands(self) -> ServerHandshake:
        self._be_patient()
        if not self._receive(1, socket.MSG_PEEK):
            raise _ProbeError
        self._on_begin()
        if self._tls is not None:
            # In two steps, so that close() during the handshake finds the TLS socket.
            self._be_patient()
            self._sock = self._tls.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
            if self._cut_off is not None:
                self._cut(self._cut_off)
            self._sock.do_handshake()
        handshake = ServerHandshake()
        received = False
        while not handshake.done:
            self._be_patient()
            data = self._receive(4096) if not received else self._sock.recv(4096)
            if not data:
                raise ProtocolError("closed in the handshake") if received else _ProbeError
            received = True
            handshake.receive(data)
            if reply := handshake.to_send():
                self._be_patient()
                self._sock.sendall(reply)
        return handshake

    def _receive(self, size: int, flags: int = 0) -> bytes:
        """Receive the first bytes of a handshake; empty if the peer has reset the connection."""
        try:
            return self._sock.recv(size, flags)
        except ConnectionResetError:
            return b""

    def _be_patient(self) -> None:
        """Set the timeout of the next handshake step, within the deadline of the whole handshake."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(min(self._limits.handshake_timeout, left))

    def _finish(self) -> None:
        # A sender may close without waiting for FINISH, as unbound does. All that it sent is here even so.
        with contextlib.suppress(OSError):
            self._sock.settimeout(DRAIN if self._closing else self._limits.handshake_timeout)
            self._sock.sendall(encode_control(FINISH))
            if isinstance(self._sock, ssl.SSLSocket):
                self._sock.unwrap()

    def _data_phase(self, source: StreamSource) -> None:
        reader = self.reader
        idle = self._limits.idle_timeout or None
        pause = 0.0
        large = 0  # receives in a row that were large
        while not reader.stopped:
            if not source.wait(idle):
                raise _IdleError
            if large >= _HEAVY_AFTER:
                got = reader.pump_block(source.receive, lambda: source.wait(_FILL_WAIT))
                large = large if got >= self._heavy_block else 0
            else:
                # A sender of many small writes: let the system collect them, so that this thread wakes up once per
                # pause and not once per write. The pause shrinks before the sender can fill its buffer.
                if pause > _LEAST_PAUSE and not self._closing:
                    time.sleep(pause)
                got = reader.pump_shared(source.receive) if source.stage() else -1
                large = large + 1 if got >= HEAVY else 0
                if got:
                    growth = min(2.0, _AIM / got) if got > 0 else 2.0
                    pause = min(self._longest_pause(), max(pause, _LEAST_PAUSE) * growth)
            if got == 0 or (self._closing and self._drained(got)):
                return

    def _longest_pause(self) -> float:
        linger = self._limits.linger
        return max(linger, min(_LONGEST_PAUSE, linger * self._crowd() / _CROWD))

    def _drained(self, got: int) -> bool:
        self._unread -= max(got, 0)
        return self._unread <= 0 or time.monotonic() >= self._until


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{error.reason} ({error.verify_message})"
    return error.reason or str(error)
