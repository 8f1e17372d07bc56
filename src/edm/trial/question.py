"""A question for a trial: read from text, and made into a dnstap frame with an answer."""

from __future__ import annotations

import ipaddress
import re
import struct
import time
from dataclasses import dataclass

from edm.errors import EdmError
from edm.files.visible import visible
from edm.stages.domains import parse_name
from edm.stages.names import wire_to_text

QTYPES = {
    name: number
    for number, name in (
        (1, "A"), (2, "NS"), (5, "CNAME"), (6, "SOA"), (12, "PTR"), (13, "HINFO"), (15, "MX"), (16, "TXT"),
        (17, "RP"), (18, "AFSDB"), (24, "SIG"), (25, "KEY"), (28, "AAAA"), (29, "LOC"), (33, "SRV"), (35, "NAPTR"),
        (36, "KX"), (37, "CERT"), (39, "DNAME"), (42, "APL"), (43, "DS"), (44, "SSHFP"), (45, "IPSECKEY"),
        (46, "RRSIG"), (47, "NSEC"), (48, "DNSKEY"), (49, "DHCID"), (50, "NSEC3"), (51, "NSEC3PARAM"), (52, "TLSA"),
        (53, "SMIMEA"), (55, "HIP"), (59, "CDS"), (60, "CDNSKEY"), (61, "OPENPGPKEY"), (62, "CSYNC"), (63, "ZONEMD"),
        (64, "SVCB"), (65, "HTTPS"), (99, "SPF"), (108, "EUI48"), (109, "EUI64"), (249, "TKEY"), (250, "TSIG"),
        (251, "IXFR"), (252, "AXFR"), (255, "ANY"), (256, "URI"), (257, "CAA"),
    )
}  # fmt: skip
"""Numbers of the types that may be given by name (IANA, DNS parameters); others are written ``TYPE65280``."""

_STAND_IN = {
    4: bytes([192, 0, 2, 1]),
    16: bytes.fromhex("20010db8") + bytes(11) + b"\x01",
}  # RFC 5737, RFC 3849
_TEXT_MAX = 4096


class QuestionError(EdmError):
    """What was asked is no question; the message does not hold the client's address."""


@dataclass(frozen=True)
class Question:
    """A name, a type, and who asks.

    Attributes
    ----------
    wire : bytes
        The name in wire form, letter case as given.
    qtype : int
    client : bytes
        4 or 16 bytes; empty if no client was named.
    """

    wire: bytes
    qtype: int = 1
    client: bytes = b""

    @classmethod
    def parse(cls, name: object, qtype: object = "A", client: object = "") -> Question:
        """Read a question from texts.

        Raises
        ------
        QuestionError
            One of them is wrong; the message names which, and the reason.
        """
        texts = name, qtype, client
        if not all(isinstance(text, str) and len(text) <= _TEXT_MAX for text in texts):
            raise QuestionError("a question is a name, a type and a client's address, each a short text")
        try:
            wire = parse_name(str(name))
        except ValueError as error:
            raise QuestionError(f"{visible(name)[:80]!r} is no domain name: {error}") from None
        return cls(wire, _parse_type(str(qtype)), _parse_client(str(client)))

    @property
    def name(self) -> str:
        """The name in presentation form."""
        return wire_to_text(self.wire)

    @property
    def type_text(self) -> str:
        """The type by its name, or as ``TYPE`` with its number."""
        return next((name for name, number in QTYPES.items() if number == self.qtype), f"TYPE{self.qtype}")

    def frame(self, message_type: int, now_ns: int | None = None) -> bytes:
        """Return a dnstap frame with a response (NOERROR, no records) to this question.

        Parameters
        ----------
        message_type : int
            ``Message.type`` of dnstap, one of the responses.
        now_ns : int, optional
            The response time, nanoseconds since 1970; now if not given.
        """
        client = self.client or _STAND_IN[4]
        seconds, nanoseconds = divmod(time.time_ns() if now_ns is None else now_ns, 1_000_000_000)
        header = struct.pack(">HHHHHH", 0, 0x8180, 1, 0, 0, 0)
        response = header + self.wire + struct.pack(">HH", self.qtype, 1)
        message = (
            _field(1, message_type)
            + _field(2, 1 if len(client) == 4 else 2)
            + _field(3, 1)
            + _field(4, client)
            + _field(5, _STAND_IN[len(client)])
            + _field(6, 53000)
            + _field(7, 53)
            + _field(12, seconds)
            + _varint(13 << 3 | 5)
            + struct.pack("<I", nanoseconds)
            + _field(14, response)
        )
        return _field(14, message) + _field(15, 1)


def _parse_type(text: str) -> int:
    if (number := QTYPES.get(text.upper())) is not None:
        return number
    if (digits := re.fullmatch(r"(?:TYPE)?([0-9]{1,5})", text, re.ASCII | re.IGNORECASE)) and int(
        digits[1]
    ) <= 0xFFFF:
        return int(digits[1])
    raise QuestionError(
        f"--type: {visible(text)[:40]!r} is no DNS type: give its name, or TYPE and a number up to 65535"
    )


def _parse_client(text: str) -> bytes:
    if not text:
        return b""
    try:
        address = ipaddress.ip_address(text)
        if "%" in text:
            raise ValueError
    except ValueError:
        raise QuestionError("--client: must be an IPv4 or IPv6 address without a zone") from None
    return address.packed


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


__all__ = ["QTYPES", "Question", "QuestionError"]
