"""Values made from files, and what happens to them when the files change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edm.errors import InputError, KeyFileError
from edm.files.renewable import Renewable, reload_all


def load(path: str) -> str:
    text = Path(path).read_text() if Path(path).exists() else "missing"
    if text in ("bad", "missing"):
        raise KeyFileError(f"{path}: {text}")
    return text


def make(path: Path) -> Renewable[str, str]:
    return Renewable("part", str(path), lambda settings: [settings, ""], load)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_text("one")
    return file


def replace(path: Path, text: str) -> None:
    new = path.with_name("new")
    new.write_text(text)
    new.rename(path)


def test_a_renewed_file_is_taken_up_once(path: Path) -> None:
    part = make(path)
    with capture_logs() as lines:
        assert not part.refresh()
        replace(path, "two")
        assert part.refresh()
        assert not part.refresh()
    assert part.value == "two"
    assert [(line["event"], line["part"]) for line in lines] == [("renewed on disk, taken up", "part")]


@pytest.mark.parametrize("how", ["bad", "missing"])
def test_what_cannot_be_used_keeps_the_old_value_until_it_can(path: Path, how: str) -> None:
    part = make(path)
    if how == "bad":
        replace(path, "bad")
    else:
        path.unlink()
    with capture_logs() as lines:
        assert not part.refresh()
        assert not part.refresh()
    assert part.value == "one"
    (line,) = lines
    assert (line["log_level"], line["reason"]) == ("warning", f"{path}: {how}")
    replace(path, "three")
    assert part.refresh()
    assert part.value == "three"


def test_a_file_written_in_place_or_given_another_time_is_looked_at(path: Path) -> None:
    part = make(path)
    path.write_text("six")
    os.utime(path, ns=(1, 1))
    assert part.refresh()
    assert part.value == "six"


def test_a_reload_looks_elsewhere_from_then_on(path: Path, tmp_path: Path) -> None:
    part = make(path)
    other = tmp_path / "other"
    with pytest.raises(KeyFileError, match="missing"):
        part.reload(str(other))
    assert part.value == "one"
    other.write_text("two")
    assert part.refresh()
    assert part.value == "two"


def test_all_parts_are_reloaded_whatever_becomes_of_one(path: Path, tmp_path: Path) -> None:
    def fail(_: str) -> str:
        raise InputError("broken too")

    good, bad = make(path), make(path)
    other = tmp_path / "other"
    other.write_text("two")
    bad._load = lambda _: (_ for _ in ()).throw(KeyFileError("broken"))  # type: ignore[method-assign]
    worse = make(path)
    worse._load = fail  # type: ignore[method-assign]
    with pytest.raises(KeyFileError, match="broken; broken too"):
        reload_all(str(other), bad, worse, good)
    assert (good.value, bad.value) == ("two", "one")
