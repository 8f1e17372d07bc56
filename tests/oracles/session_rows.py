"""Session rows in plain Python: a small dnstap reader, and one dict per row from its fields."""

from __future__ import annotations

import ipaddress
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from edm.kernel import columns as c
from oracles.cryptopan import MAPPED

U63 = 1 << 63


@dataclass
class Fields:
    """The fields of a dnstap message that a session row is made from. None: absent."""

    message_type: int = 6
    identity: bytes | None = None
    socket_family: int | None = None
    socket_protocol: int | None = None
    query_address: bytes | None = None
    response_address: bytes | None = None
    query_port: int | None = None
    response_port: int | None = None
    response_time_sec: int | None = None
    response_time_nsec: int | None = None
    response_message: bytes | None = None


# --- reading captures --------------------------------------------------------------------------------------


def frames(path: Path) -> Iterator[bytes]:
    """Yield the data frames of a compressed Frame Streams capture."""
    data = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    at = 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        at += 4
        if length == 0:
            (length,) = struct.unpack_from(">I", data, at)
            at += 4
        else:
            yield data[at : at + length]
        at += length


class DecodeError(Exception):
    pass


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for k in range(10):
        if at + k >= len(data):
            break
        byte = data[at + k]
        if k == 9 and byte > 1:
            break
        value |= (byte & 0x7F) << (7 * k)
        if byte < 0x80:
            return value, at + k + 1
    raise DecodeError


def _records(data: bytes, at: int = 0, group: int = 0) -> Iterator[tuple[int, int, Any, int]]:
    """Yield (field number, wire type, value, end) up to the end of the data, or of the group."""
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if not 1 <= number < (1 << 31 if group else 1 << 29):
            raise DecodeError
        value: Any = None
        if wire_type == 0:
            value, at = _varint(data, at)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
            if at + size > len(data):
                raise DecodeError
            value, at = int.from_bytes(data[at : at + size], "little"), at + size
        elif wire_type == 2:
            size, at = _varint(data, at)
            if size > len(data) - at:
                raise DecodeError
            value, at = data[at : at + size], at + size
        elif wire_type == 3:
            for inner_number, inner_type, _, end in _records(data, at, number):
                at = end
                if inner_type == 4:
                    if inner_number != number:
                        raise DecodeError
                    break
            else:
                raise DecodeError
        elif wire_type == 4:
            if not group:
                raise DecodeError
        else:
            raise DecodeError
        yield number, wire_type, value, at
        if wire_type == 4:
            return


MESSAGE_FIELDS = {
    (1, 0): "message_type",
    (2, 0): "socket_family",
    (3, 0): "socket_protocol",
    (4, 2): "query_address",
    (5, 2): "response_address",
    (6, 0): "query_port",
    (7, 0): "response_port",
    (12, 0): "response_time_sec",
    (13, 5): "response_time_nsec",
    (14, 2): "response_message",
}


def decode(frame: bytes) -> Fields | None:
    """Return the fields of a frame; None if it does not decode or holds no message."""
    fields = Fields(message_type=-1)
    has_type = has_message = False
    try:
        for number, wire_type, value, _ in _records(frame):
            if (number, wire_type) == (1, 2):
                fields.identity = value
            elif (number, wire_type) == (15, 0):
                has_type = True
            elif (number, wire_type) == (14, 2):
                has_message = True
                for inner_number, inner_type, inner, _ in _records(value):
                    name = MESSAGE_FIELDS.get((inner_number, inner_type))
                    if name is not None:
                        keep = inner if inner_type == 2 or inner_number == 12 else inner & 0xFFFFFFFF
                        setattr(fields, name, keep)
    except (DecodeError, RecursionError):
        return None
    if not has_type or not has_message or fields.message_type == -1:
        return None
    return fields


def question_name(message: bytes) -> list[bytes]:
    """Return the labels of the first question name of a message that is known to parse."""
    labels = []
    at = 12
    while message[at]:
        if message[at] >= 0xC0:
            at = (message[at] & 0x3F) << 8 | message[at + 1]
            continue
        labels.append(message[at + 1 : at + 1 + message[at]])
        at += 1 + message[at]
    return labels


# --- rows --------------------------------------------------------------------------------------------------


def label_text(label: bytes) -> str:
    text = ""
    for byte in label:
        char = chr(byte)
        if char in "\\.\"'();@ ":
            text += "\\" + char
        elif 0x20 < byte < 0x7F:
            text += char
        else:
            text += f"\\{byte:03d}"
    return text


def _address(row: dict[str, Any], side: str, family: int | None, address: bytes | None) -> None:
    if address is None:
        return
    if family in (1, None) and len(address) == 4:
        row[f"{side}_ipv4"] = int.from_bytes(address, "big")
    if family == 2:
        if len(address) == 4:
            address = MAPPED + address
        if len(address) == 16:
            row[f"{side}_ipv6_network"] = int.from_bytes(address[:8], "big")
            row[f"{side}_ipv6_host"] = int.from_bytes(address[8:], "big")


def row(fields: Fields, labels: list[bytes], source: bytes | None, dest: bytes | None) -> dict[str, Any]:
    """Return the session row; ``source`` and ``dest`` are the pseudonymised addresses. Absent keys: NULL."""
    out: dict[str, Any] = {}
    _address(out, "source", fields.socket_family, source)
    _address(out, "dest", fields.socket_family, dest)
    for side, port in (("source", fields.query_port), ("dest", fields.response_port)):
        if port is not None:
            out[f"{side}_port"] = port % 65536 if port < 1 << 31 else 0
    if fields.socket_protocol is not None:
        out["dns_protocol"] = fields.socket_protocol % 256
    texts = [label_text(label) for label in reversed(labels)]
    for k, text in enumerate(texts[:9]):
        out[f"label{k}"] = text
    if len(texts) > 9:
        out["label9"] = ".".join(texts[9:])
    out["response_message"] = fields.response_message
    if fields.identity:
        out["server_id"] = fields.identity
    micros = 0
    if fields.response_time_sec is not None and fields.response_time_sec < U63:
        micros = fields.response_time_sec * 1_000_000 + (fields.response_time_nsec or 0) // 1000
    out["response_time"] = (micros + U63) % (1 << 64) - U63
    return out


# --- columns -----------------------------------------------------------------------------------------------

_NUMBERS = {
    "socket_family": (c.SOCKET_FAMILY, c.HAS_SOCKET_FAMILY),
    "socket_protocol": (c.SOCKET_PROTOCOL, c.HAS_SOCKET_PROTOCOL),
    "query_port": (c.QUERY_PORT, c.HAS_QUERY_PORT),
    "response_port": (c.RESPONSE_PORT, c.HAS_RESPONSE_PORT),
    "response_time_nsec": (c.RESPONSE_TIME_NSEC, c.HAS_RESPONSE_TIME_NSEC),
}
_BYTES = {
    "identity": (c.IDENTITY_OFF, c.HAS_IDENTITY),
    "query_address": (c.QUERY_ADDRESS_OFF, c.HAS_QUERY_ADDRESS),
    "response_address": (c.RESPONSE_ADDRESS_OFF, c.HAS_RESPONSE_ADDRESS),
    "response_message": (c.RESPONSE_MESSAGE_OFF, c.HAS_RESPONSE_MESSAGE),
}


def columns_of(
    fields: list[Fields], names: list[list[bytes]] | None = None, fate: int = c.PENDING
) -> tuple[c.U8Array, c.Columns]:
    """Return a buffer and the columns of a batch as the earlier stages leave them.

    Columns of absent fields hold rubbish where the stages promise nothing about them.
    """
    columns = c.Columns(max(len(fields), 1))
    columns.u32[c.QUERY_ADDRESS_OFF : c.RESPONSE_MESSAGE_LEN + 1] = 0
    columns.u32[c.SOURCE_LEN :] = 77
    columns.u64[c.SOURCE_HIGH :] = 0x7777777777777777
    columns.fate[: len(fields)] = fate
    buf = bytearray(b"\xee" * 3)
    for i, message in enumerate(fields):
        present = 0
        columns.u32[c.SOCKET_FAMILY, i] = 1
        columns.u32[c.MESSAGE_TYPE, i] = message.message_type
        for name, (number, bit) in _NUMBERS.items():
            value = getattr(message, name)
            if value is not None:
                columns.u32[number, i] = value
                present |= bit
        if message.response_time_sec is not None:
            columns.u64[c.RESPONSE_TIME_SEC, i] = message.response_time_sec
            present |= c.HAS_RESPONSE_TIME_SEC
        for name, (number, bit) in _BYTES.items():
            value = getattr(message, name)
            if value is not None:
                columns.u32[number, i] = len(buf)
                columns.u32[number + 1, i] = len(value)
                buf += value
                present |= bit
        columns.u32[c.PRESENT, i] = present
        if names is not None:
            wire = b"".join(bytes([len(label)]) + label for label in names[i]) + b"\0"
            columns.u32[c.QNAME_OFF, i] = len(buf)
            columns.u32[c.QNAME_LEN, i] = len(wire)
            buf += wire
    return np.frombuffer(bytes(buf), np.uint8), columns


CAPTURES = Path(__file__).resolve().parent.parent / "captures"


def pending_of_capture(name: str, limit: int | None = None) -> Iterator[Fields]:
    """Yield what reaches the pseudonymiser: responses of clients that are not ignored."""
    lines = (CAPTURES / "lists" / "ignored-clients").read_text().splitlines()
    ignored = [ipaddress.ip_network(line) for line in lines if line and line[0] != "#"]
    verdicts: dict[bytes | None, bool] = {}
    for frame in itertools.islice(frames(CAPTURES / name / "input.fstrm.zst"), limit):
        fields = decode(frame)
        if fields is None or fields.message_type in range(1, 14, 2):
            continue
        address = fields.query_address
        if address not in verdicts:
            verdicts[address] = (
                address is not None
                and len(address) in (4, 16)
                and not any(ipaddress.ip_address(address) in network for network in ignored)
            )
        if verdicts[address]:
            yield fields
