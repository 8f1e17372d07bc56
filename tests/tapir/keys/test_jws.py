from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from edm.tapir.keys.jwk import load_signing_key
from edm.tapir.keys.jws import JwsSigner, base64url, json_text
from support.events import payload, verified
from support.pki import signing_jwk, write_jwk


def signer_of(folder: Path, members: dict[str, str]) -> JwsSigner:
    return JwsSigner(load_signing_key("s", write_jwk(folder / "key", members)))


@pytest.mark.parametrize("curve", ["Ed25519", "Ed448"])
def test_an_independent_library_verifies(tmp_path: Path, curve: str) -> None:
    members = signing_jwk("site-1", curve)
    events = [payload(number, number) for number in range(5)] + [b"", b"\x00\xff"]
    messages = signer_of(tmp_path, members).sign_all(events)
    assert verified([m for m in messages if m is not None], members) == events


def test_exact_form(tmp_path: Path) -> None:
    message = signer_of(tmp_path, signing_jwk("site")).sign(b"??>>~")
    parsed = json.loads(message)
    assert parsed["payload"] == "Pz8-Pn4"
    assert base64.urlsafe_b64decode(parsed["protected"] + "==") == b'{"alg":"EdDSA","kid":"site"}'
    assert (
        message
        == f'{{"payload":"{parsed["payload"]}","protected":"{parsed["protected"]}",'
        f'"signature":"{parsed["signature"]}"}}'.encode()
    )
    assert len(parsed["signature"]) == 86


def test_key_id_is_escaped_like_the_go_daemon(tmp_path: Path) -> None:
    message = signer_of(tmp_path, signing_jwk('<a>&"\\é\u2028')).sign(b"")
    protected = json.loads(message)["protected"]
    header = base64.urlsafe_b64decode(protected + "=" * (-len(protected) % 4)).decode()
    assert header == '{"alg":"EdDSA","kid":"\\u003ca\\u003e\\u0026\\"\\\\é\\u2028"}'


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_text_reads_back(text: str) -> None:
    written = json_text(text)
    assert json.loads(written) == text
    assert not set(written) & set("<>&\u2028\u2029")


@given(st.binary())
def test_base64url(data: bytes) -> None:
    assert base64url(data) == base64.urlsafe_b64encode(data).rstrip(b"=")


def test_with_a_public_key_each_message_fails_and_the_log_says_so(tmp_path: Path) -> None:
    signer = signer_of(tmp_path, signing_jwk(private=False))
    with capture_logs() as logs:
        for _ in range(50):
            assert signer.sign_all([b"a", b"b"]) == [None, None]
    assert 1 <= len(logs) <= 10
    assert "only a public key" in logs[0]["reason"]
