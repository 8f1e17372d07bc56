"""New keys and certificates for a test or pilot site: what to sign with, and what to show to Core."""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edm.config.values import shorten
from edm.errors import KeyFileError
from edm.tapir.keys.jwk import CORE_TAKES, core_takes

VALID_DAYS = 365
"""How long the certificates of a test authority are valid."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
"""Names in the server certificate of a test authority."""

_CLOCK_SKEW = timedelta(minutes=5)


def signing_key(kid: str) -> tuple[bytes, bytes]:
    """Make an Ed25519 key; return its private and its public form, each a JWK (RFC 8037) in JSON.

    Parameters
    ----------
    kid : str
        Key ID; with Core it names the site.

    Raises
    ------
    KeyFileError
        Core does not take the key ID.
    """
    if not core_takes(kid):
        raise KeyFileError(f"this key ID is of no use: {CORE_TAKES} (found {shorten(kid)})")
    key = Ed25519PrivateKey.generate()
    public = {
        "kty": "OKP",
        "crv": "Ed25519",
        "kid": kid,
        "x": _base64url(key.public_key().public_bytes_raw()),
    }
    private = {**public, "d": _base64url(key.private_bytes_raw())}
    return _json(private), _json(public)


def client_request(common_name: str) -> tuple[bytes, bytes]:
    """Make a P-256 key and a certificate request (PKCS #10) for it, both in PEM.

    Raises
    ------
    KeyFileError
        The name cannot stand in a certificate.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder().subject_name(_name(common_name)).sign(key, hashes.SHA256())
    )
    return private_pem(key), request.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class Authority:
    """A certificate authority for tests; it is nothing to trust outside of them."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, common_name: str = "EDM test authority") -> Authority:
        """Make an authority with a new key and a certificate signed by itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(common_name)
        builder = (
            _builder(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
        )
        return cls(key, builder.sign(key, hashes.SHA256()))

    def server(
        self, common_name: str = "localhost", names: Iterable[str] = LOCAL_NAMES
    ) -> tuple[bytes, bytes]:
        """Make key and certificate, in PEM, of a server with these names and addresses."""
        return self._issue(common_name, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def client(self, common_name: str) -> tuple[bytes, bytes]:
        """Make key and certificate, in PEM, of a client."""
        return self._issue(common_name, ExtendedKeyUsageOID.CLIENT_AUTH, ())

    @property
    def pem(self) -> bytes:
        """The authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def _issue(
        self,
        common_name: str,
        usage: x509.ObjectIdentifier,
        names: Iterable[str],
    ) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            _builder(_name(common_name), self.certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(issuer_key, critical=False)
        )
        if alternatives := [_general_name(name) for name in names]:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return private_pem(key), certificate.public_bytes(serialization.Encoding.PEM)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key in PEM (PKCS #8), not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    # 64 is what X.520 allows.
    if not 0 < len(common_name) <= 64 or not common_name.isprintable():
        raise KeyFileError(f"the common name must have 1 to 64 printable characters (found {common_name!r})")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _json(members: dict[str, str]) -> bytes:
    return json.dumps(members, indent=2).encode("ascii") + b"\n"


__all__ = ["LOCAL_NAMES", "VALID_DAYS", "Authority", "client_request", "private_pem", "signing_key"]
