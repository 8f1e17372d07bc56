"""The documentation agrees with the code: commands, keys, metrics, log lines, columns; and its links work."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pyarrow as pa
import pytest

from edm.cli.main import COMMANDS
from edm.config import KEYS
from edm.observe.ledger import FATE_NAMES, Ledger
from edm.observe.metrics import Metrics
from edm.observe.status.findings import CODES
from edm.stages.histogram.schema import SCHEMA as HISTOGRAM_SCHEMA
from edm.stages.session.columns import SCHEMA as SESSION_SCHEMA
from edm.tapir.keys.certificates import Service

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "edm"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def page(name: str) -> str:
    return text_of(ROOT / name)


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path, ast.parse(text_of(path))


def quoted(text: str) -> set[str]:
    """Return what stands between backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


# Links


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as they are made on the usual code hosting sites."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#{1,6} +(.+?) *$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("source", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(source: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(source)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (source.parent / name).resolve() if name else source
        if not path.exists() or (anchor and anchor not in anchors(text_of(path))):
            broken.append(target)
    assert broken == []


def test_every_page_is_linked_from_the_readme() -> None:
    readme = page("README.md")
    missing = [path.name for path in (ROOT / "docs").glob("*.md") if f"(docs/{path.name})" not in readme]
    assert missing == []


# Form

_WIDTH = 120


def prose_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that can be wrapped: no table, code, heading, or one unbroken word."""
    fenced = False
    margin = 0  # of the text above: a line indented by four more is code if it comes after an empty one
    code = False
    empty = True
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if stripped.startswith("```"):
            fenced = not fenced
        elif not stripped:
            empty = True
        elif not fenced:
            code = indent >= margin + 4 and (empty or code)
            item = re.match(r" *([-*]|\d+\.) +", line)
            if not code:
                if item:
                    margin = item.end()
                elif indent < margin:
                    margin = indent
                if (
                    not stripped.startswith(("|", "#", "<"))
                    and " " in stripped[len(item[0].strip()) + 1 if item else 0 :]
                ):
                    yield number, line
            empty = False


@pytest.mark.parametrize(
    "source",
    [path for path in PAGES if path.parent != ROOT or path.name in ("README.md", "CONTRIBUTING.md")],
    ids=lambda path: path.name,
)
def test_prose_is_wrapped(source: Path) -> None:
    long = [
        f"{source.name}:{number}: {len(line)} characters"
        for number, line in prose_lines(text_of(source))
        if len(line) > _WIDTH
    ]
    assert long == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("one word\ntwo words", [1, 2]),
        ("- an item\n  goes on\n\n      code of it\n\nafter it", [1, 2, 6]),
        ("some text\n\n    code\n\n    more code\ntext again", [1, 6]),
        ("some text\n    of the same paragraph is not code", [1, 2]),
        ("| a table |\n\n# A heading\n\n```sh\nls -l\n```\nlast words", [8]),
        ("https://example.com/that-cannot-be-broken\n- https://example.com/that-neither", []),
    ],
)
def test_prose_is_told_from_code_and_tables(text: str, found: list[int]) -> None:
    assert [number for number, _ in prose_lines(text)] == found


# What there is


def test_every_command_is_in_the_readme() -> None:
    shown = {code.split()[1] for code in quoted(page("README.md")) if code.startswith("edm ")}
    assert set(COMMANDS) - shown == set()


def test_every_key_is_in_the_documentation() -> None:
    shown = quoted(page("docs/configuration.md"))
    assert set(KEYS) - shown == set()


def test_no_page_names_a_key_that_does_not_exist() -> None:
    prefixes = tuple({name.split("-")[0] + "-" for name in KEYS})
    known = {*KEYS, *CODES, "mqtt-*", "http-*"}
    strange = {
        f"{path.name}: {code}"
        for path in PAGES
        for code in quoted(text_of(path))
        if code.startswith(prefixes) and re.fullmatch(r"[a-z0-9*]+(-[a-z0-9*]+)+", code) and code not in known
    }
    # The Go daemon's folder, and threads.
    strange -= {
        "compatibility.md: dawg-staging",
        "architecture.md: http-metrics",
        "architecture.md: http-debug",
    }
    assert strange == set()


def exported_metrics() -> set[str]:
    """Return the names of all metrics: those in the source's text, and those that a registry has."""
    literal = {
        node.value
        for _, module in modules()
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    names = {text for text in literal if re.fullmatch(r"(edm|promhttp)_[a-z0-9_]+[a-z0-9]", text)}
    names -= set(HISTOGRAM_SCHEMA.names)
    names |= {f"edm_{service}_certificate_seconds_left" for service in Service.__args__}
    for family in Metrics().registry.collect():
        if not family.name.startswith(("process_", "python_")):
            names.add(family.name + ("_total" if family.type == "counter" else ""))
    return names


def test_every_metric_is_described() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", page("docs/metrics.md"), re.M)
    described = {re.sub(r"\{.*\}", "", code) for row in rows for code in quoted(row)}
    assert exported_metrics() - described == set()
    assert {name for name in described if name.startswith("edm_")} - exported_metrics() == set()


def log_messages() -> Iterator[tuple[str, str]]:
    for path, module in modules():
        for node in ast.walk(module):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            if node.func.attr not in ("info", "warning", "error", "exception"):
                continue
            if "log" not in ast.unparse(node.func.value) and "limited" not in ast.unparse(node.func.value):
                continue
            for part in ast.walk(node.args[0]):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield path.name, part.value


def test_every_log_line_is_described() -> None:
    described = quoted(page("docs/operations.md"))
    missing = sorted({f"{name}: {text}" for name, text in log_messages() if text not in described})
    assert missing == []


def test_every_fate_is_described() -> None:
    section = page("docs/operations.md").split("## The ledger")[1].split("\n## ")[0]
    assert set(FATE_NAMES) == set(re.findall(r"^\| `(\w+)` \|", section, re.M))


# Files

_TYPES = {
    pa.string(): "string",
    pa.binary(): "binary",
    pa.timestamp("us", tz="UTC"): "timestamp, microseconds, UTC",
}


def documented_columns(section: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for names, kind in re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", section, re.M):
        first, *last = re.findall(r"`(\w+)`", names)
        if last and " ... " in names:
            stem, low, high = first.rstrip("0123456789"), first[-1], last[0][-1]
            found += [(f"{stem}{number}", kind) for number in range(int(low), int(high) + 1)]
        else:
            found.append((first, kind))
    return found


@pytest.mark.parametrize(
    ("title", "schema"), [("Session files", SESSION_SCHEMA), ("Histogram files", HISTOGRAM_SCHEMA)]
)
def test_every_column_is_described_in_order(title: str, schema: pa.Schema) -> None:
    section = page("docs/files.md").split(f"## {title}\n")[1].split("\n## ")[0]
    columns = [(field.name, _TYPES.get(field.type, str(field.type))) for field in schema]
    assert documented_columns(section) == columns


def test_every_key_of_the_footer_is_described() -> None:
    section = page("docs/files.md").split("## Metadata in the footer\n")[1].split("\n## ")[0]
    described = {
        "edm.ledger" + code if code.startswith(".") else code
        for code in quoted(section)
        if code.startswith((".", "edm."))
    }
    written = {
        node.value
        for _, module in modules()
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"edm\.(version|(interval|snapshot)\.\w+|session_\w+)", node.value)
        and "." in node.value
    }
    written -= {"edm.session_rows"}
    assert described == written | set(Ledger().to_metadata())


# Docstrings of kernels

_BATCH = {"buf", "u32", "u64", "fate", "n"}  # what edm.kernel.columns says of every kernel over a batch
_ARRAY = re.compile(r"\b(u?int|float|bool)\d*\[|``\w+\[")
_OWED = {
    "stages/domains/dawg/writer_kernels.py: fill_slots",
    "stages/domains/dawg/writer_kernels.py: number_nodes",
    "stages/domains/dawg/writer_kernels.py: place_nodes",
    "stages/domains/dawg/writer_kernels.py: put_nodes",
    "stages/histogram/kernels.py: merge_rows",
    "stages/histogram/sketches.py: admit",
    "stages/histogram/sketches.py: promote",
}
"""Kernels whose arrays are told of only where they are made. This list must not grow."""


def kernels() -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """Yield name and definition of each public kernel, and its docstring with that of its module."""
    for path, module in modules():
        for node in module.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
                if decorators & {"kernel", "allocating_kernel"}:
                    texts = (ast.get_docstring(node) or "", ast.get_docstring(module) or "")
                    yield f"{path.relative_to(SOURCE)}: {node.name}", node, "\n".join(texts)


def arrays_of(function: ast.FunctionDef) -> set[str]:
    """Return the parameters that are arrays: those that are indexed."""
    parameters = {argument.arg for argument in function.args.args}
    subscripts = (node.value for node in ast.walk(function) if isinstance(node, ast.Subscript))
    return {value.id for value in subscripts if isinstance(value, ast.Name)} & parameters


def test_kernels_say_what_their_parameters_are() -> None:
    """Each parameter is named, and where there are arrays, dtype and shape are told."""
    found = list(kernels())
    assert len(found) > 20
    problems = []
    for name, function, text in found:
        assert ast.get_docstring(function), f"{name} has no docstring"
        if name in _OWED:
            continue
        for argument in function.args.args:
            if argument.arg not in _BATCH and not re.search(rf"\b{argument.arg}\b", text):
                problems.append(f"{name}: {argument.arg} is not mentioned")
        if arrays_of(function) - _BATCH and not _ARRAY.search(text):
            problems.append(f"{name}: no dtype and shape of an array")
    assert problems == []


# What does not belong here


def project_files() -> Iterator[Path]:
    for folder in ("src", "tests", "docs", "demo", "benchmarks", "packaging", ".ci"):
        for path in sorted((ROOT / folder).rglob("*")):
            parts = path.relative_to(ROOT).parts
            if path.is_file() and not any(
                p in ("__pycache__", "results") or p.endswith(".egg-info") for p in parts
            ):
                yield path
    yield from (path for path in sorted(ROOT.iterdir()) if path.is_file())


# Put together from pieces, or this file would hold what it forbids.
_FORBIDDEN = [
    "/wo" + "rk/",
    "/tm" + "p/edm",
    "COMP" + "AT.md",
    "DES" + "IGN.md",
    "LIBR" + "ARIES.md",
    "py" + "pi.org",
    "python" + "hosted.org",
    "npm" + "js.org",
    "deb." + "debian.org",
    "proxy.golang" + ".org",
    "/opt/py" + "pi",
]
_DOMAIN_LIST = SOURCE / "data" / "starter-domains.txt"  # well-known names of the world, hosts among them


def test_nothing_names_the_machine_it_was_made_on() -> None:
    found = []
    for path in project_files():
        if path == _DOMAIN_LIST:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # captures
        found += [f"{path.relative_to(ROOT)}: {word}" for word in _FORBIDDEN if word.lower() in text.lower()]
    assert found == []
