"""Who may read what is served over HTTP: TLS with its certificate, client certificates, and a bearer token."""

from __future__ import annotations

import hmac
import ssl
from collections.abc import Mapping
from typing import Any

from edm.config import Settings
from edm.errors import KeyFileError
from edm.files.reading import UnreadableError, read_whole
from edm.files.renewable import Renewable, reload_all
from edm.input.tls import ServerCertificate

OPEN = frozenset(("/livez", "/readyz"))
"""Paths that need no token: a probe cannot always send one, and the answer tells next to nothing."""
TOKEN_LEAST = 16
"""Characters of the shortest token that is accepted."""
_TOKEN_BYTES = 4096


class Access:
    """The certificate and the token of the metrics address. Renewed files are loaded. Any thread may use it.

    Parameters
    ----------
    settings : Settings

    Raises
    ------
    KeyFileError
        A file cannot be used.
    """

    part = "metrics_access"

    def __init__(self, settings: Settings) -> None:
        self._certificate = ServerCertificate(settings, "metrics") if settings.metrics_tls_cert_file else None
        self._token: Renewable[Any, bytes] = Renewable(
            "metrics_token", settings, lambda s: [s.metrics_token_file], _load_token
        )

    def context(self) -> ssl.SSLContext | None:
        """Return the TLS context for a new connection; None without TLS."""
        return self._certificate.context() if self._certificate is not None else None

    @property
    def certificate_ends(self) -> float | None:
        """When the certificate expires, seconds since 1970; None without one."""
        return self._certificate.not_after if self._certificate is not None else None

    @property
    def configured(self) -> bool:
        """Whether there is a certificate or a token."""
        return self._certificate is not None or bool(self._token.value)

    def refresh(self) -> None:
        """Look at the files and load what was renewed."""
        self._token.refresh()
        if self._certificate is not None:
            self._certificate.refresh()

    def reload(self, settings: Settings) -> bool:
        """Read token and certificate again; return whether any of them is configured.

        Raises
        ------
        KeyFileError
            A file cannot be used; what was in use stays.
        """
        if self._certificate is not None:
            self._certificate.reload(settings)
        reload_all(settings, self._token)
        return self.configured

    def admits(self, path: str, headers: Mapping[str, str]) -> bool:
        """Tell whether a request shows the token, if one is needed."""
        token = self._token.value
        if not token or path in OPEN:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("latin-1", "replace"), token
        )


def _load_token(settings: Settings) -> bytes:
    path = settings.metrics_token_file
    if not path:
        return b""
    try:
        token = bytes(read_whole(path, _TOKEN_BYTES)).strip()
    except UnreadableError as error:
        raise KeyFileError(f"metrics-token-file: {path}: {error}") from None
    if len(token) < TOKEN_LEAST or any(byte <= 32 or byte > 126 for byte in token):
        raise KeyFileError(
            f"metrics-token-file: {path}: must hold one token of at least {TOKEN_LEAST} visible ASCII characters"
        )
    return token


__all__ = ["OPEN", "TOKEN_LEAST", "Access"]
