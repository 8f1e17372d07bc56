from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edm.errors import ProtocolError
from edm.stages.framestream.protocol import (
    ACCEPT,
    CONTENT_TYPE,
    FINISH,
    READY,
    START,
    STOP,
    ClientHandshake,
    Control,
    ServerHandshake,
    encode_control,
    parse_control,
    read_control,
)
from oracles.framestream import control

OURS = b"protobuf:dnstap.Dnstap"
OTHER = b"protobuf:other.Type"
ACCEPT_BYTES = bytes.fromhex("0000000000000022000000010000000100000016") + OURS
BARE_ACCEPT_BYTES = bytes.fromhex("000000000000000400000001")
DATA = b"\0\0\0\3abc"


def fields(*parts: tuple[int, bytes]) -> bytes:
    return b"".join(kind.to_bytes(4, "big") + len(v).to_bytes(4, "big") + v for kind, v in parts)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"\0\0\0\3", Control(STOP)),
        (b"\0\0\0\2" + fields((1, OURS)), Control(START, (OURS,))),
        (b"\0\0\0\4" + fields((1, OTHER), (1, OURS)), Control(READY, (OTHER, OURS))),
        (b"\0\0\0\3" + fields((1, b""), (1, b"x")), Control(STOP, (b"", b"x"))),
        (b"\xff\xff\xff\xff", Control(0xFFFFFFFF)),
        (b"\0\0\0\3" + fields((1, b"y" * 500)), Control(STOP, (b"y" * 500,))),
    ],
)
def test_control_frames_that_are_parsed(payload: bytes, expected: Control) -> None:
    assert parse_control(payload) == expected


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\3" + fields((1, b"y" * 501)),  # 513 bytes
        b"\0\0\0\3" + fields((1, b"")),  # empty type as the last field
        b"\0\0\0\3" + fields((1, b"x"), (1, b"")),
        b"\0\0\0\3" + fields((2, b"x")),
        b"\0\0\0\3" + fields((1, b"x")) + b"\0",
        b"\0\0\0\3" + fields((1, b"x")) + bytes(8),
        b"\0\0\0\3\0",
        b"\0\0\0\3" + b"\0\0\0\1\0\0\0\5xxxx",
        b"\0\0\0\3" + b"\0\0\0\1\xff\xff\xff\xffxxxx",
    ],
)
def test_control_frames_that_are_malformed(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="control frame"):
        parse_control(payload)


@given(st.integers(0, 2**32 - 1), st.lists(st.binary(min_size=1, max_size=60), max_size=7))
def test_what_is_encoded_is_parsed(kind: int, types: list[bytes]) -> None:
    encoded = encode_control(kind, types)
    assert encoded == control(kind, *types)
    assert read_control(encoded + DATA) == (Control(kind, tuple(types)), len(encoded))
    for cut in range(len(encoded)):
        assert read_control(encoded[:cut]) is None


def test_encoding_refuses_what_could_not_be_parsed() -> None:
    assert len(encode_control(READY, [b"x" * 500])) == 8 + 512
    with pytest.raises(ValueError, match="too many"):
        encode_control(READY, [b"x" * 501])


def test_bytes_on_the_wire() -> None:
    assert encode_control(FINISH).hex() == "000000000000000400000005"
    assert encode_control(ACCEPT, [CONTENT_TYPE]) == ACCEPT_BYTES


def feed(stream: bytes, size: int) -> tuple[ServerHandshake, bytes]:
    """Give a server ``stream`` in pieces of ``size`` bytes; return it and all it sent."""
    server = ServerHandshake()
    sent = b""
    for start in range(0, len(stream), size):
        server.receive(stream[start : start + size])
        sent += server.to_send()
    return server, sent


def shortly(value: object) -> str:
    """Name a test case by its reason only, not by the bytes fed in."""
    return value if isinstance(value, str) else "bytes"


SIZES = [1, 2, 7, 1000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("trailing", [b"", DATA, DATA + control(STOP), b"\0\0"])
@pytest.mark.parametrize(
    ("opening", "answer"),
    [
        ([control(READY, OURS), control(START, OURS)], ACCEPT_BYTES),
        ([control(READY, OTHER, OURS), control(START, OURS)], ACCEPT_BYTES),
        ([control(READY, OURS), control(START)], ACCEPT_BYTES),
        ([control(READY, OURS), control(START, OTHER)], ACCEPT_BYTES),
        ([control(READY), control(START)], BARE_ACCEPT_BYTES),
        ([control(READY), control(START, OURS)], BARE_ACCEPT_BYTES),  # a correct sender
        ([control(START, OURS)], b""),  # unidirectional
        ([control(START)], b""),
    ],
    ids=shortly,
)
def test_handshakes_that_succeed(opening: list[bytes], answer: bytes, trailing: bytes, size: int) -> None:
    server, sent = feed(b"".join(opening) + trailing, size)
    assert server.done
    assert sent == answer
    assert server.trailing == trailing
    assert server.bidirectional is bool(answer)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("stream", "answer", "reason"),
    [
        (control(READY, OTHER), b"", "READY with content type 'protobuf:other.Type'"),
        (control(START, OTHER), b"", "START with content type 'protobuf:other.Type'"),
        (control(READY, OURS + b"x"), b"", "content type"),
        (control(READY) + control(START, OTHER), BARE_ACCEPT_BYTES, "START with content type"),
        (control(READY, OURS) + control(READY, OURS), ACCEPT_BYTES, "READY where START was expected"),
        (control(READY, OURS) + control(ACCEPT, OURS), ACCEPT_BYTES, "ACCEPT where START was expected"),
        (control(READY, OURS) + control(STOP), ACCEPT_BYTES, "STOP where START was expected"),
        (control(READY, OURS) + DATA, ACCEPT_BYTES, "data where a control frame was expected"),
        (control(STOP), b"", "STOP where READY or START was expected"),
        (control(ACCEPT, OURS), b"", "ACCEPT where"),
        (control(FINISH), b"", "FINISH where"),
        (control(99), b"", "type 99 where"),
        (DATA, b"", "data where"),
        (b"GET / HTTP/1.1\r\n", b"", "data where"),
        (b"\0\0\0\0\0\0\2\1", b"", "513 bytes"),
        (b"\0\0\0\0\xff\xff\xff\xff", b"", "4294967295 bytes"),
        (b"\0\0\0\0\0\0\0\3abc", b"", "3 bytes"),
        (b"\0\0\0\0\0\0\0\5\0\0\0\4x", b"", "stray"),
    ],
    ids=shortly,
)
def test_handshakes_that_fail(stream: bytes, answer: bytes, reason: str, size: int) -> None:
    server = ServerHandshake()
    sent = b""
    with pytest.raises(ProtocolError, match=reason):  # noqa: PT012  (any of the pieces may be the one)
        for start in range(0, len(stream), size):
            server.receive(stream[start : start + size])
            sent += server.to_send()
    sent += server.to_send()
    assert sent == answer
    assert not server.done
    assert server.trailing == b""
    with pytest.raises(ProtocolError, match=reason):
        server.receive(control(START, OURS))


@given(st.lists(st.integers(1, 200), max_size=20))
def test_any_segmentation_gives_the_same(cuts: list[int]) -> None:
    stream = control(READY, OTHER, OURS) + control(START, OURS) + DATA * 30
    server = ServerHandshake()
    sent = b""
    rest = stream
    for cut in cuts:
        piece, rest = rest[:cut], rest[cut:]
        if piece:
            server.receive(piece)
            sent += server.to_send()
    if rest:
        server.receive(rest)
        sent += server.to_send()
    assert (sent, server.done, server.trailing) == (ACCEPT_BYTES, True, DATA * 30)


@given(st.binary(max_size=700))
def test_arbitrary_bytes_only_ever_raise_protocol_errors(stream: bytes) -> None:
    for prefix in (b"", bytes(4), bytes(6), control(READY)):
        server = ServerHandshake()
        try:
            for byte in prefix + stream:
                server.receive(bytes([byte]))
                # A hostile peer cannot make it keep more than one control frame.
                assert server.done or len(server._received) < 8 + 512
        except ProtocolError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_what_a_peer_sent_is_shown_short_and_printable() -> None:
    with pytest.raises(ProtocolError) as caught:
        ServerHandshake().receive(control(START, b"\n\x1b[2J\xff" + b"x" * 400))
    assert len(str(caught.value)) < 120
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("opening", [b"", b"\0\0", control(READY, OURS)])
def test_end_of_stream_in_the_handshake(opening: bytes) -> None:
    server = ServerHandshake()
    if opening:
        server.receive(opening)
    with pytest.raises(ProtocolError, match="closed before"):
        server.receive(b"")


def test_end_of_stream_after_the_handshake_is_no_error() -> None:
    server = ServerHandshake()
    server.receive(control(START, OURS))
    server.receive(b"")
    assert server.done


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_client_and_server_together(bidirectional: bool, size: int) -> None:
    client = ClientHandshake(bidirectional=bidirectional)
    server = ServerHandshake()

    def carry(data: bytes, to: ClientHandshake | ServerHandshake) -> None:
        for start in range(0, len(data), size):
            to.receive(data[start : start + size])

    for _ in range(2):
        carry(client.to_send(), server)
        carry(server.to_send(), client)
    assert client.done
    assert server.done
    assert server.bidirectional is bidirectional
    client.stop()
    assert client.to_send() == encode_control(STOP)
    assert client.finished is not bidirectional
    if bidirectional:
        carry(encode_control(FINISH), client)
    assert client.finished
    assert client.to_send() == b""
    with pytest.raises(ValueError, match="data phase"):
        client.stop()


def test_client_takes_an_accept_without_content_type() -> None:
    client = ClientHandshake()
    assert client.to_send() == control(READY, OURS)
    client.receive(BARE_ACCEPT_BYTES)
    assert client.done
    assert client.to_send() == control(START, OURS)


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (control(ACCEPT, OTHER), "ACCEPT with content type"),
        (control(FINISH), "FINISH before ACCEPT came"),
        (control(READY, OURS), "READY before ACCEPT came"),
        (ACCEPT_BYTES + control(FINISH), "FINISH before STOP was sent"),
        (b"", "closed before ACCEPT came"),
        (DATA, "data where"),
    ],
)
def test_client_rejects(stream: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        ClientHandshake().receive(stream)


def test_client_cannot_stop_before_it_started() -> None:
    with pytest.raises(ValueError, match="data phase"):
        ClientHandshake().stop()
