"""The lock files hold what pyproject.toml requires, with hashes, each package once."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNTIME, DEVELOPMENT, BUILD = "requirements.lock", "requirements-dev.lock", "requirements-build.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    """Return the pinned version of each package of a lock file."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / file).read_text(), re.M)
    assert len(found) == len({name for name, _ in found}), "one version serves all Pythons"
    return {canonical(name): version for name, version in found}


def asked_for(requirements: list[str]) -> set[str]:
    return {canonical(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}  # type: ignore[index]


def with_what_they_need(names: set[str]) -> set[str]:
    """Return packages that are installed here, and those they need."""
    wanted, found = set(names), set[str]()
    while wanted:
        name = wanted.pop()
        found.add(name)
        needed = [need for need in metadata.requires(name) or () if ";" not in need]
        wanted |= asked_for(needed) - found
    return found


def test_the_runtime_lock_holds_what_running_needs_and_nothing_else() -> None:
    needed = with_what_they_need(asked_for(PROJECT["project"]["dependencies"]))
    locked = set(pins(RUNTIME))
    assert needed - locked == set()
    # What is needed on some Pythons or platforms only: followed from the packages that need it.
    extra = locked - needed
    conditional = {
        canonical(re.match(r"[\w.-]+", need)[0])  # type: ignore[index]
        for name in locked
        for need in metadata.requires(name) or ()
        if ";" in need and "extra ==" not in need
    }
    assert extra - conditional - with_what_they_need(extra & conditional) == set()


def test_the_development_lock_holds_the_rest() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    asked = asked_for([requirement for extra in extras.values() for requirement in extra])
    assert asked - set(pins(DEVELOPMENT)) - set(pins(RUNTIME)) == set()
    assert set(pins(DEVELOPMENT)) & set(pins(RUNTIME)) == set()
    assert "-r requirements.lock" in (ROOT / DEVELOPMENT).read_text().splitlines()


def test_building_takes_the_version_of_the_development_lock() -> None:
    assert pins(BUILD) == {
        name: pins(DEVELOPMENT)[name] for name in asked_for(PROJECT["build-system"]["requires"])
    }


@pytest.mark.parametrize("file", [RUNTIME, DEVELOPMENT, BUILD])
def test_every_package_has_hashes_and_none_an_address(file: str) -> None:
    text = (ROOT / file).read_text()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.M)[1:]
    assert len(blocks) == len(pins(file)) > 0
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
    assert not re.search(r"^\s*-[^r\s-]|^--(?!hash)", text, re.M)


def test_the_distribution_has_a_name_of_its_own() -> None:
    assert PROJECT["project"]["name"] == "edm-dnstap"
    assert set(PROJECT["project"]["scripts"]) == {"edm", "dnstapir-edm"}
    assert PROJECT["project"]["requires-python"] == ">=3.11"
