from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers

from edm.tapir.mqtt.packets import PacketError, parse_publish, publish_packets

TOPIC = "events/up/site/new_qname"


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.lists(st.binary(max_size=300)),
)
def test_packets_read_back(topic: str, messages: list[bytes]) -> None:
    stream = io.BytesIO(b"".join(publish_packets(topic, messages)))
    for message in messages:
        assert read_publish(stream) == (topic, message)
    assert stream.read() == b""


@pytest.mark.parametrize("length", [0, 120, 127, 128, 16_370, 16_383, 16_384, 2_097_151, 2_097_152])
def test_packets_of_all_lengths(length: int) -> None:
    stream = io.BytesIO(b"".join(publish_packets("topic", [b"x" * length])))
    assert read_publish(stream) == ("topic", b"x" * length)


def read_publish(stream: io.BytesIO) -> tuple[str, bytes]:
    """Read a packet with the library's own reader of variable byte integers."""
    assert stream.read(1) == b"\x30"
    rest = stream.getvalue()[stream.tell() :]
    length, used = VariableByteIntegers.decode(rest)
    stream.seek(used, io.SEEK_CUR)
    body = stream.read(length)
    assert len(body) == length
    end = 2 + int.from_bytes(body[:2], "big")
    assert body[end] == 0
    return body[2:end].decode(), body[end + 1 :]


def variable_integer(value: int) -> bytes:
    out = bytearray()
    while True:
        value, octet = divmod(value, 128)
        out.append(octet | (0x80 if value else 0))
        if not value:
            return bytes(out)


def publish(topic: str, payload: bytes, qos: int = 0, properties: bytes = b"\0") -> bytes:
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + (b"\0\7" if qos else b"") + properties + payload
    return bytes([0x30 | qos << 1]) + variable_integer(len(body)) + body


@given(st.text(st.characters(exclude_characters="+#\0", exclude_categories=["Cs"]), min_size=1), st.binary())
def test_packets_are_read(topic: str, payload: bytes) -> None:
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "application/jose+json"
    for qos in (0, 1):
        assert parse_publish(publish(topic, payload, qos)) == (topic, payload)
        assert parse_publish(publish(topic, payload, qos, properties.pack())) == (topic, payload)


def test_long_payloads() -> None:
    for length in (100, 127, 128, 16_383, 16_384, 300_000):
        assert parse_publish(publish(TOPIC, b"x" * length))[1] == b"x" * length


@given(st.integers(0, 200))
def test_cut_off_packets(length: int) -> None:
    packet = publish(TOPIC, b"payload")
    with pytest.raises(PacketError):
        parse_publish(packet[: min(length, len(packet) - 1)])


@given(st.binary(max_size=50))
def test_any_bytes(data: bytes) -> None:
    for packet in (data, bytes([0x30, len(data)]) + data):
        try:
            topic, payload = parse_publish(packet)
        except PacketError:
            continue
        assert topic
        assert packet.endswith(payload)


@pytest.mark.parametrize(
    "packet", [b"", b"\x30", b"\x30\x80\x80\x80\x80\x01", b"\x36\x05\0\1a\0\0", b"\x40\x02\0\1"]
)
def test_other_packets(packet: bytes) -> None:
    with pytest.raises(PacketError):
        parse_publish(packet)
