"""The architecture page: its picture shows the folders in the order of the layers, and all its names exist."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "edm"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
QUESTIONS = (
    "a new configuration key",
    "a new column in session files",
    "a new fate",
    "a new metric",
    "a new command",
    "the RDATA rule of a new DNS type",
    "another compression of captures",
    "another compression of output files",
    "another output; for events it replaces MQTT",
    "another pseudonymisation",
    "another input than Frame Streams",
)


def picture(page: str) -> list[str]:
    """Return the packages (with a final ``/``) and modules of the picture, as paths below ``src/edm``, in order."""
    lines = page[page.index("    src/edm/\n") :].split("\n")[1:]
    paths: list[str] = []
    above: list[tuple[int, str]] = []
    for line in lines:
        match = re.fullmatch(r"    ( +)([\w.]+/?) +\S.*", line)
        if match is None:
            break
        depth = len(match[1])
        while above and above[-1][0] >= depth:
            above.pop()
        path = "".join(name for _, name in above) + match[2]
        paths.append(path)
        if path.endswith("/"):
            above.append((depth, match[2]))
    return paths


def folders() -> set[str]:
    """Return all packages, and the modules that stand beside packages."""
    packages = {path.parent for path in SOURCE.rglob("__init__.py")} - {SOURCE}
    found = {f"{package.relative_to(SOURCE).as_posix()}/" for package in packages}
    for parent in (SOURCE, SOURCE / "stages"):
        found |= {path.relative_to(SOURCE).as_posix() for path in parent.glob("[!_]*.py")}
    return found


def layers() -> list[set[str]]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [each for each in contracts if each["type"] == "layers"]
    return [{name.strip() for name in layer.split("|")} for layer in contract["layers"]]


def test_the_picture_is_what_the_folders_are() -> None:
    shown = picture(PAGE)
    assert len(shown) == len(set(shown)) > 30
    assert set(shown) == folders()


def test_the_order_of_the_picture_is_that_of_the_layers() -> None:
    shown = [path.strip("/").removesuffix(".py") for path in picture(PAGE) if path.strip("/").count("/") == 0]
    for layer in layers():
        names, shown = shown[: len(layer)], shown[len(layer) :]
        assert set(names) == layer
    assert shown == []


@pytest.mark.parametrize(
    "change",
    [
        lambda page: page.replace("      input/ ", "      intake/ "),
        lambda page: page.replace("      cli/                 one module for each command\n", ""),
    ],
)
def test_a_picture_that_lies_is_seen(change) -> None:  # type: ignore[no-untyped-def]
    assert set(picture(change(PAGE))) != folders()


def where() -> dict[str, str]:
    """Return what the section on changes says for each question."""
    section = PAGE[PAGE.index("## Where do I change") :].split("\n## ", 1)[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", section, re.MULTILINE)
    return {question.strip(): answer for question, answer in rows}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_newcomer_finds_the_room(question: str) -> None:
    answer = where()[question]
    paths = re.findall(r"`([\w/]+\.(?:py|md))`", answer)
    assert paths
    for path in paths:
        assert (SOURCE / path).exists() or (ROOT / path).exists(), path


def test_the_files_and_functions_on_the_way_of_a_frame_exist() -> None:
    section = PAGE[PAGE.index("## The way of one frame") :].split("\n## ", 1)[0]
    rows = re.findall(r"^\| [^|`]+ \| ([^|]*`[^|]+) \| ([^|]+) \|", section, re.MULTILINE)
    assert len(rows) > 10
    for functions, files in rows:
        folder, texts = SOURCE, []
        for name in re.findall(r"`([\w/]+\.py)`", files):
            path = SOURCE / name if "/" in name or not (folder / name).exists() else folder / name
            folder = path.parent
            texts.append(path.read_text())
        defined = {
            node.name
            for text in texts
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        for function in re.findall(r"`([\w.]+)`", functions):
            assert set(function.split(".")) <= defined, function


def test_each_package_says_what_comes_in_and_what_goes_out() -> None:
    for path in SOURCE.rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        sentences = re.split(r"[.:]\s", text)
        assert re.search(r"\bcomes? in\b", text), path
        assert re.search(r"\bgoes? out\b|\bgo out\b", text), path
        assert 3 <= len(sentences) <= 7, path
