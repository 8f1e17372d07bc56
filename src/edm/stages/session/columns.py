"""The columns of a session file, declared once: rows, Parquet schema and documentation follow from here.

Each column says where its value comes from:

- :class:`Field`: a number of the batch, copied. A new column of this kind is one more line here and nothing else.
- :class:`Number`, :class:`Text`: what :mod:`edm.stages.session.row_kernels` computes into the buffers that it owns,
  under the same constants.
- ``None``: nothing, the column is always NULL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from edm.files.column import TIMESTAMP, OutputColumn, schema_of
from edm.kernel import columns as c
from edm.kernel.columns import U32Array
from edm.stages.session import row_kernels as k


class Field(NamedTuple):
    """A number copied from the batch, cut down to the column's width.

    ``field`` is a row of the batch's ``u32`` columns. ``present`` is the bit of ``PRESENT`` without which the value is
    NULL, 0 if it never is. Numbers that have a bit of ``reject`` are stored as 0.
    """

    field: int
    present: int = 0
    reject: int = 0


class Number(NamedTuple):
    """A number that the kernel computes: its row of the 32-bit or 64-bit ``buffer``, and its bit of validity."""

    buffer: str
    place: int
    valid: int = 0


class Text(NamedTuple):
    """Bytes that the kernel copies: their place among the columns of bytes, and their bit of validity.

    A place below :data:`edm.stages.session.row_kernels.LABELS` is a label, which is NULL where the name has fewer.
    """

    place: int
    valid: int = 0


Source: TypeAlias = Field | Number | Text | None


@dataclass(frozen=True, kw_only=True)
class SessionColumn(OutputColumn):
    """A column of a session file.

    Attributes
    ----------
    source : Field, Number, Text or None
        Where values come from; ``None``: always NULL.
    few_values : bool
        Whether a dictionary makes the column smaller. For others it costs more time than it saves bytes.
    """

    source: Source
    few_values: bool = False


_NO_SIGN = 1 << 31
"""A port that does not fit a signed 32-bit number is stored as 0, as the Go daemon does; others modulo 2**16."""


def _ipv4(side: str, meaning: str, null: str, few_values: bool = False) -> SessionColumn:
    number = Number("n32", k.SOURCE_IPV4, k.VALID_SOURCE_IPV4)
    if side == "dest":
        number = Number("n32", k.DEST_IPV4, k.VALID_DEST_IPV4)
    return SessionColumn(
        name=f"{side}_ipv4",
        type=pa.uint32(),
        source=number,
        meaning=meaning,
        null=null,
        few_values=few_values,
    )


def _ipv6(name: str, place: int, meaning: str, null: str, few_values: bool = False) -> SessionColumn:
    valid = k.VALID_DEST_IPV6 if name.startswith("dest") else k.VALID_SOURCE_IPV6
    return SessionColumn(
        name=name,
        type=pa.uint64(),
        source=Number("n64", place, valid),
        meaning=meaning,
        null=null,
        few_values=few_values,
    )


def _port(name: str, field: int, present: int, meaning: str, few_values: bool = False) -> SessionColumn:
    return SessionColumn(
        name=name,
        type=pa.uint16(),
        source=Field(field, present, _NO_SIGN),
        meaning=meaning,
        null="if absent",
        few_values=few_values,
    )


def _label(number: int, meaning: str, null: str, few_values: bool = False) -> SessionColumn:
    return SessionColumn(
        name=f"label{number}",
        type=pa.string(),
        source=Text(number),
        meaning=meaning,
        null=null,
        few_values=few_values,
    )


def _nothing(name: str, kind: pa.DataType) -> SessionColumn:
    return SessionColumn(
        name=name, type=kind, source=None, meaning="nothing; kept for the schema", null="always"
    )


COLUMNS: tuple[SessionColumn, ...] = (
    _ipv4(
        "dest",
        "pseudonym of dnstap's response_address, an IPv4 address as a number (first byte highest)",
        "unless the address has 4 bytes and the socket family is IPv4",
        few_values=True,
    ),
    _ipv6(
        "dest_ipv6_host",
        k.DEST_IPV6_HOST,
        "lower 64 bits of the pseudonym of an IPv6 response_address",
        "unless the socket family is IPv6",
        few_values=True,
    ),
    _ipv6(
        "dest_ipv6_network", k.DEST_IPV6_NETWORK, "its upper 64 bits", "as `dest_ipv6_host`", few_values=True
    ),
    _port("dest_port", c.RESPONSE_PORT, c.HAS_RESPONSE_PORT, "response_port", few_values=True),
    SessionColumn(
        name="dns_protocol",
        type=pa.uint8(),
        source=Field(c.SOCKET_PROTOCOL, c.HAS_SOCKET_PROTOCOL),
        meaning="socket_protocol: 1 UDP, 2 TCP, 3 DNS over TLS, 4 DNS over HTTPS, others as they came",
        null="if absent",
        few_values=True,
    ),
    _label(0, "top-level domain of the first question's name", "for the root name", few_values=True),
    *(
        _label(number, "the labels to the left of it, one each", "where the name has no such label")
        for number in range(1, k.LABELS - 1)
    ),
    _label(
        k.LABELS - 1,
        "the tenth label; of a longer name all that remain, joined with dots, from right to left",
        "as above",
    ),
    _nothing("query_message", pa.binary()),
    _nothing("query_time", TIMESTAMP),
    SessionColumn(
        name="response_message",
        type=pa.binary(),
        source=Text(k.RESPONSE_MESSAGE),
        meaning="the DNS message as it came, unchanged",
        null="never",
    ),
    SessionColumn(
        name="response_time",
        type=TIMESTAMP,
        source=Number("n64", k.RESPONSE_TIME),
        meaning="time of the answer, nanoseconds cut off; 1970-01-01 if the frame has none",
        null="never",
    ),
    SessionColumn(
        name="server_id",
        type=pa.binary(),
        source=Text(k.SERVER_ID, k.VALID_SERVER_ID),
        meaning="dnstap's identity",
        null="if absent or empty",
        few_values=True,
    ),
    _ipv4("source", "pseudonym of the client: of query_address, as `dest_ipv4`", "as `dest_ipv4`"),
    _ipv6("source_ipv6_host", k.SOURCE_IPV6_HOST, "as `dest_ipv6_host`", "as there"),
    _ipv6("source_ipv6_network", k.SOURCE_IPV6_NETWORK, "as `dest_ipv6_network`", "as there"),
    _port("source_port", c.QUERY_PORT, c.HAS_QUERY_PORT, "query_port"),
)
"""The columns of a session file, in the Go daemon's (alphabetical) order; all may be NULL."""

SCHEMA: pa.Schema = schema_of(COLUMNS)


def fields_of(columns: Sequence[SessionColumn]) -> U32Array:
    """Return what the kernel has to copy for these columns.

    Returns
    -------
    uint32[3, number of :class:`Field` columns]
        Row of the batch's ``u32`` columns, bit of ``PRESENT``, rejected bits; in the order of the columns.
    """
    fields = [column.source for column in columns if isinstance(column.source, Field)]
    return np.array(fields, np.uint32).reshape(-1, 3).T.copy()


__all__ = ["COLUMNS", "SCHEMA", "Field", "Number", "SessionColumn", "Text", "fields_of"]
