"""``edm keygen``: its keys can be used, private files are private, and no file is replaced."""

import ipaddress
import json
import os
import ssl
import stat
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edm.cli.main import main
from edm.tapir.keys.jwk import load_signing_key


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["edm"])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def common_name(name: x509.Name) -> str | bytes:
    return name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value


def test_signing_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "keys" / "signer.jwk"
    assert main(["keygen", "signing", "--kid", "site-7", "--out", str(out)]) == 0
    public_file = out.with_name("signer.jwk.pub.json")
    printed = capsys.readouterr().out
    assert printed.splitlines() == [f"{out}  (private)", str(public_file)]
    assert mode(out) == 0o600
    assert mode(public_file) == 0o644
    private = load_signing_key("http-signing-key-file", out, private=True)
    public = load_signing_key("http-signing-key-file", public_file)
    assert (private.kid, private.curve, public.kid) == ("site-7", "Ed25519", "site-7")
    assert public.private is None
    assert "d" not in json.loads(public_file.read_text())
    assert isinstance(public.public, Ed25519PublicKey)
    public.public.verify(private.sign(b"data"), b"data")
    with pytest.raises(InvalidSignature):
        public.public.verify(private.sign(b"data"), b"other data")
    assert json.loads(out.read_text())["d"] not in printed


def test_client_key_and_request(tmp_path: Path) -> None:
    folder = tmp_path / "client"
    assert main(["keygen", "client", "--common-name", "site-7 åäö", "--out-dir", str(folder)]) == 0
    assert sorted(p.name for p in folder.iterdir()) == ["client-key.pem", "client-request.pem"]
    assert mode(folder) == 0o700 & ~umask()
    assert mode(folder / "client-key.pem") == 0o600
    key = load_pem_private_key((folder / "client-key.pem").read_bytes(), None)
    request = x509.load_pem_x509_csr((folder / "client-request.pem").read_bytes())
    assert request.is_signature_valid
    assert common_name(request.subject) == "site-7 åäö"
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert request.public_key() == key.public_key()


def test_authority_for_tests(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    assert main(["keygen", "--test-ca", str(folder), "--common-name", "probe"]) == 0
    assert {p.name: mode(p) for p in folder.iterdir()} == {
        "ca-key.pem": 0o600,
        "ca.pem": 0o644,
        "server-key.pem": 0o600,
        "server.pem": 0o644,
        "client-key.pem": 0o600,
        "client.pem": 0o644,
    }
    ca, server, client = (
        x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
        for name in ("ca", "server", "client")
    )
    server.verify_directly_issued_by(ca)
    client.verify_directly_issued_by(ca)
    assert len({ca.serial_number, server.serial_number, client.serial_number}) == 3
    assert common_name(client.subject) == "probe"
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(a) for a in ("127.0.0.1", "::1")
    ]
    for certificate, usage in (
        (server, ExtendedKeyUsageOID.SERVER_AUTH),
        (client, ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
    handshake(folder)


def handshake(folder: Path) -> None:
    """Let both ends judge each other, as strictly as the library can."""
    at_server, at_client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context, name in ((at_server, "server"), (at_client, "client")):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(folder / "ca.pem")
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}-key.pem")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = at_server.wrap_bio(to_server, to_client, server_side=True)
    client = at_client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    done = set()
    for _ in range(10):
        for end in (client, server):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                pass
    assert done == {client, server}
    assert client.version() == "TLSv1.3"
    peer = server.getpeercert()
    assert peer
    assert peer["subject"] == ((("commonName", "probe"),),)


@pytest.mark.parametrize(
    ("arguments", "existing"),
    [
        (["signing", "--kid", "k", "--out", "{}/key"], "key"),
        (["signing", "--kid", "k", "--out", "{}/key"], "key.pub.json"),
        (["client", "--common-name", "c", "--out-dir", "{}"], "client-request.pem"),
        (["--test-ca", "{}"], "server.pem"),
    ],
)
def test_nothing_is_overwritten(
    tmp_path: Path, arguments: list[str], existing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # A link that leads nowhere is something that is there as well.
    for make in (lambda p: p.write_text("mine"), lambda p: p.symlink_to(tmp_path / "nowhere")):
        path = tmp_path / existing
        make(path)
        assert main(["keygen", *(a.format(tmp_path) for a in arguments)]) == 1
        assert f"{path} exists already" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == [path]
        path.unlink()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "nothing to make"),
        (["signing"], "signing needs --kid"),
        (["signing", "--kid", "k"], "signing needs --out"),
        (["signing", "--kid", "", "--out", "x"], "signing needs --kid"),
        (["client", "--common-name", "c"], "client needs --out-dir"),
        (["client", "--common-name", "c", "--out-dir", "x", "--kid", "k"], "--kid has no meaning for client"),
        (["signing", "client"], "only one of"),
        (["signing", "--test-ca", "x"], "only one of"),
        (["--test-ca", ""], "--test-ca needs a directory"),
        (["server"], "unknown kind of key 'server'"),
        *[
            (["signing", "--kid", kid, "--out", "x"], "this key ID is of no use: Core takes letters")
            for kid in ("ö", "a b", "a/b", "a+b", "a#", "a\n", "\x1b[31m", "k" * 100 + " ")
        ],
        (["client", "--common-name", "c" * 65, "--out-dir", "x"], "1 to 64 printable characters"),
        (["client", "--common-name", "a\nb", "--out-dir", "x"], "1 to 64 printable characters"),
        (["signing", "--kid", "k", "--out", "/dev/null/x"], "cannot make directory /dev/null"),
    ],
)
def test_mistakes(
    tmp_path: Path,
    arguments: list[str],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["keygen", *arguments]) == 1
    out, err = capsys.readouterr()
    assert complaint in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", "-h"]) == 0
    text = capsys.readouterr().out
    assert all(f"--{name} " in text for name in ("kid", "out", "common-name", "out-dir", "test-ca"))
