"""Checks before a start writes anything: folders that others can write to, keys that others can read."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from edm.config import KEYS, Config
from edm.config.validate import server_url
from edm.errors import ConfigError
from edm.files.own import group_reason, shared_reason

_CLEAR_SCHEMES = frozenset(("mqtt", "tcp", "ws"))
_DATA_FOLDERS = (
    "",
    "parquet",
    "parquet/sessions",
    "parquet/histograms",
    "parquet/histograms/outbox",
    "mqtt",
    "seen-names",
)


def _folders(config: Config) -> Iterator[tuple[str, Path]]:
    for name in _DATA_FOLDERS:
        yield "data-dir", Path(config.data_dir) / name
    if config.input_unix:
        yield "input-unix", Path(config.input_unix).parent


def shared_folders(config: Config) -> Iterator[str]:
    """Yield a line for each folder in which other users could replace EDM's files."""
    if config.allow_shared_folders:
        return
    seen = set()
    for key, folder in _folders(config):
        reason = shared_reason(folder)
        if reason and (key, reason) not in seen:
            seen.add((key, reason))
            yield f"{key}: {reason}, who could put links in the place of EDM's files (allow-shared-folders allows it)"


def refuse_shared_folders(config: Config) -> None:
    """Refuse to start with the folders that :func:`shared_folders` finds.

    Raises
    ------
    ConfigError
        Holds a line for each such folder.
    """
    if found := list(shared_folders(config)):
        raise ConfigError(*found)


def exposures(config: Config) -> Iterator[str]:
    """Yield a line for each thing that is less safe than it could be, but that does not prevent the start."""
    for key, folder in _folders(config):
        if (reason := group_reason(folder)) and not config.allow_shared_folders:
            yield f"{key}: {reason}"
    for name in _key_files(config):
        path = getattr(config, KEYS[name].attribute)
        try:
            mode = Path(path).stat().st_mode
        except (OSError, ValueError):
            continue  # reading the file later reports the error
        if path and mode & 0o004:
            yield f"{name}: {path} can be read by every user of this machine"
    if not config.disable_mqtt and urlsplit(server_url(config.mqtt_server)).scheme.lower() in _CLEAR_SCHEMES:
        yield "mqtt-server: the connection is without TLS: whoever is on the way can read new names and take them away"
    if not config.disable_histogram_sender and urlsplit(config.http_url).scheme.lower() == "http":
        yield "http-url: the connection is without TLS: whoever is on the way can read histograms and take them away"


def _key_files(config: Config) -> Iterator[str]:
    if config.input_tls:
        yield "input-tls-key-file"
    yield from (name for name in ("metrics-tls-key-file", "metrics-token-file") if _is_set(config, name))
    for core, off in (("mqtt", config.disable_mqtt), ("http", config.disable_histogram_sender)):
        if not off:
            yield from (f"{core}-signing-key-file", f"{core}-client-key-file")


def _is_set(config: Config, name: str) -> bool:
    return bool(getattr(config, KEYS[name].attribute))


def forbid_core_files(config: Config) -> None:
    """Forbid core files, which would hold the key and clients' addresses. The key ``core-files`` allows them."""
    if not config.core_files:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


__all__ = ["exposures", "forbid_core_files", "refuse_shared_folders", "shared_folders"]
