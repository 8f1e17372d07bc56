"""A plain DNS message unpacker with the acceptance rules of the Go daemon's library, for comparison with the kernels.

It favours the obvious: exceptions, slices, one method per irregular type, the grammar as text.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field


class RejectedError(Exception):
    """The message is not acceptable."""


class EndOfDataError(Exception):
    """The RDATA ended where a field could have begun."""


# Fields: n name, s character-string, t character-strings, r anything, b type bitmap, a number of octets.
GRAMMAR_TEXT = """
A=1: 4; NS=2: n; MD=3: n; MF=4: n; CNAME=5: n; SOA=6: n n 4 4 4 4 4; MB=7: n; MG=8: n; MR=9: n; NULL=10: r
PTR=12: n; HINFO=13: s s; MINFO=14: n n; MX=15: 2 n; TXT=16: t; RP=17: n n; AFSDB=18: 2 n; X25=19: s
ISDN=20: s s; RT=21: 2 n; NSAP-PTR=23: n; SIG=24: 2 1 1 4 4 4 2 n r; KEY=25: 2 1 1 r; PX=26: 2 n n
GPOS=27: s s s; AAAA=28: 16; LOC=29: 1 1 1 1 4 4 4; NXT=30: n b; EID=31: r; NIMLOC=32: r; SRV=33: 2 2 2 n
NAPTR=35: 2 2 s s s n; KX=36: 2 n; CERT=37: 2 2 1 r; DNAME=39: n; OPT=41: options; APL=42: prefixes
DS=43: 2 1 1 r; SSHFP=44: 1 1 r; IPSECKEY=45: ipseckey; RRSIG=46: 2 1 1 4 4 4 2 n r; NSEC=47: n b
DNSKEY=48: 2 1 1 r; DHCID=49: r; NSEC3=50: nsec3; NSEC3PARAM=51: nsec3param; TLSA=52: 1 1 1 r
SMIMEA=53: 1 1 1 r; HIP=55: hip; NINFO=56: t; RKEY=57: 2 1 1 r; TALINK=58: n n; CDS=59: 2 1 1 r
CDNSKEY=60: 2 1 1 r; OPENPGPKEY=61: r; CSYNC=62: 4 2 b; ZONEMD=63: 4 1 1 r; SVCB=64: svcb; HTTPS=65: svcb
SPF=99: t; UINFO=100: s; UID=101: 4; GID=102: 4; NID=104: 2 8; L32=105: 2 4; L64=106: 2 8; LP=107: 2 n
EUI48=108: 6; EUI64=109: 8; NXNAME=128: ; TKEY=249: tkey; TSIG=250: tsig; ANY=255: ; URI=256: 2 2 r
CAA=257: 1 s r; AVC=258: t; AMTRELAY=260: amtrelay; RESINFO=261: t; TA=32768: 2 1 1 r; DLV=32769: 2 1 1 r
"""

GRAMMAR: dict[int, list[str]] = {}
TYPE_NAMES: dict[int, str] = {}
for _entry in GRAMMAR_TEXT.replace("\n", ";").split(";"):
    if _entry.strip():
        _head, _, _fields = _entry.partition(":")
        _name, _, _number = _head.strip().partition("=")
        GRAMMAR[int(_number)] = _fields.split()
        TYPE_NAMES[int(_number)] = _name


def presentation(labels: list[bytes]) -> str:
    if not labels:
        return "."
    text = ""
    for label in labels:
        for byte in label:
            char = chr(byte)
            if char in ". '@;()\"\\":
                text += "\\" + char
            elif byte < 0x20 or byte > 0x7E:
                text += f"\\{byte:03}"
            else:
                text += char
        text += "."
    return text


def wire_form(labels: list[bytes]) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def read_labels(data: bytes, offset: int) -> tuple[list[bytes], int]:
    """Return the labels of the name at ``offset`` and where reading goes on."""
    labels: list[bytes] = []
    resume: list[int] = []
    while True:
        if offset >= len(data):
            raise RejectedError("name past the end")
        first = data[offset]
        if first == 0:
            break
        if first <= 63:
            label = data[offset + 1 : offset + 1 + first]
            if len(label) != first:
                raise RejectedError("label past the end")
            labels.append(label)
            offset += 1 + first
        elif first < 192:
            raise RejectedError("unknown label kind")
        else:
            if offset + 2 > len(data):
                raise RejectedError("half a pointer")
            resume.append(offset + 2)
            if len(resume) > 126:
                raise RejectedError("too many pointers")
            offset = int.from_bytes(data[offset : offset + 2], "big") - 0xC000
    if len(wire_form(labels)) > 255:
        raise RejectedError("name too long")
    return labels, resume[0] if resume else offset + 1


class Rdata:
    """A cursor over one record's RDATA; ``data`` is the message cut at the end of the record."""

    def __init__(self, data: bytes, offset: int) -> None:
        self.data = data
        self.at = offset

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise RejectedError("field past the end of the record")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def name(self) -> None:
        _, self.at = read_labels(self.data, self.at)

    def string(self) -> None:
        self.take(self.number(1))

    def may_end(self) -> None:
        if not self.left:
            raise EndOfDataError

    def bitmap(self) -> None:
        windows = [-1]
        while self.left:
            windows.append(self.number(1))
            size = self.number(1)
            if windows[-1] <= windows[-2] or not 1 <= size <= 32:
                raise RejectedError("bitmap window")
            self.take(size)

    def regular(self, fields: list[str]) -> None:
        for position, kind in enumerate(fields):
            if position:
                self.may_end()
            if kind == "n":
                self.name()
            elif kind == "s":
                self.string()
            elif kind == "t":
                while self.left:
                    self.string()
            elif kind == "r":
                self.take(self.left)
            elif kind == "b":
                self.bitmap()
            elif kind.isdigit():
                self.take(int(kind))
            else:
                getattr(self, kind)()

    def options(self) -> None:
        while self.left:
            code = self.number(2)
            self.option(code, self.take(self.number(2)))

    def option(self, code: int, data: bytes) -> None:
        size = len(data)
        good = True
        if code == 1:
            good = size >= 18
        elif code == 2:
            good = size in (4, 8)
        elif code == 8:
            if size < 4:
                raise RejectedError("ECS too short")
            family, source, scope = int.from_bytes(data[:2], "big"), data[2], data[3]
            if family == 0:
                good = source == 0
            else:
                longest = {1: 32, 2: 128}.get(family, -1)
                good = max(source, scope) <= longest
        elif code == 9:
            good = size not in (1, 2, 3)
        elif code == 11:
            good = size in (0, 2)
        elif code in (15, 19):
            good = size >= 2
        elif code == 18:
            read_labels(data, 0)
        if not good:
            raise RejectedError(f"option {code}")

    def svcb(self) -> None:
        self.regular(["2", "n"])
        key = -1
        while self.left:
            previous, key = key, self.number(2)
            value = self.take(self.number(2))
            if key <= previous or key == 65535 or not self.parameter_good(key, value):
                raise RejectedError(f"SvcParam {key}")

    def parameter_good(self, key: int, value: bytes) -> bool:
        if key == 0:
            return len(value) % 2 == 0
        if key == 1:
            while value:
                size = value[0]
                if len(value) < 1 + size:
                    return False
                value = value[1 + size :]
            return True
        if key in (2, 8):
            return value == b""
        if key == 3:
            return len(value) == 2
        if key == 4:
            return value != b"" and len(value) % 4 == 0
        if key == 6:
            addresses = [value[at : at + 16] for at in range(0, len(value), 16)]
            mapped = bytes(10) + b"\xff\xff"
            return bool(addresses) and all(len(a) == 16 and a[:12] != mapped for a in addresses)
        return True

    def prefixes(self) -> None:
        while self.left:
            family, prefix, size = self.number(2), self.number(1), self.number(1) & 0x7F
            longest = {1: 4, 2: 16}.get(family, -1)
            address = self.take(size)
            if size > longest or prefix > longest * 8 or (address and address[-1] == 0):
                raise RejectedError("APL item")

    def counted(self, width: int) -> None:
        size = self.number(width)
        self.may_end()
        self.take(size)

    def nsec3param(self) -> None:
        self.regular(["1", "1", "2"])
        self.may_end()
        self.counted(1)

    def nsec3(self) -> None:
        self.nsec3param()
        self.counted(1)
        self.bitmap()

    def hip(self) -> None:
        identity = self.number(1)
        self.may_end()
        self.take(1)
        self.may_end()
        key = self.number(2)
        self.may_end()
        self.take(identity)
        self.take(key)
        while self.left:
            self.name()

    def gateway(self, kind: int) -> None:
        if kind == 1:
            self.take(4)
        elif kind == 2:
            self.take(16)
        elif kind == 3:
            self.name()

    def ipseckey(self) -> None:
        self.take(1)
        self.may_end()
        kind = self.number(1)
        self.may_end()
        self.take(1)
        self.may_end()
        self.gateway(kind)
        self.take(self.left)

    def amtrelay(self) -> None:
        self.take(1)
        self.may_end()
        kind = self.number(1)
        self.may_end()
        self.gateway(kind)

    def tkey(self) -> None:
        self.regular(["n", "4", "4", "2", "2"])
        self.may_end()
        self.counted(2)
        self.counted(2)

    def tsig(self) -> None:
        self.regular(["n", "6", "2"])
        self.may_end()
        self.counted(2)
        self.take(2)
        self.may_end()
        self.take(2)
        self.may_end()
        self.counted(2)


def check_rdata(rrtype: int, data: bytes, offset: int) -> None:
    """Raise RejectedError unless ``data[offset:]``, not empty, is acceptable RDATA."""
    cursor = Rdata(data, offset)
    with contextlib.suppress(EndOfDataError):
        cursor.regular(GRAMMAR.get(rrtype, ["r"]))
    if cursor.left:
        raise RejectedError("octets behind the last field")


@dataclass
class Question:
    labels: list[bytes]
    qtype: int = 0
    qclass: int = 0


@dataclass
class Message:
    flags: int = 0
    rcode: int = 0
    questions: list[Question] = field(default_factory=list)
    counts: list[int] = field(default_factory=lambda: [0, 0, 0])


def unpack(data: bytes) -> Message:
    """Return the message, or raise RejectedError."""
    if len(data) < 12:
        raise RejectedError("no header")
    words = [int.from_bytes(data[at : at + 2], "big") for at in range(0, 12, 2)]
    message = Message(words[1], words[1] % 16)
    if len(data) == 12:
        return message
    at = 12
    for _ in range(words[2]):
        labels, at = read_labels(data, at)
        question = Question(labels)
        message.questions.append(question)
        for key in ("qtype", "qclass"):
            if at < len(data):
                if at + 2 > len(data):
                    raise RejectedError("half a number in a question")
                setattr(question, key, int.from_bytes(data[at : at + 2], "big"))
                at += 2
    extended = 0
    for section in range(3):
        for _ in range(words[3 + section]):
            if at == len(data):
                break
            _, at = read_labels(data, at)
            fixed = data[at : at + 10]
            if len(fixed) < 10:
                raise RejectedError("record cut short")
            rrtype, size = int.from_bytes(fixed[:2], "big"), int.from_bytes(fixed[8:], "big")
            at += 10
            if at + size > len(data):
                raise RejectedError("RDATA past the end")
            if size:
                check_rdata(rrtype, data[: at + size], at)
            at += size
            message.counts[section] += 1
            if section == 2 and rrtype == 41:
                extended = fixed[4]
    message.rcode |= extended << 4
    return message
