"""Writes ``docs/configuration.md`` from the declaration of the keys: ``python -m edm.config.docs FILE``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from edm.config.key import ENVIRONMENT_PREFIX, Key
from edm.config.schema import KEYS
from edm.config.text import toml_value
from edm.config.validate import INPUTS

_INPUTS = ", ".join(f"`{name}`" for name in INPUTS)

_HEAD = f"""\
# Configuration

<!-- Made by `python -m edm.config.docs docs/configuration.md`; change src/edm/config/schema.py instead. -->

Every key can stand in the TOML file, in the environment, and on the command line. A flag wins over the
environment, the environment over the file, the file over the default.

- **File**: `--config-file FILE`, before or after the command (the one after it wins); without it
  `$HOME/.dnstapir-edm.toml`. The file has keys but no tables. Upper and lower case are the same. An unknown
  key, a key set twice, and a value of the wrong type are errors. A key `config-file` is accepted and ignored.
- **Environment**: `{ENVIRONMENT_PREFIX}` and the key in upper case with `_` for `-`, such as
  `{ENVIRONMENT_PREFIX}INPUT_UNIX`. A variable that is set but empty counts as set. Unknown names
  give a warning.
- **Command line**: the key after one or two dashes; the value is the next argument or follows `=`.
  Booleans need the `=`: `--debug=false`. `--debug` alone is true.
- In the environment and on the command line booleans are `1 t T TRUE true True` or
  `0 f F FALSE false False`, and integers may be written in decimal, `0x` hexadecimal, `0o` or `0` octal,
  or `0b` binary, with `_` between digits (`mqtt-keepalive`: decimal digits only).

`edm check-config` checks everything without starting anything and prints each value with its origin,
secrets masked.

On SIGHUP the file is read again; flags and environment stay as they were. If anything in it is wrong,
nothing changes. The last column of the tables says what a changed value needs: **reload** takes effect on
SIGHUP, **rotation** on SIGHUP but from the next rotation on, **restart** only after a restart. Files named
by reloadable keys are read again on SIGHUP even if the key did not change.

## What must be set

- `cryptopan-key`, `cryptopan-key-salt`, `well-known-domains-file` and `data-dir` must not be empty.
- Exactly one of {_INPUTS}; with `input-tls` also its certificate and key file.
- Unless `disable-mqtt`: the three `mqtt-*` key and certificate files, `mqtt-server`, and `mqtt-keepalive`
  above 0.
- Unless `disable-histogram-sender`: the three `http-*` key and certificate files, and `http-url`.
- `block-size` must be at least 4 bytes more than `max-frame-size`.

Minimising files needs neither an input nor the settings for Core.
"""


def _limits(key: Key) -> str:
    if key.choices:
        return ", ".join(f"`{choice}`" for choice in key.choices)
    if key.kind == "uint16":
        return "0 to 65535"
    if key.minimum is not None and key.maximum is not None:
        return f"{key.minimum} to {key.maximum}"
    return f"{key.minimum} or more" if key.minimum is not None else ""


def _meaning(key: Key) -> str:
    parts = [key.help]
    if key.unit:
        parts.append(f"In {key.unit}.")
    if limits := _limits(key):
        parts.append(f"Allowed: {limits}.")
    if key.toml_only:
        parts.append("Only in the file.")
    return " ".join(parts).replace("|", "\\|")


def render() -> str:
    """Return the text of ``docs/configuration.md``."""
    lines = [_HEAD]
    group = ""
    for key in KEYS.values():
        if key.group != group:
            group = key.group
            lines += [
                *([""] if len(lines) > 1 else []),
                f"## {group}",
                "",
                "| key | type | default | meaning | changed by |",
                "|---|---|---|---|---|",
            ]
        kind = "integer" if key.kind in ("int", "uint16") else "boolean" if key.kind == "bool" else "string"
        lines.append(
            f"| `{key.name}` | {kind} | `{toml_value(key.default)}` | {_meaning(key)} | {key.reload} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the page to the file named by the only argument, or to standard output without one."""
    if arguments:
        Path(arguments[0]).write_text(render(), encoding="utf-8")
    else:
        sys.stdout.write(render())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
