"""Parses the setting ``mqtt-server``: the address of the MQTT broker."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from edm.config.validate import MQTT_SCHEMES, server_url
from edm.errors import ConfigError

_TLS_SCHEMES = frozenset(("ssl", "tls", "mqtts", "mqtt+ssl", "tcps", "wss"))
_WEBSOCKET_PORTS = {"ws": 80, "wss": 443}
_PORTS = {True: 8883, False: 1883}
"""The ports registered for MQTT, with and without TLS."""


@dataclass(frozen=True, slots=True)
class Broker:
    """The address of the broker and the transport to use.

    Attributes
    ----------
    url : str
        The setting as text, for log messages.
    host : str
    port : int
        The URL's port, or the one registered for its scheme.
    tls : bool
    websocket_path : str or None
        None if WebSocket is not used.
    """

    url: str
    host: str
    port: int
    tls: bool
    websocket_path: str | None

    @classmethod
    def parse(cls, server: str) -> Broker:
        """Return the broker that the setting ``mqtt-server`` names.

        Raises
        ------
        ConfigError
            The setting is not a usable URL.
        """
        url = server_url(server)
        try:
            parts = urlsplit(url)
            port = parts.port
            (parts.hostname or "").encode("idna")
        except ValueError as error:
            raise ConfigError(f"mqtt-server: {server}: {error}") from None
        scheme = parts.scheme.lower()
        if scheme not in MQTT_SCHEMES:
            raise ConfigError(f"mqtt-server: {server}: unknown scheme {scheme}")
        if not parts.hostname:
            raise ConfigError(f"mqtt-server: {server}: must name a host")
        if port == 0:
            raise ConfigError(f"mqtt-server: {server}: nobody can be reached at port 0")
        path = None
        if scheme in _WEBSOCKET_PORTS:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            port = port or _WEBSOCKET_PORTS[scheme]
        tls = scheme in _TLS_SCHEMES
        shown = f"{scheme}://{parts.netloc.rpartition('@')[2]}"
        return cls(shown, parts.hostname, port or _PORTS[tls], tls, path)


__all__ = ["Broker"]
