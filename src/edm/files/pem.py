"""Certificates and private keys in PEM (RFC 7468): reading them, and loading what was read into a TLS context."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator

from edm.errors import KeyFileError
from edm.files.reading import UnreadableError, read_whole

PEM_MAX = 4 << 20
"""Largest file in bytes; the bundle of all authorities that systems trust is some 300 kB."""


class EncryptedKeyError(Exception):
    """A private key is encrypted, and there is nobody to ask for the password."""


def read_pem(setting: str, path: str) -> bytes:
    """Return the content of a PEM file.

    Raises
    ------
    KeyFileError
        It cannot be read, is too large, or ends within a block, as a half-written one does; the message names
        ``setting``, the file, and the reason.
    """
    try:
        data = bytes(read_whole(path, PEM_MAX))
    except UnreadableError as error:
        raise KeyFileError(f"{setting}: {path}: {error}") from None
    if data.count(b"-----BEGIN ") > data.count(b"-----END "):
        raise KeyFileError(f"{setting}: {path}: holds no usable PEM: it ends within a block")
    return data


def load_pair(context: ssl.SSLContext, certificate: tuple[str, bytes], key: tuple[str, bytes]) -> None:
    """Let ``context`` use a certificate chain and its private key, each given as path and content of the file.

    Raises
    ------
    EncryptedKeyError
    ssl.SSLError
        As :meth:`ssl.SSLContext.load_cert_chain`.
    """
    with _as_file(*certificate) as certificate_path, _as_file(*key) as key_path:
        context.load_cert_chain(certificate_path, key_path, password=_no_password)


@contextlib.contextmanager
def _as_file(path: str, data: bytes) -> Iterator[str]:
    # The library only reads files. A file in memory holds what was checked, even if the path has changed meanwhile.
    with os.fdopen(os.memfd_create("edm-pem"), "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        copy = f"/proc/self/fd/{file.fileno()}"
        yield copy if os.access(copy, os.R_OK) else path


def _no_password() -> str:
    # Without this, the library would ask for the password at the terminal.
    raise EncryptedKeyError


__all__ = ["PEM_MAX", "EncryptedKeyError", "load_pair", "read_pem"]
