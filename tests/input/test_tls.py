"""Renewed certificates of the TLS input."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import pytest

from edm.config import Settings
from edm.errors import KeyFileError
from edm.input.tls import ServerCertificate
from support.pki import Authority, Pair


class Files:
    """The files of the TLS input, which can be renewed."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "pki")
        self.cert, self.key, self.ca = (folder / name for name in ("cert.pem", "key.pem", "ca.pem"))
        self.put(self.authority.server())
        shutil.copy(self.authority.ca, self.ca)

    def put(self, pair: Pair) -> Pair:
        shutil.copy(pair.cert, self.cert)
        shutil.copy(pair.key, self.key)
        return pair

    def settings(self, **changes: str) -> Settings:
        values = {
            "input_tls_cert_file": str(self.cert),
            "input_tls_key_file": str(self.key),
            "input_tls_client_ca_file": str(self.ca),
        }
        return Settings(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def shown(context: ssl.SSLContext, authority: Authority, client: Pair | None = None) -> int:
    """Shake hands in memory; return the serial number of the server's certificate."""
    ours = ssl.create_default_context(cafile=str(authority.ca))
    if client is not None:
        ours.load_cert_chain(client.cert, client.key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        ours.wrap_bio(to_client, to_server, server_hostname="localhost"),
        context.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    found = sides[0].getpeercert()
    assert found is not None
    return int(str(found["serialNumber"]), 16)


def test_a_certificate_renewed_on_disk_is_shown_to_the_next_sender(files: Files) -> None:
    certificate = ServerCertificate(files.settings(), "input")
    client = files.authority.client()
    before = shown(certificate.context(), files.authority, client)
    new = files.put(files.authority.server())
    assert new.serial != before
    assert shown(certificate.context(), files.authority, client) == new.serial
    # Half renewed: the old one stays, whole.
    files.cert.write_bytes(files.authority.server().cert.read_bytes())
    assert shown(certificate.context(), files.authority, client) == new.serial


def test_new_authorities_for_senders(files: Files, tmp_path: Path) -> None:
    certificate = ServerCertificate(files.settings(), "input")
    other = Authority(tmp_path / "other", "other")
    with pytest.raises(ssl.SSLError):
        shown(certificate.context(), files.authority, other.client())
    files.ca.write_bytes(other.ca.read_bytes())
    assert shown(certificate.context(), files.authority, other.client())
    files.ca.write_text("broken")
    assert shown(certificate.context(), files.authority, other.client())


def test_a_reload_goes_part_by_part(files: Files, tmp_path: Path) -> None:
    certificate = ServerCertificate(files.settings(), "input")
    other = Authority(tmp_path / "other", "other")
    files.put(new := files.authority.server())
    with pytest.raises(KeyFileError, match="input-tls-client-ca-file: /nowhere"):
        certificate.reload(files.settings(input_tls_client_ca_file="/nowhere"))
    assert shown(certificate.context(), files.authority, files.authority.client()) == new.serial
    with pytest.raises(KeyFileError, match="input-tls-key-file: /nowhere"):
        certificate.reload(
            files.settings(input_tls_client_ca_file=str(other.ca), input_tls_key_file="/nowhere")
        )
    assert shown(certificate.context(), files.authority, other.client()) == new.serial
    certificate.reload(files.settings(input_tls_client_ca_file=""))
    assert shown(certificate.context(), files.authority) == new.serial
