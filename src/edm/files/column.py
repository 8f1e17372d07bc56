"""A column of an output file as declared: name, type, meaning. Each kind of file adds where its values come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", "UTC")

_TYPE_NAMES = {
    pa.string(): "string",
    pa.binary(): "binary",
    TIMESTAMP: "timestamp, microseconds, UTC",
}


@dataclass(frozen=True, kw_only=True)
class OutputColumn:
    """One column of an output file.

    Attributes
    ----------
    name : str
    type : pyarrow.DataType
    meaning : str
        For docs/files.md, Markdown.
    null : str
        When a value is NULL, likewise; empty where the file's table does not tell.
    nullable : bool
        Whether the Parquet schema allows NULL.
    """

    name: str
    type: pa.DataType
    meaning: str
    null: str = ""
    nullable: bool = True

    @property
    def is_bytes(self) -> bool:
        """Whether values are text or bytes of any length."""
        return bool(pa.types.is_string(self.type) or pa.types.is_binary(self.type))


def schema_of(columns: Iterable[OutputColumn]) -> pa.Schema:
    """Return the schema of a file with these columns, in this order."""
    return pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in columns])


def table_of(columns: Sequence[OutputColumn], *, null: bool) -> str:
    """Return the columns as a Markdown table; neighbours of one type and meaning share a row.

    Parameters
    ----------
    null : bool
        Whether there is a column that tells when a value is NULL.
    """
    head = ["column", "type", "meaning", *(["NULL"] if null else [])]
    lines = [_row(head), "|---" * len(head) + "|"]
    at = 0
    while at < len(columns):
        first = last = columns[at]
        while at < len(columns) and _same(columns[at], first):
            last = columns[at]
            at += 1
        name = f"`{first.name}`" if last is first else f"`{first.name}` ... `{last.name}`"
        kind = _TYPE_NAMES.get(first.type, str(first.type))
        lines.append(_row([name, kind, first.meaning, *([first.null] if null else [])]))
    return "\n".join(lines)


def _same(one: OutputColumn, other: OutputColumn) -> bool:
    return (one.type, one.meaning, one.null) == (other.type, other.meaning, other.null)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


__all__ = ["TIMESTAMP", "OutputColumn", "schema_of", "table_of"]
