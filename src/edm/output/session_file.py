"""A session file: Parquet row groups written during the interval, published whole or not at all.

The Parquet encoder writes into memory, and whole row groups go from there to the disk. So an error of the
disk never leaves the encoder half way through a row group: what could not be written waits, and is written
when there is room again.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from edm.errors import OutputError
from edm.files.publish import COMPRESSION, FILE_MODE, name_parquet_root, publish
from edm.stages.session.columns import COLUMNS

ROOT_NAME = b"sessionData"
"""Name of the root of the Parquet schema in the Go daemon's files."""

ROW_GROUP_ROWS = 1 << 17
ROW_GROUP_BYTES = 64 << 20
WRITE_BACK_BYTES = 8 << 20

DICTIONARY_COLUMNS = tuple(column.name for column in COLUMNS if column.few_values)
"""Columns of few distinct values. For the others a dictionary costs more time than it saves bytes."""

_VECTORS = 512  # buffers of one writev; the system allows 1024


class _Spool:
    """What Arrow writes, until it is on disk."""

    closed = False

    def __init__(self) -> None:
        self.chunks: deque[memoryview] = deque()
        self.nbytes = 0
        self._position = 0

    def write(self, data: bytes) -> int:
        self.chunks.append(memoryview(bytes(data)))
        self.nbytes += len(data)
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    @property
    def written(self) -> int:
        """Bytes that have left by :meth:`drain`."""
        return self._position - self.nbytes

    def flush(self) -> None:
        """Nothing to do: bytes leave by :meth:`drain` only."""

    def close(self) -> None:
        """Nothing to do: the writer's end is not the file's."""

    def drain(self, fd: int) -> None:
        """Write the bytes to ``fd``; after an error the rest is kept."""
        while self.chunks:
            written = os.writev(fd, [self.chunks[k] for k in range(min(len(self.chunks), _VECTORS))])
            self.nbytes -= written
            while self.chunks and written >= len(self.chunks[0]):
                written -= len(self.chunks.popleft())
            if written:
                self.chunks[0] = self.chunks[0][written:]

    def name_root(self) -> None:
        """Give the root of the schema in the footer, the last bytes written, the Go daemon's name."""
        data = b"".join(self.chunks)
        start, end = name_parquet_root(data, ROOT_NAME)
        self.chunks = deque([memoryview(data[:start] + end)])
        self.nbytes = len(self.chunks[0])


class SessionFile:
    """A session file that is being written under a temporary name. For the use of one thread.

    Small batches are combined: a row group has at least ``row_group_rows`` rows or :data:`ROW_GROUP_BYTES`
    bytes, except for the last.

    Parameters
    ----------
    temporary : the name while it is unfinished, on the file system where it will stay; an old file of this name
        is removed
    row_group_rows : rows of a row group

    Attributes
    ----------
    rows : rows taken so far
    broken : what was written may not be on disk and never get there, so the file can only be aborted

    Raises
    ------
    OutputError
        The file cannot be created.
    """

    def __init__(self, temporary: Path, row_group_rows: int = ROW_GROUP_ROWS) -> None:
        self.temporary = temporary
        self.rows: int = 0
        self.broken = False
        self._row_group_rows = row_group_rows
        self._batches: list[pa.RecordBatch] = []
        self._spool = _Spool()
        self._writer: pq.ParquetWriter | None = None
        self._complete = False
        self._handed = 0  # bytes of the file whose writing to the disk was begun
        try:
            # Never truncated: what a crash left may be a second link to a finished file.
            temporary.unlink(missing_ok=True)
            self._fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write session file {self.temporary}: {error.strerror or error}")

    @property
    def waiting_bytes(self) -> int:
        """Bytes of memory that wait to be encoded or to be written."""
        return self._spool.nbytes + sum(int(batch.nbytes) for batch in self._batches)

    def write(self, batch: pa.RecordBatch) -> None:
        """Take rows. All batches have the schema of the first.

        An error of the disk shows at the next call, before that takes anything: so a batch is either taken
        for good, or not at all. After an error go on with the same batch later, or abort.

        Raises
        ------
        OutputError
            Earlier rows cannot be written; ``batch`` was not taken.
        """
        self._drain()
        if self._writer is None:
            self._writer = self._new_writer(batch.schema)
        self._batches.append(batch)
        self.rows += batch.num_rows
        rows = sum(waiting.num_rows for waiting in self._batches)
        if rows >= self._row_group_rows or self.waiting_bytes >= ROW_GROUP_BYTES:
            self._encode(self._writer)
            with suppress(OutputError):
                self._drain()

    def _new_writer(self, schema: pa.Schema) -> pq.ParquetWriter:
        # Least and greatest values of text and messages would cost a tenth of the time and select nothing.
        narrow = [field.name for field in schema if not _is_bytes(field.type)]
        return pq.ParquetWriter(
            self._spool,
            schema,
            version="2.6",
            compression=COMPRESSION,
            use_dictionary=[name for name in DICTIONARY_COLUMNS if name in schema.names],
            write_statistics=narrow,
            store_schema=False,
        )

    def _encode(self, writer: pq.ParquetWriter) -> None:
        table = pa.Table.from_batches(self._batches, writer.schema)
        self._batches = []
        if table.num_rows:
            writer.write_table(table, row_group_size=table.num_rows)

    def _drain(self) -> None:
        try:
            self._spool.drain(self._fd)
        except OSError as error:
            raise self._failure(error) from error
        self._write_back()

    def _write_back(self) -> None:
        # The kernel begins to write these pages now, and nobody waits for it. Else it would write gigabytes at the
        # end, while rows of the next interval wait.
        written = self._spool.written
        if written - self._handed >= WRITE_BACK_BYTES and hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                os.posix_fadvise(self._fd, self._handed, written - self._handed, os.POSIX_FADV_DONTNEED)
            self._handed = written

    def close(self, final: Path, metadata: Mapping[str, str]) -> None:
        """Write the rest and the footer, bring all to disk, and give the file its final name.

        After an error it may be called again, with another name too, unless the file is :attr:`broken`; it goes
        on where it stopped. The metadata of the first call is the one written.

        Parameters
        ----------
        final : a path on the same file system; never overwritten
        metadata : key-value metadata of the footer

        Raises
        ------
        FileExistsError
            ``final`` exists.
        OutputError
            The file cannot be written or renamed.
        ValueError
            No batch was ever written.
        """
        if self._writer is None:
            raise ValueError("a session file without rows has no schema")
        if not self._complete:
            self._encode(self._writer)
            self._writer.add_key_value_metadata(dict(metadata))
            self._writer.close()
            self._spool.name_root()
            self._complete = True
        self._drain()
        self._sync()
        try:
            publish(self.temporary, final)
        except FileExistsError:
            raise
        except OSError as error:
            raise self._failure(error) from error
        os.close(self._fd)

    def _sync(self) -> None:
        if self.broken:
            raise OutputError(f"cannot write session file {self.temporary}: part of it was lost")
        try:
            os.fsync(self._fd)
        except OSError as error:
            # Pages that could not be written are thrown away, and the next fsync would not tell.
            self.broken = True
            raise self._failure(error) from error

    def abort(self) -> None:
        """Give the file up: its temporary form is removed, its rows are lost."""
        if self._writer is not None and not self._complete:
            self._writer.close()
        self._batches = []
        self._spool = _Spool()
        os.close(self._fd)
        with suppress(OSError):
            self.temporary.unlink()


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))
