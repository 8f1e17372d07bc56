"""Checks that connect to the broker and the receiver with the real certificates. No data is sent."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator

from edm.cli.doctor.catalogue import Found
from edm.config import Config
from edm.errors import EdmError
from edm.files.visible import visible
from edm.tapir.keys.certificates import WARN_SECONDS, ClientCertificate, Service
from edm.tapir.mqtt.broker import Broker
from edm.tapir.upload.aggregate import AggregateService

PATIENCE = 10.0
"""Seconds for a connection and its handshake."""
VERDICT = 2.0
"""Seconds to wait for the peer to refuse the client certificate; with TLS 1.3 it does so after the handshake."""


def look(config: Config) -> Iterator[Found]:
    """Yield the findings. Files that cannot be loaded are left to the checks of the site."""
    if not config.disable_mqtt:
        with contextlib.suppress(EdmError):
            broker = Broker.parse(config.mqtt_server)
            certificate = ClientCertificate("mqtt", config)
            yield from _certificate("mqtt", certificate)
            yield from _connect(
                "EDM020", broker.host, broker.port, certificate.context if broker.tls else None
            )
    if not config.disable_histogram_sender:
        with contextlib.suppress(EdmError):
            service = AggregateService(config)
            yield from _certificate("http", service.certificate)
            context = service.certificate.context if service.target.tls else None
            yield from _connect("EDM021", service.target.host, service.target.port, context)


def _certificate(service: Service, certificate: ClientCertificate) -> Iterator[Found]:
    left = certificate.seconds_left()
    day = time.strftime("%Y-%m-%d", time.gmtime(certificate.not_after))
    if left <= 0:
        yield Found("EDM023", f"{service}-client-cert-file: expired on {day}")
    elif left <= WARN_SECONDS:
        yield Found("EDM022", f"{service}-client-cert-file: expires on {day}, in {left / 86400:.1f} days")


def _connect(code: str, host: str, port: int, context: ssl.SSLContext | None) -> Iterator[Found]:
    where = f"{visible(host)}:{port}"
    try:
        with socket.create_connection((host, port), PATIENCE) as plain:
            if context is None:
                yield Found("EDM024", where)
                return
            with context.wrap_socket(plain, server_hostname=host) as sock:
                sock.settimeout(VERDICT)
                with contextlib.suppress(
                    TimeoutError
                ):  # the peer waits for data, so it has accepted the certificate
                    if not sock.recv(1):
                        yield Found(code, f"{where}: the peer ends the connection after the handshake")
    except ssl.SSLCertVerificationError as error:
        yield Found(code, f"{where}: its certificate is not trusted: {visible(error.verify_message)}")
    except ssl.SSLError as error:
        yield Found(code, f"{where}: TLS: {visible(error.reason or error)}")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        yield Found(code, f"{where}: {visible(reason)}")


__all__ = ["PATIENCE", "VERDICT", "look"]
