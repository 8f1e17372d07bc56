"""Certificates of EDM's TLS servers, and the authorities that sign their clients' certificates: load and renew."""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass

from cryptography import x509

from edm.config import Settings
from edm.errors import KeyFileError
from edm.files.pem import EncryptedKeyError, load_pair, read_pem
from edm.files.renewable import Renewable, reload_all


@dataclass(frozen=True, slots=True)
class _Pair:
    """A certificate and its key as they were read, after a check that they can be used."""

    certificate: tuple[str, bytes]
    key: tuple[str, bytes]
    not_after: float | None


def tls_context(cert_file: str, key_file: str, client_ca_file: str) -> ssl.SSLContext:
    """Return the TLS 1.3 server context; with a client CA file, client certificates are required.

    Raises
    ------
    KeyFileError
        A file is missing, unreadable, not PEM, or certificate and key do not belong together.
    """
    return _context(_load_pair("input", cert_file, key_file), _load_authorities("input", client_ca_file))


class ServerCertificate:
    """The certificate of one of EDM's TLS servers, and the authorities of its clients. Any thread may use it.

    Renewed files need no signal: they are checked before each new connection.

    Parameters
    ----------
    settings : Settings
    prefix : str
        Chooses the settings ``<prefix>-tls-cert-file``, ``-key-file`` and ``-client-ca-file``.

    Raises
    ------
    KeyFileError
        As :func:`tls_context`.
    """

    def __init__(self, settings: Settings, prefix: str) -> None:
        cert, key, authorities = (
            f"{prefix}_tls_{suffix}" for suffix in ("cert_file", "key_file", "client_ca_file")
        )
        self._pair = Renewable(
            f"{prefix}_tls_certificate",
            settings,
            lambda s: [getattr(s, cert), getattr(s, key)],
            lambda s: _load_pair(prefix, getattr(s, cert), getattr(s, key)),
        )
        self._authorities = Renewable(
            f"{prefix}_tls_client_authorities",
            settings,
            lambda s: [getattr(s, authorities)],
            lambda s: _load_authorities(prefix, getattr(s, authorities)),
        )
        self._lock = threading.Lock()
        self._renewed()

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection, from the files on disk now if they can be used."""
        self.refresh()
        return self._context

    @property
    def not_after(self) -> float | None:
        """When the certificate expires, seconds since 1970; None if its date cannot be read."""
        return self._pair.value.not_after

    def refresh(self) -> None:
        """Load the files that were renewed."""
        if self._pair.refresh() | self._authorities.refresh():
            self._renewed()

    def reload(self, settings: Settings) -> None:
        """Read all files again, from the paths in ``settings``; open connections stay as they are.

        Raises
        ------
        KeyFileError
            The pair or the authorities cannot be used; the old ones stay in use.
        """
        try:
            reload_all(settings, self._pair, self._authorities)
        finally:
            self._renewed()

    def _renewed(self) -> None:
        with self._lock:
            self._context = _context(self._pair.value, self._authorities.value)


def _load_pair(prefix: str, cert_file: str, key_file: str) -> _Pair:
    cert_setting, key_setting = f"{prefix}-tls-cert-file", f"{prefix}-tls-key-file"
    chain, key = read_pem(cert_setting, cert_file), read_pem(key_setting, key_file)
    try:
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), (cert_file, chain), (key_file, key))
    except EncryptedKeyError:
        raise KeyFileError(f"{key_setting}: {key_file}: the key is encrypted") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise KeyFileError(
                f"{key_setting}: {key_file}: does not belong to the certificate in {cert_file}"
            ) from error
        raise KeyFileError(
            f"{cert_setting} {cert_file} / {key_setting} {key_file}: not usable PEM ({error.reason or error})"
        ) from error
    return _Pair((cert_file, chain), (key_file, key), _not_after(chain))


def _not_after(chain: bytes) -> float | None:
    # OpenSSL has accepted the certificate, but this library may be stricter.
    try:
        return x509.load_pem_x509_certificates(chain)[0].not_valid_after_utc.timestamp()
    except ValueError:
        return None


def _load_authorities(prefix: str, path: str) -> str | None:
    if not path:
        return None
    setting = f"{prefix}-tls-client-ca-file"
    text = read_pem(setting, path).decode("ascii", "replace")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise KeyFileError(f"{setting}: {path}: not usable PEM") from error
    return text


def _context(pair: _Pair, authorities: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A sender connects once and stays, so session tickets are of no use. A busy unbound (1.17, for example) even
    # fails on tickets that come after the handshake and closes the connection with an alert.
    context.num_tickets = 0
    load_pair(context, pair.certificate, pair.key)
    if authorities is not None:
        context.load_verify_locations(cadata=authorities)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


__all__ = ["ServerCertificate", "tls_context"]
