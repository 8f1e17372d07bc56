"""Opening the source that a configuration asks for, and the log and counts of its connections."""

from __future__ import annotations

import sys
from collections.abc import Callable

import structlog

from edm.config import Config
from edm.input.blocks import Intake
from edm.input.connection import End, Limits
from edm.input.descriptors import room_for_connections
from edm.input.listener import Listener, Listening, open_tcp
from edm.input.source import Source
from edm.input.tls import ServerCertificate
from edm.input.unix_socket import UnixSocket
from edm.observe.logs import RateLimited
from edm.observe.metrics import Metrics

SWITCH_INTERVAL = 1e-4
"""Seconds after which a thread must release the interpreter, so that readers get their turn soon."""

_FEW_CONNECTIONS = 32
_LONGEST_SWITCH_INTERVAL = 5e-3


class ConnectionLog:
    """Logs and counts the events of a listener; see :class:`edm.input.listener.Events`.

    Parameters
    ----------
    on_failed : callable
        Called with the reason if no connection can be accepted any more.
    """

    def __init__(self, metrics: Metrics, on_failed: Callable[[str], None]) -> None:
        log = structlog.get_logger()
        self._metrics = metrics
        self._on_failed = on_failed
        self._faults = RateLimited(log, on_suppressed=metrics.count_suppressed)
        # A peer that opens and closes connections in a loop must not fill the log.
        self._log = RateLimited(log, burst=100, interval=1.0, on_suppressed=metrics.count_suppressed)
        self.connections: Callable[[], int] = lambda: 0
        self.address: Callable[[], str] = lambda: ""

    def opened(self) -> None:
        """Log a sender that connected and sent its first byte."""
        self._set_switch_interval()
        self._log.info("dnstap connection opened", connections=self.connections())

    def closed(self, end: End) -> None:
        """Count and log the end of a connection."""
        self._set_switch_interval()
        self._metrics.connection_ended(end.result)
        if end.result == "closed":
            self._log.info("dnstap connection closed", connections=self.connections())
        elif end.result == "probe":
            structlog.get_logger().debug("dnstap connection closed without a byte")
        elif end.result == "idle":
            self._log.info("idle dnstap connection closed", reason=end.reason)
        else:
            self._faults.error("dnstap connection closed with an error", reason=end.reason)

    def refused(self, reason: str) -> None:
        """Count and log a connection that was refused."""
        self._metrics.connection_ended("refused")
        self._faults.warning("dnstap connection refused", reason=reason)

    def failed(self, reason: str) -> None:
        """Report that no connection can be accepted any more."""
        self._on_failed(reason)

    def socket_file_made_again(self) -> None:
        """Count and log that the Unix socket's file was gone."""
        self._metrics.socket_files.inc()
        self._faults.warning("the socket's file was gone and was made again", address=self.address())

    def socket_file_lost(self, reason: str) -> None:
        """Log that the Unix socket's file is gone, and no sender can connect."""
        self._faults.error("the socket's file is gone and cannot be made again", reason=reason)

    def flush(self) -> None:
        """Report the lines that the rate limits suppressed."""
        self._faults.flush()
        self._log.flush()

    def _set_switch_interval(self) -> None:
        # Every thread that waits for the interpreter wakes up once per interval to ask for it. With a thousand senders
        # that send at the same time, this alone would keep the processors busy.
        crowd = self.connections() / _FEW_CONNECTIONS
        sys.setswitchinterval(min(_LONGEST_SWITCH_INTERVAL, SWITCH_INTERVAL * max(1.0, crowd)))


def open_source(config: Config, intake: Intake, log: ConnectionLog) -> Source:
    """Open the one source of a configuration, with its limits; nothing is accepted before it is started.

    To use another source, choose it here (docs/seams/source.md).

    Raises
    ------
    EdmError
        The address or a TLS file cannot be used.
    """
    certificate = ServerCertificate(config, "input") if config.input_tls else None
    sock: Listening
    if config.input_unix:
        sock = UnixSocket(config.input_unix, config.input_unix_mode, config.input_unix_owner)
    elif config.input_tcp:
        sock = open_tcp(config.input_tcp, "input-tcp")
    else:
        sock = open_tcp(config.input_tls, "input-tls")
    listener = Listener(
        sock,
        intake,
        _limits(config),
        log,
        most=_most_connections(config),
        tls=certificate.context if certificate is not None else None,
        certificate=certificate,
    )
    log.connections = lambda: listener.connections
    log.address = lambda: listener.address
    return listener


def _limits(config: Config) -> Limits:
    return Limits(
        max_frame=config.max_frame_size,
        handshake_timeout=config.input_handshake_timeout,
        handshake_deadline=config.input_handshake_deadline,
        idle_timeout=config.input_idle_timeout,
        linger=config.input_linger / 1000,
    )


def _most_connections(config: Config) -> int:
    most = room_for_connections(config.input_max_connections)
    if most < config.input_max_connections:
        structlog.get_logger().warning(
            "fewer connections than input-max-connections: the limit of open files is too low", most=most
        )
    return most


__all__ = ["SWITCH_INTERVAL", "ConnectionLog", "open_source"]
