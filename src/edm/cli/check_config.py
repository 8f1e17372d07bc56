"""``edm check-config``: validate the configuration, and show the value and origin of each key."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable

from edm.cli.arguments import Arguments, Option, Spec
from edm.cli.checks import problems, useless
from edm.cli.printing import complain, say
from edm.config import KEYS, Config, load
from edm.config.text import toml_value
from edm.errors import ConfigError
from edm.files.visible import visible, visible_json
from edm.startup.safety import exposures

SPEC = Spec(
    options=(
        Option("format", "How to print the configuration.", default="text", choices=("text", "json", "toml")),
    ),
    about="Check the configuration without starting anything, and print the value and origin of every key. "
    "The exit code is 0 if the daemon could start with it and use all of it, and 1 if not.",
)


def as_text(cfg: Config) -> str:
    """Return the configuration as a table: key, value, origin."""
    shown = cfg.shown()
    rows = [(name, toml_value(value), visible(cfg.origins[name])) for name, value in shown.items()]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return "".join(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}\n" for name, value, origin in rows)


def as_toml(cfg: Config) -> str:
    """Return the configuration as a TOML file with the origins as comments; secrets are left out."""
    lines = [f"# the configuration in effect, read from {cfg.path}" if cfg.path else "# in effect"]
    for name, value in cfg.shown().items():
        hidden = "# " if KEYS[name].secret or value != getattr(cfg, KEYS[name].attribute) else ""
        lines.append(f"{hidden}{name} = {toml_value(value)}  # {cfg.origins[name]}")
    # The name of the file may hold any character, but a comment must stay one line.
    return "".join("".join(c if c.isprintable() else "?" for c in line) + "\n" for line in lines)


def as_json(cfg: Config | None, found: Iterable[str]) -> str:
    """Return the problems, and the configuration if it could be read, as a JSON object."""
    found = list(found)
    answer: dict[str, object] = {"valid": not found, "problems": found}
    if cfg is not None:
        values = {n: {"value": v, "origin": cfg.origins[n]} for n, v in cfg.shown().items()}
        answer |= {
            "warnings": [*cfg.warnings, *exposures(cfg)],
            "file": str(cfg.path),
            "configuration": values,
        }
    return visible_json(json.dumps(answer, indent=2)) + "\n"


def run(args: Arguments) -> int:
    """Check and print the configuration; return 0 if the daemon could start with it."""
    form = args.options["format"]
    try:
        cfg = load(args.config_file, args.flags, os.environ)
    except ConfigError as error:
        if form == "json":
            sys.stdout.write(as_json(None, error.violations))
        raise
    found = [*problems(cfg), *useless(cfg)]
    text = as_json(cfg, found) if form == "json" else as_toml(cfg) if form == "toml" else as_text(cfg)
    sys.stdout.write(text)
    sys.stdout.flush()
    complain(args.program, *(f"warning: {line}" for line in (*cfg.warnings, *exposures(cfg))))
    if found:
        raise ConfigError(*found)
    if form == "text":
        print()
        say(f"The configuration is valid ({cfg.path}).")
    return 0
