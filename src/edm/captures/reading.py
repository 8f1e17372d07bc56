"""Capture files: Frame Streams files, plain or compressed, read as a stream of data-phase bytes.

A Frame Streams file is a START control frame, data frames, and a STOP control frame. Compression (gzip, RFC
1952; Zstandard, RFC 8878) is recognised by the first bytes, never by the name. Memory is bounded whatever the file:
no more is decompressed than was asked for, or than one small piece of input can expand to.
"""

from __future__ import annotations

import os
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import zstandard

from edm.errors import InputError, ProtocolError
from edm.stages.framestream.protocol import CONTENT_TYPE, START, read_control

STDIN = "-"
"""The path that stands for standard input."""

CHUNK = 1 << 20
"""Bytes per chunk of :func:`read_capture`."""

_HEAD = 12  # bytes that tell the form: the shortest START has as many, so a pipe need not deliver more
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GZIP_INPUT = 1 << 16
# The zstandard module has no bound on what one call puts out. A block of 4 bytes can stand for 128 KiB, so
# this bounds the output of a call to 32 MiB.
_ZSTD_INPUT = 1 << 10
# The longest frame header (RFC 8878, 3.1.1.1). In two pieces the library may take the second for a frame of its own.
_ZSTD_HEADER = 18


class _File:
    """The file as it is on disk; counts what was read, and can give its first bytes twice."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.position = 0
        if name == STDIN:
            self._raw: Any = sys.stdin.buffer
        else:
            try:
                self._raw = Path(name).open("rb", buffering=0)  # noqa: SIM115  (closed by close)
            except OSError as error:
                raise self._error("cannot be opened", error) from error
        self.size = self._stat_size()
        self._head = b""
        self._head = self._first_bytes(_HEAD)

    def _error(self, what: str, error: OSError) -> InputError:
        shown = "standard input" if self.name == STDIN else self.name
        return InputError(f"{shown}: {what}: {error.strerror or error}")

    def _stat_size(self) -> int | None:
        try:
            status = os.fstat(self._raw.fileno())
        except (OSError, ValueError):  # standard input replaced by something that is no file
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def _first_bytes(self, count: int) -> bytes:
        head = b""
        while len(head) < count and (more := self.read(count - len(head))):
            head += more
        self.position = 0
        return head

    @property
    def head(self) -> bytes:
        """The first bytes that have not been read yet."""
        return self._head

    def readinto(self, view: memoryview) -> int:
        if self._head:
            count = min(len(view), len(self._head))
            view[:count] = self._head[:count]
            self._head = self._head[count:]
        else:
            try:
                # A pipe in non-blocking mode gives None; the command line never sets one up.
                count = int(self._raw.readinto(view) or 0)
            except OSError as error:
                raise self._error(f"cannot be read at byte {self.position}", error) from error
        self.position += count
        return count

    def read(self, count: int) -> bytes:
        data = bytearray(count)
        return bytes(data[: self.readinto(memoryview(data))])

    def close(self) -> None:
        if self.name != STDIN:
            self._raw.close()


class _TruncatedError(Exception):
    """The compressed data ends before its end mark."""


# What decompressors raise.
_DAMAGED: tuple[type[Exception], ...] = (_TruncatedError, zlib.error, zstandard.ZstdError)


class _Source(Protocol):
    def readinto(self, view: memoryview) -> int: ...


class _Compressed:
    """Base of both decompressors: fills the caller's buffer from output that comes in small pieces."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._input = b""
        self._error: Exception | None = None

    def readinto(self, view: memoryview) -> int:
        filled = 0
        while filled < len(view) and self._error is None:
            try:
                count = self._piece(view[filled:])
            except _DAMAGED as error:
                # What came before is delivered first, the error with the next call.
                self._error = error
                break
            if count == 0:
                break
            filled += count
        if not filled and self._error is not None:
            raise self._error
        return filled

    def _piece(self, view: memoryview) -> int:
        """Decompress a piece into ``view``; return its size, 0 at the end of the file."""
        raise NotImplementedError


class _Gzip(_Compressed):
    """Decompresses the members of a gzip file."""

    def __init__(self, file: _File) -> None:
        super().__init__(file)
        self._member: zlib._Decompress | None = None
        self._members = 0

    def _piece(self, view: memoryview) -> int:
        while True:
            self._input = self._input or self._file.read(_GZIP_INPUT)
            at_end = not self._input
            if self._member is None:
                if self._members:
                    # Some tools pad with zeros behind the last member.
                    self._input = self._input.lstrip(b"\0")
                if at_end:
                    return 0
                if not self._input:
                    continue
                self._member = zlib.decompressobj(wbits=31)
                self._members += 1
            member = self._member
            data = member.decompress(self._input, len(view))
            self._input = member.unconsumed_tail
            if member.eof:
                self._input = member.unused_data
                self._member = None
            if data:
                view[: len(data)] = data
                return len(data)
            if at_end and not member.eof:
                raise _TruncatedError


class _Zstd(_Compressed):
    """Decompresses the frames of a Zstandard file."""

    def __init__(self, file: _File) -> None:
        super().__init__(file)
        self._output = memoryview(b"")
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame: zstandard.ZstdDecompressionObj | None = None

    def _piece(self, view: memoryview) -> int:
        while not self._output:
            least = _ZSTD_HEADER if self._frame is None else 1
            while len(self._input) < least and (more := self._file.read(_ZSTD_INPUT)):
                self._input += more
            if not self._input:
                if self._frame is not None:
                    raise _TruncatedError
                return 0
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = b""
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = None
        count = min(len(view), len(self._output))
        view[:count] = self._output[:count]
        self._output = self._output[count:]
        return count


class CaptureReader:
    """Reads the data phase of one capture file.

    Parameters
    ----------
    path : str or path
        The file, or ``-`` for standard input.

    Attributes
    ----------
    name : str
        What to call the file in messages.
    position : int
        Offset in the uncompressed stream of the next byte that :meth:`readinto` delivers.
    truncated : bool
        The file was found to end too early; the reason was raised as :class:`~edm.errors.InputError`.

    Raises
    ------
    InputError
        The file is missing, unreadable, empty, no Frame Streams file, of another content type, or it ends
        within START. Messages name the file and, where there is one, the offset in the uncompressed stream.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = "standard input" if os.fspath(path) == STDIN else os.fspath(path)
        self.position = 0
        self.truncated = False
        self._file = _File(os.fspath(path))
        try:
            self._source = self._open_source()
            self._ahead = self._read_start()
        except BaseException:
            self._file.close()
            raise

    @property
    def compressed_position(self) -> int:
        """Bytes of the file, as it is on disk, that have been read."""
        return self._file.position

    @property
    def size(self) -> int | None:
        """Bytes of the file as it is on disk; None for a pipe."""
        return self._file.size

    def readinto(self, view: memoryview) -> int:
        """Read bytes that follow START into ``view``; return how many, 0 at the end of the file.

        What is delivered is not parsed: data frames, and at the end usually STOP. Where captures were
        concatenated, START and STOP occur in between.

        Raises
        ------
        InputError
            The file cannot be read, or its compressed data is damaged or ends too early. All that could be
            decompressed has been delivered before.
        """
        if self._ahead:
            count = min(len(view), len(self._ahead))
            view[:count] = self._ahead[:count]
            self._ahead = self._ahead[count:]
        else:
            count = self._fetch(view)
        self.position += count
        return count

    def check_end(self, unconsumed: int) -> None:
        """Check that the file did not end inside a frame.

        Parameters
        ----------
        unconsumed : int
            Bytes delivered last that make no whole frame.

        Raises
        ------
        InputError
            There are such bytes.
        """
        if unconsumed:
            self.truncated = True
            raise InputError(
                f"{self.name}: ends inside the frame that begins at byte {self.position - unconsumed}"
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> CaptureReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open_source(self) -> _Source:
        head = self._file.head
        if not head:
            raise InputError(f"{self.name}: is empty")
        if head.startswith(_GZIP_MAGIC):
            return _Gzip(self._file)
        # A Zstandard file may begin with a skippable frame (RFC 8878, 3.1.2).
        if head.startswith(_ZSTD_MAGIC) or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
            return _Zstd(self._file)
        return self._file

    def _fetch(self, view: memoryview) -> int:
        if not view:
            return 0
        try:
            return self._source.readinto(view)
        except _TruncatedError:
            self.truncated = True
            raise InputError(
                f"{self.name}: compressed data is cut off at byte {self.compressed_position}"
            ) from None
        except _DAMAGED as error:
            raise InputError(
                f"{self.name}: compressed data is damaged before byte {self.compressed_position}: {error}"
            ) from None

    def _read_start(self) -> bytes:
        received = b""
        chunk = bytearray(1024)
        try:
            while (read := read_control(received)) is None:
                count = self._fetch(memoryview(chunk))
                if count == 0:
                    if not received:
                        raise InputError(f"{self.name}: is empty")
                    self.truncated = True
                    raise InputError(f"{self.name}: ends at byte {len(received)}, inside the START frame")
                received += chunk[:count]
        except ProtocolError as error:
            raise InputError(f"{self.name}: not a Frame Streams file: {error} at byte 0") from None
        control, size = read
        if control.type != START:
            raise InputError(f"{self.name}: begins with {control.name}, expected START")
        if control.content_types and CONTENT_TYPE not in control.content_types:
            shown = ascii(control.content_types[0][:40].decode("latin-1"))
            raise InputError(f"{self.name}: has content type {shown}, expected {CONTENT_TYPE.decode()}")
        self.position = size
        return received[size:]


def read_capture(path: str | os.PathLike[str], chunk_size: int = CHUNK) -> Iterator[bytes]:
    """Yield the data-phase bytes of a capture file in chunks; see :class:`CaptureReader`.

    Parameters
    ----------
    path : str or path
        The file, or ``-`` for standard input.
    chunk_size : int
        Most bytes per chunk.

    Raises
    ------
    InputError
        As :class:`CaptureReader` and :meth:`CaptureReader.readinto`.
    """
    chunk = bytearray(chunk_size)
    with CaptureReader(path) as reader:
        while count := reader.readinto(memoryview(chunk)):
            yield bytes(chunk[:count])


def open_all(names: Iterable[str]) -> list[CaptureReader]:
    """Open all of the captures, or none.

    Raises
    ------
    InputError
        One cannot be read.
    """
    readers: list[CaptureReader] = []
    try:
        readers.extend(map(CaptureReader, names))
    except BaseException:
        for reader in readers:
            reader.close()
        raise
    return readers


__all__ = ["STDIN", "CaptureReader", "open_all", "read_capture"]
