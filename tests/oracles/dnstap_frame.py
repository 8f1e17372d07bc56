"""The fields of a dnstap frame, decoded in plain Python by the rules of the protobuf wire format.

Written against the rules, not against the kernel: a frame is first cut into a tree of fields, then the
schema is laid over it. ``decode`` returns None for what the Go daemon's protobuf runtime rejects.
"""

from __future__ import annotations

from typing import Any

BYTES_FIELDS = {4: "qa", 5: "ra", 10: "qm", 11: "qz", 14: "rm"}
VARINT_FIELDS = {1: "type", 2: "sf", 3: "sp", 6: "qp", 7: "rp", 8: "qts", 12: "rts"}
FIXED_FIELDS = {9: "qtn", 13: "rtn"}
GROUP_DEPTH = 10_001


class RejectError(Exception):
    pass


class Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, count: int) -> bytes:
        if count > len(self.data):
            raise RejectError("cut off")
        piece, self.data = self.data[:count], self.data[count:]
        return piece

    def varint(self) -> int:
        septets = []
        while True:
            byte = self.take(1)[0]
            septets.append(byte & 0x7F)
            if byte < 0x80:
                break
            if len(septets) == 10:
                raise RejectError("varint of more than 10 bytes")
        value = sum(septet << 7 * k for k, septet in enumerate(septets))
        if value >= 1 << 64:
            raise RejectError("varint of more than 64 bits")
        return value


def scan(data: bytes) -> list[tuple[int, int, Any]]:
    """Cut a message into (number, wire type, value); groups are checked and left out."""
    cursor = Cursor(data)
    fields = []
    groups: list[int] = []
    while cursor.data:
        tag = cursor.varint()
        number, wire = divmod(tag, 8)
        if number == 0 or number >= (1 << 31 if groups else 1 << 29):
            raise RejectError("field number")
        if wire == 3:
            groups.append(number)
            if len(groups) > GROUP_DEPTH:
                raise RejectError("groups too deep")
            continue
        if wire == 4:
            if not groups or groups.pop() != number:
                raise RejectError("stray end of group")
            continue
        value: Any
        if wire == 0:
            value = cursor.varint()
        elif wire == 1:
            value = cursor.take(8)
        elif wire == 2:
            value = cursor.take(cursor.varint())
        elif wire == 5:
            value = int.from_bytes(cursor.take(4), "little")
        else:
            raise RejectError("wire type")
        if not groups:
            fields.append((number, wire, value))
    if groups:
        raise RejectError("group without end")
    return fields


def signed32(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def _message(data: bytes, into: dict[str, Any]) -> None:
    for number, wire, value in scan(data):
        if wire == 2 and number in BYTES_FIELDS:
            into[BYTES_FIELDS[number]] = value
        elif wire == 5 and number in FIXED_FIELDS:
            into[FIXED_FIELDS[number]] = value
        elif wire == 0 and number in VARINT_FIELDS:
            name = VARINT_FIELDS[number]
            if name in ("type", "sf", "sp"):
                value = signed32(value)
            elif name in ("qp", "rp"):
                value %= 1 << 32
            into[name] = value


def decode(frame: bytes) -> dict[str, Any] | None:
    """Return the fields found (``message`` a dict of its own), or None if the frame is rejected."""
    found: dict[str, Any] = {}
    try:
        for number, wire, value in scan(frame):
            if wire == 2 and number in (1, 2, 3):
                found[("identity", "version", "extra")[number - 1]] = value
            elif wire == 2 and number == 14:
                _message(value, found.setdefault("message", {}))
            elif wire == 0 and number == 15:
                found["type"] = signed32(value)
    except RejectError:
        return None
    if "type" not in found or ("message" in found and "type" not in found["message"]):
        return None
    return found
