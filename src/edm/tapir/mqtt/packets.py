"""Writes and reads PUBLISH packets (MQTT 5.0, 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_PUBLISH = 0x30


def publish_packets(topic: str, messages: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces of one PUBLISH packet of QoS 0 for each message."""
    name = topic.encode()
    # Topic, then the length of the properties (0).
    variable_header = len(name).to_bytes(2, "big") + name + b"\0"
    for message in messages:
        length = len(variable_header) + len(message)
        if 128 <= length < 16384:  # the usual length
            yield bytes((_PUBLISH, length & 0x7F | 0x80, length >> 7))
        else:
            yield bytes((_PUBLISH, *_integer(length)))
        yield variable_header
        yield message


def _integer(value: int) -> Iterator[int]:
    while value >= 128:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value


class PacketError(ValueError):
    """The bytes are not a complete PUBLISH packet."""


def parse_publish(packet: bytes) -> tuple[str, bytes]:
    """Return topic and payload of an MQTT 5 PUBLISH packet.

    Raises
    ------
    PacketError
    """
    if len(packet) < 2 or packet[0] & 0xF0 != _PUBLISH:
        raise PacketError("no PUBLISH packet")
    qos = packet[0] >> 1 & 3
    length, begin = _read_integer(packet, 1)
    if qos == 3 or begin + length != len(packet):
        raise PacketError("wrong length or flags")
    if begin + 2 > len(packet):
        raise PacketError("no topic")
    topic_end = begin + 2 + int.from_bytes(packet[begin : begin + 2], "big")
    try:
        topic = packet[begin + 2 : topic_end].decode()
    except UnicodeDecodeError:
        raise PacketError("topic is no UTF-8") from None
    if not topic or topic_end > len(packet) or any(c in topic for c in "+#\0"):
        raise PacketError("unusable topic")
    properties, begin = _read_integer(packet, topic_end + (2 if qos else 0))
    if begin + properties > len(packet):
        raise PacketError("properties are cut off")
    return topic, packet[begin + properties :]


def _read_integer(packet: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in (0, 7, 14, 21):
        if position >= len(packet):
            break
        octet = packet[position]
        position += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, position
    raise PacketError("bad variable byte integer")


__all__ = ["PacketError", "parse_publish", "publish_packets"]
