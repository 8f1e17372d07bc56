"""Who sends: what is known of a connection's other end, and what it has sent. No address of it is kept."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

SERIES = 32
"""Senders that are counted apart after their connections have ended; all further ones share one count."""

OTHER = "(other)"

_IDENTITY = 1  # field of Dnstap in dnstap.proto
_LENGTH_DELIMITED = 2
_VARINT = 0


@dataclass
class Sender:
    """A connection, or several of one sender together.

    Attributes
    ----------
    peer : str
        ``unix uid N``, ``tcp``, ``tls``, or ``tls NAME`` with the common name of a client certificate.
    identity : bytes
        As the first dnstap frame has it; empty if it has none, or none has come.
    since : float
        When the connection was made, seconds since 1970.
    last_frame : float
        When its last frame came, seconds since 1970; 0 if none has.
    blocked : float
        Seconds for which it could not be read, since workers or other senders came first.
    """

    peer: str
    identity: bytes = b""
    since: float = 0.0
    frames: int = 0
    bytes: int = 0
    last_frame: float = 0.0
    blocked: float = 0.0

    def add(self, other: Sender) -> None:
        """Add what another connection has sent."""
        self.frames += other.frames
        self.bytes += other.bytes
        self.blocked += other.blocked
        self.last_frame = max(self.last_frame, other.last_frame)


def peer_of(sock: socket.socket) -> str:
    """Return who is at the other end, as far as the system or a certificate tells."""
    try:
        if isinstance(sock, ssl.SSLSocket):
            name = _common_name(sock.getpeercert(binary_form=True))
            return f"tls {name}" if name else "tls"
        if sock.family == socket.AF_UNIX:
            found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return f"unix uid {struct.unpack('3i', found)[1]}"
    except (OSError, ValueError, struct.error):
        return "unknown"
    return "tcp"


def _common_name(certificate: bytes | None) -> str:
    if not certificate:
        return ""
    names = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    return -1, at


def identity_of(frame: bytes) -> bytes:
    """Return the identity in the beginning of a dnstap frame; empty if there is none, or not within what is given."""
    at = 0
    while at < len(frame):
        tag, at = _varint(frame, at)
        if tag < 0:
            break
        if tag & 7 == _VARINT:
            _, at = _varint(frame, at)
            continue
        if tag & 7 != _LENGTH_DELIMITED:
            break
        size, at = _varint(frame, at)
        if size < 0 or at + size > len(frame):
            break
        if tag >> 3 == _IDENTITY:
            return frame[at : at + size]
        at += size
    return b""


class Tally:
    """What senders have sent over connections that have ended, by peer and identity."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: dict[tuple[str, bytes], Sender] = {}

    def ended(self, sender: Sender) -> None:
        """Add a connection that has ended."""
        with self._lock:
            self._add(self._ended, sender)

    def together(self, open_now: Iterable[Sender]) -> list[Sender]:
        """Return one for each peer and identity: all its connections, ended ones included."""
        with self._lock:
            # Copies: what is open now is added again each time.
            total = {key: Sender(**vars(sender)) for key, sender in self._ended.items()}
        for sender in open_now:
            self._add(total, sender)
        return list(total.values())

    @staticmethod
    def _add(total: dict[tuple[str, bytes], Sender], sender: Sender) -> None:
        key = sender.peer, sender.identity
        if key not in total and len(total) >= SERIES:
            key = OTHER, b""
        total.setdefault(key, Sender(*key)).add(sender)


__all__ = ["OTHER", "SERIES", "Sender", "Tally", "identity_of", "peer_of"]
