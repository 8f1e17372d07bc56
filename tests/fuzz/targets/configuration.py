"""The configuration: file, environment and command line, in one input.

The parts of an input are divided by null bytes: the file, then lines of the environment, then arguments, a line each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

from edm.cli.arguments import Arguments, HelpWanted, Option, Spec, UsageError, parse
from edm.config import KEYS, load
from edm.config.key import Key
from edm.errors import ConfigError
from fuzz.scratch import scratch_file
from fuzz.target import Target, agree, one_line
from oracles import configuration

_BASE = {
    "cryptopan-key": "a-secret-of-the-fuzzer",
    "input-unix": "/run/edm.sock",
    "disable-mqtt": True,
    "disable-histogram-sender": True,
}
_SPEC = Spec(
    positional="[FILE...]", options=(Option("follow", "", "bool", False), Option("level", "", "int", 3))
)
_TEXTS = (
    "",
    "a",
    "127.0.0.1:53",
    "[::1]:0",
    "0660",
    "user:group",
    "https://a/b",
    "mqtt://h",
    "auto",
    "x" * 300,
    "ü\n\x1b[",
)
_NUMBERS = (
    "0",
    "-1",
    "1",
    "0x10",
    "017",
    "1_000",
    "65535",
    "65536",
    "9223372036854775807",
    "9223372036854775808",
    "1" * 5000,
)


def _split(data: bytes) -> tuple[str | None, dict[str, str], list[str]]:
    parts = (*data.split(b"\0", 2), b"", b"")[:3]
    try:
        text = parts[0].decode()
    except UnicodeDecodeError:
        text = None
    # As Python gives what is no UTF-8 in the environment and on the command line.
    lines = [part.decode("utf-8", "surrogateescape").split("\n") for part in parts[1:]]
    pairs = (line.partition("=") for line in lines[0] if "=" in line)
    return text, {name: value for name, _, value in pairs}, [line for line in lines[1] if line]


class ConfigurationTarget(Target):
    name = "configuration"
    batch = 64
    longest = 3000

    def corpus(self) -> list[bytes]:
        everything = _BASE | {
            k.name: k.default for k in KEYS.values() if k.name not in ("input-tcp", "input-tls", *_BASE)
        }
        toml = "".join(f"{name} = {json.dumps(value)}\n" for name, value in everything.items())
        small = "".join(f"{name} = {json.dumps(value)}\n" for name, value in _BASE.items())
        table = "# a comment\n\nmqtt-server = 'h:1'\ndata-dir = '''\n/x'''\n"
        table += '"debug" = true # x\n[t]\na = [1, {b = 2}]\n'
        return [
            toml.encode(),
            small.encode()
            + b"\0DNSTAPIR_EDM_DEBUG=1\nDNSTAPIR_EDM_MQTT_KEEPALIVE=007\0--minimiser-workers=0x4\n-debug",
            table.encode() + b"\0DNSTAPIR_EDM_CONFIG_FILE=x\nDNSTAPIR_EDM_X=1\0-\n--\n--x",
            small.encode() + b"\0\0--config-file\nf\n--level=3\n--input-unix=\n--input-tcp\n:53\nfile",
        ]

    def generate(self, rng: Random) -> bytes:
        values: dict[str, str] = {name: json.dumps(value) for name, value in _BASE.items()}
        if rng.random() < 0.1:
            del values[rng.choice(list(_BASE))]
        for _ in range(rng.choice((0, 1, 2, 6))):
            key = rng.choice(list(KEYS.values()))
            values[key.name] = self._toml(rng, key)
        lines = [f"{self._spelling(rng, name)} = {value}" for name, value in values.items()]
        rng.shuffle(lines)
        keys = [rng.choice(list(KEYS.values())) for _ in range(rng.choice((0, 0, 1, 3)))]
        environ = [f"{key.variable}={self._text(rng, key)}" for key in keys]
        keys = [rng.choice(list(KEYS.values())) for _ in range(rng.choice((0, 0, 1, 3)))]
        flags = [
            rng.choice(("--", "-")) + f"{key.name}{rng.choice('= ')}{self._text(rng, key)}" for key in keys
        ]
        arguments = [part for flag in flags for part in flag.split(" ", 1)]
        parts = ("\n".join(part) for part in (lines, environ, arguments))
        return b"\0".join(part.encode("utf-8", "surrogateescape") for part in parts)

    def _spelling(self, rng: Random, name: str) -> str:
        if rng.random() < 0.03:
            return rng.choice(
                (name.upper(), f'"{name}"', f"'{name}'", name + ".x", name[:-1], f'"{name[0]}\\u002d"')
            )
        return name

    def _text(self, rng: Random, key: Key) -> str:
        if rng.random() < 0.1:
            return rng.choice(_TEXTS + _NUMBERS)
        if key.kind == "bool":
            return rng.choice(configuration.TRUE + configuration.FALSE)
        return rng.choice(_TEXTS if key.kind == "string" else _NUMBERS)

    def _toml(self, rng: Random, key: Key) -> str:
        if rng.random() < 0.1:
            return rng.choice(("[]", "{}", "1.5", "nan", "1979-05-27", "''", '""""""', "[[1]", "true", "0"))
        if key.kind == "bool":
            return rng.choice(("true", "false"))
        if key.kind == "string":
            return json.dumps(rng.choice(_TEXTS))
        return rng.choice((str(key.default), *_NUMBERS))

    def check(self, inputs: Sequence[bytes]) -> list[bool]:
        return [self._one(data) for data in inputs]

    def _one(self, data: bytes) -> bool:
        text, environ, given = _split(data)
        arguments = self._arguments(given)
        flags = {} if arguments is None else arguments.flags
        path = scratch_file("edm.toml", data.partition(b"\0")[0])
        path.chmod(0o600)
        wanted = self._expected(text, environ, flags)
        try:
            config = load(path, flags, environ)
        except ConfigError as error:
            one_line(error.violations[0])
            for violation in error.violations:
                one_line(violation)
            self._judge(data, wanted, error)
            return False
        if wanted is None:
            agree(data, "accepted", "refused")
        assert wanted is not None
        for key in KEYS.values():
            agree(
                data,
                (key.name, getattr(config, key.attribute)),
                (key.name, wanted.get(key.name, key.default)),
            )
        self._secrets(data, wanted, config.warnings)
        return True

    def _arguments(self, given: list[str]) -> Arguments | None:
        try:
            return parse("edm", "run", _SPEC, given)
        except HelpWanted:
            return None
        except UsageError as error:
            one_line(error.problems[0].encode("utf-8", "backslashreplace"))
            return None

    def _expected(
        self, text: str | None, environ: dict[str, str], flags: dict[str, str]
    ) -> dict[str, Any] | None:
        if text is None:
            return None
        try:
            return configuration.merge(KEYS, text, environ, flags)
        except configuration.WrongError:
            return None

    def _judge(self, data: bytes, wanted: dict[str, Any] | None, error: ConfigError) -> None:
        """Where each value is right by itself, and none of them depends on another, nothing may be refused."""
        if wanted is None:
            return
        self._secrets(data, wanted, error.violations)
        base = {name: value for name, value in wanted.items() if name in _BASE}
        if base == _BASE and all(
            _free(KEYS[name], value) for name, value in wanted.items() if name not in _BASE
        ):
            agree(data, error.violations, ())

    def _secrets(self, data: bytes, values: dict[str, Any], lines: Sequence[str]) -> None:
        for name, value in values.items():
            # What stands there twice may be shown as the value of another key.
            if (
                KEYS[name].secret
                and len(value) >= 8
                and data.count(value.encode("utf-8", "surrogateescape")) == 1
            ):
                assert not any(value in line for line in lines), "a secret in a message"


def _free(key: Key, value: Any) -> bool:
    """Tell whether a value is within its bounds, and its key takes part in no rule."""
    if key.kind == "bool":
        return not key.name.startswith("disable-")
    if key.kind != "int" or key.name in ("block-size", "max-frame-size"):
        return False
    return (key.minimum is None or value >= key.minimum) and (key.maximum is None or value <= key.maximum)


__all__ = ["ConfigurationTarget"]
