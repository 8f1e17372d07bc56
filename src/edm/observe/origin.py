"""Checks the headers of HTTP requests, so that a foreign web page cannot use a visitor's browser to send them.

A foreign page can let its own host name resolve to this machine (DNS rebinding) and then read the answers. It can
also send requests without reading the answers. The first attack shows in ``Host``, the second in ``Origin`` and in
Fetch Metadata (https://www.w3.org/TR/fetch-metadata/).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping

ANY = "*"
"""As an allowed name: every host name is allowed."""

_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*))(?::\d*)?")


def host_of(header: str) -> str:
    """Return the host of a ``Host`` header, in lower case, without port, brackets and final dot; "" if malformed."""
    match = _HOST.fullmatch(header.strip())
    if match is None:
        return ""
    return (match[1] or match[2] or "").lower().removesuffix(".")


def is_address(host: str) -> bool:
    """Return whether ``host`` is an IP address; an address cannot be used for DNS rebinding."""
    address, zone, _ = host.partition("%")
    try:
        # Only IPv6 has zones.
        return ipaddress.ip_address(address).version == 6 or not zone
    except ValueError:
        return False


class Origins:
    """Decides by its headers whether a request may be answered.

    Parameters
    ----------
    names : iterable of str
        Names allowed in ``Host`` besides addresses, loopback names and this machine's own name.
    """

    def __init__(self, names: Iterable[str]) -> None:
        own = ("localhost", socket.gethostname())
        self._names = frozenset(name.lower().removesuffix(".") for name in (*own, *names) if name)

    def objection(self, method: str, headers: Mapping[str, str]) -> str | None:
        """Return why a request must not be answered, ``host`` or ``origin``, or None if it may."""
        if not self._knows(headers.get("host", "")):
            return "host"
        if self._is_foreign(method, headers):
            return "origin"
        return None

    def _knows(self, header: str) -> bool:
        if not header or ANY in self._names:  # a browser always sends the header
            return True
        host = host_of(header)
        return is_address(host) or host in self._names or host.endswith(".localhost")

    @staticmethod
    def _is_foreign(method: str, headers: Mapping[str, str]) -> bool:
        origin = headers.get("origin")
        if origin is not None:
            return origin.partition("://")[2].lower() != headers.get("host", "").strip().lower()
        if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            return False
        # A link on another site, such as a bookmark list, is harmless: only the person who follows it sees the page.
        follows_link = (
            headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        )
        return not (follows_link and method in ("GET", "HEAD"))


__all__ = ["ANY", "Origins", "host_of", "is_address"]
