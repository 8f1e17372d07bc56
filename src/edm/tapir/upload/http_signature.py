"""The header fields that authenticate an upload: its interval, the digest of its content, and the signature.

The signature is an HTTP message signature (RFC 9421) with Ed25519, labelled ``sig1``, over type, length and
digest (RFC 9530) of the content. It is written out here because the order of its parameters is part of what is
signed, and the receiver is used to ``created``, ``alg``, ``keyid``.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from io import BufferedReader, FileIO

from edm.errors import KeyFileError
from edm.tapir.keys.jwk import SigningKey

CONTENT_TYPE = "application/vnd.apache.parquet"
LABEL = "sig1"

_COVERED = '("content-type" "content-length" "content-digest")'


def content_digest(file: BufferedReader | FileIO) -> str:
    """Return the value of ``Content-Digest`` (RFC 9530) for what is left to read of ``file``."""
    digest = hashlib.file_digest(file, "sha256").digest()
    return f"sha-256=:{base64.b64encode(digest).decode('ascii')}:"


def duration(seconds: int) -> str:
    """Return ``seconds`` as ISO 8601 has it, in hours, minutes and seconds without those that are zero."""
    if seconds <= 0:
        return "PT0S"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    return "PT" + "".join(f"{n}{unit}" for n, unit in ((hours, "H"), (minutes, "M"), (rest, "S")) if n)


def aggregate_interval(start: datetime, stop: datetime) -> str:
    """Return the value of ``Aggregate-Interval``: start and duration, e.g. ``2023-11-29T13:50:00Z/PT1M``.

    Parameters
    ----------
    start, stop : datetime
        In UTC.
    """
    return f"{start:%Y-%m-%dT%H:%M:%SZ}/{duration(int((stop - start).total_seconds()))}"


def quoted(text: str) -> str:
    """Return ``text`` as a string of structured fields (RFC 9651, 4.1.6).

    Raises
    ------
    ValueError
        It has characters other than printable ASCII.
    """
    if not all(" " <= c <= "~" for c in text):
        raise ValueError("only printable ASCII characters are possible")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def check_key_id(setting: str, key: SigningKey) -> None:
    """Raise KeyFileError if the ID of ``key`` cannot be written into a signature."""
    try:
        quoted(key.kid)
    except ValueError as error:
        raise KeyFileError(f'{setting}: {key.path}: its "kid" cannot be used over HTTP: {error}') from None


def sign(key: SigningKey, length: int, digest: str, created: int) -> tuple[str, str]:
    """Sign an upload.

    Parameters
    ----------
    length : int
        Content length in bytes.
    digest : str
        From :func:`content_digest`.
    created : int
        Seconds since 1970.

    Returns
    -------
    The values of ``Signature-Input`` and ``Signature``.

    Raises
    ------
    ValueError
        The key's ID has characters other than printable ASCII.
    """
    parameters = f'{_COVERED};created={created};alg="ed25519";keyid={quoted(key.kid)}'
    base = (
        f'"content-type": {CONTENT_TYPE}\n'
        f'"content-length": {length}\n'
        f'"content-digest": {digest}\n'
        f'"@signature-params": {parameters}'
    )
    signature = base64.b64encode(key.sign(base.encode("ascii"))).decode("ascii")
    return f"{LABEL}={parameters}", f"{LABEL}=:{signature}:"


__all__ = [
    "CONTENT_TYPE",
    "LABEL",
    "aggregate_interval",
    "check_key_id",
    "content_digest",
    "duration",
    "quoted",
    "sign",
]
