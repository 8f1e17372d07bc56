"""``edm check-config``: validate the configuration and show what is in effect, and where it comes from."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from edm.cli.arguments import Arguments, Option, Spec
from edm.config import KEYS, Config, load
from edm.config.text import toml_value
from edm.errors import ConfigError, EdmError
from edm.files.reading import UnreadableError, open_regular

SUN_PATH_MAX = 107
"""Longest path of a Unix socket in bytes: ``sun_path`` of unix(7) without its terminating NUL."""

SPEC = Spec(
    options=(
        Option("format", "How to print the configuration.", default="text", choices=("text", "json", "toml")),
    ),
    about="Check the configuration without starting anything, and print the value and origin of every key. "
    "The exit code is 0 if the daemon could start with it, and 1 if not.",
)

Check: TypeAlias = Callable[[Config], Iterable[str]]
"""Looks at what a start would need; yields a line for each problem, or raises an EdmError for one."""


def files_are_readable(cfg: Config) -> Iterator[str]:
    """Yield a line for each file that the start would read and cannot."""
    names = ["well-known-domains-file", "ignored-client-ips-file", "ignored-question-names-file"]
    if cfg.input_tls:
        names += ["input-tls-cert-file", "input-tls-key-file", "input-tls-client-ca-file"]
    for core, off in (("mqtt", cfg.disable_mqtt), ("http", cfg.disable_histogram_sender)):
        if not off:
            names += [f"{core}-{file}-file" for file in ("signing-key", "client-key", "client-cert", "ca")]
    for name in names:
        if (path := getattr(cfg, KEYS[name].attribute)) and (reason := _unreadable(path)):
            yield f"{name}: cannot read {path}: {reason}"


def _unreadable(path: str) -> str:
    """Return why ``path`` is no file that can be read, or nothing."""
    try:
        os.close(open_regular(path))
    except UnreadableError as error:
        return str(error)
    return ""


def data_directory_is_usable(cfg: Config) -> Iterator[str]:
    """Yield a line if nothing could be stored in the data directory."""
    path = Path(cfg.data_dir)
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        yield f"data-dir: {existing} is not a directory"
    elif not os.access(existing, os.W_OK | os.X_OK):
        verb = "write to" if existing == path else "create it in"
        yield f"data-dir: {path}: no permission to {verb} {existing}"


def socket_path_problem(path: str) -> str | None:
    """Return why no Unix socket can have the path ``path``, or None."""
    size = len(os.fsencode(path))
    if size > SUN_PATH_MAX:
        return f"{path} is {size} bytes long; a Unix socket's path can have {SUN_PATH_MAX}"
    return None


def socket_can_be_made(cfg: Config) -> Iterator[str]:
    """Yield a line for each reason why the Unix socket could not be made."""
    if not cfg.input_unix:
        return
    if problem := socket_path_problem(cfg.input_unix):
        yield f"input-unix: {problem}"
    folder = Path(cfg.input_unix).parent
    if not folder.is_dir():
        yield f"input-unix: {folder} is not a directory"
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield f"input-unix: no permission to write to {folder}"


def lists_are_valid(cfg: Config) -> Iterator[str]:
    """Yield a line for each list file that is readable but not valid."""
    from edm.snapshot.parts import load_clients, make_table, open_ignored_names, open_well_known

    parts: dict[str, Callable[[Config], object]] = {
        "well-known-domains-file": lambda new: make_table(open_well_known(new)),
        "ignored-client-ips-file": load_clients,
        "ignored-question-names-file": lambda new: make_table(open_ignored_names(new)),
    }
    for name, part in parts.items():
        path = getattr(cfg, KEYS[name].attribute)
        # What cannot be read at all has a line of its own already.
        if path and not _unreadable(path):
            try:
                part(cfg)
            except EdmError as error:
                yield str(error)


def input_certificates_are_valid(cfg: Config) -> Iterator[str]:
    """Yield a line if the TLS input could not use its certificates."""
    if cfg.input_tls and cfg.input_tls_cert_file and cfg.input_tls_key_file:
        from edm.input.tls import tls_context

        try:
            tls_context(cfg.input_tls_cert_file, cfg.input_tls_key_file, cfg.input_tls_client_ca_file)
        except EdmError as error:
            yield str(error)


def core_keys_are_valid(cfg: Config) -> Iterator[str]:
    """Yield a line for each key, certificate or URL that the outputs to Core could not use."""
    from edm.tapir.keys.certificates import ClientCertificate
    from edm.tapir.keys.jwk import load_signing_key
    from edm.tapir.mqtt.broker import Broker
    from edm.tapir.upload.aggregate import upload_problems

    if not cfg.disable_histogram_sender:
        yield from upload_problems(cfg)
    if not cfg.disable_mqtt:
        tries: tuple[Callable[[], object], ...] = (
            lambda: load_signing_key("mqtt-signing-key-file", cfg.mqtt_signing_key_file),
            lambda: ClientCertificate("mqtt", cfg),
            lambda: Broker.parse(cfg.mqtt_server),
        )
        for attempt in tries:
            try:
                attempt()
            except EdmError as error:
                yield str(error)


CHECKS: list[Check] = [
    files_are_readable,
    data_directory_is_usable,
    socket_can_be_made,
    lists_are_valid,
    input_certificates_are_valid,
    core_keys_are_valid,
]
"""What is tried beyond validation. Whoever reads a file at start adds the check that its content is good."""


def problems(cfg: Config) -> list[str]:
    """Run all checks and return what they found, each line once."""
    found: list[str] = []
    for check in CHECKS:
        try:
            found += check(cfg)
        except EdmError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def as_text(cfg: Config) -> str:
    """Return the configuration as a table: key, value, origin."""
    shown = cfg.shown()
    rows = [(name, toml_value(value), cfg.origins[name]) for name, value in shown.items()]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return "".join(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}\n" for name, value, origin in rows)


def as_toml(cfg: Config) -> str:
    """Return the configuration as a TOML file with the origins as comments; secrets are left out."""
    lines = [f"# the configuration in effect, read from {cfg.path}" if cfg.path else "# in effect"]
    for name, value in cfg.shown().items():
        hidden = "# " if KEYS[name].secret else ""
        lines.append(f"{hidden}{name} = {toml_value(value)}  # {cfg.origins[name]}")
    # The name of the file may hold any character, but a comment must stay one line.
    return "".join("".join(c if c.isprintable() else "?" for c in line) + "\n" for line in lines)


def as_json(cfg: Config | None, found: Iterable[str]) -> str:
    """Return the verdict, and the configuration if there is one, as a JSON object."""
    found = list(found)
    answer: dict[str, object] = {"valid": not found, "problems": found}
    if cfg is not None:
        values = {n: {"value": v, "origin": cfg.origins[n]} for n, v in cfg.shown().items()}
        answer |= {"warnings": cfg.warnings, "file": str(cfg.path), "configuration": values}
    return json.dumps(answer, indent=2) + "\n"


def run(args: Arguments) -> int:
    """Check and print the configuration; return 0 if a start could succeed with it."""
    form = args.options["format"]
    try:
        cfg = load(args.config_file, args.flags, os.environ)
    except ConfigError as error:
        if form == "json":
            sys.stdout.write(as_json(None, error.violations))
        raise
    found = problems(cfg)
    text = as_json(cfg, found) if form == "json" else as_toml(cfg) if form == "toml" else as_text(cfg)
    sys.stdout.write(text)
    sys.stdout.flush()
    for line in cfg.warnings:
        print(f"{args.program}: warning: {line}", file=sys.stderr)
    if found:
        raise ConfigError(*found)
    if form == "text":
        print(f"\nThe configuration is valid ({cfg.path}).")
    return 0
