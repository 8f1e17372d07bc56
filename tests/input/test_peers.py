"""Hostile and broken senders, each with a listener of its own: what happens to them and to other senders."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edm.captures.replay import Sender
from edm.input import connection as connection_module
from edm.input.blocks import Intake
from edm.input.connection import Connection, End, Limits
from edm.input.tls import tls_context
from edm.stages.framestream.protocol import CONTENT_TYPE, FINISH, START, STOP, encode_control
from support.hostile import ODD_CONTROL, reset
from support.intake import LIMITS, MAX_FRAME, READY_FRAME, Site, frame
from support.pki import Authority
from support.processes import wait_until

FINISH_FRAME = encode_control(FINISH)
STOP_FRAME = encode_control(STOP)
START_FRAME = encode_control(START, (CONTENT_TYPE,))


def dribble(sock: socket.socket, data: bytes, site: Site, ends: int = 1) -> None:
    """Send byte by byte until the receiver has had enough."""
    for byte in data:
        if len(site.ends) >= ends:
            return
        try:
            sock.sendall(bytes([byte]))
        except OSError:
            return
        # Not a wait for something to happen: slowness is what is being tested.
        time.sleep(0.02)


# Handshake


def test_silence_in_the_handshake(tmp_path: Path) -> None:
    with Site(tmp_path, handshake_timeout=0.05) as site:
        quiet = site.connect()
        half = site.connect()
        half.sendall(READY_FRAME[:9])
        begun = site.connect()
        begun.sendall(READY_FRAME)
        reason = site.wait_for_end("handshake_timeout", 3)
        assert reason == "silent for 0.05 s in the handshake (input-handshake-timeout)"
        assert quiet.recv(1) == b""
        site.serves(b"other")


def test_a_dribbled_handshake_has_a_deadline(tmp_path: Path) -> None:
    with Site(tmp_path, handshake_timeout=5.0, handshake_deadline=0.2) as site:
        dribble(site.connect(), READY_FRAME, site)
        reason = site.wait_for_end("handshake_timeout")
        assert reason == "no handshake within 0.2 s (input-handshake-deadline)"
        site.serves(b"other")


def test_a_slow_handshake_within_the_deadline_is_a_handshake(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        sock = site.connect()
        for piece in (READY_FRAME[:3], READY_FRAME[3:20], READY_FRAME[20:], START_FRAME[:1]):
            sock.sendall(piece)
        assert sock.recv(100)
        for byte in START_FRAME[1:] + frame(b"slow"):
            sock.sendall(bytes([byte]))
        site.wait_for_frames(b"slow")
        assert site.ends == []


def test_garbage_in_the_handshake_is_not_waited_for(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(8), bytes(4) + b"\xff" * 4, bytes(4) + b"\0\0\2\1"):
            sock = site.connect()
            sock.sendall(garbage)
            assert sock.recv(1) == b""
        site.wait_for_end("handshake_error", 4)
        site.serves(b"other")


def test_the_system_finds_that_a_host_has_vanished(tmp_path: Path) -> None:
    ends: list[object] = []
    ours, theirs = socket.socketpair()
    with ours, theirs, Site(tmp_path) as site:
        connection = Connection(
            ours,
            site.intake,
            Limits(**LIMITS),
            lambda _, end: ends.append(end),  # type: ignore[arg-type]
        )

        def vanish(_source: object) -> None:
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

        connection._data_phase = vanish  # type: ignore[method-assign]
        connection.start()
        Sender(theirs)
        connection.thread.join(20)
    assert ends == [("error", "Connection timed out")]


# Places


def test_who_does_not_get_on_with_the_handshake_gives_way(tmp_path: Path) -> None:
    with Site(tmp_path, most=4) as site:
        good = [site.sender() for _ in range(2)]
        for sock in good:
            sock.sendall(frame(b"x"))
        site.wait_for_frames(b"x", b"x")  # so both are past the handshake
        stalled = [site.connect() for _ in range(2)]
        wait_until(lambda: site.listener.connections == 4, "all places are taken")
        late = site.sender()
        assert stalled[0].recv(1) == b""  # the one that had stalled for longer
        assert site.results() == {"displaced": 1}
        for number, sock in enumerate((*good, late)):
            sock.sendall(frame(b"%d" % number))
        wait_until(lambda: sorted(site.frames[2:]) == [b"0", b"1", b"2"], "the others' frames")
        assert site.refusals == []
        assert site.listener.connections == 4


def test_nobody_gives_way_who_is_past_the_handshake(tmp_path: Path) -> None:
    with Site(tmp_path, most=3) as site:
        good = [site.sender() for _ in range(3)]
        for sock in good:
            sock.sendall(frame(b"x"))
        wait_until(lambda: len(site.frames) == 3, "all are past the handshake")
        for _ in range(5):
            assert site.connect().recv(1) == b""
        wait_until(lambda: len(site.refusals) == 5, "five were refused")
        assert set(site.refusals) == {"more than 3 connections (input-max-connections)"}
        good.pop().close()
        site.wait_for_end("closed")
        site.serves(b"other")
        assert site.results() == {"closed": 1}


def test_more_stalled_connections_than_places_keep_nobody_out(tmp_path: Path) -> None:
    with Site(tmp_path, most=10) as site:
        for _ in range(50):
            site.connect()
        site.serves(b"other")
        wait_until(lambda: site.results()["displaced"] == 41, lambda: str(site.results()))
        assert site.listener.connections == 10
        assert site.refusals == []


def test_accepting_goes_on_after_the_system_ran_out_of_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)
    failures = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED]
    real = socket.socket.accept

    def accept(sock: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            code = failures.pop()
            raise OSError(code, "out of it")
        return real(sock)

    monkeypatch.setattr(socket.socket, "accept", accept)
    with site:
        site.serves(b"frame")
    assert site.refusals == ["out of it"] * 4
    assert not site.failure


# Data phase


def test_idle_connections_are_kept_unless_there_is_a_timeout(tmp_path: Path) -> None:
    with Site(tmp_path, idle_timeout=0.1) as site:
        idle, half = site.sender(), site.sender()
        half.sendall(frame(b"whole") + b"\0\0\0\x09half")
        assert site.wait_for_end("idle", 2) == "nothing came for 0.1 s (input-idle-timeout)"
        assert idle.recv(1) == b""
        site.wait_for_frames(b"whole")
        site.serves(b"other")


def test_half_a_frame_holds_no_block(tmp_path: Path) -> None:
    with Site(tmp_path, blocks=2) as site:
        for size in (3, 7, 20000, 60000):
            site.sender().sendall(frame(b"x") + frame(bytes(MAX_FRAME))[:size])
        wait_until(lambda: len(site.frames) == 4, "the whole frames")
        assert site.intake.drain(20)
        for block in [site.intake.acquire(), site.intake.acquire()]:  # would wait for ever if one were held
            site.intake.submit(block)


def test_a_dribbled_stream_comes_out_whole(tmp_path: Path) -> None:
    wanted = [b"one", b"two" * 30, b"3"]
    with Site(tmp_path) as site:
        sock = site.sender()
        for byte in b"".join(map(frame, wanted)):
            sock.sendall(bytes([byte]))
        site.wait_for_frames(*wanted)
        assert site.ends == []


def test_frames_before_a_protocol_error_are_worked_on_at_once(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.sender().sendall(frame(b"before") + bytes(4) + b"\xff\xff\xff\xff" + frame(b"behind"))
        site.wait_for_end("error")
        site.wait_for_frames(b"before")  # without waiting for somebody else's frames


def test_endless_control_frames_end_the_connection(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.sender().sendall(frame(b"a") + ODD_CONTROL * 1024 + frame(b"b") + ODD_CONTROL + frame(b"c"))
        assert site.wait_for_end("error") == "more than 1024 control frames in the data phase"
        site.wait_for_frames(b"a", b"b")


@pytest.mark.parametrize("half", [b"\0\0\0\x09half", b"\0\0", b"\0\0\xff\xff" + b"y" * 30000])
def test_a_reset_inside_a_frame(half: bytes, tmp_path: Path) -> None:
    with Site(tmp_path, tcp=True) as site:
        other = site.sender()
        sock = site.sender()
        sock.sendall(frame(b"x") + half)
        site.wait_for_frames(b"x")
        reset(sock)
        assert site.wait_for_end("error") == "Connection reset by peer"
        other.sendall(frame(b"other"))
        site.wait_for_frames(b"x", b"other")


def test_the_end_inside_a_frame_is_an_error_and_at_its_end_is_none(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        for cut in (
            frame(b"a")[:2],
            frame(b"a") + frame(bytes(30000))[:20000],
            (99999).to_bytes(4, "big") + b"o",
        ):
            sock = site.sender()
            sock.sendall(cut)
            sock.close()
        assert site.wait_for_end("error", 3) == "the stream ended inside a frame"
        sock = site.sender()
        sock.sendall(frame(b"b"))
        sock.close()
        site.wait_for_end("closed")


def test_a_sender_that_does_not_wait_for_finish(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        sock = site.sender()
        sock.sendall(frame(b"last") + STOP_FRAME + frame(b"behind") * 1000)
        sock.close()
        site.wait_for_end("closed")
        site.wait_for_frames(b"last")


def test_many_talkative_connections_are_asked_less_often(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        pauses = []
        for crowd in (1, 8, 16, 1000, 60000):
            sock, _peer = socket.socketpair()
            with sock, _peer:
                connection = Connection(
                    sock,
                    site.intake,
                    Limits(**{**LIMITS, "linger": 0.03}),
                    lambda *_: None,
                    crowd=lambda n=crowd: n,  # type: ignore[arg-type,misc]
                )
                pauses.append(connection._longest_pause())
    assert pauses == [0.03, 0.03, 0.06, 0.25, 0.25]


# Stopping


def test_a_stop_waits_for_no_hostile_sender(tmp_path: Path) -> None:
    with Site(tmp_path, tcp=True) as site:
        stalled = site.connect()
        stalled.sendall(READY_FRAME[:5])
        half = site.sender()
        half.sendall(frame(b"half")[:6])
        flooding = site.sender()
        stop = threading.Event()

        def flood() -> None:
            piece = frame(b"flood") * 5000
            while not stop.is_set():
                try:
                    flooding.sendall(piece)
                except OSError:
                    return

        thread = threading.Thread(target=flood)
        thread.start()
        wait_until(lambda: len(site.frames) > 10000, "the flood")
        began = time.monotonic()
        site.listener.close(5.0)
        # Far below the timeouts of the handshake; the flood would go on for ever.
        assert time.monotonic() - began < 4
        wait_until(lambda: len(site.ends) == 3, lambda: str(site.ends))
        stop.set()
        thread.join(20)
    assert site.results() == {"closed": 3}


def test_a_stop_reads_what_had_arrived(tmp_path: Path) -> None:
    for tcp in (False, True):
        with Site(tmp_path, tcp=tcp) as site:
            # Asleep between two receives of a light sender, say: what has arrived meanwhile still counts.
            socks = [site.sender() for _ in range(20)]
            for sock in socks:
                sock.sendall(frame(b"first"))
            for sock in socks:
                sock.sendall(frame(b"second") * 100)
            site.listener.close(5.0)
            assert site.intake.drain(20)
            assert len(site.frames) == 20 * 101
        assert site.results() == {"closed": 20}


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def secure(authority: Authority, tmp_path: Path) -> Iterator[Site]:
    pair = authority.server()
    context = tls_context(str(pair.cert), str(pair.key), str(authority.ca))
    with Site(tmp_path, tls=context, handshake_timeout=0.5, handshake_deadline=0.8) as site:
        yield site


def tls(site: Site, authority: Authority, *, certificate: bool = True) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(authority.ca))
    if certificate:
        pair = authority.client()
        context.load_cert_chain(pair.cert, pair.key)
    return context.wrap_socket(site.connect(), server_hostname="localhost")


def serves_tls(site: Site, authority: Authority) -> None:
    with tls(site, authority) as sock:
        site.sender(sock)
        sock.sendall(frame(b"served"))
        wait_until(lambda: b"served" in site.frames, "the frame of an ordinary sender", 20)


def test_no_tls_at_all(secure: Site, authority: Authority) -> None:
    for garbage in (READY_FRAME, b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000):
        secure.connect().sendall(garbage)
    secure.wait_for_end("handshake_error", 3)
    assert all(str(end.reason).startswith("TLS: ") for end in secure.ends)
    serves_tls(secure, authority)


def test_no_client_certificate(secure: Site, authority: Authority) -> None:
    with tls(secure, authority, certificate=False) as sock, pytest.raises(ssl.SSLError):
        sock.recv(1)
    assert secure.wait_for_end("handshake_error") == "TLS: PEER_DID_NOT_RETURN_A_CERTIFICATE"
    serves_tls(secure, authority)


def test_a_client_certificate_of_somebody_else(secure: Site, authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "other").client()
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.load_cert_chain(stranger.cert, stranger.key)
    with (
        context.wrap_socket(secure.connect(), server_hostname="localhost") as sock,
        pytest.raises(ssl.SSLError),
    ):
        sock.recv(1)
    reason = secure.wait_for_end("handshake_error")
    assert reason is not None
    assert "CERTIFICATE_VERIFY_FAILED (" in reason


def test_half_a_tls_handshake(secure: Site, authority: Authority) -> None:
    secure.connect()
    secure.connect().sendall(b"\x16\x03\x01\x02\x00\x01\x00")
    dribble(secure.connect(), b"\x16\x03\x01\x3f\xff\x01" + bytes(100), secure, ends=3)
    secure.wait_for_end("handshake_timeout", 3)
    silent = tls(secure, authority)  # TLS, but no Frame Streams
    secure.wait_for_end("handshake_timeout", 4)
    silent.close()
    serves_tls(secure, authority)


def test_tls_that_ends_without_saying_so(secure: Site, authority: Authority) -> None:
    whole, half = tls(secure, authority), tls(secure, authority)
    for sock, data in ((whole, frame(b"whole")), (half, frame(b"half")[:5])):
        secure.sender(sock)
        sock.sendall(data)
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
        sock.close()
    secure.wait_for_end("closed")
    assert secure.wait_for_end("error") == "the stream ended inside a frame"
    secure.wait_for_frames(b"whole")


def test_tls_stop_without_a_goodbye_is_not_waited_for(secure: Site, authority: Authority) -> None:
    with tls(secure, authority) as sock:
        secure.sender(sock)
        sock.sendall(frame(b"last") + STOP_FRAME)
        assert sock.recv(100) == FINISH_FRAME
        secure.wait_for_end("closed")  # although the sender neither answers nor closes
        secure.wait_for_frames(b"last")


def test_tls_records_of_one_byte(secure: Site, authority: Authority) -> None:
    wanted = [b"%d" % i for i in range(200)]
    with tls(secure, authority) as sock:
        secure.sender(sock)
        for byte in b"".join(map(frame, wanted)):
            sock.sendall(bytes([byte]))
        secure.wait_for_frames(*wanted)


def test_broken_tls_records_in_the_data_phase(secure: Site, authority: Authority) -> None:
    sock = tls(secure, authority)
    secure.sender(sock)
    sock.sendall(frame(b"before"))
    secure.wait_for_frames(b"before")
    socket.socket.send(sock, b"\x17\x03\x03\x00\x20" + bytes(32))
    reason = secure.wait_for_end("error")
    sock.close()
    # OpenSSL's own words, which differ by its version.
    assert reason in ("TLS: DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "TLS: RECORD_LAYER_FAILURE")
    serves_tls(secure, authority)


def test_a_reset_between_frames_of_a_tls_sender(authority: Authority, tmp_path: Path) -> None:
    """It is what most senders do instead of a close_notify, whatever Python and OpenSSL make of it."""
    pair = authority.server()
    context = tls_context(str(pair.cert), str(pair.key), str(authority.ca))
    with Site(tmp_path, tls=context, tcp=True) as site:
        sock = site.sender(tls(site, authority))
        names = [b"frame %d" % i for i in range(50)]
        for name in names:
            sock.sendall(frame(name))
        # Before the reset: it takes along what the sender's system has not sent yet.
        site.wait_for_frames(*names)
        reset(sock)
        assert site.wait_for_end("closed") is None
        assert site.results() == {"closed": 1}


def test_a_reset_inside_a_frame_of_a_tls_sender(authority: Authority, tmp_path: Path) -> None:
    pair = authority.server()
    context = tls_context(str(pair.cert), str(pair.key), str(authority.ca))
    with Site(tmp_path, tls=context, tcp=True) as site:
        sock = site.sender(tls(site, authority))
        sock.sendall(frame(b"whole") + b"\0\0\0\x09half")
        site.wait_for_frames(b"whole")
        reset(sock)
        assert site.wait_for_end("error") == "the stream ended inside a frame"


def test_each_connection_asks_for_the_certificate_of_its_time(authority: Authority, tmp_path: Path) -> None:
    pairs = [authority.server("first"), authority.server("second")]
    contexts = [tls_context(str(pair.cert), str(pair.key), "") for pair in pairs]
    with Site(tmp_path, tls=lambda: contexts.pop(0)) as site:
        for pair in pairs:
            with tls(site, authority) as sock:
                found = sock.getpeercert()
                assert found is not None
                assert int(str(found["serialNumber"]), 16) == pair.serial


@pytest.mark.parametrize("end", ["close", "displace"])
def test_a_connection_ends_although_its_socket_is_replaced_meanwhile(authority: Authority, end: str) -> None:
    """TLS puts another socket into the place of the accepted one: an end that meets the old one is not lost."""
    pair = authority.server()
    context = tls_context(str(pair.cert), str(pair.key), "")
    ours, theirs = socket.socketpair()
    ended: list[End] = []

    class Ending(ssl.SSLSocket):
        @classmethod
        def _create(cls, sock: socket.socket, *given: Any, **more: Any) -> Any:
            made = super()._create(sock, *given, **more)  # type: ignore[misc]
            getattr(connection, end)()  # the accepted socket is detached, the new one not yet in its place
            return made

    context.sslsocket_class = Ending
    intake = Intake(blocks=2, block_size=1 << 17, linger=0.01)
    limits = Limits(max_frame=1024, handshake_timeout=60, handshake_deadline=60, idle_timeout=0, linger=0.01)
    connection = Connection(theirs, intake, limits, lambda _, how: ended.append(how), tls=context)
    with ours:
        ours.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        connection.start()
        connection.thread.join(20)
        assert not connection.thread.is_alive()
    assert [how.result for how in ended] == ["closed" if end == "close" else "handshake_error"]


def test_a_stop_waits_for_no_tls_handshake(authority: Authority, tmp_path: Path) -> None:
    pair = authority.server()
    with Site(tmp_path, tls=tls_context(str(pair.cert), str(pair.key), "")) as site:
        site.connect().sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        wait_until(lambda: site.listener.connections == 1, "the connection")
        began = time.monotonic()
        site.listener.close(10.0)
        assert time.monotonic() - began < connection_module.DRAIN + 2
    assert site.results() == {"closed": 1}
