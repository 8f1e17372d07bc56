"""What a server answers to a POST (HTTP/1.1, RFC 9112), read within bounds, and whose fault a refusal is."""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeAlias

TEXT_MAX = 200
"""Characters kept of each text in an answer."""
HEAD_MAX = 64 * 1024
"""Bytes that the header of an answer may have, interim answers included."""
CLOCK_SLACK = 4.0
"""Seconds by which a signature may be made ahead of Core's clock before Core refuses it."""

Blame: TypeAlias = Literal["file", "access", "address", "busy", "other"]
"""What a refusal is about: the file itself; key, certificate or clock; the URL; the server's load; not known."""

_BUSY = (429, 503)
_CHANGEABLE = (408, 425)
# 495, 496 and 497 are what nginx says about certificates.
_ACCESS = (401, 402, 403, 407, 495, 496, 511)
_ADDRESS = (404, 405, 406, 410, 421, 426, 497)
_INTERIM = re.compile(rb"HTTP/\d\.\d[ \t]+1\d\d(?!\d)")
_ABOUT_ACCESS = re.compile(
    r"certificate|\bTLS\b|\bSSL\b|signature|\bkey\b|key.?id|\bclock\b|expired", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered, each text cut to :data:`TEXT_MAX` characters.

    Attributes
    ----------
    text : str
        The beginning of the content if that is readable.
    date : str or None
        When the server made the answer, by its clock (RFC 9110, 6.6.1).
    """

    status: int
    reason: str
    location: str | None
    retry_after: str | None
    text: str
    date: str | None = None

    @property
    def blame(self) -> Blame:
        """Whose fault it is that the answer is not 201."""
        if self.status in _BUSY:
            return "busy"
        if self.status in _ACCESS:
            return "access"
        if self.status in _ADDRESS:
            return "address"
        if self.status == 400 and _ABOUT_ACCESS.search(f"{self.reason} {self.text}"):
            return "access"
        if 400 <= self.status < 500 and self.status not in _CHANGEABLE:
            return "file"
        return "other"

    def clock_ahead(self, now: float) -> float | None:
        """Return by how many seconds our clock is ahead of the server's; None if the answer has no usable date.

        Parameters
        ----------
        now : float
            When the answer came, seconds since 1970. Its date has whole seconds and is a little older than that, so
            the result is up to a second too large, and more over a slow connection.
        """
        if self.date is None:
            return None
        try:
            return now - parsedate_to_datetime(self.date).timestamp()
        except (ValueError, OverflowError):
            return None


def likely_cause(answer: Answer, now: float | None = None) -> str:
    """Return what the operator should look at first when Core does not accept us."""
    ahead = answer.clock_ahead(time.time() if now is None else now)
    if ahead is not None and ahead > CLOCK_SLACK:
        return f"the clock is about {ahead:.0f} seconds ahead of the server's, more than {CLOCK_SLACK:.0f} are refused"
    if ahead is not None and ahead < -60:
        return f"the clock is about {-ahead:.0f} seconds behind the server's"
    if answer.blame == "address":
        return "http-url does not name the service that takes histograms"
    if answer.status == 401:
        return "the server does not know the key in http-signing-key-file, or its own key service is out of reach"
    if answer.status == 403:
        return "the client certificate or the key is not allowed to upload"
    return "the client certificate or the signing key is not accepted"


def read_answer(raw: io.RawIOBase) -> Answer:
    """Read an answer; interim ones (1xx) before it are skipped (RFC 9110, 15.2).

    Raises
    ------
    OSError, http.client.HTTPException
        There is none, or none within the bounds.
    """
    stream: io.BufferedReader = io.BufferedReader(raw)
    head = _head(stream, HEAD_MAX)
    spent = 0
    while _INTERIM.match(head):
        spent += len(head)
        head = _head(stream, HEAD_MAX - spent)
    source: Any = _Source(head, stream)
    with contextlib.closing(http.client.HTTPResponse(source, method="POST")) as response:
        response.begin()
        text = ""
        with contextlib.suppress(Exception):  # whatever happens to the content, the status has been read
            if response.getheader("Content-Encoding") is None:
                text = response.read(4 * TEXT_MAX).decode("utf-8", "replace")
        return Answer(
            response.status,
            _short(response.reason),
            _short(response.getheader("Location")),
            _short(response.getheader("Retry-After")),
            _short(text),
            _short(response.getheader("Date")),
        )


def _head(stream: io.BufferedReader, most: int) -> bytes:
    """Read up to the empty line that ends a header, or to the end of the connection."""
    head = bytearray()
    while True:
        line = stream.readline(max(0, most - len(head)) + 1)
        head += line
        if len(head) > most:
            raise http.client.LineTooLong("answer's header")
        if not line or line in (b"\r\n", b"\n"):
            return bytes(head)


class _Source(io.RawIOBase):
    """The header read so far and what follows it, as the library for HTTP wants to be given it."""

    def __init__(self, head: bytes, rest: io.BufferedReader) -> None:
        self._head = memoryview(head)
        self._rest = rest

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._head:
            size = min(len(buffer), len(self._head))
            buffer[:size] = self._head[:size]
            self._head = self._head[size:]
            return size
        data = self._rest.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _short(text: Any) -> Any:
    return text if text is None else " ".join(text[: 4 * TEXT_MAX].split())[:TEXT_MAX]


__all__ = ["CLOCK_SLACK", "HEAD_MAX", "TEXT_MAX", "Answer", "Blame", "likely_cause", "read_answer"]
