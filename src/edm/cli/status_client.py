"""Getting the status of a daemon over HTTP or HTTPS, with bounds on time and size."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edm.config.address import parse_address
from edm.errors import EdmError
from edm.files.visible import visible

PATIENCE = 5.0
"""Seconds to wait for an answer to begin, and for each part of it."""
MOST_BYTES = 4 << 20
"""Most bytes that are read of an answer."""


class StatusError(EdmError):
    """A daemon cannot be reached, or its answer is not a status document."""


@dataclass(frozen=True)
class Daemon:
    """Address and credentials for a daemon's status.

    Attributes
    ----------
    address : str
        ``HOST:PORT``, or a URL that begins with ``http://`` or ``https://``.
    token_file : str
        File with the bearer token; empty for none.
    ca_file : str
        File of the authorities trusted for https; empty for those of the system.
    cert_file, key_file : str
        Client certificate for https; empty for none.
    """

    address: str
    token_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    def ask(self, path: str) -> Any:
        """Return the JSON document at a path such as ``/api/status``; an answer with code 503 has one too.

        Raises
        ------
        StatusError
            There is no answer, or it is not such a document.
        """
        connection = self._connect()
        shown = visible(self.address)
        try:
            connection.request("GET", path, headers=self._headers())
            answer = connection.getresponse()
            body = answer.read(MOST_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise StatusError(f"{shown}: no answer from a daemon: {visible(reason)}") from None
        finally:
            connection.close()
        if answer.status == 404:
            raise StatusError(f"{shown}: answers, but has no {path}: is it an older EDM, or something else?")
        if answer.status in (401, 403):
            raise StatusError(
                f"{shown}: does not let us in ({answer.status}): is the token or certificate right?"
            )
        if answer.status not in (200, 503) or len(body) > MOST_BYTES:
            raise StatusError(f"{shown}: unexpected answer ({answer.status}, {len(body)} bytes)")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise StatusError(f"{shown}: its answer to {path} is no JSON: is it EDM?") from None

    def status(self) -> dict[str, Any]:
        """Return the document of ``/api/status``.

        Raises
        ------
        StatusError
            As with :meth:`ask`, or the document has another version than this program's.
        """
        document = self.ask("/api/status")
        if not isinstance(document, dict) or document.get("version") != 1:
            raise StatusError(f"{visible(self.address)}: its status is not of version 1")
        return document

    def _headers(self) -> dict[str, str]:
        if not self.token_file:
            return {}
        try:
            token = Path(self.token_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is no text"
            raise StatusError(f"{visible(self.token_file)}: {reason}") from None
        return {"Authorization": f"Bearer {token}"}

    def _connect(self) -> http.client.HTTPConnection:
        shown = visible(self.address)
        secure = self.address.startswith("https://")
        text = self.address
        if "://" in text:
            parts = urlsplit(text)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise StatusError(f"{shown}: must be HOST:PORT, http://HOST:PORT or https://HOST:PORT")
            text = parts.netloc
            if parts.port is None:
                text += ":443" if secure else ":80"
        try:
            host, port = parse_address(text)[:2]
        except ValueError as error:
            raise StatusError(f"{shown}: {error}") from None
        host = host or "127.0.0.1"
        if not secure:
            return http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        return http.client.HTTPSConnection(host, int(port), timeout=PATIENCE, context=self._context())

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file or None)
        except (OSError, ssl.SSLError) as error:
            named = visible(self.cert_file or self.ca_file)
            raise StatusError(f"{named}: cannot be used: {visible(error.strerror or error)}") from None
        return context


__all__ = ["MOST_BYTES", "PATIENCE", "Daemon", "StatusError"]
