"""Loading the configuration: file, environment and command line become one frozen object."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from edm.config.key import ENVIRONMENT_PREFIX, Key, Value
from edm.config.schema import FLAG_KEYS, KEYS, Settings
from edm.config.toml import read_entries
from edm.config.validate import INPUTS, Purpose, violations, warnings
from edm.config.values import plain, shorten
from edm.errors import ConfigError, mask_passwords

DEFAULT_FILE_NAME = ".dnstapir-edm.toml"
# In the file for the sake of old ones; it cannot name itself.
_TOLERATED = "config-file"


@dataclasses.dataclass(frozen=True, repr=False)
class Config(Settings):
    """A valid configuration: the value of every key, and where each came from.

    Attributes
    ----------
    origins : for each key ``flag``, ``environment``, ``file PATH:LINE`` or ``default``.
    warnings : a line for each thing that is no error but that the operator should know.
    path : the file that was read, or None.
    """

    origins: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)
    warnings: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    path: Path | None = dataclasses.field(default=None, compare=False)

    def shown(self) -> dict[str, Value]:
        """Return all values by key for printing or logging, with the secrets masked."""
        values = {key.name: getattr(self, key.attribute) for key in KEYS.values()}
        return {
            name: KEYS[name].show(v) if KEYS[name].secret else mask_passwords(v) if isinstance(v, str) else v
            for name, v in values.items()
        }


class Changes(NamedTuple):
    """The keys in which two configurations differ."""

    reloadable: tuple[str, ...]
    restart: tuple[str, ...]


def default_path(environ: Mapping[str, str]) -> Path:
    """Return the path of the configuration file when none is given; ConfigError without a home directory."""
    if not (home := environ.get("HOME", "")):
        raise ConfigError("no configuration file: --config-file is not given and HOME is not set")
    return Path(home, DEFAULT_FILE_NAME)


def closest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean X?)"`` with the name in ``known`` most like ``name``, or nothing."""
    similar = difflib.get_close_matches(name, list(known), 1, 0.75)
    return f" (did you mean {similar[0]}?)" if similar else ""


class _Sources:
    """Collects values in rising order of precedence, and everything that is wrong with them."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.origins = dict.fromkeys(KEYS, "default")
        self.places: dict[str, str] = {}
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.broken: set[str] = set()

    def _set(self, key: Key, value: Value, origin: str, place: str) -> None:
        self.values[key.name] = value
        self.origins[key.name] = origin
        self.places[key.name] = place

    def _refuse(self, key: Key, place: str, reason: object, found: Value | None) -> None:
        given = "" if key.secret or found is None else f" (found {shorten(found)})"
        self.problems.append(f"{place}: {reason}{given}")
        self.broken.add(key.name)

    def read_file(self, path: Path) -> None:
        for entry in read_entries(path):
            name = entry.key.lower()
            place = f"{path}:{entry.line}" if entry.line else str(path)
            if name == _TOLERATED:
                continue
            if (key := KEYS.get(name)) is None:
                what = "table" if isinstance(entry.value, dict) else "key"
                self.problems.append(f"{place}: unknown {what} {plain(entry.key)}{closest(name, KEYS)}")
                continue
            try:
                self._set(key, key.accept(entry.value), f"file {place}", f"{place}: {name}")
            except ValueError as error:
                right_type = type(entry.value) is type(key.default)
                self._refuse(key, f"{place}: {name}", error, entry.value if right_type else None)

    def read_environment(self, environ: Mapping[str, str]) -> None:
        known = {key.variable: key for key in FLAG_KEYS.values()}
        for variable in sorted(name for name in environ if name.startswith(ENVIRONMENT_PREFIX)):
            if key := known.get(variable):
                self._parse(key, environ[variable], "environment", variable)
            elif variable == ENVIRONMENT_PREFIX + "CONFIG_FILE":
                self.warnings.append(f"{variable} has no effect: give the file with --config-file")
            else:
                self.warnings.append(
                    f"{plain(variable)} is no known setting and has no effect{closest(variable, known)}"
                )

    def read_flags(self, flags: Mapping[str, str]) -> None:
        for name, text in flags.items():
            if key := FLAG_KEYS.get(name):
                self._parse(key, text, "flag", key.flag)
            else:
                self.problems.append(f"unknown flag --{plain(name)}{closest(name, FLAG_KEYS)}")

    def _parse(self, key: Key, text: str, origin: str, place: str) -> None:
        try:
            self._set(key, key.parse(text), origin, place)
        except ValueError as error:
            self._refuse(key, place, error, text)

    def settings(self) -> dict[str, Any]:
        return {KEYS[name].attribute: value for name, value in self.values.items()}


def load(
    config_file: Path | None,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    purpose: Purpose = "daemon",
) -> Config:
    """Read the configuration: a flag wins over the environment, that over the file, that over the default.

    Parameters
    ----------
    config_file : the file; None means ``.dnstapir-edm.toml`` in the home directory. To minimise files that
        default may be absent; in all other cases the file must exist.
    flags : text of each configuration flag that was given, by key.
    environ : the environment. For a reload pass the same flags and environment again.
    purpose : what must be set: minimising files needs neither an input nor the settings for Core.

    Raises
    ------
    ConfigError
        With everything that is wrong, a line each, naming the key, where it is set, and the reason.
    """
    sources = _Sources()
    readable = True
    path = config_file
    try:
        if config_file is not None or purpose == "daemon":
            path = config_file or default_path(environ)
            sources.read_file(path)
        elif environ.get("HOME") and default_path(environ).exists():
            path = default_path(environ)
            sources.read_file(path)
    except ConfigError as error:
        sources.problems += error.violations
        readable = False
    sources.read_environment(environ)
    sources.read_flags(flags)
    if readable:  # else rules would be broken only because the file's values are missing
        broken = sources.broken
        for name, reason in violations(Settings(**sources.settings()), purpose):
            if name not in broken and not (broken & _related(name)):
                sources.problems.append(f"{sources.places.get(name, name)}: {reason}")
    if sources.problems:
        raise ConfigError(*sources.problems)
    settings = sources.settings()
    notes = [*sources.warnings, *_exposed(sources.origins, path), *warnings(Settings(**settings))]
    return Config(**settings, origins=MappingProxyType(sources.origins), warnings=tuple(notes), path=path)


def _related(name: str) -> set[str]:
    """Return the keys whose values a rule reported for ``name`` may depend on."""
    if name in INPUTS:
        return set(INPUTS)
    if name.startswith("mqtt-"):
        return {"disable-mqtt"}
    if name.startswith("http-"):
        return {"disable-histogram-sender"}
    return {"max-frame-size"} if name == "block-size" else set()


def _exposed(origins: Mapping[str, str], path: Path | None) -> Iterable[str]:
    """Yield a line for each secret that stands where others can read it."""
    for key in KEYS.values():
        if key.secret and origins[key.name] == "flag":
            yield f"{key.flag} on the command line can be read by every user of this machine"
    if path is not None and origins["cryptopan-key"].startswith("file "):
        try:
            mode = path.stat().st_mode
        except OSError:
            return
        if mode & 0o004:
            yield f"{path} holds the cryptopan-key and can be read by every user of this machine"


def diff(old: Settings, new: Settings) -> Changes:
    """Return the keys whose values differ, split into those a reload applies and those needing a restart."""
    changed = [k for k in KEYS.values() if getattr(old, k.attribute) != getattr(new, k.attribute)]
    return Changes(
        tuple(key.name for key in changed if key.reload != "restart"),
        tuple(key.name for key in changed if key.reload == "restart"),
    )


__all__ = ["Changes", "Config", "closest", "default_path", "diff", "load"]
