"""The columns of a histogram file, declared once: Parquet schema and documentation follow from here.

:meth:`edm.stages.histogram.accumulators.Accumulators.to_batches` gives each of them its values, by name; the counters
are those of :mod:`edm.stages.histogram.kernels`, in this order.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from edm.files.column import TIMESTAMP, OutputColumn, schema_of


@dataclass(frozen=True, kw_only=True)
class HistogramColumn(OutputColumn):
    """A column of a histogram file.

    Attributes
    ----------
    group : str
        What makes its values: ``interval``, ``label`` (the entry's name), ``counter``, ``status`` (of the entry),
        ``clients`` or ``sketch``.
    """

    group: str


def _number(name: str, group: str, meaning: str) -> HistogramColumn:
    return HistogramColumn(name=name, type=pa.uint64(), meaning=meaning, nullable=False, group=group)


def _sketch(name: str, meaning: str) -> HistogramColumn:
    return HistogramColumn(name=name, type=pa.binary(), meaning=meaning, group="sketch")


_LABELS = (
    "labels of the list's entry as in session files, in the list's letter case (lower). Unused ones are NULL. "
    "A suffix entry such as `.example.net.` has the labels `net`, `example` and then an empty string"
)

COLUMNS: tuple[HistogramColumn, ...] = (
    HistogramColumn(
        name="start_time",
        type=TIMESTAMP,
        meaning="start of the interval; the same in all rows of a file",
        nullable=False,
        group="interval",
    ),
    *(
        HistogramColumn(name=f"label{number}", type=pa.string(), meaning=_LABELS, group="label")
        for number in range(10)
    ),
    _number("a_count", "counter", "answers to questions of class IN and type A"),
    _number("aaaa_count", "counter", "likewise, type AAAA"),
    _number("mx_count", "counter", "likewise, type MX"),
    _number("ns_count", "counter", "likewise, type NS"),
    _number("other_type_count", "counter", "likewise, any other type"),
    _number("non_in_count", "counter", "answers to questions of any other class"),
    _number("ok_count", "counter", "answers with response code NOERROR"),
    _number("nx_count", "counter", "with NXDOMAIN"),
    _number("fail_count", "counter", "with SERVFAIL"),
    _number(
        "other_rcode_count",
        "counter",
        "with any other code; codes are the extended ones (EDNS), so BADVERS counts here",
    ),
    _number("edm_status_bits", "status", "1: an exact entry of the list, 2: a suffix entry"),
    _number(
        "v4client_count",
        "clients",
        "different IPv4 clients: exact up to `histogram-hll-explicit-threshold` (20), above that an estimate of "
        "about 3 % standard error",
    ),
    _number("v6client_count", "clients", "different IPv6 clients, likewise"),
    _sketch("v4client_count_hll", "the sketch behind the estimate; NULL if the number is exact"),
    _sketch("v6client_count_hll", "likewise"),
)
"""The columns of a histogram file, in order, with the types of the Go daemon's files."""

SCHEMA: pa.Schema = schema_of(COLUMNS)

LABEL_COLUMNS = tuple(column.name for column in COLUMNS if column.group == "label")
COUNTER_COLUMNS = tuple(column.name for column in COLUMNS if column.group == "counter")

__all__ = ["COLUMNS", "COUNTER_COLUMNS", "LABEL_COLUMNS", "SCHEMA", "HistogramColumn"]
