"""Core's service that takes histograms: where it is, and the requests that it wants."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator

from edm import __version__
from edm.config import Settings
from edm.errors import EdmError, KeyFileError
from edm.files.renewable import Renewable
from edm.tapir.keys.certificates import ClientCertificate
from edm.tapir.keys.jwk import ED25519, SigningKey, load_signing_key
from edm.tapir.upload.http_signature import CONTENT_TYPE, aggregate_interval, check_key_id, sign
from edm.tapir.upload.outbox import HistogramFile
from edm.tapir.upload.post import Target

PATH = "/api/v1/aggregate/histogram"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def user_agent() -> str:
    """Return the User-Agent, with system and architecture under the names that Go has for them."""
    machine = platform.machine()
    return f"edm/{__version__} {sys.platform}/{_ARCHITECTURES.get(machine, machine)}"


class AggregateService:
    """Where uploads go, the key that signs them and the certificate that is shown.

    Raises
    ------
    EdmError
        A file cannot be used, or the URL.
    """

    def __init__(self, settings: Settings) -> None:
        self.target = Target.parse("http-url", settings.http_url, PATH)
        self._key = Renewable(
            "http_signing_key", settings, lambda s: [s.http_signing_key_file], _load_signing_key
        )
        self.certificate = ClientCertificate("http", settings)

    @property
    def key(self) -> SigningKey:
        """The key that signs."""
        return self._key.value

    def reload(self, settings: Settings) -> None:
        """Read key, certificate and authorities again; the URL stays.

        Raises
        ------
        KeyFileError
            A file cannot be used; what it would replace stays.
        """
        try:
            self._key.reload(settings)
        except KeyFileError as error:
            try:
                self.certificate.reload(settings)
            except KeyFileError as other:
                raise KeyFileError(f"{error}; {other}") from None
            raise
        self.certificate.reload(settings)

    def refresh(self) -> None:
        """Load what was renewed on disk."""
        self._key.refresh()
        self.certificate.refresh()

    def headers(
        self, file: HistogramFile, length: int, digest: str, created: int
    ) -> tuple[tuple[str, str], ...]:
        """Return the header fields of an upload but Host, in the order in which the Go daemon sends them.

        Parameters
        ----------
        length : int
            Content length in bytes.
        digest : str
            Value of ``Content-Digest``.
        created : int
            Time of the signature, seconds since 1970.
        """
        signature_input, signature = sign(self.key, length, digest, created)
        return (
            ("User-Agent", user_agent()),
            ("Content-Length", str(length)),
            ("Aggregate-Interval", aggregate_interval(file.start, file.stop)),
            ("Content-Digest", digest),
            ("Content-Type", CONTENT_TYPE),
            ("Signature", signature),
            ("Signature-Input", signature_input),
            ("Accept-Encoding", "gzip"),
        )


def _load_signing_key(settings: Settings) -> SigningKey:
    setting = "http-signing-key-file"
    key = load_signing_key(setting, settings.http_signing_key_file, curves=(ED25519,), private=True)
    check_key_id(setting, key)
    return key


def upload_problems(settings: Settings) -> Iterator[str]:
    """Yield a line for what would keep uploads from starting; nothing if they are switched off."""
    if not settings.disable_histogram_sender:
        try:
            AggregateService(settings)
        except EdmError as error:
            yield str(error)


__all__ = ["PATH", "AggregateService", "upload_problems", "user_agent"]
