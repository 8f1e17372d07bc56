"""No stored file can be read by every user, whatever the umask."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edm.errors import OutputError
from edm.observe.metrics import Metrics
from edm.output.debug_file import DebugFile
from edm.output.paths import DataDirectory, make_folder


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_every_missing_folder_is_made_with_the_mode(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(0o755)
    data = DataDirectory(tmp_path / "there" / "new" / "data")
    made = [path for path in (tmp_path / "there").rglob("*") if path.is_dir()]
    assert data.outbox in made
    assert len(made) == 7
    assert {mode(path) for path in made} == {0o750}
    assert mode(tmp_path / "there") == 0o755


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for folder, reason in (("file/data", "Not a directory"), ("nowhere", "File exists")):
        with pytest.raises(OutputError, match=reason):
            make_folder(tmp_path / folder)


@pytest.mark.parametrize(("before", "after"), [(None, 0o600), (0o666, 0o660), (0o604, 0o600), (0o640, 0o640)])
def test_the_debug_file(tmp_path: Path, before: int | None, after: int) -> None:
    path = tmp_path / "frames.json"
    if before is not None:
        path.write_text("before\n")
        path.chmod(before)
    file = DebugFile(path, Metrics())
    file.write("line")
    file.close()
    assert mode(path) == after
    assert path.read_text() == ("" if before is None else "before\n") + "line\n"
