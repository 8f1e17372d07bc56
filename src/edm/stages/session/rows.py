"""Session rows of one worker, collected as columns and handed over as Arrow record batches."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from edm.kernel.columns import BATCH_ROWS, U8Array, U32Array, U64Array
from edm.stages.session import row_kernels as k

_MICROS = pa.timestamp("us", "UTC")

SCHEMA = pa.schema(
    [
        ("dest_ipv4", pa.uint32()),
        ("dest_ipv6_host", pa.uint64()),
        ("dest_ipv6_network", pa.uint64()),
        ("dest_port", pa.uint16()),
        ("dns_protocol", pa.uint8()),
        *((f"label{label}", pa.string()) for label in range(k.LABELS)),
        ("query_message", pa.binary()),
        ("query_time", _MICROS),
        ("response_message", pa.binary()),
        ("response_time", _MICROS),
        ("server_id", pa.binary()),
        ("source_ipv4", pa.uint32()),
        ("source_ipv6_host", pa.uint64()),
        ("source_ipv6_network", pa.uint64()),
        ("source_port", pa.uint16()),
    ]
)
"""Columns of a session file, in the Go daemon's (alphabetical) order; all may be NULL."""

DEFAULT_ROWS = 1 << 16
DEFAULT_BYTES = 64 << 20

_OFFSET_MAX = (1 << 31) - 1
_LONGEST_NAME = 4 * 255
# Bytes a row takes on average in each column of bytes, before any batch has shown it.
_FIRST_GUESS = np.array([6, 12, 10, 4, 4, 4, 4, 4, 4, 6, 96, 16], np.int64)


class RowCounts(NamedTuple):
    """What one call of :meth:`SessionRows.append` met.

    ``rows``: rows appended; ``unknown_families``: rows whose socket_family is none of absent, 0, INET, INET6;
    ``family_mismatches``: IPv6 addresses in rows of family INET; ``odd_lengths``: addresses of neither 4 nor
    16 bytes. All but the first left address columns NULL.
    """

    rows: int
    unknown_families: int
    family_mismatches: int
    odd_lengths: int


class SessionRows:
    """A builder of record batches with :data:`SCHEMA`, owned by one worker and used by one thread at a time.

    Parameters
    ----------
    capacity_rows : rows after which the builder calls itself full; it takes more if it must
    capacity_bytes : likewise, bytes of text, response messages and server identities
    """

    def __init__(self, capacity_rows: int = DEFAULT_ROWS, capacity_bytes: int = DEFAULT_BYTES) -> None:
        self.capacity_rows = capacity_rows
        self.capacity_bytes = capacity_bytes
        self._state = np.zeros(k.N_STATE, np.int64)
        self._starts: U64Array = np.zeros(127, np.uint64)
        self._text_sizes = np.maximum(_FIRST_GUESS * capacity_rows, 4 * _LONGEST_NAME)
        self._start_buffers()

    def _start_buffers(self) -> None:
        # Full is asked after a batch of frames, not within it: leave room for one that begins just before.
        rows = self.capacity_rows + BATCH_ROWS
        self._n32: U32Array = np.empty((2, rows), np.uint32)
        self._n64: U64Array = np.empty((5, rows), np.uint64)
        self._n16: npt.NDArray[np.uint16] = np.empty((2, rows), np.uint16)
        self._protocol: U8Array = np.empty(rows, np.uint8)
        self._valid: U8Array = np.empty(rows, np.uint8)
        self._labels: U8Array = np.empty(rows, np.uint8)
        self._offsets: npt.NDArray[np.int32] = np.empty((k.N_TEXTS, rows + 1), np.int32)
        self._offsets[:, 0] = 0
        self._used = np.zeros(k.N_TEXTS, np.int64)
        self._base = np.concatenate([[0], np.cumsum(self._text_sizes)])
        self._texts: U8Array = np.empty(int(self._base[-1]), np.uint8)
        self._state[:] = 0

    def __len__(self) -> int:
        return int(self._state[k.ROWS])

    @property
    def full(self) -> bool:
        """Whether the batch should be taken before more is appended."""
        return len(self) >= self.capacity_rows or int(self._used.sum()) >= self.capacity_bytes

    def append(self, buf: U8Array, u32: U32Array, u64: U64Array, fate: U8Array, n: int) -> RowCounts:
        """Append the rows of a batch whose fate is SESSION.

        Parameters
        ----------
        buf, u32, u64, fate : the block and the columns of a batch, see :mod:`edm.kernel.columns`
        n : rows of the batch

        Raises
        ------
        OverflowError
            A column would pass 2 GiB: the builder was full long ago and nobody took its batch.
        """
        state = self._state
        before = state.copy()
        row = 0
        while True:
            row = k.append_rows(
                buf, u32, u64, fate, row, n, self._n32, self._n64, self._n16, self._protocol, self._valid,
                self._labels, self._texts, self._base, self._used, self._offsets, self._starts, state,
            )  # fmt: skip
            if row == n:
                break
            if state[k.SHORT_COLUMN] < 0:
                self._grow_rows()
            else:
                self._grow_text(int(state[k.SHORT_COLUMN]), int(state[k.SHORT_BYTES]))
        new = state - before
        return RowCounts(
            int(new[k.ROWS]),
            int(new[k.UNKNOWN_FAMILIES]),
            int(new[k.FAMILY_MISMATCHES]),
            int(new[k.ODD_LENGTHS]),
        )

    def _grow_rows(self) -> None:
        rows = self._valid.shape[0]
        for name in ("_n32", "_n64", "_n16", "_protocol", "_valid", "_labels", "_offsets"):
            old = getattr(self, name)
            wide = np.empty((*old.shape[:-1], old.shape[-1] + rows + 64), old.dtype)
            wide[..., : old.shape[-1]] = old
            setattr(self, name, wide)

    def _grow_text(self, column: int, need: int) -> None:
        used = self._used
        if used[column] + need > _OFFSET_MAX:
            raise OverflowError("session rows: a column passes 2 GiB; take() the batch when it is full")
        self._text_sizes[column] = min(2 * self._text_sizes[column] + need, _OFFSET_MAX)
        base = np.concatenate([[0], np.cumsum(self._text_sizes)])
        texts = np.empty(int(base[-1]), np.uint8)
        for text in range(k.N_TEXTS):
            texts[base[text] : base[text] + used[text]] = self._texts[
                self._base[text] : self._base[text] + used[text]
            ]
        self._base, self._texts = base, texts

    def take(self) -> pa.RecordBatch:
        """Return the collected rows, in the order appended, and start anew.

        The batch owns the buffers; nothing of it is written to again.
        """
        rows = len(self)
        arrays = {
            "query_message": pa.nulls(rows, pa.binary()),
            "query_time": pa.nulls(rows, _MICROS),
            "response_message": self._text(k.RESPONSE_MESSAGE, pa.binary(), None),
            "server_id": self._text(k.SERVER_ID, pa.binary(), self._has(k.VALID_SERVER_ID)),
            "response_time": _numbers(_MICROS, self._n64[k.RESPONSE_TIME, :rows], None),
            "dns_protocol": _numbers(pa.uint8(), self._protocol[:rows], self._has(k.VALID_PROTOCOL)),
        }
        for side, name in enumerate(("source", "dest")):
            ipv4 = self._n32[k.SOURCE_IPV4 - side, :rows]
            host = self._n64[k.SOURCE_IPV6_HOST - 2 * side, :rows]
            network = self._n64[k.SOURCE_IPV6_NETWORK - 2 * side, :rows]
            port = self._n16[k.SOURCE_PORT - side, :rows]
            ipv6 = self._has(k.VALID_SOURCE_IPV6 << side)
            arrays[f"{name}_ipv4"] = _numbers(pa.uint32(), ipv4, self._has(k.VALID_SOURCE_IPV4 << side))
            arrays[f"{name}_ipv6_host"] = _numbers(pa.uint64(), host, ipv6)
            arrays[f"{name}_ipv6_network"] = _numbers(pa.uint64(), network, ipv6)
            arrays[f"{name}_port"] = _numbers(pa.uint16(), port, self._has(k.VALID_SOURCE_PORT << side))
        for label in range(k.LABELS):
            arrays[f"label{label}"] = self._text(label, pa.string(), self._labels[:rows] > label)
        batch = pa.RecordBatch.from_arrays([arrays[name] for name in SCHEMA.names], schema=SCHEMA)
        if 4 * rows >= self.capacity_rows:
            # The next batch will be like this one: room for it, and a little more.
            likely = self._used * self.capacity_rows // rows
            self._text_sizes = likely + likely // 4 + 4 * _LONGEST_NAME
        self._start_buffers()
        return batch

    def _has(self, bit: int) -> npt.NDArray[np.bool_]:
        present: npt.NDArray[np.bool_] = (self._valid[: len(self)] & bit) != 0
        return present

    def _text(self, column: int, kind: pa.DataType, present: npt.NDArray[np.bool_] | None) -> pa.Array:
        rows = len(self)
        start = int(self._base[column])
        validity, nulls = _validity(present)
        buffers = [
            validity,
            pa.py_buffer(self._offsets[column, : rows + 1]),
            pa.py_buffer(self._texts[start : start + int(self._used[column])]),
        ]
        return pa.Array.from_buffers(kind, rows, buffers, nulls)


def _validity(present: npt.NDArray[np.bool_] | None) -> tuple[pa.Buffer | None, int]:
    nulls = 0 if present is None else len(present) - int(np.count_nonzero(present))
    if present is None or nulls == 0:
        return None, 0
    return pa.py_buffer(np.packbits(present, bitorder="little")), nulls


def _numbers(kind: pa.DataType, values: npt.NDArray[Any], present: npt.NDArray[np.bool_] | None) -> pa.Array:
    validity, nulls = _validity(present)
    return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(values)], nulls)
