"""Senders: what is known of the other end of a connection, and what it has sent. Its address is not kept."""

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
"""Senders counted one by one after their connections have ended; all others share one count."""

OTHER = "(other)"

_IDENTITY = 1  # field of Dnstap in dnstap.proto
_LENGTH_DELIMITED = 2
_VARINT = 0


@dataclass
class Sender:
    """One connection of a sender, or the sum of several.

    Attributes
    ----------
    peer : str
        ``unix uid N``, ``tcp``, ``tls``, or ``tls NAME`` with the common name of a client certificate.
    identity : bytes
        From the first dnstap frame; empty if that has no identity, or no frame has come.
    since : float
        When the connection was made, seconds since 1970.
    frames, bytes : int
        Data frames and bytes received.
    last_frame : float
        When the last frame came, seconds since 1970; 0 if none has.
    blocked : float
        Seconds for which EDM could not read from it, because blocks were in use or other senders came first.
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
    """Return what the system or a client certificate says about the other end; see :attr:`Sender.peer`."""
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
    """Return the identity from the first bytes of a dnstap frame; empty if they do not hold one as a whole."""
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
    """Sums of ended connections by peer and identity; any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: dict[tuple[str, bytes], Sender] = {}

    def ended(self, sender: Sender) -> None:
        """Add a connection that has ended."""
        with self._lock:
            self._add(self._ended, sender)

    def together(self, open_now: Iterable[Sender]) -> list[Sender]:
        """Return one sum for each peer and identity, over its ended connections and those of ``open_now``."""
        with self._lock:
            # Copies, because open connections are added to them below and counted anew in the next call.
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
