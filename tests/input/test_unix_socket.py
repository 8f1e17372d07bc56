"""The file of the Unix socket: its rights, the owner of its path, its removal, and probes."""

from __future__ import annotations

import math
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edm.errors import InputError
from edm.input import listener
from edm.input.tls import tls_context
from edm.input.unix_socket import UnixSocket, open_unix
from support.intake import Site
from support.pki import Authority
from support.processes import wait_until


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_LOOK", 0.02)
    monkeypatch.setattr("edm.input.unix_socket._LOOK_AGAIN", 0.05)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


@pytest.mark.parametrize(
    ("mask", "mode", "expected"),
    [(0, "", 0o660), (0o022, "", 0o640), (0o077, "", 0o600), (0, "0600", 0o600), (0o077, "0666", 0o666)],
)
def test_mode(tmp_path: Path, mask: int, mode: str, expected: int) -> None:
    with umask(mask), open_unix(str(tmp_path / "s"), mode):
        assert stat.S_IMODE((tmp_path / "s").lstat().st_mode) == expected


def test_no_moment_of_wider_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, found = tmp_path / "s", []
    bind = socket.socket.bind

    def look(sock: socket.socket, address: str) -> None:
        bind(sock, address)
        found.append(stat.S_IMODE(path.lstat().st_mode))

    monkeypatch.setattr(socket.socket, "bind", look)
    with umask(0), open_unix(str(path), "0600"):
        assert found == [0o600]


@pytest.mark.parametrize("settings", [("0666", ""), ("", f"{os.geteuid()}")])
def test_rights_are_never_given_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, str]
) -> None:
    path, victim = tmp_path / "s", tmp_path / "victim"
    victim.touch(0o600)
    bind = socket.socket.bind

    def swap(sock: socket.socket, address: str) -> None:
        bind(sock, address)
        path.unlink()
        path.symlink_to(victim)

    monkeypatch.setattr(socket.socket, "bind", swap)
    with pytest.raises(InputError, match=r"input-unix: .*/s: was replaced"):
        open_unix(str(path), *settings)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600


def test_a_living_socket_with_a_full_backlog_is_not_taken_for_dead(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as one:
        busy.bind(path)
        busy.listen(0)
        one.connect(path)
        with pytest.raises(InputError, match="in use by another process"):
            open_unix(path)


def test_the_end_removes_only_ones_own_file(tmp_path: Path) -> None:
    ours = UnixSocket(str(tmp_path / "s"))
    with ours.sock:
        Path(ours.path).unlink()
        ours.remove()  # nothing there
        with open_unix(ours.path) as other:
            assert not ours.is_there()
            ours.remove()
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(ours.path)
                other.accept()[0].close()
    for kind in ("file", "link"):
        path = tmp_path / kind
        ours = UnixSocket(str(path))
        with ours.sock:
            path.unlink()
            path.touch() if kind == "file" else path.symlink_to("nowhere")
            ours.remove()
        assert os.path.lexists(path)


def test_the_end_of_the_first_of_two_instances_leaves_the_second_its_socket(tmp_path: Path) -> None:
    with Site(tmp_path) as first:
        first.listener._next_look = math.inf  # not between the next two lines
        (tmp_path / "s").unlink()
        with Site(tmp_path) as second:
            first.listener._next_look = 0.0
            wait_until(lambda: bool(first.lost), "the first to notice")
            first.__exit__(None, None, None)
            second.serves(b"still here")


def test_a_file_that_is_removed_is_made_again(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        before = site.sender()
        (tmp_path / "s").unlink()
        wait_until((tmp_path / "s").exists, "the file")
        wait_until(lambda: site.made_again == 1, "it to be told")
        site.serves(b"new sender")
        before.sendall(b"\0\0\0\3old")
        site.wait_for_frames(b"new sender", b"old")
    assert not (tmp_path / "s").exists()


def test_what_waits_at_the_old_socket_is_accepted(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        for number in range(5):
            sock = site.connect()
            (tmp_path / "s").unlink()
            wait_until(lambda n=number: site.made_again > n, "the file")  # type: ignore[misc]
            site.sender(sock)


def test_a_path_that_another_instance_owns_is_not_taken_but_taken_back_when_it_is_gone(
    tmp_path: Path,
) -> None:
    with Site(tmp_path) as site:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(tmp_path / "other"))
            other.listen(100)
            (tmp_path / "other").replace(tmp_path / "s")
            wait_until(lambda: bool(site.lost), "it to be noticed")
            assert site.lost == [f"input-unix: {tmp_path / 's'}: in use by another process"]
            assert site.made_again == 0
        wait_until(lambda: site.made_again == 1, "the path to be taken back")
        site.serves(b"again")
        assert len(site.lost) == 1


@pytest.mark.parametrize("tcp", [False, True])
def test_probes_are_neither_errors_nor_senders(tmp_path: Path, tcp: bool) -> None:
    with Site(tmp_path, tcp=tcp) as site:
        for _ in range(3):
            site.connect().close()
        site.wait_for_end("probe", 3)
        if tcp:
            sock = site.connect()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            site.wait_for_end("probe", 4)
        assert site.begun == 0
        site.serves(b"a sender")
        assert site.begun == 1


def test_probes_of_a_tls_port(tmp_path: Path) -> None:
    pair = Authority(tmp_path).server()
    with Site(tmp_path, tls=tls_context(str(pair.cert), str(pair.key), "")) as site:
        for _ in range(3):
            site.connect().close()
        site.wait_for_end("probe", 3)
        assert site.begun == 0


def test_a_socket_that_does_not_listen_yet_is_not_taken_for_a_stale_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        timer = threading.Timer(0.03, other.listen)
        timer.start()
        try:
            with pytest.raises(InputError, match="in use by another process"):
                open_unix(str(path))
        finally:
            timer.join()
        assert path.is_socket()
