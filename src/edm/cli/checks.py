"""Checks beyond validation, for ``edm check-config`` and ``edm reload``: they find everything that a start refuses.

Each check calls the functions that a start calls, so that the messages are the same. No file is made or changed, and
no address stays bound.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from edm.config import KEYS, Config
from edm.config.address import bind, parse_address, reason_of
from edm.config.values import parse_owner
from edm.errors import EdmError, KeyFileError
from edm.files.own import open_own
from edm.input.unix_socket import UNIX_PATH_MAX
from edm.startup.safety import shared_folders

Check: TypeAlias = Callable[[Config], Iterable[str]]
"""A check of something that a start needs. It yields a line for each problem, or raises an EdmError."""


def _tried(*attempts: Callable[[], object]) -> Iterator[str]:
    for attempt in attempts:
        try:
            attempt()
        except EdmError as error:
            yield str(error)


def lists_are_valid(cfg: Config) -> Iterator[str]:
    """Yield a line for each list file that cannot be read or is not valid."""
    from edm.snapshot.parts import load_clients, make_table, open_ignored_names, open_well_known

    parts: dict[str, Callable[[], object]] = {
        "well-known-domains-file": lambda: make_table(open_well_known(cfg)),
        "ignored-client-ips-file": lambda: load_clients(cfg),
        "ignored-question-names-file": lambda: make_table(open_ignored_names(cfg)),
    }
    for name, part in parts.items():
        # The message of the start has only the path, which does not say which list it is.
        yield from (f"{name}: {line}" for line in _tried(part))


def data_directory_is_usable(cfg: Config) -> Iterator[str]:
    """Yield a line for each folder in the data directory that cannot be made or written."""
    root = Path(cfg.data_dir)
    names = ["parquet/sessions", "parquet/histograms/outbox", "unfinished", "seen-names"]
    # The order is that of the errors at a start: an existing data directory fails when a folder is made in it, a
    # missing one when it is made itself.
    names.insert(len(names) if root.is_dir() else 0, ".")
    if not cfg.disable_mqtt and not cfg.disable_mqtt_filequeue:
        names.append("mqtt")
    if cfg.new_qname_file:
        names.append("new_qname")
    met: set[Path] = set()
    for name in names:
        existing = folder = root / name
        while not os.path.lexists(existing) and existing != existing.parent:
            existing = existing.parent
        if existing not in met and (reason := _unusable(existing, folder)):
            seen = "cannot keep seen names here: " if name == "seen-names" else ""
            yield f"{'' if seen else 'data-dir: '}{folder}: {seen}{reason}"
        met.add(existing)


def _unusable(existing: Path, folder: Path) -> str:
    """Return why ``folder`` cannot be made or written, or ""; ``existing`` is the part of its path that exists."""
    if not existing.is_dir():
        return os.strerror(errno.EEXIST if existing == folder else errno.ENOTDIR)
    return "" if os.access(existing, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)


def debug_file_can_be_written(cfg: Config) -> Iterator[str]:
    """Yield a line if the debug file cannot be appended to."""
    if not (name := cfg.debug_dnstap_filename):
        return
    path = Path(name)
    try:
        if path.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        there = os.path.lexists(path)
        if not there:
            path.parent.stat()  # raises the reason if the folder is missing
            if not path.parent.is_dir():
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        allowed = (
            path.is_symlink() or os.access(path, os.W_OK)
            if there
            else os.access(path.parent, os.W_OK | os.X_OK)
        )
        if not allowed:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        # Opening and closing a pipe would signal the end to its reader.
        if there and path.parent != Path("/dev") and not path.is_fifo():
            os.close(open_own(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        yield f"debug-dnstap-filename: {path}: {error.strerror}"


def socket_path_problem(path: str) -> str | None:
    """Return why no Unix socket can have the path ``path``, or None."""
    if len(os.fsencode(path)) > UNIX_PATH_MAX:
        return f"{path}: longer than the {UNIX_PATH_MAX} bytes a socket path may have"
    return None


def socket_can_be_made(cfg: Config) -> Iterator[str]:
    """Yield a line for each reason why the Unix socket cannot be made."""
    if not (path := cfg.input_unix):
        return
    if problem := socket_path_problem(path):
        yield f"input-unix: {problem}"
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            yield f"input-unix: {path}: exists and is not a socket"
    except FileNotFoundError:
        folder = Path(path).parent
        if not folder.is_dir():
            yield f"input-unix: {path}: {os.strerror(errno.ENOENT)}"
        elif not os.access(folder, os.W_OK | os.X_OK):
            yield f"input-unix: {path}: {os.strerror(errno.EACCES)}"
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            yield f"input-unix: {path}: {error.strerror}"
    yield from _owner_problems(cfg)


def _owner_problems(cfg: Config) -> Iterator[str]:
    user, group = parse_owner(cfg.input_unix_owner)
    ours = {"user": {os.geteuid()}, "group": {os.getegid(), *os.getgroups()}}
    for kind, name in (("user", user), ("group", group)):
        try:
            number = None
            if name:
                number = pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
        except (KeyError, ValueError):  # a name that cannot be encoded has no entry
            yield f"input-unix-owner: no such {kind}: {name!r}"
        else:
            if number is not None and number not in ours[kind] and os.geteuid():
                yield f"input-unix: {cfg.input_unix}: {os.strerror(errno.EPERM)}"


def addresses_can_be_bound(cfg: Config) -> Iterator[str]:
    """Yield a line for each input address that does not belong to this machine, or that this user may not bind."""
    yield from _unbindable(cfg, "input-tcp", "input-tls")


def _unbindable(cfg: Config, *names: str) -> Iterator[str]:
    for name in names:
        if text := getattr(cfg, KEYS[name].attribute):
            try:
                bind(parse_address(text)).close()
            except OSError as error:
                # An address in use is most likely in use by the daemon with this configuration.
                if error.errno != errno.EADDRINUSE:
                    yield f"{name}: {text}: {reason_of(error)}"


def input_certificates_are_valid(cfg: Config) -> Iterator[str]:
    """Yield a line if the TLS input cannot use its certificates."""
    if cfg.input_tls and cfg.input_tls_cert_file and cfg.input_tls_key_file:
        from edm.input.tls import tls_context

        files = cfg.input_tls_cert_file, cfg.input_tls_key_file, cfg.input_tls_client_ca_file
        yield from _tried(lambda: tls_context(*files))


def access_is_valid(cfg: Config) -> Iterator[str]:
    """Yield a line if the certificate or token of the metrics address cannot be used."""
    from edm.observe.access import Access

    yield from _tried(lambda: Access(cfg))


def core_keys_are_valid(cfg: Config) -> Iterator[str]:
    """Yield a line for each key, certificate or URL that the outputs to Core cannot use."""
    from edm.tapir.events.outgoing import topic_of
    from edm.tapir.keys.certificates import ClientCertificate
    from edm.tapir.keys.jwk import load_signing_key
    from edm.tapir.mqtt.broker import Broker
    from edm.tapir.upload.aggregate import upload_problems

    yield from upload_problems(cfg)
    if not cfg.disable_mqtt:
        yield from _tried(
            lambda: topic_of(load_signing_key("mqtt-signing-key-file", cfg.mqtt_signing_key_file)),
            lambda: ClientCertificate("mqtt", cfg),
            lambda: Broker.parse(cfg.mqtt_server),
        )


CHECKS: list[Check] = [
    lists_are_valid,
    data_directory_is_usable,
    debug_file_can_be_written,
    socket_can_be_made,
    addresses_can_be_bound,
    input_certificates_are_valid,
    access_is_valid,
    core_keys_are_valid,
    shared_folders,
]
"""All checks beyond validation. If a start reads a new file, add a check of its content here."""


def problems(cfg: Config) -> list[str]:
    """Run all checks and return what they found, each line once."""
    return _found(cfg, CHECKS)


def _found(cfg: Config, checks: Iterable[Check]) -> list[str]:
    found: list[str] = []
    for check in checks:
        try:
            found += check(cfg)
        except EdmError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def useless(cfg: Config) -> list[str]:
    """Return a line for each setting with which the daemon starts, but that can never work."""
    return _found(cfg, (_keys_for_core, _servers))


def _keys_for_core(cfg: Config) -> Iterator[str]:
    from edm.tapir.keys.jwk import CORE_TAKES, core_takes, load_signing_key

    used = {"mqtt-signing-key-file": cfg.disable_mqtt, "http-signing-key-file": cfg.disable_histogram_sender}
    for name, off in used.items():
        path = getattr(cfg, KEYS[name].attribute)
        try:
            key = None if off else load_signing_key(name, path)
        except KeyFileError:
            continue  # the daemon cannot start with it, and core_keys_are_valid() reports it
        if key is not None and key.private is None:
            yield f"{name}: {path}: holds only a public key, which cannot sign"
        if key is not None and not core_takes(key.kid):
            yield f"{name}: {path}: its key ID {key.kid!r} is of no use: {CORE_TAKES}"


def _servers(cfg: Config) -> Iterator[str]:
    yield from _unbindable(cfg, "metrics-address", "debug-address")


__all__ = ["CHECKS", "Check", "problems", "socket_path_problem", "useless"]
