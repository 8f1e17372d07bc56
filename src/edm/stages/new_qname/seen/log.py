"""The file of a generation of seen names: fingerprints in the order in which they came.

File format, version 1, all numbers little-endian:

======  =====  =========================================================================
offset  bytes  content
======  =====  =========================================================================
0       8      magic ``EDMSEEN`` and a zero byte
8       4      format version
12      4      zero
16      8      generation; of the files in a folder the highest is the current one
24      16     key of the fingerprints (SipHash-1-3, :mod:`edm.stages.new_qname.seen.siphash`)
40      4      CRC-32 of bytes 0..39
48      8      fingerprints below that the previous generation holds as well
64      8 x    fingerprints; 0 is none
======  =====  =========================================================================

Fingerprints are only ever appended. Written fingerprints survive the end of the process, however it ends. After a
power cut the file has whole records, zeros, or fewer records. All of these can be read.

Why a log and not a mapped table, which would need no loading: a table is written at random places. So after each sync
nearly every new name would cost a page fault of the file system (20 us on a virtual machine) and a write of 4 KiB. And
on a full disk the process would get SIGBUS.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import structlog

from edm.errors import StoreError
from edm.files.own import open_own
from edm.kernel.columns import U64Array

MAGIC = b"EDMSEEN\0"
VERSION = 1
HEADER_BYTES = 64
KEY_BYTES = 16
SUFFIX = ".seen"
RETRY_SECONDS = 10.0
UNWRITTEN_MAX = 64 << 20
"""Bytes that wait for room on a full disk before the oldest are given up."""

_FIXED = struct.Struct("<8sIIQ16s")
_CHECKSUM = struct.Struct("<I")
_CARRIED = struct.Struct("<q")
_CARRIED_OFFSET = 48
_READ_RECORDS = 1 << 20

_log = structlog.get_logger()


class DamagedLog(Exception):  # noqa: N818 - not an error for the operator: the store deals with it
    """A file is not a log of seen names; the text says why."""


def read_header(path: Path, head: bytes) -> tuple[int, bytes]:
    """Return generation and key from the first ``HEADER_BYTES`` of a log.

    Raises
    ------
    DamagedLog
        It is not the head of a log of seen names.
    StoreError
        It has another format version.
    """
    if len(head) < HEADER_BYTES:
        raise DamagedLog("the file is shorter than its header")
    magic, version, _, generation, key = _FIXED.unpack_from(head)
    if magic != MAGIC:
        raise DamagedLog("it does not begin like a file of seen names")
    if _CHECKSUM.unpack_from(head, _FIXED.size)[0] != zlib.crc32(head[: _FIXED.size]):
        raise DamagedLog("the checksum of its header is wrong")
    if version != VERSION:
        raise StoreError(
            f"{path}: seen names are in format version {version}, this program reads version "
            f"{VERSION}; move the file away to start without it"
        )
    return generation, key


class NameLog:
    """The open file of one generation.

    Attributes
    ----------
    path : Path
    generation : int
    key : bytes
        16 bytes.
    carried : int
        As read from the file.
    unsaved : int
        Fingerprints given up because the disk stayed full.
    held : bool
        Write nothing; new fingerprints wait in memory. May be changed at any time.
    """

    def __init__(
        self, path: Path, descriptor: int, generation: int, key: bytes, size: int, carried: int
    ) -> None:
        self.path = path
        self.generation = generation
        self.key = key
        self.carried = carried
        self.unsaved = 0
        self.held = False
        self._fd = descriptor
        self._end = HEADER_BYTES + (size - HEADER_BYTES) // 8 * 8
        self._waiting_lock = (
            threading.Lock()
        )  # for the waiting fingerprints; never held while waiting for the disk
        self._write_lock = threading.Lock()  # for writing and closing; taken before the one above
        self._sync_lock = threading.Lock()  # for syncing and closing; taken before the others
        self._dirty = False
        self._fresh = False
        self._unwritten: deque[tuple[int, bytes]] = deque()
        self._carried = carried
        self.unwritten_bytes = 0
        self._retry_at = 0.0

    @classmethod
    def create(cls, folder: Path, generation: int, key: bytes) -> NameLog:
        """Begin the log of a generation. Raises OSError."""
        path = folder / f"names-{generation:08d}{SUFFIX}"
        fixed = _FIXED.pack(MAGIC, VERSION, 0, generation, key)
        header = (fixed + _CHECKSUM.pack(zlib.crc32(fixed))).ljust(HEADER_BYTES, b"\0")
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            _write_all(descriptor, header, 0)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                path.unlink()
            raise
        log = cls(path, descriptor, generation, key, HEADER_BYTES, 0)
        log._dirty = log._fresh = True
        return log

    @classmethod
    def load(cls, path: Path) -> NameLog:
        """Open an existing log.

        Raises
        ------
        DamagedLog
            The file is not a log of seen names.
        StoreError
            It has another format version.
        OSError
            It cannot be opened for reading and writing.
        """
        descriptor = open_own(path, os.O_RDWR)
        try:
            head = os.pread(descriptor, HEADER_BYTES, 0)
            generation, key = read_header(path, head)
            size = os.fstat(descriptor).st_size
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, generation, key, size, _CARRIED.unpack_from(head, _CARRIED_OFFSET)[0])

    @property
    def size(self) -> int:
        """Bytes that the file has when everything is written."""
        return self._end

    @property
    def records(self) -> int:
        """Places for fingerprints taken so far."""
        return (self._end - HEADER_BYTES) // 8

    def read(self) -> Iterator[U64Array]:
        """Yield all fingerprints in parts, each valid until the next one is asked for. Raises OSError."""
        part: U64Array = np.empty(min(_READ_RECORDS, self.records), np.uint64)
        offset = HEADER_BYTES
        while offset < self._end:
            got = os.preadv(self._fd, [part.data[: (self._end - offset) // 8]], offset) // 8
            if got == 0:
                return
            yield part[:got]
            offset += 8 * got

    def reserve(self, count: int) -> int:
        """Take room for ``count`` fingerprints at the end (by one thread at a time); return its offset."""
        offset = self._end
        self._end += 8 * count
        return offset

    def append(self, offset: int, fingerprints: bytes, carried: int) -> None:
        """Take fingerprints for the room reserved for them, and how many in the file were carried over.

        They are with the operating system after the next :meth:`write_out`. Never waits for the disk.
        """
        with self._waiting_lock:
            self._unwritten.append((offset, fingerprints))
            self.unwritten_bytes += len(fingerprints)
            self._carried = max(self._carried, carried)
            while self.unwritten_bytes > UNWRITTEN_MAX:
                _, lost = self._unwritten.popleft()
                self.unwritten_bytes -= len(lost)
                self.unsaved += len(lost) // 8

    def write_out(self, *, again: bool = False) -> None:
        """Hand the waiting fingerprints to the operating system.

        On a full disk it is kept in memory and written later; the first failure is logged.

        Parameters
        ----------
        again : bool
            Try even if it has failed a moment ago.
        """
        with self._write_lock:
            if self._fd < 0 or self.held or (not again and time.monotonic() < self._retry_at):
                return
            while (first := self._oldest_waiting()) is not None:
                offset, fingerprints = first
                try:
                    _write_all(self._fd, fingerprints, offset)
                except OSError as error:
                    if self._retry_at == 0:
                        _log.warning(
                            "cannot save seen names; they are kept in memory",
                            path=str(self.path),
                            reason=error.strerror,
                        )
                    self._retry_at = time.monotonic() + RETRY_SECONDS
                    return
                self._dirty = True
                self._done_with(first)
            self._retry_at = 0.0
            if self._carried > self.carried:
                self.carried = self._carried
                with suppress(OSError):
                    os.pwrite(self._fd, _CARRIED.pack(self.carried), _CARRIED_OFFSET)

    def _oldest_waiting(self) -> tuple[int, bytes] | None:
        with self._waiting_lock:
            return self._unwritten[0] if self._unwritten else None

    def _done_with(self, written: tuple[int, bytes]) -> None:
        with self._waiting_lock:
            # It may have been given up meanwhile, to no harm.
            if self._unwritten and self._unwritten[0] is written:
                self._unwritten.popleft()
                self.unwritten_bytes -= len(written[1])

    def sync(self) -> None:
        """Make all written fingerprints durable, unless they are already; a failure is logged."""
        with self._sync_lock:
            if self._fd < 0:
                return
            self.write_out(again=True)
            if not self._dirty:
                return
            # Cleared first: a write from here on needs another sync, and this one covers all writes before.
            self._dirty = False
            try:
                os.fdatasync(self._fd)
                if self._fresh:
                    sync_folder(self.path.parent)
                    self._fresh = False
            except OSError as error:
                _log.warning("cannot sync seen names", path=str(self.path), reason=error.strerror)

    def close(self) -> None:
        """Make everything durable and close the file; what could not be written is logged."""
        self.sync()
        if waiting := self.unwritten_bytes // 8:
            self.unsaved += waiting
            _log.warning(
                "seen names are lost: they could not be saved", path=str(self.path), count=self.unsaved
            )
        self.abandon()

    def discard(self) -> None:
        """Close and delete the file; a failure is logged."""
        self.abandon()
        try:
            self.path.unlink()
        except OSError as error:
            _log.warning("cannot delete old seen names", path=str(self.path), reason=error.strerror)

    def abandon(self) -> None:
        """Close the file as it is."""
        with self._sync_lock, self._write_lock:
            if self._fd >= 0:
                descriptor, self._fd = self._fd, -1
                os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):  # the disk became full: the next call tells so
        written += os.pwrite(descriptor, data[written:], offset + written)


if sys.byteorder != "little":  # pragma: no cover - no such platform has Numba
    raise ImportError("the format of the seen names is little-endian")

__all__ = ["HEADER_BYTES", "KEY_BYTES", "SUFFIX", "DamagedLog", "NameLog", "sync_folder"]
