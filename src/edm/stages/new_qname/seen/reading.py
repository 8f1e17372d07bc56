"""Asking the files of seen names without opening the store: another process may have it, and nothing is changed."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import numpy as np

from edm.errors import StoreError
from edm.files.own import open_own
from edm.kernel.columns import I64Array, U8Array, U32Array, U64Array
from edm.stages.new_qname.seen.log import HEADER_BYTES, SUFFIX, DamagedLog, read_header
from edm.stages.new_qname.seen.siphash import hash_names
from edm.stages.new_qname.seen.store import Candidates

_PART_BYTES = 8 << 20
_GENERATIONS = 2


class SavedNames:
    """The names in the files of a store, as a start would find them. Names not yet written are missing.

    Parameters
    ----------
    directory : Path
        The store's folder; one that does not exist holds no names.

    Raises
    ------
    StoreError
        The folder or a file cannot be read, or has another format version.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: list[Path] = []
        self._key = b""
        try:
            names = sorted(os.listdir(directory), reverse=True)  # noqa: PTH208 - a folder that cannot be read must raise
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{directory}: cannot read the seen names: {error.strerror}") from None
        for name in names:
            if name.endswith(SUFFIX) and len(self._files) < _GENERATIONS:
                self._add(directory / name)

    def _add(self, path: Path) -> None:
        try:
            descriptor = _open(path)
        except FileNotFoundError:  # removed meanwhile
            return
        except OSError as error:
            raise StoreError(f"{path}: cannot read the seen names: {error.strerror}") from None
        try:
            # A damaged file would be set aside by a start, as would one with another key.
            with suppress(DamagedLog):
                key = read_header(path, os.pread(descriptor, HEADER_BYTES, 0))[1]
                if self._key in (b"", key):
                    self._key = key
                    self._files.append(path)
        finally:
            os.close(descriptor)

    def candidates(self, buf: U8Array, u32: U32Array, fate: U8Array, n: int) -> Candidates:
        """Return the pending rows whose names are in no file.

        The parameters are those of :meth:`edm.stages.new_qname.seen.store.SeenStore.candidates`.

        Raises
        ------
        StoreError
            A file cannot be read.
        """
        hashes: U64Array = np.empty(n, np.uint64)
        rows: I64Array = np.empty(n, np.int64)
        unused: U8Array = np.empty(n, np.uint8)
        k0, k1 = (np.uint64(int.from_bytes(half, "little")) for half in (self._key[:8], self._key[8:]))
        left = int(hash_names(buf, u32, fate, n, k0, k1, hashes, rows, unused))
        hashes, rows = hashes[:left], rows[:left]
        seen = np.zeros(left, np.bool_)
        for path in self._files if left else ():
            self._mark(path, hashes, seen)
        missing = ~seen
        return Candidates(rows[missing], hashes[missing], np.zeros(int(missing.sum()), np.uint8), None)

    def _mark(self, path: Path, hashes: U64Array, seen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        try:
            descriptor = _open(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{path}: cannot read the seen names: {error.strerror}") from None
        with os.fdopen(descriptor, "rb") as file:
            file.seek(HEADER_BYTES)
            while part := file.read(_PART_BYTES):
                seen |= np.isin(hashes, np.frombuffer(part[: len(part) // 8 * 8], "<u8"))


def _open(path: Path) -> int:
    descriptor = open_own(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "is no plain file", str(path))
    return descriptor


__all__ = ["SavedNames"]
