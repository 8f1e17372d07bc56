"""A frame as one JSON line for the debug file, with the keys of the Go dnstap library's JSON format.

The keys, their order, and the forms of times, enums, addresses and names are those of the Go library. DNS
messages are text in the style of ``dig`` as there, but not exactly the same. What cannot be parsed is shown
as ``parse failed: <reason>: <hex of the bytes>``, an address of an odd length as ``?<hex>``.

This is plain Python, for a few frames a second, and independent of the kernel.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from typing import Any

from edm.files.visible import visible_json
from edm.stages.dnstap.message_text import message_to_text, read_name

_MESSAGE_TYPES = (
    "", "AUTH_QUERY", "AUTH_RESPONSE", "RESOLVER_QUERY", "RESOLVER_RESPONSE", "CLIENT_QUERY",
    "CLIENT_RESPONSE", "FORWARDER_QUERY", "FORWARDER_RESPONSE", "STUB_QUERY", "STUB_RESPONSE", "TOOL_QUERY",
    "TOOL_RESPONSE", "UPDATE_QUERY", "UPDATE_RESPONSE",
)  # fmt: skip
_FAMILIES = ("", "INET", "INET6")
_PROTOCOLS = ("", "UDP", "TCP", "DOT", "DOH")
_DNSTAP_TYPES = ("", "MESSAGE")

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)

# Field numbers of Dnstap and of Message, with the wire type they must have.
_DNSTAP = {1: ("identity", _BYTES), 2: ("version", _BYTES), 3: ("extra", _BYTES), 15: ("type", _VARINT)}
_MESSAGE_FIELD = 14
_MESSAGE = {
    1: ("type", _VARINT),
    2: ("socket_family", _VARINT),
    3: ("socket_protocol", _VARINT),
    4: ("query_address", _BYTES),
    5: ("response_address", _BYTES),
    6: ("query_port", _VARINT),
    7: ("response_port", _VARINT),
    8: ("query_time_sec", _VARINT),
    9: ("query_time_nsec", _FIXED32),
    10: ("query_message", _BYTES),
    11: ("query_zone", _BYTES),
    12: ("response_time_sec", _VARINT),
    13: ("response_time_nsec", _FIXED32),
    14: ("response_message", _BYTES),
}

_GROUP_DEPTH_MAX = 10_001


def _varint(data: bytes, pos: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if pos >= len(data):
            break
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, pos
    raise ValueError("bad varint")


def _scalar(data: bytes, pos: int, wire: int) -> tuple[int | bytes, int]:
    """Read a value that is no group; return it and its end."""
    if wire == _VARINT:
        return _varint(data, pos)
    if wire == _BYTES:
        size, pos = _varint(data, pos)
    elif wire in (_FIXED32, _FIXED64):
        size = 4 if wire == _FIXED32 else 8
    else:
        raise ValueError("bad wire type")
    value = data[pos : pos + size]
    if len(value) != size:
        raise ValueError("value is cut off")
    return value if wire == _BYTES else int.from_bytes(value, "little"), pos + size


def _skip_group(data: bytes, pos: int, number: int) -> int:
    open_groups = [number]
    while open_groups:
        tag, pos = _varint(data, pos)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 31:
            raise ValueError("bad field number")
        if wire == _GROUP:
            open_groups.append(number)
            if len(open_groups) > _GROUP_DEPTH_MAX:
                raise ValueError("groups nested too deep")
        elif wire == _GROUP_END:
            if open_groups.pop() != number:
                raise ValueError("end of another group")
        else:
            _, pos = _scalar(data, pos, wire)
    return pos


def _fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield number, wire type and value of each field of a protobuf message, groups left out."""
    pos = 0
    while pos < len(data):
        tag, pos = _varint(data, pos)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ValueError("bad field number")
        if wire == _GROUP:
            pos = _skip_group(data, pos, number)
            continue
        value, pos = _scalar(data, pos, wire)
        yield number, wire, value


def _decode(frame: bytes) -> dict[str, Any]:
    """Decode a frame into its fields; the Message is a dict under ``message``."""
    dnstap: dict[str, Any] = {}
    for number, wire, value in _fields(frame):
        if number == _MESSAGE_FIELD and wire == _BYTES:
            assert isinstance(value, bytes)
            message = dnstap.setdefault("message", {})
            for inner, inner_wire, inner_value in _fields(value):
                name, expected = _MESSAGE.get(inner, ("", -1))
                if inner_wire == expected:
                    message[name] = inner_value
        else:
            name, expected = _DNSTAP.get(number, ("", -1))
            if wire == expected:
                dnstap[name] = value
    if "type" not in dnstap or "type" not in dnstap.get("message", dnstap):
        raise ValueError("required field is missing")
    return dnstap


def _enum(value: int | None, names: tuple[str, ...]) -> str:
    if value is None:
        return "<nil>"
    value &= 0xFFFFFFFF
    if 0 < value < len(names):
        return names[value]
    return str(value - (1 << 32) if value >> 31 else value)


def _address(data: bytes) -> str:
    if len(data) == 4:
        return str(ipaddress.IPv4Address(data))
    if len(data) == 16:
        address = ipaddress.IPv6Address(data)
        return str(address.ipv4_mapped or address)
    return "?" + data.hex() if data else ""


def _time(seconds: int, nanoseconds: int) -> str:
    """Return a time as RFC 3339 with as many decimals as it needs; any 64-bit number of seconds will do."""
    if seconds >> 63:
        seconds -= 1 << 64
    seconds += nanoseconds // 1_000_000_000
    nanoseconds %= 1_000_000_000
    days, second = divmod(seconds, 86_400)
    # Proleptic Gregorian calendar, years counted from March (days since 0000-03-01).
    era, day = divmod(days + 719_468, 146_097)
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5 - 1
    month = month + 3 if month < 10 else month - 9
    year += 400 * era + (month <= 2)
    fraction = f".{nanoseconds:09}".rstrip("0").rstrip(".")
    clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    return f"{year:04}-{month:02}-{day:02}T{clock}{fraction}Z"


def _zone(wire: bytes) -> str:
    try:
        return read_name(wire, 0)[0]
    except ValueError as error:
        return f"parse failed: {error}: {wire.hex()}"


def _message_text(message: bytes) -> str:
    try:
        return message_to_text(message)
    except ValueError as error:
        return f"parse failed: {error}: {message.hex()}"


def _message_object(message: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"type": _enum(message["type"], _MESSAGE_TYPES)}
    for kind in ("query", "response"):
        seconds, nanoseconds = message.get(f"{kind}_time_sec"), message.get(f"{kind}_time_nsec")
        if seconds is not None and nanoseconds is not None:
            shown[f"{kind}_time"] = _time(seconds, nanoseconds)
    shown["socket_family"] = _enum(message.get("socket_family"), _FAMILIES)
    shown["socket_protocol"] = _enum(message.get("socket_protocol"), _PROTOCOLS)
    for key in ("query_address", "response_address"):
        if key in message:
            shown[key] = _address(message[key])
    for key in ("query_port", "response_port"):
        if port := message.get(key, 0) & 0xFFFFFFFF:
            shown[key] = port
    if "query_zone" in message:
        shown["query_zone"] = _zone(message["query_zone"])
    for key in ("query_message", "response_message"):
        if key in message:
            shown[key] = _message_text(message[key])
    return shown


def frame_to_json(frame: bytes) -> str | None:
    """Return a dnstap frame as one line of JSON, without the newline.

    Parameters
    ----------
    frame : bytes
        The payload of a data frame, whatever it holds: nothing is raised.

    Returns
    -------
    str or None
        None if the frame cannot be decoded or holds no Message.
    """
    try:
        dnstap = _decode(frame)
    except ValueError:
        return None
    if "message" not in dnstap:
        return None
    shown: dict[str, Any] = {"type": _enum(dnstap["type"], _DNSTAP_TYPES)}
    for key in ("identity", "version", "extra"):
        if dnstap.get(key):
            shown[key] = dnstap[key].decode("utf-8", "replace")
    shown["message"] = _message_object(dnstap["message"])
    line = json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&":  # as Go's encoder does
        line = line.replace(character, f"\\u{ord(character):04x}")
    return visible_json(line)


__all__ = ["frame_to_json"]
