"""Session rows of one worker, collected as columns and handed over as Arrow record batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from edm.files.column import schema_of
from edm.kernel.columns import BATCH_ROWS, I64Array, U8Array, U32Array, U64Array
from edm.stages.session import row_kernels as k
from edm.stages.session.columns import COLUMNS, Field, Number, SessionColumn, Text, fields_of

DEFAULT_ROWS = 1 << 16
DEFAULT_BYTES = 64 << 20

_OFFSET_MAX = (1 << 31) - 1
_LONGEST_NAME = 4 * 255


def _first_guess() -> I64Array:
    """Return the bytes a row takes on average in each column of bytes, before any batch has shown it."""
    guess = np.full(k.N_TEXTS, 16, np.int64)
    guess[: k.LABELS] = [6, 12, 10, 4, 4, 4, 4, 4, 4, 6]
    guess[k.RESPONSE_MESSAGE] = 96
    return guess


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
    """A builder of record batches of session rows, owned by one worker and used by one thread at a time.

    Parameters
    ----------
    capacity_rows : rows after which the builder calls itself full; it takes more if it must
    capacity_bytes : likewise, bytes of text, response messages and server identities
    columns : the columns of the batches, in order; those of a session file if not given
    """

    def __init__(
        self,
        capacity_rows: int = DEFAULT_ROWS,
        capacity_bytes: int = DEFAULT_BYTES,
        columns: Sequence[SessionColumn] | None = None,
    ) -> None:
        columns = COLUMNS if columns is None else columns
        self._columns = columns
        self._schema = schema_of(columns)
        self._fields = fields_of(columns)
        self.capacity_rows = capacity_rows
        self.capacity_bytes = capacity_bytes
        self._state = np.zeros(k.N_STATE, np.int64)
        self._text_sizes = np.maximum(_first_guess() * capacity_rows, 4 * _LONGEST_NAME)
        self._rows = self._start_buffers()

    def _start_buffers(self) -> k.Rows:
        # Full is asked after a batch of frames, not within it: leave room for one that begins just before.
        rows = self.capacity_rows + BATCH_ROWS
        base = np.concatenate([[0], np.cumsum(self._text_sizes)])
        offsets = np.empty((k.N_TEXTS, rows + 1), np.int32)
        offsets[:, 0] = 0
        self._state[:] = 0
        return k.Rows(
            n32=np.empty((k.N_N32, rows), np.uint32),
            n64=np.empty((k.N_N64, rows), np.uint64),
            fields=self._fields,
            copied=np.empty((self._fields.shape[1], rows), np.uint32),
            there=np.empty((self._fields.shape[1], rows), np.uint8),
            valid=np.empty(rows, np.uint8),
            labels=np.empty(rows, np.uint8),
            texts=np.empty(int(base[-1]), np.uint8),
            base=base,
            used=np.zeros(k.N_TEXTS, np.int64),
            offsets=offsets,
            starts=np.zeros(k.NAME_LABELS, np.uint64),
        )

    def __len__(self) -> int:
        return int(self._state[k.ROWS])

    @property
    def full(self) -> bool:
        """Whether the batch should be taken before more is appended."""
        return len(self) >= self.capacity_rows or int(self._rows.used.sum()) >= self.capacity_bytes

    def append(self, buf: U8Array, u32: U32Array, u64: U64Array, fate: U8Array, n: int) -> RowCounts:
        """Append the rows of a batch whose fate is SESSION.

        Parameters
        ----------
        buf, u32, u64, fate : the block and the columns of a batch, see :mod:`edm.kernel.columns`
        n : rows of the batch

        Raises
        ------
        OverflowError
            A column would exceed 2 GiB: the builder has been full for long, and its batch was not taken.
        """
        state = self._state
        before = state.copy()
        row = 0
        while True:
            row = k.append_rows(buf, u32, u64, fate, row, n, (*self._rows,), state)
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
        old = self._rows
        more = old.valid.shape[0] + 64
        # All buffers that have a place per row: their last axis is the rows.
        per_row = ("n32", "n64", "copied", "there", "valid", "labels", "offsets")
        self._rows = old._replace(**{name: _widened(getattr(old, name), more) for name in per_row})

    def _grow_text(self, column: int, need: int) -> None:
        old = self._rows
        if old.used[column] + need > _OFFSET_MAX:
            raise OverflowError("session rows: a column passes 2 GiB; take() the batch when it is full")
        self._text_sizes[column] = min(2 * self._text_sizes[column] + need, _OFFSET_MAX)
        base = np.concatenate([[0], np.cumsum(self._text_sizes)])
        texts = np.empty(int(base[-1]), np.uint8)
        for text, used in enumerate(old.used.tolist()):
            texts[base[text] : base[text] + used] = old.texts[old.base[text] : old.base[text] + used]
        self._rows = old._replace(base=base, texts=texts)

    def take(self) -> pa.RecordBatch:
        """Return the collected rows, in the order appended, and begin a new batch.

        The batch owns the buffers; nothing of it is written to again.
        """
        rows = len(self)
        copied = iter(range(self._fields.shape[1]))
        arrays = [self._array(column, copied) for column in self._columns]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        if 4 * rows >= self.capacity_rows:
            # The next batch will be like this one: room for it, and a little more.
            likely = self._rows.used * self.capacity_rows // rows
            self._text_sizes = likely + likely // 4 + 4 * _LONGEST_NAME
        self._rows = self._start_buffers()
        return batch

    def _array(self, column: SessionColumn, copied: Iterator[int]) -> pa.Array:
        """Return the values of a column; ``copied`` numbers those that are copied from the batch."""
        rows = len(self)
        match column.source:
            case Field(_, present):
                number = next(copied)
                values = self._rows.copied[number, :rows].astype(column.type.to_pandas_dtype())
                there = self._rows.there[number, :rows].view(np.bool_) if present else None
                return _numbers(column.type, values, there)
            case Number(buffer, place, valid):
                values = getattr(self._rows, buffer)[place, :rows]
                return _numbers(column.type, values, self._has(valid))
            case Text(place, valid):
                labels = place < k.LABELS
                shown = self._rows.labels[:rows] > place if labels else self._has(valid)
                return self._text(place, column.type, shown)
            case None:
                return pa.nulls(rows, column.type)

    def _has(self, bit: int) -> npt.NDArray[np.bool_] | None:
        return (self._rows.valid[: len(self)] & bit) != 0 if bit else None

    def _text(self, place: int, kind: pa.DataType, present: npt.NDArray[np.bool_] | None) -> pa.Array:
        rows = len(self)
        start = int(self._rows.base[place])
        validity, nulls = _validity(present)
        buffers = [
            validity,
            pa.py_buffer(self._rows.offsets[place, : rows + 1]),
            pa.py_buffer(self._rows.texts[start : start + int(self._rows.used[place])]),
        ]
        return pa.Array.from_buffers(kind, rows, buffers, nulls)


def _widened(old: npt.NDArray[Any], more: int) -> npt.NDArray[Any]:
    wide = np.empty((*old.shape[:-1], old.shape[-1] + more), old.dtype)
    wide[..., : old.shape[-1]] = old
    return wide


def _validity(present: npt.NDArray[np.bool_] | None) -> tuple[pa.Buffer | None, int]:
    nulls = 0 if present is None else len(present) - int(np.count_nonzero(present))
    if present is None or nulls == 0:
        return None, 0
    return pa.py_buffer(np.packbits(present, bitorder="little")), nulls


def _numbers(kind: pa.DataType, values: npt.NDArray[Any], present: npt.NDArray[np.bool_] | None) -> pa.Array:
    validity, nulls = _validity(present)
    return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(values)], nulls)
