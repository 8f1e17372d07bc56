from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numba.core.caching
import numba.core.compiler
import numba.core.dispatcher
import numpy as np
import pytest

from edm.kernel import cache
from edm.kernel.cache import KernelCache, Store
from edm.kernel.jit import JIT_DISABLED, kernel
from support.kernels import DAMAGES, environment
from support.small_disk import read_only, small_disk

NAME = "module.kernel-1.0123456789abcdef.nbc"
IDENTITY = b"what it is"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
compiled_only = pytest.mark.skipif(JIT_DISABLED, reason="about compiled kernels")

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from module import double
from edm.kernel.cache import store
print(double(21), store().compiled, store().dropped, store().unsaved, store().refused)
"""
MODULE = """
from edm.kernel.jit import kernel
@kernel
def double(x):
    return 2 * x
"""


class Executed:
    """Tells by a file that it was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def kept(tmp_path: Path) -> Store:
    folder = tmp_path / "kernels"
    folder.mkdir(mode=0o700)
    return Store(folder, True, [])


@pytest.fixture
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDM_KERNEL_CACHE", "NUMBA_CACHE_DIR", "CACHE_DIRECTORY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")


# Files


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_dropped_and_made_again(kept: Store, damage: str) -> None:
    if damage == "unreadable" and os.geteuid() == 0:
        pytest.skip("root can read everything")
    assert kept.folder is not None
    kept.save(NAME, IDENTITY, ("some", "code", bytes(1000)))
    assert kept.load(NAME, IDENTITY) == ("some", "code", bytes(1000))
    DAMAGES[damage](kept.folder / NAME)
    assert kept.load(NAME, IDENTITY) is None
    assert len(kept.dropped) == 1
    assert str(kept.folder / NAME) in kept.dropped[0]
    assert not os.path.lexists(kept.folder / NAME)
    kept.save(NAME, IDENTITY, ("some", "code", bytes(1000)))
    assert kept.load(NAME, IDENTITY) == ("some", "code", bytes(1000))
    assert not kept.unsaved


def test_the_file_of_another_kernel_is_not_taken_for_this_one(kept: Store) -> None:
    assert kept.folder is not None
    kept.save(NAME, b"another", "code of another kernel")
    assert kept.load(NAME, IDENTITY) is None
    assert kept.dropped == [f"{kept.folder / NAME}: is damaged"]


def test_a_damaged_file_that_cannot_be_removed(kept: Store) -> None:
    """A read-only folder: the kernel is compiled and used from memory."""
    assert kept.folder is not None
    kept.save(NAME, IDENTITY, "code")
    DAMAGES["cut off"](kept.folder / NAME)
    kept.writable = False
    kept.folder.chmod(0o500)
    try:
        assert kept.load(NAME, IDENTITY) is None
        kept.save(NAME, IDENTITY, "code")
    finally:
        kept.folder.chmod(0o700)
    assert kept.unsaved
    assert len(kept.dropped) == 1


@root_only
def test_what_another_user_wrote_is_not_unpickled(kept: Store, tmp_path: Path) -> None:
    assert kept.folder is not None
    kept.save(NAME, IDENTITY, Executed(tmp_path / "executed"))
    os.chown(kept.folder / NAME, 65534, 65534)
    assert kept.load(NAME, IDENTITY) is None
    assert not (tmp_path / "executed").exists()
    assert kept.dropped == [f"{kept.folder / NAME}: belongs to user 65534"]


def test_what_has_no_right_checksum_is_not_unpickled(kept: Store, tmp_path: Path) -> None:
    assert kept.folder is not None
    (kept.folder / NAME).write_bytes(pickle.dumps(Executed(tmp_path / "executed")))
    assert kept.load(NAME, IDENTITY) is None
    assert not (tmp_path / "executed").exists()


def test_an_object_that_cannot_be_unpickled(kept: Store, tmp_path: Path) -> None:
    """Say, of a class that is not there any more: whatever it raises, there is no kernel."""
    (tmp_path / "executed").mkdir()  # making it again fails
    kept.save(NAME, IDENTITY, Executed(tmp_path / "executed"))
    assert kept.load(NAME, IDENTITY) is None
    assert len(kept.dropped) == 1


def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        folder = disk.folder / "kernels"
        folder.mkdir(mode=0o700)
        kept = Store(folder, True, [])
        disk.fill()
        for number in range(3):
            kept.save(f"{number}{NAME}", IDENTITY, bytes(100_000))
        assert kept.unsaved == f"{folder}: No space left on device"
        kept.mark_warm()
        assert not kept.warm
        assert list(folder.iterdir()) == []


def test_what_killed_processes_left_is_removed(kept: Store) -> None:
    assert kept.folder is not None
    for name, age in (("old", 3600), ("new", 0)):
        path = kept.folder / f"{name}.nbc.tmp"
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age, time.time() - age))
    kept.sweep()
    assert [path.name for path in kept.folder.iterdir()] == ["new.nbc.tmp"]


# The mark


def test_the_mark_covers_machine_versions_and_files(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept.folder is not None
    assert not kept.warm
    kept.save(NAME, IDENTITY, "code")
    kept.mark_warm()
    assert kept.warm
    machine = cache._machine()
    for number in range(len(machine)):
        other = (*machine[:number], "another", *machine[number + 1 :])
        monkeypatch.setattr(cache, "_machine", lambda other=other: other)
        assert not kept.warm, machine[number]
    monkeypatch.setattr(cache, "_machine", lambda: machine)
    assert kept.warm
    (kept.folder / NAME).write_bytes(b"")
    assert not kept.warm
    (kept.folder / NAME).unlink()
    assert not kept.warm


def test_the_machine_is_told_in_full() -> None:
    import llvmlite.binding

    machine = cache._machine()
    for part in (
        llvmlite.binding.get_host_cpu_name(),
        llvmlite.binding.get_host_cpu_features().flatten(),
        numba.__version__,
        llvmlite.__version__,
        np.__version__,
    ):
        assert part in machine
    assert any("".join(map(str, sys.version_info[:2])) in part for part in machine)


@pytest.mark.parametrize("damage", ["emptied", "garbage", "a folder", "a link", "writable by others"])
def test_a_damaged_mark(kept: Store, damage: str) -> None:
    kept.save(NAME, IDENTITY, "code")
    kept.mark_warm()
    DAMAGES[damage](kept._mark)
    assert not kept.warm
    kept.mark_warm()
    assert kept.warm


def test_the_folder_is_named_after_what_can_be_compiled_into_a_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "kernel/jit.py": "",
        "units.py": "SIZE = 1\n",
        "deep/__init__.py": "",
        "deep/helper.py": "from edm.units import SIZE\n",
        "kernels.py": "from edm.deep import helper\nfrom edm.kernel.jit import kernel\n@kernel\ndef k(): ...\n",
        "daemon.py": "from edm.kernels import k\n",
    }
    for folder in ("deep", "kernel"):
        (tmp_path / folder).mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cache, "_PACKAGE", tmp_path)
    before = cache._read_sources()
    for name in files:
        (tmp_path / name).write_text(files[name] + "# changed\n")
        now = cache._read_sources()
        assert (now.kernels_digest == before.kernels_digest) == (name == "daemon.py"), name
        assert now.package_digest != before.package_digest
        (tmp_path / name).write_text(files[name])
    os.utime(tmp_path / "kernels.py", ns=(1, 1))  # installed anew, though it be the same
    assert cache._read_sources() == before


# Choosing a folder


@pytest.mark.usefixtures("nothing_named")
@pytest.mark.parametrize("name", ["EDM_KERNEL_CACHE", "NUMBA_CACHE_DIR", "CACHE_DIRECTORY", "XDG_CACHE_HOME"])
def test_the_folder_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, str(tmp_path / "named"))
    kept = Store.choose()
    assert kept.writable
    assert kept.refused == []
    assert kept.folder is not None
    assert kept.folder.is_relative_to(tmp_path / "named")
    assert kept.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("nothing_named")
@pytest.mark.parametrize("name", ["EDM_KERNEL_CACHE", "NUMBA_CACHE_DIR", "CACHE_DIRECTORY"])
def test_an_unsafe_folder_that_is_named_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    unsafe = tmp_path / "unsafe"
    unsafe.mkdir()
    unsafe.chmod(0o777)
    monkeypatch.setenv(name, str(unsafe / "kernels"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    kept = Store.choose()
    assert kept.folder is not None
    assert kept.folder.is_relative_to(tmp_path / "other")
    assert kept.refused == [f"{name}: {unsafe}: others can write to it (mode 0777)"]
    assert list(unsafe.iterdir()) == []


@pytest.mark.usefixtures("nothing_named")
def test_a_user_without_any_place() -> None:
    kept = Store.choose()
    assert kept.folder is None
    kept.save(NAME, IDENTITY, "code")
    assert kept.load(NAME, IDENTITY) is None
    kept.mark_warm()
    kept.sweep()
    assert not kept.warm
    assert kept.unsaved


@pytest.mark.usefixtures("nothing_named")
def test_a_complete_folder_that_cannot_be_written_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDM_KERNEL_CACHE", str(tmp_path / "baked"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    baked = Store.choose()
    assert baked.folder is not None
    baked.save(NAME, IDENTITY, "code")

    def chosen() -> Store:
        if os.geteuid() == 0:
            with read_only(tmp_path / "baked"):
                return Store.choose()
        assert baked.folder is not None
        baked.folder.chmod(0o500)
        try:
            return Store.choose()
        finally:
            baked.folder.chmod(0o700)

    incomplete = chosen()
    assert incomplete.folder is not None
    assert incomplete.folder.is_relative_to(tmp_path / "home")
    assert "cannot be written and lacks kernels" in incomplete.refused[0]
    baked.mark_warm()
    complete = chosen()
    assert complete.folder == baked.folder
    assert (complete.writable, complete.refused, complete.warm) == (False, [], True)
    assert complete.load(NAME, IDENTITY) == "code"


# Numba


def test_numba_asks_for_nothing_that_is_not_there() -> None:
    """Fails if another version of Numba wants more of a cache, or has it elsewhere."""
    assert numba.core.caching._Cache.__abstractmethods__ == {
        name for name in vars(KernelCache) if not name.startswith("_")
    }
    assert callable(numba.core.compiler.CompileResult._rebuild)
    assert callable(numba.core.compiler.CompileResult._reduce)
    if not JIT_DISABLED:
        assert isinstance(kernel(lambda x: x)._cache, KernelCache)  # type: ignore[attr-defined]


def run(tmp_path: Path, cache_folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=environment(cache_folder),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


@compiled_only
def test_another_process_loads_what_one_has_compiled(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(MODULE)
    kernels = tmp_path / "kernels"
    assert run(tmp_path, kernels) == "42 1 []  []"
    assert run(tmp_path, kernels) == "42 0 []  []"
    (file,) = kernels.glob("*/module.double-*.nbc")
    for damage in ("emptied", "one bit"):
        DAMAGES[damage](file)
        assert run(tmp_path, kernels).startswith("42 1 ['")
        assert run(tmp_path, kernels) == "42 0 []  []"
    (tmp_path / "module.py").write_text(MODULE.replace("2 *", "3 *"))
    assert run(tmp_path, kernels) == "63 1 []  []"


@compiled_only
def test_a_file_that_is_whole_and_no_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Numba cannot make a kernel of, for whatever reason, is compiled."""
    kept = Store(tmp_path, True, [])
    monkeypatch.setattr(cache, "store", lambda: kept)

    def add(x, y):  # type: ignore[no-untyped-def]
        return x + y

    first: Any = kernel(add)
    assert first(1, 2) == 3
    (path,) = tmp_path.glob("*.nbc")
    dispatcher: Any = kernel(add)
    (signature,) = first.signatures
    name, identity = dispatcher._cache._name(signature, first.targetctx.codegen())
    assert name == path.name
    kept.save(name, identity, ("no", "kernel"))
    assert dispatcher(1, 2) == 3
    assert len(kept.dropped) == 1
    third: Any = kernel(add)
    assert third(1, 2) == 3
    assert (kept.compiled, len(kept.dropped)) == (2, 1)


@compiled_only
def test_a_numba_without_a_place_for_the_cache() -> None:
    unsaved = cache.store().unsaved
    try:
        cache.keep(object())
        assert cache.store().unsaved
    finally:
        cache.store().unsaved = unsaved


def test_a_folder_that_is_removed_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    kept = Store(folder, True, [])
    kept.save("a", b"identity", {"some": "kernel"})
    shutil.rmtree(folder)
    assert kept.load("a", b"identity") is None
    assert not kept.warm
    kept.clear()
    kept.sweep()
    kept.save("b", b"identity", {"some": "kernel"})
    assert "No such file" in kept.unsaved
    kept.mark_warm()
    assert not folder.exists()
