"""Facts about a sender: its identity, compared with the protobuf library, and the frames and bytes it has sent."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edm.input.peers import OTHER, SERIES, Sender, Tally, identity_of, peer_of
from support import golden
from support.intake import Site, frame
from support.processes import wait_until


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(0, 300))
def test_identity_is_what_was_put_in(identity: bytes, version: bytes, cut: int) -> None:
    assert len(identity) < 128
    frame = (
        b"\x0a" + bytes([len(identity)]) + identity + b"\x12" + bytes([len(version)]) + version + b"\x78\x01"
    )
    assert identity_of(frame) == identity
    assert identity_of(frame[:cut]) in (identity, b"")


@given(st.binary(max_size=600))
def test_any_bytes_have_an_identity_or_none(data: bytes) -> None:
    found = identity_of(data)
    assert found == b"" or found in data


def test_identity_behind_other_fields() -> None:
    assert identity_of(b"\x78\x01\x12\x02ab\x0a\x03abc") == b"abc"


def test_the_identity_of_a_real_capture() -> None:
    assert {identity_of(frame[4:516]) for frame in golden.frames("unbound")[:50]} == {b"vm"}


def test_many_senders_end_in_one_count() -> None:
    tally = Tally()
    for i in range(3 * SERIES):
        tally.ended(Sender("tcp", str(i).encode(), frames=1, bytes=10, blocked=0.5))
    found = tally.together([Sender("tcp", b"0", frames=5, bytes=1)])
    assert len(found) == SERIES + 1
    assert sum(sender.frames for sender in found) == 3 * SERIES + 5
    by_key = {(sender.peer, sender.identity): sender for sender in found}
    assert by_key["tcp", b"0"].frames == 6
    assert by_key[OTHER, b""].frames == 2 * SERIES
    # Asked again, nothing is counted twice.
    assert sum(sender.frames for sender in tally.together([])) == 3 * SERIES


def test_a_unix_peer_is_its_user() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert peer_of(left).startswith("unix uid ")


def test_a_connection_tells_what_came_over_it(tmp_path: Path) -> None:
    frames = golden.frames("unbound")[:500]
    with Site(tmp_path) as site:
        sock = site.sender()
        wait_until(lambda: [len(found) for found in site.listener.senders()] == [1, 1], "it is there")
        sock.sendall(b"".join(frames))
        wait_until(lambda: site.listener.senders()[0][0].frames == len(frames), "all have come")
        (sender,), (total,) = site.listener.senders()
        assert sender.identity == b"vm"
        assert sender.peer.startswith("unix uid ")
        assert sender.bytes == sum(map(len, frames)) == total.bytes
        assert sender.since <= sender.last_frame
        sock.close()
        wait_until(lambda: not site.listener.connections, "it has ended")
        open_now, (total,) = site.listener.senders()
        assert open_now == []
        assert (total.frames, total.bytes) == (len(frames), sum(map(len, frames)))


def _has(site: Site, size: int) -> bool:
    open_now, _ = site.listener.senders()
    return sum(sender.bytes for sender in open_now) == size


def test_a_large_frame_is_counted_once(tmp_path: Path) -> None:
    data = frame(bytes(60_000)) + frame(b"x")
    with Site(tmp_path) as site:
        sock = site.sender()
        sent = 0
        while sent < len(data):
            sent += sock.send(data[sent : sent + 7000])
            wait_until(partial(_has, site, sent), "each piece is counted once")
        assert site.listener.senders()[0][0].frames == 2
