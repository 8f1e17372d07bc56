from __future__ import annotations

import json
from pathlib import Path

import pytest

from edm.errors import KeyFileError
from edm.tapir.keys.jwk import load_signing_key
from edm.tapir.keys.jws import base64url
from support.pki import signing_jwk, write_jwk

# RFC 8037, A.1 and A.4
RFC_KEY = {
    "kty": "OKP",
    "crv": "Ed25519",
    "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    "kid": "rfc",
}
RFC_INPUT = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
RFC_SIGNATURE = b"hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"


def test_signs_like_the_standard(tmp_path: Path) -> None:
    key = load_signing_key("mqtt-signing-key-file", write_jwk(tmp_path / "key.pem", RFC_KEY))
    assert (key.kid, key.curve) == ("rfc", "Ed25519")
    assert base64url(key.sign(RFC_INPUT)) == RFC_SIGNATURE


@pytest.mark.parametrize("curve", ["Ed25519", "Ed448"])
def test_signature_verifies_with_the_public_half(tmp_path: Path, curve: str) -> None:
    members = signing_jwk("site", curve)
    key = load_signing_key("s", write_jwk(tmp_path / "private", members))
    del members["d"]
    public = load_signing_key("s", write_jwk(tmp_path / "public", members))
    assert public.curve == curve
    assert public.private is None
    public.public.verify(key.sign(b"text"), b"text")


def test_a_given_alg_and_other_members_do_not_matter(tmp_path: Path) -> None:
    path = write_jwk(tmp_path / "key", {**RFC_KEY, "alg": "ES256", "use": "enc"})
    assert base64url(load_signing_key("s", path).sign(RFC_INPUT)) == RFC_SIGNATURE


def test_ordinary_base64_and_byte_order_mark_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps({**RFC_KEY, "d": RFC_KEY["d"].replace("_", "/") + "="}).encode()
    )
    assert base64url(load_signing_key("s", path).sign(RFC_INPUT)) == RFC_SIGNATURE


def test_a_public_key_loads_but_does_not_sign(tmp_path: Path) -> None:
    path = write_jwk(tmp_path / "public", signing_jwk(private=False))
    key = load_signing_key("s", path)
    with pytest.raises(KeyFileError, match="holds only a public key"):
        key.sign(b"")
    with pytest.raises(KeyFileError, match=r"s: .*public: holds only a public key"):
        load_signing_key("s", path, private=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kty": "RSA"}, '"kty" must be "OKP"'),
        ({"kty": None}, '"kty" must be "OKP"'),
        ({"crv": "X25519"}, '"crv" must be Ed25519 or Ed448'),
        ({"crv": ["Ed25519"]}, '"crv" must be'),
        ({"kid": ""}, "no key ID"),
        ({"kid": 7}, "no key ID"),
        ({"kid": None}, "no key ID"),
        ({"kid": "\ud800"}, "no Unicode text"),
        ({"x": None}, '"x" is missing'),
        ({"x": 1}, '"x" is missing or no text'),
        ({"x": RFC_KEY["x"] + "AAA"}, '"x" must be 32 bytes for Ed25519'),
        ({"x": "*" + RFC_KEY["x"][1:]}, '"x" is not base64url'),
        ({"x": "é" * 43}, '"x" is not base64url'),
        ({"x": "AAAAA"}, '"x" is not base64url'),
        ({"x": RFC_KEY["d"]}, '"x" is not the public half of "d"'),
        ({"d": "AAAA"}, '"d" must be 32 bytes'),
        ({"d": [1]}, '"d" is missing or no text'),
        ({"crv": "Ed448"}, '"x" must be 57 bytes for Ed448'),
    ],
)
def test_unusable_keys(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    members = {name: value for name, value in {**RFC_KEY, **change}.items() if value is not None}
    path = tmp_path / "key.pem"
    path.write_text(json.dumps(members))
    with pytest.raises(KeyFileError) as caught:
        load_signing_key("mqtt-signing-key-file", path)
    message = str(caught.value)
    assert message.startswith(f"mqtt-signing-key-file: {path}: ")
    assert reason in message
    assert RFC_KEY["d"] not in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not JSON"),
        (b"-----BEGIN PRIVATE KEY-----\n", "not JSON, but PEM"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"keys": []}', "a set of keys"),
        (b"[" * 60_000, "not JSON"),
        (b" " * 70_000, "more than the 65,536 allowed"),
    ],
)
def test_no_key_at_all(tmp_path: Path, text: bytes, reason: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(text)
    with pytest.raises(KeyFileError, match=reason):
        load_signing_key("s", path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        load_signing_key("s", tmp_path / "missing")
    with pytest.raises(KeyFileError, match="Is a directory"):
        load_signing_key("s", tmp_path)


def test_curves_can_be_limited(tmp_path: Path) -> None:
    path = write_jwk(tmp_path / "key", signing_jwk(curve="Ed448"))
    with pytest.raises(KeyFileError, match='"crv" must be Ed25519'):
        load_signing_key("s", path, curves=("Ed25519",))


def test_the_secret_is_not_shown(tmp_path: Path) -> None:
    key = load_signing_key("s", write_jwk(tmp_path / "key", RFC_KEY))
    assert "private" not in repr(key)
