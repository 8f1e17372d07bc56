"""The web servers that a configuration asks for: metrics and status, and debugging."""

from __future__ import annotations

from collections.abc import Callable

from edm.config import Config
from edm.config.values import parse_names
from edm.observe.access import Access
from edm.observe.http import HttpServer, debug_server, metrics_server
from edm.observe.metrics import Metrics
from edm.observe.status.routes import Status


def http_servers(
    config: Config,
    metrics: Metrics,
    rotate: Callable[[float], None],
    status: Status | None = None,
    access: Access | None = None,
) -> list[HttpServer]:
    """Make the servers and bind their addresses; they are not started yet.

    Parameters
    ----------
    rotate : callable
        Called with a timeout in seconds for each request for a rotation, if these are allowed.
    status : Status, optional
        What the status page and the probes show.
    access : Access, optional
        Who may read the metrics address.

    Raises
    ------
    EdmError
        An address cannot be used.
    """
    servers = []
    names = parse_names(config.http_names)
    if config.metrics_address:
        allowed = rotate if config.enable_manual_parquet_rotation else None
        servers.append(metrics_server(metrics, config.metrics_address, allowed, names, status, access))
    if config.debug_address:
        servers.append(debug_server(config.debug_address, names, metrics))
    return servers


__all__ = ["http_servers"]
