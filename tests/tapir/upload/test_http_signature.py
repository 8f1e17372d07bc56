"""The header fields that sign an upload, checked by an independent library and byte for byte."""

import base64
import hashlib
import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver
from http_message_signatures.algorithms import ED25519
from http_message_signatures.exceptions import InvalidSignature
from hypothesis import given
from hypothesis import strategies as st

from edm.errors import KeyFileError
from edm.tapir.keys.jwk import SigningKey
from edm.tapir.upload.http_signature import (
    CONTENT_TYPE,
    aggregate_interval,
    check_key_id,
    content_digest,
    duration,
    quoted,
    sign,
)

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def key(kid: str) -> SigningKey:
    return SigningKey(kid, "Ed25519", Path("key.jwk"), SECRET, SECRET.public_key())


@dataclass
class Message:
    headers: dict[str, str]
    method: str = "POST"
    url: str = "https://core.example/api"


class Keys(HTTPSignatureKeyResolver):
    def __init__(self, kid: str) -> None:
        self.kid = kid

    def resolve_public_key(self, key_id: str) -> object:
        assert key_id == self.kid
        return SECRET.public_key()


def message(body: bytes, kid: str, created: int) -> Message:
    digest = content_digest(io.BufferedReader(io.BytesIO(body)))  # type: ignore[arg-type]
    signature_input, signature = sign(key(kid), len(body), digest, created)
    return Message(
        {
            "Content-Type": CONTENT_TYPE,
            "Content-Length": str(len(body)),
            "Content-Digest": digest,
            "Signature-Input": signature_input,
            "Signature": signature,
        }
    )


def verifier(kid: str) -> HTTPMessageVerifier:
    return HTTPMessageVerifier(signature_algorithm=ED25519, key_resolver=Keys(kid))


def test_wire_form() -> None:
    headers = message(b"PAR1", "site-7", 1700000000).headers
    assert headers["Signature-Input"] == (
        'sig1=("content-type" "content-length" "content-digest");created=1700000000;alg="ed25519";keyid="site-7"'
    )
    label, _, value = headers["Signature"].partition("=")
    assert label == "sig1"
    assert value[0] == value[-1] == ":"
    digest = base64.b64encode(hashlib.sha256(b"PAR1").digest()).decode()
    assert headers["Content-Digest"] == f"sha-256=:{digest}:"
    base = (
        '"content-type": application/vnd.apache.parquet\n'
        '"content-length": 4\n'
        f'"content-digest": sha-256=:{digest}:\n'
        '"@signature-params": ("content-type" "content-length" "content-digest")'
        ';created=1700000000;alg="ed25519";keyid="site-7"'
    )
    SECRET.public_key().verify(base64.b64decode(value[1:-1]), base.encode())


@given(st.binary(max_size=3000), st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1))
def test_the_library_accepts_it(body: bytes, kid: str) -> None:
    signed = message(body, kid, int(datetime.now(UTC).timestamp()))
    components = ("content-type", "content-length", "content-digest")
    (result,) = verifier(kid).verify(signed, require_components=components, body=body)
    assert result.label == "sig1"
    assert list(result.parameters) == ["created", "alg", "keyid"]
    assert result.parameters["keyid"] == kid
    assert result.body == body


@pytest.mark.parametrize("field", ["Content-Type", "Content-Length", "Content-Digest"])
def test_the_signature_covers(field: str) -> None:
    signed = message(b"body", "k", int(datetime.now(UTC).timestamp()))
    other = message(b"other body", "k", 0).headers | {"Content-Type": "text/plain"}
    signed.headers[field] = other[field]
    with pytest.raises(InvalidSignature):
        verifier("k").verify(signed)


@pytest.mark.parametrize("kid", ["sité", "a\nb", "\x7f", "\t"])
def test_key_id_that_no_field_can_hold(kid: str) -> None:
    with pytest.raises(KeyFileError, match=r'^http-signing-key-file: key\.jwk: its "kid" cannot be used'):
        check_key_id("http-signing-key-file", key(kid))
    with pytest.raises(ValueError, match="printable ASCII"):
        sign(key(kid), 0, "", 0)


def test_quoting() -> None:
    assert quoted('a"b\\c d') == '"a\\"b\\\\c d"'
    # The same escapes as in JSON, which is an oracle here.
    assert json.loads(quoted('a"b\\c d')) == 'a"b\\c d'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (60, "PT1M"),
        (61, "PT1M1S"),
        (23, "PT23S"),
        (120, "PT2M"),
        (3600, "PT1H"),
        (3601, "PT1H1S"),
        (86400, "PT24H"),
        (90061, "PT25H1M1S"),
        (0, "PT0S"),
        (-60, "PT0S"),
    ],
)
def test_interval(seconds: int, text: str) -> None:
    assert duration(seconds) == text
    start = datetime(2023, 11, 29, 13, 50, tzinfo=UTC)
    assert aggregate_interval(start, start + timedelta(seconds=seconds)) == f"2023-11-29T13:50:00Z/{text}"
