"""Files with signing keys: which JSON Web Keys are usable, by their definition (RFC 7517, RFC 8037)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edm.errors import KeyFileError
from edm.tapir.keys.jwk import load_signing_key
from fuzz.scratch import scratch_file
from fuzz.target import Target, agree, one_line

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_KINDS: dict[str, Any] = {"Ed25519": (32, Ed25519PrivateKey), "Ed448": (57, Ed448PrivateKey)}
_SECRETS = {curve: bytes(range(size)) for curve, (size, _) in _KINDS.items()}
_LARGEST = 64 * 1024


def _encode(octets: bytes) -> str:
    bits = "".join(f"{octet:08b}" for octet in octets)
    bits += "0" * (-len(bits) % 6)
    return "".join(_ALPHABET[int(bits[k : k + 6], 2)] for k in range(0, len(bits), 6))


def _decode(text: object) -> bytes | None:
    if not isinstance(text, str):
        return None
    bare = text.replace("+", "-").replace("/", "_").rstrip("=")
    if len(text) - len(bare) > 2 or any(char not in _ALPHABET for char in bare) or len(bare) % 4 == 1:
        return None
    bits = "".join(f"{_ALPHABET.index(char):06b}" for char in bare)
    return bytes(int(bits[k : k + 8], 2) for k in range(0, len(bits) - 7, 8))


def _usable(data: bytes) -> tuple[str, str, bytes, bool] | None:
    """Return key ID, curve, public half, and whether there is a private half."""
    try:
        members = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if len(data) > _LARGEST or not isinstance(members, dict) or members.get("kty") != "OKP":
        return None
    curve, kid = members.get("crv"), members.get("kid")
    if not isinstance(curve, str) or curve not in _KINDS or not isinstance(kid, str) or not kid:
        return None
    try:
        kid.encode()
    except UnicodeEncodeError:
        return None
    size, kind = _KINDS[curve]
    public = _decode(members.get("x"))
    if public is None or len(public) != size:
        return None
    if "d" in members:
        secret = _decode(members["d"])
        if secret is None or len(secret) != size:
            return None
        if kind.from_private_bytes(secret).public_key().public_bytes_raw() != public:
            return None
    return kid, curve, public, "d" in members


class KeysTarget(Target):
    name = "keys"
    batch = 128
    longest = 2000

    def corpus(self) -> list[bytes]:
        return [self._file(Random(k)) for k in range(20)] + [
            b"[]",
            b'{"keys": []}',
            b"-----BEGIN PRIVATE KEY-----\n",
        ]

    def generate(self, rng: Random) -> bytes:
        return self._file(rng)

    def _file(self, rng: Random) -> bytes:
        curve = rng.choice(("Ed25519", "Ed25519", "Ed448"))
        secret = _SECRETS[curve]
        public = _KINDS[curve][1].from_private_bytes(secret).public_key().public_bytes_raw()
        members: dict[str, Any] = {
            "kty": "OKP",
            "crv": curve,
            "kid": rng.choice(("site-1", "ü", "<&>", "\ud800", "")),
        }
        members |= {"x": _encode(public), "d": _encode(secret), "alg": "EdDSA"}
        if rng.random() < 0.3:
            del members[rng.choice(list(members))]
        if rng.random() < 0.3:
            name = rng.choice(list(members))
            members[name] = rng.choice(
                (None, 1, [], {}, "", "AA", members[name], str(members[name]) + "=", "P-256")
            )
        text = json.dumps(members, ensure_ascii=rng.random() < 0.7, indent=rng.choice((None, 1)))
        return rng.choice((b"", b"\xef\xbb\xbf", b" ")) + text.encode("utf-8", "surrogatepass")

    def check(self, inputs: Sequence[bytes]) -> list[bool]:
        return [self._one(data) for data in inputs]

    def _one(self, data: bytes) -> bool:
        wanted = _usable(data)
        path = scratch_file("key.json", data)
        try:
            key = load_signing_key("mqtt-signing-key-file", path)
        except KeyFileError as error:
            message = one_line(error)
            assert not any(_encode(secret)[:20] in message for secret in _SECRETS.values())
            agree(data, None, wanted)
            return False
        found = key.kid, key.curve, key.public.public_bytes_raw(), key.private is not None
        agree(data, found, wanted)
        if key.private is not None:
            key.public.verify(key.sign(data), data)
        return True


__all__ = ["KeysTarget"]
