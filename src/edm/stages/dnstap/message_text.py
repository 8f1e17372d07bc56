"""DNS messages as text in the manner of ``dig``, for the debug file.

Plain Python: speed does not matter here.
Records of common types are shown in presentation form, all others in the generic form of RFC 3597, 5.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from edm.stages.names import wire_to_text

_TYPES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV",
    35: "NAPTR", 39: "DNAME", 41: "OPT", 43: "DS", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 50: "NSEC3",
    51: "NSEC3PARAM", 52: "TLSA", 64: "SVCB", 65: "HTTPS", 99: "SPF", 250: "TSIG", 251: "IXFR", 252: "AXFR",
    255: "ANY", 257: "CAA",
}  # fmt: skip
_CLASSES = {1: "IN", 3: "CH", 4: "HS", 254: "NONE", 255: "ANY"}
_OPCODES = {0: "QUERY", 1: "IQUERY", 2: "STATUS", 4: "NOTIFY", 5: "UPDATE"}
_RCODES = {
    0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 6: "YXDOMAIN",
    7: "YXRRSET", 8: "NXRRSET", 9: "NOTAUTH", 10: "NOTZONE", 16: "BADVERS", 17: "BADKEY", 18: "BADTIME",
    23: "BADCOOKIE",
}  # fmt: skip
_FLAGS = ((15, "qr"), (10, "aa"), (9, "tc"), (8, "rd"), (7, "ra"), (6, "z"), (5, "ad"), (4, "cd"))
_SECTIONS = ("ANSWER", "AUTHORITY", "ADDITIONAL")
_OPT = 41


def read_name(message: bytes, pos: int) -> tuple[str, int]:
    """Read the name at ``pos``, following compression pointers; return its presentation form and its end.

    Raises
    ------
    ValueError
        The name is cut off, too long, or its pointers do not lead backwards.
    """
    wire = bytearray()
    end = None
    lowest = pos
    while True:
        if pos >= len(message):
            raise ValueError("name is cut off")
        size = message[pos]
        if size < 0x40:
            label = message[pos : pos + 1 + size]
            if len(label) != 1 + size:
                raise ValueError("label is cut off")
            wire += label
            pos += 1 + size
            if len(wire) > 255:
                raise ValueError("name is longer than 255 bytes")
            if size == 0:
                return wire_to_text(bytes(wire)), pos if end is None else end
        elif size >= 0xC0:
            target = int.from_bytes(message[pos : pos + 2], "big") & 0x3FFF
            if pos + 2 > len(message) or target >= lowest:
                raise ValueError("compression pointer does not lead backwards")
            if end is None:
                end = pos + 2
            pos = lowest = target
        else:
            raise ValueError("label of unknown kind")


def _number(message: bytes, pos: int, size: int) -> int:
    if pos + size > len(message):
        raise ValueError("number is cut off")
    return int.from_bytes(message[pos : pos + size], "big")


def _quoted(data: bytes) -> str:
    characters = (
        f"\\{chr(b)}" if b in b'"\\' else chr(b) if 0x20 <= b <= 0x7E else f"\\{b:03}" for b in data
    )
    return '"' + "".join(characters) + '"'


def _name_rdata(message: bytes, pos: int, stop: int) -> str:
    name, end = read_name(message[:stop], pos)
    if end != stop:
        raise ValueError("stray bytes behind a name")
    return name


def _numbered(count: int) -> Callable[[bytes, int, int], str]:
    def rdata(message: bytes, pos: int, stop: int) -> str:
        numbers = [str(_number(message[:stop], pos + 2 * k, 2)) for k in range(count)]
        return " ".join([*numbers, _name_rdata(message, pos + 2 * count, stop)])

    return rdata


def _soa_rdata(message: bytes, pos: int, stop: int) -> str:
    primary, pos = read_name(message[:stop], pos)
    mailbox, pos = read_name(message[:stop], pos)
    if pos + 20 != stop:
        raise ValueError("SOA of wrong length")
    return " ".join([primary, mailbox, *(str(_number(message, pos + 4 * k, 4)) for k in range(5))])


def _text_rdata(message: bytes, pos: int, stop: int) -> str:
    strings = []
    while pos < stop:
        size = message[pos]
        pos += 1 + size
        if pos > stop:
            raise ValueError("character string is cut off")
        strings.append(_quoted(message[pos - size : pos]))
    return " ".join(strings)


def _address_rdata(message: bytes, pos: int, stop: int) -> str:
    return str(ipaddress.ip_address(message[pos:stop]))


_RDATA: dict[int, Callable[[bytes, int, int], str]] = {
    1: _address_rdata,
    2: _name_rdata,
    5: _name_rdata,
    6: _soa_rdata,
    12: _name_rdata,
    15: _numbered(1),
    16: _text_rdata,
    28: _address_rdata,
    33: _numbered(3),
    39: _name_rdata,
    99: _text_rdata,
}


def _rdata_text(message: bytes, kind: int, pos: int, stop: int) -> str:
    if pos == stop:
        return ""
    # An RDATA that does not follow its type's rules is shown too, in the generic form.
    try:
        if kind in _RDATA:
            return _RDATA[kind](message, pos, stop)
    except ValueError:
        pass
    return f"\\# {stop - pos} {message[pos:stop].hex()}"


def _record(message: bytes, pos: int) -> tuple[int, int, str, int]:
    """Read the record at ``pos``; return its type, its TTL field, its text and its end."""
    owner, pos = read_name(message, pos)
    kind, klass = _number(message, pos, 2), _number(message, pos + 2, 2)
    ttl, size = _number(message, pos + 4, 4), _number(message, pos + 8, 2)
    pos += 10
    stop = pos + size
    if stop > len(message):
        raise ValueError("record is cut off")
    if kind == _OPT:
        text = f"; EDNS: version {ttl >> 16 & 0xFF}; flags:{' do' if ttl & 0x8000 else ''}; udp: {klass}"
        if size:
            text += f"; options: {message[pos:stop].hex()}"
        return kind, ttl, text, stop
    fields = (owner, str(ttl), _class_name(klass), _type_name(kind), _rdata_text(message, kind, pos, stop))
    return kind, ttl, "\t".join(fields), stop


def _type_name(kind: int) -> str:
    return _TYPES.get(kind, f"TYPE{kind}")


def _class_name(klass: int) -> str:
    return _CLASSES.get(klass, f"CLASS{klass}")


def _question(message: bytes, pos: int) -> tuple[str, int]:
    name, pos = read_name(message, pos)
    # The last question may lack class, or type and class: as accepted elsewhere in the program.
    kind = klass = 0
    if pos < len(message):
        kind, pos = _number(message, pos, 2), pos + 2
        if pos < len(message):
            klass, pos = _number(message, pos, 2), pos + 2
    return f";{name}\t{_class_name(klass)}\t {_type_name(kind)}", pos


def message_to_text(message: bytes) -> str:
    """Return a DNS message (RFC 1035, 4) as text of several lines.

    Raises
    ------
    ValueError
        The message cannot be parsed; the text of the exception says why.
    """
    if len(message) < 12:
        raise ValueError("message is shorter than its header")
    number, flags, *counts = (_number(message, 2 * k, 2) for k in range(6))
    rcode = flags & 0xF
    pos = 12
    body: list[str] = []
    pseudo: list[str] = []
    if len(message) > 12:
        questions = []
        for _ in range(counts[0]):
            text, pos = _question(message, pos)
            questions.append(text)
        if questions:
            body += ["", ";; QUESTION SECTION:", *questions]
        for section, count in zip(_SECTIONS, counts[1:], strict=True):
            records: list[str] = []
            for _ in range(count):
                if pos == len(message):
                    break
                kind, ttl, text, pos = _record(message, pos)
                if kind == _OPT and section == "ADDITIONAL":
                    rcode = flags & 0xF | ttl >> 24 << 4
                (pseudo if kind == _OPT else records).append(text)
            if records:
                body += ["", f";; {section} SECTION:", *records]
    set_flags = "".join(f" {name}" for bit, name in _FLAGS if flags >> bit & 1)
    opcode = flags >> 11 & 0xF
    head = [
        f";; opcode: {_OPCODES.get(opcode, f'OPCODE{opcode}')}, "
        f"status: {_RCODES.get(rcode, f'RCODE{rcode}')}, id: {number}",
        f";; flags:{set_flags}; QUERY: {counts[0]}, ANSWER: {counts[1]}, "
        f"AUTHORITY: {counts[2]}, ADDITIONAL: {counts[3]}",
    ]
    if pseudo:
        head += ["", ";; OPT PSEUDOSECTION:", *pseudo]
    return "\n".join(head + body) + "\n"


__all__ = ["message_to_text", "read_name"]
