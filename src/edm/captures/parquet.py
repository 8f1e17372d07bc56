"""Summary of a Parquet file for ``edm inspect``, in bounded memory, also of a foreign or damaged file."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edm.errors import InputError
from edm.output.paths import HISTOGRAM_PREFIX, SESSION_PREFIX, SUFFIX
from edm.stages.histogram.schema import COUNTER_COLUMNS, LABEL_COLUMNS
from edm.stages.histogram.schema import SCHEMA as HISTOGRAM_SCHEMA
from edm.stages.names import split_name
from edm.stages.session.columns import SCHEMA as SESSION_SCHEMA

Facts: TypeAlias = dict[str, Any]

MOST_NAMES = 500_000
"""Most different names that are counted at once. With more, the least frequent ones are dropped."""
MEMORY = 384 << 20
"""Bytes of memory that reading a Parquet file may take, because a small file can claim to unpack to any size."""

_METADATA_PREFIX = b"edm."
_QUERIES = COUNTER_COLUMNS[:6]
"""Counters by class and type of the question; each response adds to exactly one of them."""
_CLIENTS = ("v4client_count", "v6client_count")
_BATCH_ROWS = 8192
_SEPARATOR = b"\0"
_LABEL_BYTES = 1024  # more than a whole name can have
_TEXT = 1000  # characters of a foreign text
_COLUMNS = 1000
_FOOTER = 100 << 20

# Errors that the library raises for a bad file: its own, and Python's (text that is not UTF-8, numbers out of range,
# missing columns).
_UNREADABLE = (pa.ArrowException, ValueError, IndexError, KeyError, TypeError, OverflowError)


def inspect_parquet(path: str, top: int) -> Facts:
    """Return facts about a Parquet file; see :func:`edm.captures.inspection.inspect`.

    Raises
    ------
    InputError
        The file cannot be read, is damaged, or takes more than :data:`MEMORY` to read.
    """
    try:
        # The library gets an open file, because a path may not be text, or may look like a URL to the library.
        with Path(path).open("rb") as opened, _system_pool():
            with _bounded_memory():
                file = pq.ParquetFile(
                    opened,
                    buffer_size=1 << 16,
                    thrift_string_size_limit=_FOOTER,
                    thrift_container_size_limit=1_000_000,
                )
            with file:
                return _facts(file, path, top)
    except MemoryError:
        reason = f"reading it would take more than {MEMORY >> 20} MiB of memory"
        raise InputError(f"{path}: {reason}") from None
    except _UNREADABLE as error:
        # Python's text of UnicodeDecodeError would say little to an operator.
        known = "text in it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        reason = (known.splitlines() or ["damaged"])[0][:_TEXT]
        raise InputError(f"{path}: not a whole Parquet file: {reason}") from None
    except OSError as error:
        if error.strerror:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        reason = (str(error).splitlines() or ["damaged"])[0][:_TEXT]  # the library's own
        raise InputError(f"{path}: not a whole Parquet file: {reason}") from None


@contextmanager
def _system_pool() -> Iterator[None]:
    # The library's default pool reserves far more memory than it uses, and would exceed the limit.
    pool = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(pool)


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Limit this process to :data:`MEMORY` bytes more than it has now; beyond that, allocations fail.

    Only for library code in this thread: the library cannot handle a failed allocation in its other threads.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = _data_bytes() + MEMORY
    for limit in (soft, hard):
        if limit != resource.RLIM_INFINITY:
            bound = min(bound, limit)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[5]
    return int(pages) * resource.getpagesize()


def _facts(file: pq.ParquetFile, path: str, top: int) -> Facts:
    footer = file.metadata
    schema = file.schema_arrow
    kind, missing = _kind(schema)
    metadata = {
        _text(key): _text(value)
        for key, value in (footer.metadata or {}).items()
        if key.startswith(_METADATA_PREFIX)
    }
    packed = footer.num_row_groups > 0 and footer.num_columns > 0
    facts: Facts = {
        "file": path,
        "kind": kind,
        "bytes": Path(path).stat().st_size,
        "rows": footer.num_rows,
        "row_groups": footer.num_row_groups,
        "compression": footer.row_group(0).column(0).compression if packed else None,
        "created_by": (footer.created_by or "")[:_TEXT],
        "interval": _interval(metadata, Path(path).name),
        "metadata": metadata,
    }
    if kind != "parquet":
        facts["missing"] = missing
    if kind == "histogram":
        return facts | _histogram_facts(file, top)
    if kind == "session":
        return facts | _session_facts(file, top)
    return facts | {"columns": [name[:_TEXT] for name in schema.names[:_COLUMNS]]}


def _kind(schema: pa.Schema) -> tuple[str, list[str]]:
    """Return the kind of the file, and the columns of the present version that it lacks.

    New columns are added at the end, so a file of an older version or of the Go daemon has the first columns. A file
    whose columns have the right names but other types was made by another program.
    """
    read = {
        "histogram": (HISTOGRAM_SCHEMA, {*LABEL_COLUMNS, *COUNTER_COLUMNS, *_CLIENTS}),
        "session": (SESSION_SCHEMA, {*LABEL_COLUMNS}),
    }
    for kind, (ours, needed) in read.items():
        count = len(schema.names)
        first = schema.names == ours.names[:count] and schema.types == ours.types[:count]
        if first and needed <= set(schema.names):
            return kind, ours.names[count:]
    return "parquet", []


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")[:_TEXT]


def _interval(metadata: dict[str, str], name: str) -> list[str] | None:
    """Return start and stop from the metadata, or from the file's name (for files of the Go daemon)."""
    if "edm.interval.start" in metadata and "edm.interval.stop" in metadata:
        return [metadata["edm.interval.start"], metadata["edm.interval.stop"]]
    for prefix in (HISTOGRAM_PREFIX, SESSION_PREFIX):
        start, _, stop = name.removeprefix(prefix).removesuffix(SUFFIX).partition("_")
        if name.startswith(prefix) and name.endswith(SUFFIX) and stop:
            return [start, stop]
    return None


def _name(labels: Sequence[bytes | None]) -> str:
    known = [label.decode("utf-8", "replace") for label in labels if label is not None]
    if len(known) == len(LABEL_COLUMNS):
        known[-1:] = split_name(known[-1])
    return ".".join(reversed(known)) + "."


def _batches(file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.Table]:
    """Yield the columns a few rows at a time: labels as bytes of bounded length, numbers without NULL."""
    batches = file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)
    while True:
        with _bounded_memory():
            batch = next(batches, None)
        if batch is None:
            return
        yield pa.table({name: _bounded(batch.column(name)) for name in columns})


def _bounded(column: pa.Array) -> pa.Array:
    if not pa.types.is_string(column.type):
        return pc.fill_null(column, 0)
    # As bytes, because only the names that are shown are decoded as UTF-8.
    return pc.binary_slice(pc.ascii_lower(column).cast(pa.binary()), 0, _LABEL_BYTES)


def _first(table: pa.Table, by: str, most: int) -> pa.Table:
    order = pc.select_k_unstable(table, k=min(most, table.num_rows), sort_keys=[(by, "descending")])
    return table.take(order)


def _top_rows(table: pa.Table, by: str, top: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = _first(table, by, top).to_pylist()
    return [{"name": _name([row.pop(label) for label in LABEL_COLUMNS]), **row} for row in rows]


def _histogram_facts(file: pq.ParquetFile, top: int) -> Facts:
    sums = dict.fromkeys(COUNTER_COLUMNS, 0)
    shown: pa.Table | None = None
    for batch in _batches(file, [*LABEL_COLUMNS, *COUNTER_COLUMNS, *_CLIENTS]):
        responses = batch[_QUERIES[0]]
        for name in _QUERIES[1:]:
            responses = pc.add(responses, batch[name])
        for name in COUNTER_COLUMNS:
            sums[name] += pc.sum(batch[name]).as_py() or 0
        rows = batch.select([*LABEL_COLUMNS, "nx_count", *_CLIENTS])
        rows = rows.add_column(len(LABEL_COLUMNS), "responses", responses)
        shown = _first(rows if shown is None else pa.concat_tables([shown, rows]), "responses", top)
    return {
        "responses": sum(sums[name] for name in _QUERIES),
        "sums": sums,
        "top": [] if shown is None else _top_rows(shown, "responses", top),
    }


def _session_facts(file: pq.ParquetFile, top: int) -> Facts:
    names = _Names()
    for batch in _batches(file, [*LABEL_COLUMNS]):
        # Joined into one column, which takes a tenth of the memory of ten. After the first NULL label all are NULL.
        labels = [batch[name].combine_chunks() for name in LABEL_COLUMNS]
        front = pa.repeat(
            pa.scalar(b"", pa.binary()), batch.num_rows
        )  # joining nothing but NULL gives nothing
        joined = pc.binary_join_element_wise(front, *labels, _SEPARATOR, null_handling="skip")
        names.add(pa.table({"name": joined, "rows": pa.repeat(pa.scalar(1, pa.int64()), batch.num_rows)}))
    return names.facts(top)


class _Names:
    """Counts rows by name."""

    def __init__(self) -> None:
        self._counted: pa.Table | None = None
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._least = 0  # lower bound on different names, once some were dropped

    def add(self, rows: pa.Table) -> None:
        """Count more rows."""
        self._waiting.append(_grouped([rows]))
        self._rows += self._waiting[-1].num_rows
        known = 0 if self._counted is None else self._counted.num_rows
        held = sum(int(table.nbytes) for table in self._waiting)
        if self._rows > max(known, _BATCH_ROWS) or held > MEMORY // 16:  # each row is merged a few times only
            self._merge()

    def _merge(self) -> None:
        tables = [*self._waiting] if self._counted is None else [self._counted, *self._waiting]
        self._waiting, self._rows = [], 0
        counted = _grouped(tables)
        if counted.num_rows > MOST_NAMES or counted.nbytes > MEMORY // 8:
            self._least = max(self._least, counted.num_rows)
            counted = _first(counted, "rows", counted.num_rows // 2)
        self._counted = counted

    def facts(self, top: int) -> Facts:
        """Return the number of names and the most frequent ones."""
        if self._waiting:
            self._merge()
        if self._counted is None:
            return {"names": 0, "names_complete": True, "top": []}
        return {
            "names": max(self._least, self._counted.num_rows),
            "names_complete": not self._least,
            "top": [
                {"name": _name(name.split(_SEPARATOR)[1:]), "rows": rows}
                for name, rows in zip(*_first(self._counted, "rows", top).to_pydict().values(), strict=True)
            ],
        }


def _grouped(tables: list[pa.Table]) -> pa.Table:
    counted = pa.concat_tables(tables).group_by("name", use_threads=False).aggregate([("rows", "sum")])
    return counted.select(["name", "rows_sum"]).rename_columns(["name", "rows"])


__all__ = ["MEMORY", "MOST_NAMES", "inspect_parquet"]
