"""Signed events: JWS in the flattened JSON serialisation (RFC 7515, 7.2.2) with EdDSA (RFC 8037)."""

from __future__ import annotations

import json
from binascii import b2a_base64
from collections.abc import Sequence

import structlog

from edm.errors import KeyFileError
from edm.observe.logs import RateLimited
from edm.tapir.keys.jwk import SigningKey

_URL_ALPHABET = bytes.maketrans(b"+/", b"-_")
_ESCAPED_AS_IN_HTML = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def base64url(data: bytes) -> bytes:
    """Return ``data`` in base64url without padding (RFC 7515, 2)."""
    return b2a_base64(data, newline=False).translate(_URL_ALPHABET, b"=")


def json_text(text: str) -> str:
    """Return ``text`` as a JSON string the way the Go library writes it, safe inside HTML."""
    written = json.dumps(text, ensure_ascii=False)
    for character, escape in _ESCAPED_AS_IN_HTML.items():
        written = written.replace(character, escape)
    return written


class JwsSigner:
    """Makes events into signed messages. Any thread may use it; the signing itself releases the interpreter.

    Parameters
    ----------
    key : SigningKey
    """

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self._limited = RateLimited(structlog.get_logger())
        header = f'{{"alg":"EdDSA","kid":{json_text(key.kid)}}}'
        protected = base64url(header.encode())
        self._signed_prefix = protected + b"."
        self._middle = b'","protected":"' + protected + b'","signature":"'

    def sign(self, payload: bytes) -> bytes:
        """Return the message for ``payload``.

        Raises
        ------
        KeyFileError
            The key is only a public one.
        """
        encoded = b2a_base64(payload, newline=False).translate(_URL_ALPHABET, b"=")
        signature = self._key.sign(self._signed_prefix + encoded)
        return b"".join((b'{"payload":"', encoded, self._middle, base64url(signature), b'"}'))

    def sign_all(self, payloads: Sequence[bytes]) -> list[bytes | None]:
        """Return a message for each payload, None where signing failed; failures are logged."""
        try:
            return [self.sign(payload) for payload in payloads]
        except KeyFileError as error:
            self._limited.error("new names cannot be signed", count=len(payloads), reason=str(error))
            return [None] * len(payloads)


__all__ = ["JwsSigner", "base64url", "json_text"]
