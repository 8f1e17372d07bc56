"""A certificate authority for tests, and signing keys as JWK; all are made new and none is stored."""

from __future__ import annotations

import base64
import ipaddress
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCAL = ("localhost", "127.0.0.1", "::1")

_serials = itertools.count(1000)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path
    serial: int
    not_after: datetime


class Authority:
    """Issues certificates into ``folder``; ``ca`` is the file to trust."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(next(_serials))
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = folder / f"{name.replace(' ', '-')}.pem"
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def client(self, name: str = "client", *, lifetime: timedelta = timedelta(days=90)) -> Pair:
        """Issue a client certificate; a negative ``lifetime`` makes one that has expired."""
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, (), lifetime)

    def server(self, name: str = "server", hosts: Sequence[str] = LOCAL) -> Pair:
        """Issue a server certificate for host names and addresses."""
        return self._issue(name, ExtendedKeyUsageOID.SERVER_AUTH, hosts, timedelta(days=90))

    def _issue(
        self, name: str, usage: x509.ObjectIdentifier, hosts: Sequence[str], lifetime: timedelta
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC).replace(microsecond=0)
        serial = next(_serials)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(min(now, now + lifetime) - timedelta(days=1))
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        pair = Pair(
            self.folder / f"{name}-{serial}.pem",
            self.folder / f"{name}-{serial}-key.pem",
            serial,
            now + lifetime,
        )
        pair.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key.touch(0o600)
        pair.key.write_bytes(key_pem(key))
        return pair


def key_pem(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    """Return a private key in PEM, encrypted if there is a password."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signing_jwk(kid: str = "test-site", curve: str = "Ed25519", *, private: bool = True) -> dict[str, str]:
    """Return a new key as the members of a JWK (RFC 8037)."""
    key = Ed25519PrivateKey.generate() if curve == "Ed25519" else Ed448PrivateKey.generate()
    members = {"kty": "OKP", "crv": curve, "kid": kid, "x": base64url(key.public_key().public_bytes_raw())}
    if private:
        members["d"] = base64url(key.private_bytes_raw())
    return members


def write_jwk(path: Path, members: dict[str, str]) -> Path:
    """Write a JWK to a file that only its owner can read."""
    path.touch(0o600)
    path.write_text(json.dumps(members))
    return path
