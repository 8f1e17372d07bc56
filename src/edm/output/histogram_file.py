"""Histogram files: Parquet as the Go daemon lays it out, written whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from edm.errors import OutputError
from edm.files.publish import COMPRESSION, FILE_MODE, name_parquet_root, publish
from edm.stages.histogram.schema import COLUMNS, SCHEMA

ROOT_NAME = b"histogramData"
"""Name of the root of the Parquet schema in the Go daemon's files."""

_TAIL = 8  # little-endian footer length and magic
# A string in Thrift's compact protocol is its length and its bytes; Arrow calls the root "schema".
_ARROW_ROOT = b"\x06schema"

_ENCODING = {column.name: "DELTA_LENGTH_BYTE_ARRAY" if column.is_bytes else "PLAIN" for column in COLUMNS}


def write_histogram(
    rows: pa.Table | Iterable[pa.RecordBatch],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str],
    temporary: Path | None = None,
) -> int:
    """Write rows to a new Parquet file and return how many there were.

    The file is written as ``temporary``, synchronised to disk, and only then gets its name; a file that
    already has this name is never touched. Each record batch becomes a row group.

    Parameters
    ----------
    rows : pyarrow.Table or iterable of pyarrow.RecordBatch
        Columns of :data:`edm.stages.histogram.schema.SCHEMA`.
    path : path-like
        In an existing directory.
    metadata : mapping of str to str
        Key-value metadata of the footer; read after the last batch was taken.
    temporary : Path
        The name while it is unfinished, on the same file system; by default that of ``path`` with a dot in front
        and ``.tmp`` at the end.

    Raises
    ------
    FileExistsError
        If ``path`` exists; no file is left behind, and another name may be tried.
    OutputError
        If the file cannot be written; no file is left behind.
    """
    final = Path(path)
    if os.path.lexists(final):
        raise FileExistsError(errno.EEXIST, "File exists", str(final))
    temporary = temporary or final.with_name(f".{final.name}.tmp")
    batches = rows.to_batches() if isinstance(rows, pa.Table) else rows
    try:
        _create(temporary)
        try:
            written = _write(temporary, batches, metadata)
            _finish(temporary)
            publish(temporary, final)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except FileExistsError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)  # Arrow's own text is longer
        raise OutputError(f"cannot write histogram file {final}: {reason}") from error
    except pa.ArrowException as error:
        raise OutputError(f"cannot write histogram file {final}: {error}") from error
    return written


def _create(temporary: Path) -> None:
    # A file of this name left by a crash may be a second link to a finished file: never truncate it.
    with suppress(FileNotFoundError):
        temporary.unlink()
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))


def _write(temporary: Path, batches: Iterable[pa.RecordBatch], metadata: Mapping[str, str]) -> int:
    written = 0
    with (
        temporary.open("wb") as sink,  # the library opens only paths that are UTF-8
        pq.ParquetWriter(
            sink,
            SCHEMA,
            version="2.6",
            compression=COMPRESSION,
            use_dictionary=False,
            column_encoding=_ENCODING,
            data_page_version="2.0",
            write_statistics=True,
            write_page_index=True,
            store_schema=False,
        ) as writer,
    ):
        for batch in batches:
            writer.write_table(pa.Table.from_batches([batch], SCHEMA), row_group_size=max(1, batch.num_rows))
            written += batch.num_rows
        writer.add_key_value_metadata(dict(metadata))
    return written


def _finish(temporary: Path) -> None:
    """Give the root of the schema its name, and bring the file to disk."""
    with temporary.open("r+b") as file:
        end = file.seek(-_TAIL, os.SEEK_END)
        begin = end - int.from_bytes(file.read(4), "little")
        file.seek(begin)
        _, footer = name_parquet_root(file.read(), ROOT_NAME)
        file.seek(begin)
        file.write(footer)
        file.flush()
        os.fsync(file.fileno())


__all__ = ["ROOT_NAME", "write_histogram"]
