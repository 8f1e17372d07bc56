"""The client certificates with which Core is spoken to, and whom they trust: loading, renewing, and when they end."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import structlog
from cryptography import x509

from edm.config import Settings
from edm.errors import KeyFileError
from edm.files.pem import EncryptedKeyError, load_pair, read_pem
from edm.files.renewable import Renewable, reload_all
from edm.observe.metrics import Metrics

Service: TypeAlias = Literal["mqtt", "http"]
"""Prefix of the settings that name the files."""

WARN_SECONDS = 14 * 86400.0
"""Remaining validity below which a certificate is warned about."""
WARN_EVERY = 86400.0
"""Seconds between two such warnings."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A certificate with its key, found to be usable and kept as it was read."""

    certificate: tuple[str, bytes]
    key: tuple[str, bytes]
    serial: int
    not_after: float


class ClientCertificate:
    """The client certificate for one service, and the authorities trusted there, in a TLS 1.3 client context.

    Anything new makes a new context instead of changing the old one: connections take whichever is current when
    they are opened, and no connection can see a certificate with the wrong key. Any thread may use it.

    Parameters
    ----------
    service : {"mqtt", "http"}
        Chooses the settings ``<service>-client-cert-file``, ``<service>-client-key-file`` and
        ``<service>-ca-file``.
    settings : Settings
    alpn : sequence of str
        Application protocols to offer (RFC 7301); none are offered if empty.

    Raises
    ------
    KeyFileError
        A file is missing or unreadable, is no PEM, or certificate and key do not belong together.
    """

    def __init__(self, service: Service, settings: Settings, *, alpn: Sequence[str] = ()) -> None:
        self.service = service
        self._alpn = list(alpn)
        cert, key, authorities = (
            f"{service}_{suffix}" for suffix in ("client_cert_file", "client_key_file", "ca_file")
        )
        self._authorities = Renewable(
            f"{service}_authorities", settings, lambda s: [getattr(s, authorities)], self._load_authorities
        )
        self._pair = Renewable(
            f"{service}_client_certificate",
            settings,
            lambda s: [getattr(s, cert), getattr(s, key)],
            self._load_pair,
        )
        self._lock = threading.Lock()
        self._warned: float | None = None
        self._made_of: tuple[_Pair, str | None] | None = None
        self._renewed()

    @property
    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection."""
        return self._context

    @property
    def serial(self) -> int:
        """Return the serial number of the certificate in use."""
        return self._pair.value.serial

    @property
    def not_after(self) -> float:
        """Return when the certificate expires, in seconds since 1970."""
        return self._pair.value.not_after

    def seconds_left(self, now: float | None = None) -> float:
        """Return how long the certificate is still valid; negative if it has expired."""
        return self._pair.value.not_after - (time.time() if now is None else now)

    def reload(self, settings: Settings) -> None:
        """Read certificate, key and authorities again, from where ``settings`` says, for the next connections.

        Raises
        ------
        KeyFileError
            The new pair cannot be used, or the authorities; the old ones stay.
        """
        try:
            reload_all(settings, self._authorities, self._pair)
        finally:
            self._renewed()

    def refresh(self) -> None:
        """Look at the files and load what was renewed; to be called before a connection and now and then."""
        if self._authorities.refresh() | self._pair.refresh():
            self._renewed()

    def _renewed(self) -> None:
        with self._lock:
            made_of = self._pair.value, self._authorities.value
            if (
                self._made_of is not None
                and made_of[0] is self._made_of[0]
                and made_of[1] == self._made_of[1]
            ):
                return
            self._context = self._make_context(*made_of)
            self._made_of = made_of
            self._warned = None

    def add_metrics(self, metrics: Metrics) -> None:
        """Add the gauge ``edm_<service>_certificate_seconds_left``."""
        metrics.callback(
            f"edm_{self.service}_certificate_seconds_left",
            f"Time until the {self.service.upper()} client certificate expires; negative if it has",
            self.seconds_left,
        )

    def warn_if_expiring(self, now: float | None = None) -> bool:
        """Log a warning if the certificate has expired or soon will, at most once a day.

        To be called now and then (every minute, say). Returns whether it warned.
        """
        now = time.time() if now is None else now
        left = self.seconds_left(now)
        if left > WARN_SECONDS:
            return False
        with self._lock:
            if self._warned is not None and 0 <= now - self._warned < WARN_EVERY:
                return False
            self._warned = now
        text = "client certificate has expired" if left <= 0 else "client certificate expires soon"
        structlog.get_logger().warning(
            text,
            service=self.service,
            days_left=round(left / 86400, 1),
            not_after=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._pair.value.not_after)),
            serial_number=f"{self._pair.value.serial:x}",
        )
        return True

    def _load_authorities(self, settings: Settings) -> str | None:
        setting = f"{self.service}-ca-file"
        path: str = getattr(settings, f"{self.service}_ca_file")
        if not path:
            return None
        text = read_pem(setting, path).decode("ascii", "replace")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError):
            raise KeyFileError(f"{setting}: {path}: holds no usable certificate in PEM") from None
        return text

    def _load_pair(self, settings: Settings) -> _Pair:
        cert_setting, key_setting = f"{self.service}-client-cert-file", f"{self.service}-client-key-file"
        cert_file: str = getattr(settings, f"{self.service}_client_cert_file")
        key_file: str = getattr(settings, f"{self.service}_client_key_file")
        chain, key = read_pem(cert_setting, cert_file), read_pem(key_setting, key_file)
        certificate = _leaf(cert_setting, cert_file, chain)
        try:
            load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), (cert_file, chain), (key_file, key))
        except EncryptedKeyError:
            raise KeyFileError(f"{key_setting}: {key_file}: the key is encrypted") from None
        except ssl.SSLError as error:
            if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
                reason = f"does not belong to the certificate in {cert_file}"
            else:
                reason = "holds no usable private key in PEM"
            raise KeyFileError(f"{key_setting}: {key_file}: {reason}") from None
        return _Pair(
            (cert_file, chain),
            (key_file, key),
            certificate.serial_number,
            certificate.not_valid_after_utc.timestamp(),
        )

    def _make_context(self, pair: _Pair, authorities: str | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self._alpn:
            context.set_alpn_protocols(self._alpn)
        if authorities is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            context.load_verify_locations(cadata=authorities)
        load_pair(context, pair.certificate, pair.key)
        return context


def _leaf(setting: str, path: str, chain: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        raise KeyFileError(f"{setting}: {path}: holds no usable certificate in PEM") from None


__all__ = ["WARN_EVERY", "WARN_SECONDS", "ClientCertificate", "Service"]
