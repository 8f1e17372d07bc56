"""The cache of compiled kernels on disk; an error in it never stops the program.

Numba's own cache trusts its files. An empty, truncated or foreign file raises at the first call of a kernel, and a
half-written file that is still a valid pickle is executed. So each compiled kernel has a file of its own here. The name
of the file is made from everything that its content depends on, and the file begins with a checksum that covers this
too. If a file cannot be used, the kernel is compiled. If a kernel cannot be saved, it is used from memory.
:attr:`Store.dropped` and :attr:`Store.unsaved` hold the reasons.

This uses two parts of Numba: the interface of ``numba.core.caching._Cache``, which a dispatcher has as ``_cache``, and
that a ``CompileResult`` can be reduced and rebuilt.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba.core import serialize
from numba.core.compiler import CompileResult

from edm.kernel.folder import (
    UnusableError,
    prepare_folder,
    read_trusted,
    remove,
    write_whole,
)

_PACKAGE = Path(__file__).resolve().parents[1]
_KEEPING = (Path(__file__).resolve(), Path(__file__).resolve().with_name("folder.py"))

# A kernel with the bounds check is another one; each mode has a folder of its own, and so a mark of its own.
_MODE = "-boundscheck" if os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0") else ""

# Untyped, as most of Numba.
_dumps: Callable[[Any], bytes] = serialize.dumps
_rebuild: Callable[..., Any] = CompileResult._rebuild

_MAGIC = b"EDMkern1"
_SUFFIX = ".nbc"
_HALF_WRITTEN = 60.0
"""Seconds after which a temporary file has been left by a process that was killed."""

_DECORATED = re.compile(rb"^@(?:kernel|allocating_kernel|inlined|force_inlined)\b", re.MULTILINE)
_IMPORTED = re.compile(rb"^(?:from|import) (edm[\w.]*)(?: import (\w+))?", re.MULTILINE)


class _Sources(NamedTuple):
    """Digests of the source, from which the names of the cache's files and of its mark are made.

    Attributes
    ----------
    kernels_digest : str
        Of the modules that define kernels and all modules of the package that these import: a kernel that is
        compiled into its caller does not show in the caller's own module.
    package_digest : str
        Of all modules: what calls the kernels decides for which types they are compiled.
    """

    kernels_digest: str
    package_digest: str


def _read_sources() -> _Sources:
    texts = {path: path.read_bytes() for path in sorted(_PACKAGE.rglob("*.py"))}
    found = {path for path, text in texts.items() if _DECORATED.search(text)} | {
        _PACKAGE / "kernel" / "jit.py"
    }
    queue = list(found)
    while queue:
        for module, name in _IMPORTED.findall(texts[queue.pop()]):
            stem = _PACKAGE.joinpath(*module.decode().split(".")[1:])
            for path in (stem.with_suffix(".py"), stem / "__init__.py", stem / f"{name.decode()}.py"):
                # How compiled kernels are kept does not change them.
                if path in texts and path not in found and path not in _KEEPING:
                    found.add(path)
                    queue.append(path)
    return _Sources(_digest({path: texts[path] for path in sorted(found)}), _digest(texts))


def _digest(texts: Mapping[Path, bytes]) -> str:
    digest = hashlib.sha256()
    for path, text in texts.items():
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0")
        digest.update(text)
    return digest.hexdigest()[:16]


_sources = functools.cache(_read_sources)


@functools.cache
def _machine() -> tuple[str, ...]:
    """Return everything but the source that a compiled kernel depends on: processor, Python, libraries."""
    config: Any = numba.config
    switches = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "DEBUGINFO_DEFAULT", "CPU_NAME", "CPU_FEATURES")
    return (
        llvmlite.binding.get_process_triple(),
        llvmlite.binding.get_host_cpu_name(),
        llvmlite.binding.get_host_cpu_features().flatten(),
        numba.__version__,
        llvmlite.__version__,
        np.__version__,
        # Without the patch level, which changes neither bytecode nor ABI.
        f"{sys.implementation.cache_tag}{sys.abiflags}",
        _MODE,
        *(f"{name}={getattr(config, name, None)}" for name in switches),
    )


class _Candidate(NamedTuple):
    name: str
    base: Path
    operators: bool  # set for this very purpose, so an error in it is worth a line


def _candidates() -> list[_Candidate]:
    environ = os.environ
    found = [
        _Candidate(name, Path(environ[name]), True)
        for name in ("EDM_KERNEL_CACHE", "NUMBA_CACHE_DIR")
        if environ.get(name)
    ]
    # With a dynamic user systemd makes this a link, and a home may be reached by one. Their makers are trusted.
    if base := environ.get("CACHE_DIRECTORY", "").split(":")[0]:
        found.append(_Candidate("CACHE_DIRECTORY", Path(base).resolve(), True))
    if base := environ.get("XDG_CACHE_HOME", ""):
        found.append(_Candidate("XDG_CACHE_HOME", Path(base) / "edm", False))
    with suppress(RuntimeError):  # no home directory for this user
        home = Path.home().resolve()
        if home.is_dir():
            found.append(_Candidate("HOME", home / ".cache" / "edm", False))
    # Not resolved: that would follow links.
    return [item._replace(base=Path(os.path.abspath(item.base))) for item in found]  # noqa: PTH100


class Store:
    """The folder of compiled kernels, or none.

    Attributes
    ----------
    folder : Path or None
    writable : bool
    refused : list of str
        A line for each folder that cannot be used though it was named for this purpose, or for all if there is none.
    dropped : list of str
        A line for each file that was there and could not be used.
    unsaved : str
        Why a kernel was compiled and not kept; empty while there was none.
    compiled : int
        Kernels that were not found and compiled.
    """

    def __init__(self, folder: Path | None, writable: bool, refused: list[str]) -> None:
        self.folder = folder
        self.writable = writable
        self.refused = refused
        self.dropped: list[str] = []
        self.unsaved = ""
        self.compiled = 0
        self._used: dict[str, int] = {}

    @classmethod
    def choose(cls) -> Store:
        """Take the first folder that can be written, or that cannot but holds all kernels for this machine."""
        second: Path | None = None
        refused: list[tuple[bool, str]] = []
        for name, base, operators in _candidates():
            folder = base / f"kernels-{_sources().kernels_digest}{_MODE}"
            try:
                writable = prepare_folder(folder)
            except UnusableError as error:
                refused.append((operators, f"{name}: {error}"))
                continue
            store = cls(folder, writable, [])
            if writable or store.warm:
                store.refused = [line for important, line in refused if important]
                return store
            second = second or folder
            refused.append(
                (operators, f"{name}: {folder}: cannot be written and lacks kernels for this machine")
            )
        return cls(second, False, [line for _, line in refused])

    # The mark: the names and sizes of all files that a warm-up used.

    @property
    def _mark(self) -> Path:
        assert self.folder is not None
        digest = hashlib.sha256("\0".join((_sources().package_digest, *_machine())).encode())
        return self.folder / f"warm-{digest.hexdigest()[:16]}"

    @property
    def warm(self) -> bool:
        """Whether all kernels of this version have been compiled for this machine, and are there."""
        if self.folder is None:
            return False
        try:
            mark = read_trusted(self._mark)
            if not mark:
                return False
            sizes = (line.rsplit(" ", 1) for line in mark.decode().splitlines())
            return all((self.folder / name).lstat().st_size == int(size) for name, size in sizes)
        except (UnusableError, OSError, ValueError):
            return False

    def mark_warm(self) -> None:
        """Note that all kernels in use now are in the folder, if they are."""
        if self.folder is None or not self.writable or self.unsaved:
            return
        lines = [f"{name} {size}\n" for name, size in sorted(self._used.items())]
        mark = "".join(lines).encode()
        try:
            if not self.warm:
                write_whole(self._mark, mark)
        except OSError as error:
            self._not_saved(error)

    def clear(self) -> None:
        """Remove everything in the folder."""
        if self.folder is not None:
            with contextlib.suppress(FileNotFoundError):  # somebody has removed the folder as a whole
                for path in list(self.folder.iterdir()):
                    remove(path)

    # Files

    def load(self, name: str, identity: bytes) -> Any:
        """Return what was saved under ``name`` for ``identity``, or None; a file that cannot be used is removed."""
        if self.folder is None:
            return None
        path = self.folder / name
        try:
            data = read_trusted(path)
            if data is None:
                return None
            start = len(_MAGIC) + hashlib.sha256().digest_size
            if data[:start] != _MAGIC + _checksum(identity, data[start:]):
                raise UnusableError("is damaged" if data else "is empty")
            content = pickle.loads(memoryview(data)[start:])
            self._used[name] = len(data)
            return content
        except Exception as error:
            self.drop(name, error)
            return None

    def save(self, name: str, identity: bytes, data: Any) -> None:
        """Save ``data``, or its result if it is callable; a failure is only noted."""
        if self.folder is None or not self.writable:
            self.unsaved = self.unsaved or "there is no folder for them"
            return
        try:
            content = bytes(_dumps(data() if callable(data) else data))
            written = _MAGIC + _checksum(identity, content) + content
            write_whole(self.folder / name, written)
            self._used[name] = len(written)
        except Exception as error:
            self._not_saved(error)

    def _not_saved(self, error: Exception) -> None:
        self.unsaved = self.unsaved or f"{self.folder}: {_reason(error)}"

    def drop(self, name: str, error: Exception) -> None:
        """Remove a file that cannot be used, and note it."""
        assert self.folder is not None
        self.dropped.append(f"{self.folder / name}: {_reason(error)}")
        remove(self.folder / name)

    def sweep(self) -> None:
        """Remove what killed processes have left half written."""
        if self.folder is None or not self.writable:
            return
        with suppress(OSError):
            for path in self.folder.glob("*.tmp"):
                if time.time() - path.lstat().st_mtime > _HALF_WRITTEN:
                    remove(path)


def _checksum(identity: bytes, content: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(identity)
    digest.update(content)
    return digest.digest()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


store = functools.cache(Store.choose)
"""Return the store of this process, chosen at the first call."""


class KernelCache:
    """The compiled forms of one kernel. Numba looks here before it compiles, and saves here afterwards.

    Parameters
    ----------
    function : callable
        The kernel's Python function.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        code = function.__code__
        self._enabled = True
        stem = Path(code.co_filename).stem
        self._stem = re.sub(r"[^\w.-]", "", f"{stem}.{function.__qualname__}-{code.co_firstlineno}")
        self._fixed = (function.__module__, function.__qualname__, code.co_firstlineno, *_machine())
        self._digests = (code.co_code, _closure(function), _file_digest(code.co_filename))

    @property
    def cache_path(self) -> str | None:
        """The folder, for Numba's reports."""
        folder = store().folder
        return str(folder) if folder is not None else None

    def _name(self, signature: Any, codegen: Any) -> tuple[str, bytes]:
        digest = hashlib.sha256(repr((self._fixed, signature, codegen.magic_tuple())).encode())
        for part in self._digests:
            digest.update(hashlib.sha256(part).digest())
        identity = digest.digest()
        return f"{self._stem}.{identity.hex()[:16]}{_SUFFIX}", identity

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled form for a signature, or None if there is none that works."""
        target_context.refresh()
        if not self._enabled:
            return None
        name, identity = self._name(sig, target_context.codegen())
        data = store().load(name, identity)
        if data is not None:
            try:
                return _rebuild(target_context, *data)
            except Exception as error:
                store().drop(name, error)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save a compiled form."""
        if not self._enabled:
            return
        store().compiled += 1
        if data.library.has_dynamic_globals:  # addresses of this process are part of the code
            return
        store().save(*self._name(sig, data.codegen), data._reduce)

    def enable(self) -> None:
        """Ask and save from now on."""
        self._enabled = True

    def disable(self) -> None:
        """Neither ask nor save from now on."""
        self._enabled = False

    def flush(self) -> None:
        """Forget what was saved of this kernel."""
        if (folder := store().folder) is not None:
            for path in folder.glob(f"{self._stem}.*{_SUFFIX}"):
                remove(path)


def _closure(function: Callable[..., Any]) -> bytes:
    cells = function.__closure__
    return bytes(_dumps(tuple(cell.cell_contents for cell in cells))) if cells else b""


@functools.cache
def _file_digest(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


def keep(dispatcher: Any) -> None:
    """Let the compiled forms of a kernel be kept. Where that cannot be done it is compiled in each process."""
    try:
        if not hasattr(dispatcher, "_cache"):
            raise AttributeError("this version of Numba has its cache elsewhere")
        dispatcher._cache = KernelCache(dispatcher.py_func)
    except Exception as error:
        store()._not_saved(error)


__all__ = ["KernelCache", "Store", "keep", "store"]
