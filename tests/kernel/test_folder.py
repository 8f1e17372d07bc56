from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edm.kernel import folder
from edm.kernel.folder import UnusableError, prepare_folder, read_trusted, remove, temporary_name, write_whole
from support.small_disk import small_disk

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_what_is_missing_is_made_for_us_alone(tmp_path: Path) -> None:
    assert prepare_folder(tmp_path / "a" / "b" / "c")
    for path in (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
@pytest.mark.parametrize("which", ["outer", "outer/inner", "outer/inner/last"])
def test_no_component_may_be_writable_by_others(tmp_path: Path, which: str, mode: int) -> None:
    prepare_folder(tmp_path / "outer" / "inner" / "last")
    (tmp_path / which).chmod(mode)
    with pytest.raises(
        UnusableError, match=rf"{tmp_path / which}: others can write to it \(mode 0{mode:o}\)"
    ):
        prepare_folder(tmp_path / "outer" / "inner" / "last")


def test_below_a_sticky_folder_it_is_ours(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    assert prepare_folder(shared / "ours")
    with pytest.raises(UnusableError, match="others can write"):
        prepare_folder(shared)  # the files themselves would lie among those of others


@root_only
@pytest.mark.parametrize("which", ["outer", "outer/inner", "outer/inner/last"])
def test_no_component_may_belong_to_another_user(tmp_path: Path, which: str) -> None:
    prepare_folder(tmp_path / "outer" / "inner" / "last")
    os.chown(tmp_path / which, NOBODY, NOBODY)
    with pytest.raises(UnusableError, match=f"{tmp_path / which}: belongs to user {NOBODY}"):
        prepare_folder(tmp_path / "outer" / "inner" / "last")


@pytest.mark.parametrize("which", ["outer", "outer/inner", "outer/inner/last"])
def test_links_are_not_followed(tmp_path: Path, which: str) -> None:
    prepare_folder(tmp_path / "outer" / "inner" / "last")
    (tmp_path / which).rename(tmp_path / "elsewhere")
    (tmp_path / which).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnusableError, match=f"{tmp_path / which}: is a symbolic link, which is not followed"):
        prepare_folder(tmp_path / "outer" / "inner" / "last")


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnusableError, match=f"{tmp_path / 'file'}: Not a directory"):
        prepare_folder(tmp_path / "file" / "below")


def test_a_place_where_nothing_can_be_made() -> None:
    with pytest.raises(UnusableError, match="/proc/nothing: "):
        prepare_folder(Path("/proc/nothing/below"))


def test_a_whole_file_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    temporary_name(path).write_text("left by one that was killed")
    write_whole(path, b"first")
    assert read_trusted(path) == b"first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        small = disk.folder / "file"
        write_whole(small, b"old")
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            write_whole(small, bytes(200_000))
        assert read_trusted(small) == b"old"
        assert not temporary_name(small).exists()


def test_several_processes_may_write_the_same_file(tmp_path: Path) -> None:
    """Two daemons that start cold at once compile the same kernels; none may take the other's half of a file."""
    writer = (
        "import sys; from pathlib import Path; from edm.kernel.folder import read_trusted, write_whole\n"
        "path, byte = Path(sys.argv[1]), sys.argv[2].encode()\n"
        "for _ in range(1000):\n"
        "    write_whole(path, byte * 100_000)\n"
        "    assert len(set(read_trusted(path))) == 1\n"
    )
    command = [sys.executable, "-c", writer, str(tmp_path / "file")]
    children = [subprocess.Popen([*command, byte], stderr=subprocess.PIPE) for byte in "abc"]
    results = [child.communicate(timeout=60)[1].decode() for child in children]
    assert results == ["", "", ""]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_was_read_was_written_by_somebody_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    assert read_trusted(path) is None
    write_whole(path, b"content")
    monkeypatch.setattr(folder, "trusted_owner", lambda uid: uid != path.stat().st_uid)
    with pytest.raises(UnusableError, match="belongs to user"):
        read_trusted(path)


def test_anything_can_be_removed(tmp_path: Path) -> None:
    assert remove(tmp_path / "nothing")
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert remove(tmp_path / "link")
    assert (tmp_path / "folder").is_dir()
    assert remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
