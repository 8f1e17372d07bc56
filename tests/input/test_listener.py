"""Wrong settings of a listener: each ends in an error that names the setting."""

from __future__ import annotations

import grp
import os
import socket
import ssl
from pathlib import Path

import pytest

from edm.errors import InputError, KeyFileError
from edm.input.listener import open_tcp
from edm.input.tls import tls_context
from edm.input.unix_socket import open_unix
from support.pki import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


def test_certificate_and_key_that_do_not_belong_together(authority: Authority) -> None:
    one, other = authority.server("one"), authority.server("other")
    with pytest.raises(KeyFileError, match="does not belong to the certificate") as error:
        tls_context(str(one.cert), str(other.key), "")
    assert str(other.key) in str(error.value)
    assert str(one.cert) in str(error.value)


def test_missing_and_broken_certificates(authority: Authority, tmp_path: Path) -> None:
    pair = authority.server()
    with pytest.raises(KeyFileError, match=r"input-tls-key-file: .*no-key: No such file"):
        tls_context(str(pair.cert), str(tmp_path / "no-key"), "")
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(KeyFileError, match=r"broken\.pem"):
        tls_context(str(broken), str(pair.key), "")
    with pytest.raises(KeyFileError, match=r"input-tls-client-ca-file: .*broken\.pem"):
        tls_context(str(pair.cert), str(pair.key), str(broken))


def test_only_tls_1_3_and_client_certificates_if_there_is_an_authority(authority: Authority) -> None:
    pair = authority.server()
    plain = tls_context(str(pair.cert), str(pair.key), "")
    assert plain.minimum_version is ssl.TLSVersion.TLSv1_3
    assert plain.verify_mode is ssl.CERT_NONE
    strict = tls_context(str(pair.cert), str(pair.key), str(authority.ca))
    assert strict.verify_mode is ssl.CERT_REQUIRED


def test_tcp_address_of_another_host() -> None:
    with pytest.raises(InputError, match=r"input-tcp: 192\.0\.2\.1:0: Cannot assign requested address"):
        open_tcp("192.0.2.1:0", "input-tcp")


def test_unix_socket_mode_and_owner(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with open_unix(str(path), "0620"):
        assert path.stat().st_mode & 0o777 == 0o620
    with pytest.raises(InputError, match="input-unix-owner"):
        open_unix(str(path), "", "no-such-user-here:")


def test_unix_socket_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"input-unix: .*/no/s: No such file"):
        open_unix(str(tmp_path / "no" / "s"))


def test_unix_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with open_unix(str(path)) as sock, socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        assert sock.accept()[0].close() is None


def test_nobody_can_connect_before_mode_and_owner_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    found = []
    listen = socket.socket.listen

    def look_first(sock: socket.socket, *backlog: int) -> None:
        with socket.socket(socket.AF_UNIX) as peer, pytest.raises(ConnectionRefusedError):
            peer.connect(str(path))
        found.append((path.stat().st_mode & 0o777, path.stat().st_gid))
        listen(sock, *backlog)

    monkeypatch.setattr(socket.socket, "listen", look_first)
    old = os.umask(0)
    try:
        with open_unix(str(path), "0600", f":{grp.getgrgid(os.getgid()).gr_name}"):
            assert found == [(0o600, os.getgid())]
    finally:
        os.umask(old)
