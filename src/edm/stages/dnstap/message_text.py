"""DNS messages as text in the manner of ``dig``, for the debug file.

Plain Python: speed does not matter here, but what anybody may send must not take long: the work for a message and the
length of its text grow with its bytes.
Records of common types are shown in presentation form, all others in the generic form of RFC 3597, 5.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator

from edm.kernel.columns import NAME_MAX
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
_HEADER = 12


_POINTERS_MAX = 126
_TEXT_FACTOR = 16
_TEXT_FLOOR = 4096


class _Names:
    """The names of one message. What a compression pointer leads to is read once, however often it is pointed to.

    Parameters
    ----------
    message : bytes
    """

    def __init__(self, message: bytes) -> None:
        self.message = message
        # By place: the name in wire form, the bytes of the message that it needs, its pointers.
        self._known: dict[int, tuple[bytes, int, int]] = {}
        self._bad: dict[int, str] = {}

    def read(self, pos: int, stop: int) -> tuple[str, int]:
        """Read the name at ``pos``; return its presentation form and its end. See :func:`read_name`."""
        labels, end, target = self._labels(pos, stop)
        if target is None:
            return wire_to_text(labels), end
        if target >= pos:
            raise ValueError("compression pointer does not lead backwards")
        rest, reach, pointers = self._name_at(target)
        if reach > stop:
            raise ValueError("name is cut off")
        self._check(len(labels) + len(rest), pointers + 1)
        return wire_to_text(labels + rest), end

    def _labels(self, pos: int, stop: int) -> tuple[bytes, int, int | None]:
        """Read labels; return them, with the root if it is there, where they or the pointer end, and its target."""
        message = self.message
        start = pos
        while True:
            if pos >= stop:
                raise ValueError("name is cut off")
            size = message[pos]
            if size < 0x40:
                pos += 1 + size
                if pos > stop:
                    raise ValueError("label is cut off")
                self._check(pos - start, 0)
                if size == 0:
                    return message[start:pos], pos, None
            elif size >= 0xC0:
                if pos + 2 > stop:
                    raise ValueError("compression pointer is cut off")
                return message[start:pos], pos + 2, (size & 0x3F) << 8 | message[pos + 1]
            else:
                raise ValueError("label of unknown kind")

    @staticmethod
    def _check(size: int, pointers: int) -> None:
        if size > NAME_MAX:
            raise ValueError("name is longer than 255 bytes")
        if pointers > _POINTERS_MAX:
            raise ValueError("name has too many compression pointers")

    def _name_at(self, place: int) -> tuple[bytes, int, int]:
        path: list[tuple[int, bytes, int]] = []
        first = place
        try:
            while place not in self._known:
                if place in self._bad:
                    raise ValueError(self._bad[place])
                path.append((place, b"", 0))
                labels, end, target = self._labels(place, len(self.message))
                path[-1] = place, labels, end
                if target is None:
                    break
                if target >= place:
                    raise ValueError("compression pointer does not lead backwards")
                place = target
            wire, reach, pointers = self._known.get(place, (b"", 0, -1))
            while path:
                place, labels, end = path[-1]
                wire, reach, pointers = labels + wire, max(reach, end), pointers + 1
                self._check(len(wire), pointers)
                self._known[place] = wire, reach, pointers
                path.pop()
        except ValueError as error:
            # So is every name that leads there.
            self._bad.update((place, str(error)) for place, _, _ in path)
            raise
        return self._known[first]


def read_name(message: bytes, pos: int) -> tuple[str, int]:
    """Read the name at ``pos``, following compression pointers; return its presentation form and its end.

    Raises
    ------
    ValueError
        The name is cut off, too long, has more than 126 pointers, or they do not lead backwards.
    """
    return _Names(message).read(pos, len(message))


def _number(message: bytes, pos: int, size: int) -> int:
    if pos + size > len(message):
        raise ValueError("number is cut off")
    return int.from_bytes(message[pos : pos + size], "big")


def _quoted(data: bytes) -> str:
    characters = (
        f"\\{chr(b)}" if b in b'"\\' else chr(b) if 0x20 <= b <= 0x7E else f"\\{b:03}" for b in data
    )
    return '"' + "".join(characters) + '"'


def _name_rdata(names: _Names, pos: int, stop: int) -> str:
    name, end = names.read(pos, stop)
    if end != stop:
        raise ValueError("stray bytes behind a name")
    return name


def _numbered(count: int) -> Callable[[_Names, int, int], str]:
    def rdata(names: _Names, pos: int, stop: int) -> str:
        if pos + 2 * count > stop:
            raise ValueError("number is cut off")
        numbers = [str(_number(names.message, pos + 2 * k, 2)) for k in range(count)]
        return " ".join([*numbers, _name_rdata(names, pos + 2 * count, stop)])

    return rdata


def _soa_rdata(names: _Names, pos: int, stop: int) -> str:
    primary, pos = names.read(pos, stop)
    mailbox, pos = names.read(pos, stop)
    if pos + 20 != stop:
        raise ValueError("SOA of wrong length")
    return " ".join([primary, mailbox, *(str(_number(names.message, pos + 4 * k, 4)) for k in range(5))])


def _text_rdata(names: _Names, pos: int, stop: int) -> str:
    message = names.message
    strings = []
    while pos < stop:
        size = message[pos]
        pos += 1 + size
        if pos > stop:
            raise ValueError("character string is cut off")
        strings.append(_quoted(message[pos - size : pos]))
    return " ".join(strings)


def _address_rdata(names: _Names, pos: int, stop: int) -> str:
    return str(ipaddress.ip_address(names.message[pos:stop]))


_RDATA: dict[int, Callable[[_Names, int, int], str]] = {
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


def _rdata_text(names: _Names, kind: int, pos: int, stop: int) -> str:
    if pos == stop:
        return ""
    # An RDATA that does not follow its type's rules is shown too, in the generic form.
    try:
        if kind in _RDATA:
            return _RDATA[kind](names, pos, stop)
    except ValueError:
        pass
    return f"\\# {stop - pos} {names.message[pos:stop].hex()}"


def _record(names: _Names, pos: int) -> tuple[int, int, str, int]:
    """Read the record at ``pos``; return its type, its TTL field, its text and its end."""
    message = names.message
    owner, pos = names.read(pos, len(message))
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
    fields = (owner, str(ttl), _class_name(klass), _type_name(kind), _rdata_text(names, kind, pos, stop))
    return kind, ttl, "\t".join(fields), stop


def _type_name(kind: int) -> str:
    return _TYPES.get(kind, f"TYPE{kind}")


def _class_name(klass: int) -> str:
    return _CLASSES.get(klass, f"CLASS{klass}")


def _question(names: _Names, pos: int) -> tuple[str, int]:
    message = names.message
    name, pos = names.read(pos, len(message))
    # The last question may lack class, or type and class: as accepted elsewhere in the program.
    kind = klass = 0
    if pos < len(message):
        kind, pos = _number(message, pos, 2), pos + 2
        if pos < len(message):
            klass, pos = _number(message, pos, 2), pos + 2
    return f";{name}\t{_class_name(klass)}\t {_type_name(kind)}", pos


class _Text:
    """Lines of text, no more than a multiple of the bytes that they show."""

    def __init__(self, size: int) -> None:
        self._room = _TEXT_FACTOR * size + _TEXT_FLOOR
        self.pseudo: list[str] = []
        self.body: list[str] = []

    def add(self, title: str, lines: Iterable[tuple[str, bool]]) -> None:
        """Add a section unless it is empty; lines marked True belong to the pseudo section."""
        section: list[str] = []
        for line, pseudo in lines:
            self._room -= len(line)
            if self._room < 0:
                raise ValueError("text would be far longer than the message")
            (self.pseudo if pseudo else section).append(line)
        if section:
            self.body += ["", f";; {title} SECTION:", *section]


class _Reader:
    """Goes through a message; ``rcode`` is the extended one when all has been read."""

    def __init__(self, message: bytes, flags: int) -> None:
        self._names = _Names(message)
        self._pos = _HEADER
        self._flags = flags
        self.rcode = flags & 0xF

    def questions(self, count: int) -> Iterator[tuple[str, bool]]:
        for _ in range(count):
            text, self._pos = _question(self._names, self._pos)
            yield text, False

    def records(self, section: str, count: int) -> Iterator[tuple[str, bool]]:
        for _ in range(count):
            if self._pos == len(self._names.message):
                return
            kind, ttl, text, self._pos = _record(self._names, self._pos)
            if kind == _OPT and section == "ADDITIONAL":
                self.rcode = self._flags & 0xF | ttl >> 24 << 4
            yield text, kind == _OPT


def message_to_text(message: bytes) -> str:
    """Return a DNS message (RFC 1035, 4) as text of several lines.

    Raises
    ------
    ValueError
        The message cannot be parsed, or compresses its names so much that the text would be more than 16 times as long;
        the text of the exception says why.
    """
    if len(message) < _HEADER:
        raise ValueError("message is shorter than its header")
    number, flags, *counts = (_number(message, 2 * k, 2) for k in range(6))
    text = _Text(len(message))
    reader = _Reader(message, flags)
    if len(message) > _HEADER:
        text.add("QUESTION", reader.questions(counts[0]))
        for section, count in zip(_SECTIONS, counts[1:], strict=True):
            text.add(section, reader.records(section, count))
    set_flags = "".join(f" {name}" for bit, name in _FLAGS if flags >> bit & 1)
    opcode, rcode = flags >> 11 & 0xF, reader.rcode
    head = [
        f";; opcode: {_OPCODES.get(opcode, f'OPCODE{opcode}')}, "
        f"status: {_RCODES.get(rcode, f'RCODE{rcode}')}, id: {number}",
        f";; flags:{set_flags}; QUERY: {counts[0]}, ANSWER: {counts[1]}, "
        f"AUTHORITY: {counts[2]}, ADDITIONAL: {counts[3]}",
    ]
    if text.pseudo:
        head += ["", ";; OPT PSEUDOSECTION:", *text.pseudo]
    return "\n".join(head + text.body) + "\n"


__all__ = ["message_to_text", "read_name"]
