from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import SupportsIndex

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.kernel.jit import JIT_DISABLED
from edm.stages.dnstap.json_line import frame_to_json
from edm.stages.dnstap.message_text import message_to_text, read_name
from oracles import dnstap_frame, dnstap_pb2
from oracles.dns_generator import QUESTION, header, record
from oracles.framestream import capture_frames
from support.costly_messages import CARRIER, MESSAGES, NOT_VALID, chain, ordinary
from support.count_steps import lines


def frame(message: dict[str, object] | None = None, **fields: object) -> bytes:
    dnstap = dnstap_pb2.dnstap_class()(type=1, **fields)
    if message is not None:
        for name, value in {"type": 6, **message}.items():
            setattr(dnstap.message, name, value)
    data: bytes = dnstap.SerializeToString()
    return data


def shown(data: bytes) -> dict[str, object]:
    line = frame_to_json(data)
    assert line is not None
    assert "\n" not in line
    result: dict[str, object] = json.loads(line)
    return result


def test_a_whole_frame_to_the_letter() -> None:
    answer = dns.message.from_text("id 4711\nopcode QUERY\nflags QR RD RA\n;QUESTION\na.example. IN A\n")
    data = frame(
        {
            "query_time_sec": 1_700_000_000,
            "query_time_nsec": 0,
            "response_time_sec": 1_700_000_000,
            "response_time_nsec": 120_034_000,
            "socket_family": 1,
            "socket_protocol": 1,
            "query_address": bytes([192, 0, 2, 1]),
            "response_address": bytes([192, 0, 2, 53]),
            "query_port": 4242,
            "response_port": 53,
            "query_zone": b"\x07example\0",
            "response_message": answer.to_wire(),
        },
        identity=b"r1",
        version=b"v<1>",
    )
    assert frame_to_json(data) == (
        '{"type":"MESSAGE","identity":"r1","version":"v\\u003c1\\u003e","message":{"type":"CLIENT_RESPONSE",'
        '"query_time":"2023-11-14T22:13:20Z","response_time":"2023-11-14T22:13:20.120034Z",'
        '"socket_family":"INET","socket_protocol":"UDP","query_address":"192.0.2.1",'
        '"response_address":"192.0.2.53","query_port":4242,"response_port":53,"query_zone":"example.",'
        '"response_message":";; opcode: QUERY, status: NOERROR, id: 4711\\n'
        ";; flags: qr rd ra; QUERY: 1, ANSWER: 0, AUTHORITY: 0, ADDITIONAL: 0\\n\\n"
        ';; QUESTION SECTION:\\n;a.example.\\tIN\\t A\\n"}}'
    )


def test_absent_fields() -> None:
    assert shown(frame({})) == {
        "type": "MESSAGE",
        "message": {"type": "CLIENT_RESPONSE", "socket_family": "<nil>", "socket_protocol": "<nil>"},
    }


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("type", 13, "UPDATE_QUERY"),
        ("type", 0, "0"),
        ("type", 15, "15"),
        ("type", -1, "-1"),
        ("socket_family", 2, "INET6"),
        ("socket_family", 7, "7"),
        ("socket_protocol", 4, "DOH"),
        ("socket_protocol", 5, "5"),
        ("query_address", bytes(16), "::"),
        ("query_address", bytes(10) + b"\xff\xff\xc0\0\2\1", "192.0.2.1"),
        ("query_address", b"\x20\x01\x0d\xb8" + bytes(11) + b"\1", "2001:db8::1"),
        ("query_address", b"", ""),
        ("query_address", b"\1\2\3", "?010203"),
        ("query_zone", b"\0", "."),
        ("query_zone", b"\3a", "parse failed: label is cut off: 0361"),
        ("response_message", b"abc", "parse failed: message is shorter than its header: 616263"),
        ("query_port", 65536, 65536),
    ],
)
def test_single_values(field: str, value: object, text: object) -> None:
    message = shown(frame({field: value}))["message"]
    assert isinstance(message, dict)
    assert message[field] == text


def test_times_need_both_parts() -> None:
    assert "query_time" not in str(shown(frame({"query_time_sec": 5})))
    assert "response_time" not in str(shown(frame({"response_time_nsec": 5})))


@given(st.integers(0, 253_402_300_799), st.integers(0, 2**32 - 1))
def test_times_against_datetime(seconds: int, nanoseconds: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC)
    whole = seconds + nanoseconds // 10**9
    if whole > 253_402_300_799:
        whole = 0
        seconds = 0
        nanoseconds %= 10**9
    moment += timedelta(seconds=whole)
    text = shown(frame({"query_time_sec": seconds, "query_time_nsec": nanoseconds}))["message"]["query_time"]  # type: ignore[index]
    date, _, fraction = text[:-1].partition(".")
    assert date == moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    assert int(fraction.ljust(9, "0")) == nanoseconds % 10**9
    assert not fraction.endswith("0")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2**64 - 1, "1969-12-31T23:59:59Z"),
        (253_402_300_800, "10000-01-01T00:00:00Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
    ],
)
def test_times_out_of_the_ordinary(seconds: int, text: str) -> None:
    message = shown(frame({"query_time_sec": seconds, "query_time_nsec": 0}))["message"]
    assert isinstance(message, dict)
    assert message["query_time"] == text


@pytest.mark.parametrize("data", [b"", b"\x78", b"\x78\x01", b"\x72\x00\x78\x01", b"\x72\x02\x08\x06"])
def test_none_without_a_message(data: bytes) -> None:
    assert frame_to_json(data) is None


@pytest.mark.parametrize("capture", ["unbound", "dnsdist", "mutated"])
def test_captured_frames_have_a_line_whenever_they_decode(capture: str) -> None:
    for data in capture_frames(capture)[:: 1000 if JIT_DISABLED else 60]:
        found = dnstap_frame.decode(data)
        line = frame_to_json(data)
        assert (line is None) is (found is None or "message" not in found)
        if line is not None:
            assert line.splitlines() == [line]
            assert capture == "mutated" or "parse failed" not in line
            json.loads(line)


@settings(deadline=None, max_examples=30 if JIT_DISABLED else 200)
@given(st.binary(max_size=80), st.binary(max_size=200), st.integers(0, 2**32))
def test_hostile_frames_never_raise(head: bytes, message: bytes, seed: int) -> None:
    frame_to_json(head)
    data = bytearray(
        frame({"response_message": bytes(4) + b"\0\1\0\1\0\1\0\1" + message, "query_zone": message})
    )
    assert frame_to_json(bytes(data)) is not None
    choose = random.Random(seed)
    for _ in range(5):
        data[choose.randrange(len(data))] = choose.randrange(256)
        frame_to_json(bytes(data))


def test_deep_groups_do_not_exhaust_the_stack() -> None:
    tail = frame({})
    assert frame_to_json(b"\x0b" * 10_001 + b"\x0c" * 10_001 + tail) is not None
    assert frame_to_json(b"\x0b" * 10_002 + b"\x0c" * 10_002 + tail) is None


def test_message_text_shows_records_as_dnspython_does() -> None:
    message = dns.message.from_text(
        "id 1\nopcode QUERY\nrcode NXDOMAIN\nflags QR AA TC RD RA AD CD\n"
        ";QUESTION\nexample.org. IN ANY\n;ANSWER\n"
        "example.org. 300 IN A 192.0.2.1\nexample.org. 300 IN AAAA 2001:db8::1\n"
        "example.org. 300 IN NS ns.example.org.\nexample.org. 300 IN MX 10 mail.example.org.\n"
        'example.org. 300 IN TXT "a \\"b\\"" "c"\nexample.org. 300 IN SRV 1 2 3 srv.example.org.\n'
        "a.example.org. 300 IN CNAME b.example.org.\n"
        ";AUTHORITY\nexample.org. 60 IN SOA ns.example.org. root.example.org. 1 2 3 4 5\n"
    )
    message.use_edns(0, ednsflags=dns.flags.DO, payload=1232)
    text = message_to_text(message.to_wire())
    assert "status: NXDOMAIN, id: 1\n;; flags: qr aa tc rd ra ad cd; QUERY: 1, ANSWER: 7, " in text
    assert "; EDNS: version 0; flags: do; udp: 1232\n" in text
    for section in (message.answer, message.authority):
        for rrset in section:
            for rdata in rrset:
                kind = dns.rdatatype.to_text(rrset.rdtype)
                assert f"\n{rrset.name}\t{rrset.ttl}\tIN\t{kind}\t{rdata.to_text()}\n" in text


def test_message_text_of_unknown_and_broken_records() -> None:
    head = bytes.fromhex("000084000000000200000000")
    unknown = b"\0" + bytes.fromhex("fde9 0001 00000001 0002 abcd")
    broken = b"\0" + bytes.fromhex("0001 0004 00000001 0003 010203")
    text = message_to_text(head + unknown + broken)
    assert ".\t1\tIN\tTYPE65001\t\\# 2 abcd\n" in text
    assert ".\t1\tHS\tA\t\\# 3 010203\n" in text


def test_extended_rcode() -> None:
    message = dns.message.make_query("example.org", "A", use_edns=0)
    message.set_rcode(dns.rcode.BADVERS)
    assert "status: BADVERS" in message_to_text(message.to_wire())


@pytest.mark.parametrize("wire", ["c000", "c001", "0161c000", "40", "8000", "01", "", "c0", "3f61"])
def test_names_that_are_refused(wire: str) -> None:
    with pytest.raises(ValueError):
        read_name(bytes.fromhex(wire), 0)


def test_name_length_limit() -> None:
    assert read_name((b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"b" * 61 + b"\0", 0)[1] == 255
    with pytest.raises(ValueError, match="longer"):
        read_name((b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"b" * 62 + b"\0", 0)


def frame_of(message: bytes) -> bytes:
    return frame({"response_message": message})


def steps_per_byte(message: bytes) -> float:
    whole = frame_of(message)
    # The kernels beneath are compiled or are not: only what is always Python counts.
    return lines(lambda: frame_to_json(whole), "edm/stages/dnstap/") / len(message)


@pytest.mark.parametrize("name", [*MESSAGES, *NOT_VALID])
def test_costly_messages_take_no_more_steps_than_ordinary_ones(name: str) -> None:
    make = {**MESSAGES, **NOT_VALID}[name]
    small, large, usual = (steps_per_byte(made) for made in (make(6000), make(24000), ordinary(24000)))
    assert large < 4 * usual
    assert large < 1.5 * small


class Counting(bytes):
    """Bytes that count how many are copied out of them."""

    copied = 0

    def __getitem__(self, key: SupportsIndex | slice) -> int | bytes:  # type: ignore[override]
        part = super().__getitem__(key)
        if isinstance(part, bytes):
            Counting.copied += len(part)
        return part


@pytest.mark.parametrize("kind", [2, 6, 15, 33])
def test_records_do_not_copy_the_whole_message(kind: int) -> None:
    data = {
        2: b"\xc0\x0c",
        6: b"\xc0\x0c\xc0\x0c" + bytes(20),
        15: b"\0\1\xc0\x0c",
        33: bytes(6) + b"\xc0\x0c",
    }
    message = Counting(header(1, 3000) + QUESTION + record(kind, data[kind]) * 3000)
    Counting.copied = 0
    assert "www.example.com." in message_to_text(message)
    assert Counting.copied < 3 * len(message)


def test_a_text_that_would_be_far_longer_than_the_message() -> None:
    (line,) = [json.loads(frame_to_json(frame_of(MESSAGES["own labels"](20000))) or "")]
    text = line["message"]["response_message"]
    assert text.startswith("parse failed: text would be far longer than the message: 1234")
    assert len(text) < 3 * 20000


def test_pointers_of_a_name_are_limited_as_elsewhere() -> None:
    for links, good in ((125, True), (126, False)):
        body, places = chain(12, links)
        # Whichever is asked for first, the others are found to be what they are.
        for order in (places, places[::-1]):
            count = len(body) // CARRIER + len(places)
            message = header(count) + body
            message += b"".join((0xC000 | place).to_bytes(2, "big") + b"\0\1\0\1" for place in order)
            if good:
                assert message_to_text(message).count("b.c.") == len(places)
            else:
                with pytest.raises(ValueError, match=r"too many compression pointers|longer than 255"):
                    message_to_text(message)
