"""The Frame Streams protocol without I/O: control frames and both sides of the handshake.

Nothing here sees a socket: bytes that were received are fed in, bytes to be sent are taken out. Follows the
Frame Streams specification ("Control frames", "Bidirectional" and "Unidirectional" streams).

A control frame is four zero bytes, a big-endian 32-bit length and that many bytes: the 32-bit control type,
then fields of type, length and value. The only field type is the content type.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edm.errors import ProtocolError

CONTENT_TYPE = b"protobuf:dnstap.Dnstap"

ACCEPT = 1
START = 2
STOP = 3
READY = 4
FINISH = 5

CONTROL_MAX = 512
"""Most bytes of a control frame behind its length word: type and fields."""

HEADER_BYTES = 8
"""Bytes of the escape (a zero length word) and the length word before a control frame."""

_NAMES = {ACCEPT: "ACCEPT", START: "START", STOP: "STOP", READY: "READY", FINISH: "FINISH"}
_FIELD_CONTENT_TYPE = 1
_FIELD_HEADER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Control:
    """A control frame: its type (a number, not necessarily a known one) and its content types."""

    type: int
    content_types: tuple[bytes, ...] = ()

    @property
    def name(self) -> str:
        """The type's name in the specification, or ``type N``."""
        return _NAMES.get(self.type, f"type {self.type}")


def check_control_length(size: int) -> None:
    """Check the length word of a control frame before its bytes are waited for.

    Raises
    ------
    ProtocolError
        Fewer than 4 bytes (the type) or more than :data:`CONTROL_MAX`.
    """
    if not 4 <= size <= CONTROL_MAX:
        raise ProtocolError(f"control frame of {size} bytes, must be 4 to {CONTROL_MAX}")


def parse_control(payload: bytes) -> Control:
    """Parse a control frame's payload: what follows its length word.

    Raises
    ------
    ProtocolError
        Wrong length, a field of unknown type, a field longer than the frame, or stray bytes at the end.
    """
    check_control_length(len(payload))
    content_types = []
    pos = 4
    # A field is only begun while more than its header is left, as the Go daemon does it: an empty content
    # type is an error at the end of the frame and fine before another field.
    while len(payload) - pos > _FIELD_HEADER_BYTES:
        field = int.from_bytes(payload[pos : pos + 4], "big")
        size = int.from_bytes(payload[pos + 4 : pos + 8], "big")
        pos += _FIELD_HEADER_BYTES
        if field != _FIELD_CONTENT_TYPE:
            raise ProtocolError(f"control frame with field of unknown type {field}")
        if size > len(payload) - pos:
            raise ProtocolError(f"control frame field of {size} bytes, only {len(payload) - pos} left")
        content_types.append(payload[pos : pos + size])
        pos += size
    if pos != len(payload):
        raise ProtocolError(f"control frame with {len(payload) - pos} stray bytes at its end")
    return Control(int.from_bytes(payload[:4], "big"), tuple(content_types))


def read_control(data: bytes | bytearray) -> tuple[Control, int] | None:
    """Read the control frame at the beginning of ``data``.

    Returns
    -------
    (Control, int) or None
        The control frame and the bytes it takes, escape included; None if it is not whole yet.

    Raises
    ------
    ProtocolError
        The frame is malformed, or ``data`` begins with a data frame. Raised as soon as it is certain, so that
        never more than :data:`HEADER_BYTES` + :data:`CONTROL_MAX` bytes must be kept.
    """
    if any(data[:4]):
        raise ProtocolError("data where a control frame was expected")
    if len(data) < HEADER_BYTES:
        return None
    size = int.from_bytes(data[4:8], "big")
    check_control_length(size)
    end = HEADER_BYTES + size
    if len(data) < end:
        return None
    return parse_control(bytes(data[HEADER_BYTES:end])), end


def encode_control(kind: int, content_types: Iterable[bytes] = ()) -> bytes:
    """Encode a control frame, escape and length word included.

    Raises
    ------
    ValueError
        The content types do not fit into a control frame.
    """
    payload = kind.to_bytes(4, "big")
    for content_type in content_types:
        payload += (
            _FIELD_CONTENT_TYPE.to_bytes(4, "big") + len(content_type).to_bytes(4, "big") + content_type
        )
    if len(payload) > CONTROL_MAX:
        raise ValueError("too many content types for one control frame")
    return bytes(4) + len(payload).to_bytes(4, "big") + payload


def _shown(content_types: Iterable[bytes]) -> str:
    # At most one short piece of what a peer sent goes into a log line, with nothing unprintable in it.
    first = next(iter(content_types), b"")
    return ascii(first[:40].decode("latin-1"))


class _Endpoint:
    """What both sides of a handshake share: the buffers, and the loop over the control frames received."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._outgoing = bytearray()
        self._failure: ProtocolError | None = None
        self.done = False

    @property
    def trailing(self) -> bytes:
        """What was received behind the handshake. Empty until that is over."""
        return bytes(self._received) if self._complete() else b""

    def receive(self, data: bytes) -> None:
        """Take in what was received; ``b""`` says that the peer closed the stream.

        Raises
        ------
        ProtocolError
            The peer broke the protocol; every later call raises the same error.
        """
        if self._failure is not None:
            raise self._failure
        try:
            self._absorb(data)
        except ProtocolError as error:
            self._failure = error
            self._received.clear()
            raise

    def to_send(self) -> bytes:
        """Return what is to be sent to the peer now, and forget it."""
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    def _absorb(self, data: bytes) -> None:
        if not data and not self._complete():
            raise ProtocolError(f"the stream was closed before {self._expected()} came")
        self._received += data
        while not self._complete() and (read := read_control(self._received)) is not None:
            control, size = read
            del self._received[:size]
            self._handle(control)

    def _complete(self) -> bool:
        """Tell whether no control frame is expected any more."""
        return self.done

    def _expected(self) -> str:
        """Name the control frame that must come next."""
        raise NotImplementedError

    def _handle(self, control: Control) -> None:
        """Act upon a control frame."""
        raise NotImplementedError


class ServerHandshake(_Endpoint):
    """The receiver's side of the handshake.

    Bidirectional: READY from the peer, ACCEPT to it, START from it. Unidirectional: START only. A peer that
    names content types must name dnstap's, in READY or START; one that names none is taken at its word.

    Attributes
    ----------
    done : bool
        START has come: what follows it is the data phase, and what of it has been received is ``trailing``.
    bidirectional : bool
        The peer sent READY, so it waits for FINISH after its STOP.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bidirectional = False
        self._content_types: tuple[bytes, ...] = ()

    def _expected(self) -> str:
        return "START" if self.bidirectional else "READY or START"

    def _handle(self, control: Control) -> None:
        # As in the Go daemon, the types of READY and START count together.
        self._content_types += control.content_types
        if control.type == START or (control.type == READY and not self.bidirectional):
            if self._content_types and CONTENT_TYPE not in self._content_types:
                raise ProtocolError(
                    f"{control.name} with content type {_shown(self._content_types)}, "
                    f"expected {CONTENT_TYPE.decode()}"
                )
        else:
            raise ProtocolError(f"{control.name} where {self._expected()} was expected")
        if control.type == START:
            self.done = True
        else:
            self.bidirectional = True
            self._outgoing += encode_control(ACCEPT, (CONTENT_TYPE,) if self._content_types else ())


class ClientHandshake(_Endpoint):
    """The sender's side: READY to the peer, ACCEPT from it, START to it; at the end STOP and FINISH.

    Take what is to be sent with :meth:`to_send` right after construction and after every other call. Without
    ``bidirectional`` START goes out at once and the peer never answers.

    Attributes
    ----------
    done : bool
        START has been handed out: data frames may follow.
    finished : bool
        The stream is over on both sides.
    """

    def __init__(self, content_type: bytes = CONTENT_TYPE, *, bidirectional: bool = True) -> None:
        super().__init__()
        self._content_type = content_type
        self._bidirectional = bidirectional
        self._stopping = False
        self.finished = False
        if bidirectional:
            self._outgoing += encode_control(READY, (content_type,))
        else:
            self._outgoing += encode_control(START, (content_type,))
            self.done = True

    def stop(self) -> None:
        """End the data phase: STOP is to be sent now.

        Raises
        ------
        ValueError
            The data phase has not begun, or is already over.
        """
        if not self.done or self._stopping:
            raise ValueError("not in the data phase")
        self._stopping = True
        self.finished = not self._bidirectional
        self._outgoing += encode_control(STOP)

    def _complete(self) -> bool:
        return self.finished

    def _expected(self) -> str:
        if not self.done:
            return "ACCEPT"
        return "FINISH" if self._stopping else "STOP was sent and FINISH"

    def _handle(self, control: Control) -> None:
        if control.type != (FINISH if self.done else ACCEPT) or self.done != self._stopping:
            raise ProtocolError(f"{control.name} before {self._expected()} came")
        if self.done:
            self.finished = True
            return
        if control.content_types and self._content_type not in control.content_types:
            raise ProtocolError(f"ACCEPT with content type {_shown(control.content_types)}")
        self._outgoing += encode_control(START, (self._content_type,))
        self.done = True


__all__ = [
    "ACCEPT",
    "CONTENT_TYPE",
    "CONTROL_MAX",
    "FINISH",
    "HEADER_BYTES",
    "READY",
    "START",
    "STOP",
    "ClientHandshake",
    "Control",
    "ServerHandshake",
    "check_control_length",
    "encode_control",
    "parse_control",
    "read_control",
]
