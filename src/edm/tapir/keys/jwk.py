"""Signing keys: JSON Web Keys of the type OKP (RFC 8037) with the curves Ed25519 and Ed448."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey, Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edm.errors import KeyFileError
from edm.files.reading import UnreadableError, read_whole

ED25519 = "Ed25519"
ED448 = "Ed448"

_FILE_MAX = 64 * 1024
_LENGTHS = {ED25519: 32, ED448: 57}
_CORE_KEY_ID = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*={0,2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key read from a file.

    Attributes
    ----------
    kid : str
        Key ID, not empty.
    curve : str
        ``Ed25519`` or ``Ed448``.
    path : Path
        The file it came from.
    private : Ed25519PrivateKey, Ed448PrivateKey or None
        None if the file holds only the public half.
    public : Ed25519PublicKey or Ed448PublicKey
    """

    kid: str
    curve: str
    path: Path
    private: Ed25519PrivateKey | Ed448PrivateKey | None = field(repr=False)
    public: Ed25519PublicKey | Ed448PublicKey = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        """Return the EdDSA signature (RFC 8032) of ``data``.

        Raises
        ------
        KeyFileError
            The file holds only a public key.
        """
        if self.private is None:
            raise KeyFileError(f"{self.path}: holds only a public key, which cannot sign")
        return self.private.sign(data)


def load_signing_key(
    setting: str,
    path: str | Path,
    *,
    curves: Collection[str] = (ED25519, ED448),
    private: bool = False,
) -> SigningKey:
    """Read a key.

    Parameters
    ----------
    setting : str
        Configuration key that named the file, for error messages.
    path : path
        A file with one JWK in JSON, whatever its name ends in.
    curves : collection of str
        Curves that are accepted.
    private : bool
        Refuse a file that holds only the public half.

    Raises
    ------
    KeyFileError
        The file cannot be read or is no such key. The message never holds key material.
    """
    path = Path(path)
    try:
        return _parse(path, _read(path), curves, private)
    except _UnusableError as error:
        raise KeyFileError(f"{setting}: {path}: {error}") from None


def core_takes(kid: str) -> bool:
    """Tell whether Core takes what is signed with a key whose ID is ``kid``."""
    return _CORE_KEY_ID.fullmatch(kid) is not None


CORE_TAKES = "Core takes letters of ASCII, digits, and _ . - in a key ID"


class _UnusableError(Exception):
    """Why a file is no usable key."""


def _read(path: Path) -> dict[str, Any]:
    try:
        text = read_whole(path, _FILE_MAX)
    except UnreadableError as error:
        raise _UnusableError(str(error)) from None
    try:
        members = json.loads(text.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        hint = ", but PEM" if b"-----BEGIN" in text else ""
        raise _UnusableError(f"is no JWK: not JSON{hint} (line {error.lineno})") from None
    except (ValueError, RecursionError):
        raise _UnusableError("is no JWK: not JSON") from None
    if not isinstance(members, dict):
        raise _UnusableError("is no JWK: not a JSON object")
    if "keys" in members and "kty" not in members:
        raise _UnusableError("is a set of keys; a single JWK is needed")
    return members


def _parse(path: Path, members: dict[str, Any], curves: Collection[str], private: bool) -> SigningKey:
    if members.get("kty") != "OKP":
        raise _UnusableError('is no signing key: its "kty" must be "OKP"')
    curve = members.get("crv")
    if not isinstance(curve, str) or curve not in curves or curve not in _LENGTHS:
        raise _UnusableError(f'is no signing key: its "crv" must be {" or ".join(sorted(curves))}')
    kid = members.get("kid")
    if not isinstance(kid, str) or not kid:
        raise _UnusableError('has no key ID: "kid" must be text that is not empty')
    if any("\ud800" <= c <= "\udfff" for c in kid):
        raise _UnusableError('has a "kid" that is no Unicode text')
    public = _public(curve, _octets(members, "x", curve))
    if "d" not in members:
        if private:
            raise _UnusableError("holds only a public key; the private key is needed to sign")
        return SigningKey(kid, curve, path, None, public)
    secret = _secret(curve, _octets(members, "d", curve))
    if secret.public_key().public_bytes_raw() != public.public_bytes_raw():
        raise _UnusableError('is inconsistent: "x" is not the public half of "d"')
    return SigningKey(kid, curve, path, secret, public)


def _octets(members: dict[str, Any], name: str, curve: str) -> bytes:
    value = members.get(name)
    if not isinstance(value, str):
        raise _UnusableError(f'is no complete key: "{name}" is missing or no text')
    # The Go daemon takes the usual base64 alphabet and padding as well.
    value = value.replace("+", "-").replace("/", "_")
    try:
        if _BASE64URL.fullmatch(value) is None:
            raise ValueError
        bare = value.rstrip("=")
        octets = base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    except (ValueError, binascii.Error):
        raise _UnusableError(f'is no usable key: "{name}" is not base64url') from None
    if len(octets) != _LENGTHS[curve]:
        raise _UnusableError(
            f'is no usable key: "{name}" must be {_LENGTHS[curve]} bytes for {curve}, not {len(octets)}'
        )
    return octets


def _public(curve: str, octets: bytes) -> Ed25519PublicKey | Ed448PublicKey:
    try:
        if curve == ED25519:
            return Ed25519PublicKey.from_public_bytes(octets)
        return Ed448PublicKey.from_public_bytes(octets)
    except (ValueError, UnsupportedAlgorithm):
        raise _UnusableError(f"cannot be used: {curve} is not supported by this installation") from None


def _secret(curve: str, octets: bytes) -> Ed25519PrivateKey | Ed448PrivateKey:
    try:
        if curve == ED25519:
            return Ed25519PrivateKey.from_private_bytes(octets)
        return Ed448PrivateKey.from_private_bytes(octets)
    except (ValueError, UnsupportedAlgorithm):
        raise _UnusableError(f"cannot be used: {curve} is not supported by this installation") from None


__all__ = ["CORE_TAKES", "ED448", "ED25519", "SigningKey", "core_takes", "load_signing_key"]
