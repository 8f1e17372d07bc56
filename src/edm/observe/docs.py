"""Writes the page of metrics from their declarations and ``metrics.toml``: ``python -m edm.observe.docs FILE``."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import edm
from edm.observe.metrics import Metrics

_NAME = re.compile(r"(edm|promhttp)_[a-z0-9_]+")
_TYPES = {"counter": "counter", "gauge": "gauge", "histogram": "histogram"}
_BY_SUFFIX = ("callback", "table", "add")  # a counter if the name ends in _total, else a gauge
_CERTIFICATES = ("mqtt", "http")

_HEAD = """# Metrics

Every metric of EDM, at `/metrics` of `metrics-address`. The page is made by `python -m edm.observe.docs` from the
declarations in the code. Metrics whose meaning begins with G have the same name and meaning as in the Go daemon. There
are also the usual metrics of the process, the platform and the garbage collector (`process_*`, `python_*`).
[operations.md](operations.md#monitoring) shows how to scrape them, and the alert rules and dashboard that are there.
"""
_NOTES = {
    "Disk space": "`kind` is `sent`, `damaged`, `session`, `refused`, `outbox`, `queue` or `seen`.",
    "New names to Core": "loaded + queued = sent + failed + dropped + damaged + on disk + in memory.",
}


@dataclass(frozen=True)
class Declared:
    """What the code says of a metric."""

    kind: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """What ``metrics.toml`` says of a metric."""

    group: str
    unit: str
    meaning: str
    normal: str
    do: str


def declared() -> dict[str, Declared]:
    """Return every metric that the code declares, by its name as Prometheus knows it."""
    found = dict(_in_source())
    for family in Metrics().registry.collect():  # those whose declaration is no literal text
        name = family.name + ("_total" if family.type == "counter" else "")
        if _NAME.fullmatch(name) and name not in found:
            labels = dict.fromkeys(label for sample in family.samples for label in sample.labels)
            found[name] = Declared(family.type, tuple(label for label in labels if label != "le"))
    for use in _CERTIFICATES:
        found[f"edm_{use}_certificate_seconds_left"] = Declared("gauge")
    return found


def _in_source() -> Iterator[tuple[str, Declared]]:
    for path in sorted(Path(edm.__path__[0]).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            first, method = node.args[0], ast.unparse(node.func).rpartition(".")[2]
            if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
                continue
            if not _NAME.fullmatch(first.value) or method not in (*_TYPES, *_BY_SUFFIX):
                continue
            kind = _TYPES.get(method) or ("counter" if first.value.endswith("_total") else "gauge")
            yield first.value, Declared(kind, tuple(_labels(node)))


def _labels(call: ast.Call) -> Iterator[str]:
    for argument in [*call.args[2:3], *(each.value for each in call.keywords if each.arg == "labels")]:
        if isinstance(argument, ast.Tuple):
            yield from (str(each.value) for each in argument.elts if isinstance(each, ast.Constant))


def catalogue() -> dict[str, Entry]:
    """Return what is said of each metric, in the order of the page."""
    groups = tomllib.loads((resources.files("edm.observe") / "metrics.toml").read_text(encoding="utf-8"))
    return {name: Entry(group, *texts) for group, rows in groups.items() for name, texts in rows.items()}


def page() -> str:
    """Return the page.

    Raises
    ------
    KeyError
        A metric of ``metrics.toml`` is not declared in the code.
    """
    known, lines, group = declared(), [_HEAD], ""
    for name, entry in catalogue().items():
        if entry.group != group:
            group = entry.group
            lines += [f"\n## {group}\n"]
            if group in _NOTES:
                lines += [_NOTES[group] + "\n"]
            lines += ["| metric | type | unit | meaning | normal | what to do |", "|---|---|---|---|---|---|"]
        labels = "{" + ",".join(known[name].labels) + "}" if known[name].labels else ""
        cells = (entry.unit, entry.meaning, entry.normal, entry.do)
        lines.append(f"| `{name}{labels}` | {known[name].kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Write the page named on the command line."""
    (name,) = arguments
    Path(name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
