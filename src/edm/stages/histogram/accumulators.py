"""The counts of one worker in one interval, and merging those of all workers into rows."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from edm.kernel.columns import BATCH_ROWS, U8Array, U32Array, U64Array
from edm.stages.histogram import kernels, sketches
from edm.stages.histogram.export import LABELS, SKETCH_BYTES_MAX, export_sketches, split_labels
from edm.stages.histogram.kernels import add_clients, count_rows, list_clients, merge_rows
from edm.stages.histogram.schema import COUNTER_COLUMNS, LABEL_COLUMNS, SCHEMA
from edm.stages.histogram.sketches import CELLS_USED, MULTIPLIER, ROWS_USED, State, StateArrays

EXPLICIT_THRESHOLD_MAX = 131072
"""Largest explicit threshold of the storage format (2^17)."""

ROWS_PER_BATCH = 131072
"""Names in one record batch, and so in one row group of the file."""

Words: TypeAlias = Callable[[U32Array], Sequence[str] | pa.Array]
"""Maps domain indices to the texts of their entries."""

Scalar = TypeVar("Scalar", bound=np.generic)

_COUNTER_MAX = 0xFFFFFFFF
_CELLS_MAX = 1 << 32
_COUNTERS = slice(kernels.COUNTERS, kernels.COUNTERS + kernels.N_COUNTERS)


def _cache_aligned(rows: int) -> U32Array:
    # A row is one cache line only if it begins at one; NumPy promises 16 bytes.
    size = rows * kernels.ROW_WORDS * 4
    raw = np.empty(size + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + size].view(np.uint32).reshape(rows, kernels.ROW_WORDS)


def _buffer(array: npt.NDArray[Scalar]) -> pa.Buffer:
    return pa.py_buffer(np.ascontiguousarray(array))


def _string_array(texts: Sequence[str] | pa.Array, n: int) -> pa.Array:
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
    array = array.cast(pa.string())
    if len(array) != n or array.null_count:
        raise ValueError(f"{n} entries were asked for, {len(array) - array.null_count} came")
    return array


class Accumulators:
    """Counters and client sketches of the well-known names seen in one interval by one worker.

    Memory grows with the names and clients seen: 64 bytes for a name and 8 to 16 for each client of a name up
    to the explicit threshold, then 512. The map from domain index to row takes 4 bytes per entry of the
    domain table, in pages that are touched.

    Parameters
    ----------
    names : int
        Entries of the domain table whose indices are counted.
    explicit_threshold : int
        Most distinct clients of a name and address family that are counted exactly, 1 to 131,072.

    Raises
    ------
    ValueError
        If the threshold is out of range.
    """

    def __init__(self, names: int, explicit_threshold: int) -> None:
        if not 1 <= explicit_threshold <= EXPLICIT_THRESHOLD_MAX:
            raise ValueError(f"explicit threshold {explicit_threshold} is not in 1..{EXPLICIT_THRESHOLD_MAX}")
        self.names = names
        self.explicit_threshold = explicit_threshold
        largest = max(sketches.REGISTER_CELLS, 1 << (explicit_threshold * 4 // 3).bit_length())
        # Merging one row may pass through every size class up to the largest, for both families.
        self._reserve = 4 * largest + 2 * sketches.REGISTER_CELLS
        self._index_row: U32Array = np.zeros(names, np.uint32)
        self._rows = _cache_aligned(1024)
        self._allocate_scratch(BATCH_ROWS)
        self._cells: U64Array = np.empty(2 * self._reserve + 4096, np.uint64)
        self._registers: U8Array = self._cells.view(np.uint8)
        self._heap: U64Array = np.zeros(sketches.HEAP_WORDS, np.uint64)
        self._heap[MULTIPLIER] = secrets.randbits(64) | 1
        # Counters in the rows are 32 bits wide. Before they can overflow, they are added to these and start again.
        self._folded: U64Array = np.zeros((0, kernels.N_COUNTERS), np.uint64)
        self._since_fold = 0

    @property
    def rows(self) -> int:
        """Names seen so far: rows of the table."""
        return int(self._heap[ROWS_USED])

    @property
    def state_bytes(self) -> int:
        """Bytes of rows and sketches in use, the map from domain index to row not counted."""
        rows = self.rows * kernels.ROW_WORDS * 4 + self._folded.nbytes
        return rows + int(self._heap[CELLS_USED]) * 8

    def update(
        self,
        buf: U8Array,
        u32: U32Array,
        u64: U64Array,  # noqa: ARG002 - the columns are handed to every stage alike
        fate: U8Array,
        n: int,
    ) -> None:
        """Count the rows ``0 <= i < n`` whose fate is ``WELL_KNOWN``.

        Reads DOMAIN_INDEX, DOMAIN_MATCH, QTYPE, QCLASS, RCODE and the query address, which must still be the
        original one; an address that is absent or neither 4 nor 16 bytes long is not counted as a client.

        Parameters
        ----------
        buf : uint8[:]
        u32 : uint32[N_U32, stride]
        u64 : uint64[N_U64, stride]
        fate : uint8[stride]
        n : int

        Raises
        ------
        IndexError
            If a DOMAIN_INDEX is not of the domain table that this object was made for.
        MemoryError
            If the sketches would take more than 32 GiB.
        """
        self._fold_before(n)
        self._reserve_rows(n)
        if n > len(self._row_of):
            self._allocate_scratch(n)
        found = count_rows(u32, fate, n, self._index_row, self._arrays(), self._frame_of, self._row_of)
        if found < 0:
            raise IndexError(f"a domain index is beyond the {self.names} entries of the table")
        clients = list_clients(buf, u32, found, self._frame_of, self._row_of, self._client, self._client_hash)
        done = 0
        while True:
            done = add_clients(
                self._client,
                self._client_hash,
                done,
                clients,
                self._arrays(),
                self.explicit_threshold,
                self._reserve,
            )
            if done == clients:
                return
            self._grow_cells()

    def _arrays(self) -> StateArrays:
        return self._rows, self._cells, self._registers, self._heap

    def _state(self) -> State:
        return State(*self._arrays())

    @classmethod
    def merge(cls, parts: Sequence[Accumulators]) -> Accumulators:
        """Return the counts of all parts together. The parts must not be used afterwards.

        The result has the same rows as one object that had counted everything, whatever the order of the
        parts. It takes over the memory of the part with the most rows.

        Parameters
        ----------
        parts : sequence of Accumulators
            At least one; all for the same domain table and with the same threshold.

        Raises
        ------
        ValueError
            If the parts do not belong together, or there are none.
        """
        if len({(part.names, part.explicit_threshold) for part in parts}) != 1:
            raise ValueError("parts of different domain tables or thresholds, or none, cannot be merged")
        result = max(parts, key=lambda part: part.rows)
        for part in parts:
            if part is not result:
                result._absorb(part)
        return result

    def _absorb(self, other: Accumulators) -> None:
        self._fold_before(other._since_fold)
        self._reserve_rows(other.rows)
        done = 0
        while True:
            done = merge_rows(
                other._state(),
                done,
                other.rows,
                self._index_row,
                self._state(),
                self.explicit_threshold,
                self._reserve,
            )
            if done == other.rows:
                break
            self._grow_cells()
        if folded := len(other._folded):
            self._fold()
            mine = self._index_row[other._rows[:folded, kernels.INDEX]] - 1
            self._folded[mine] += other._folded

    def _fold_before(self, frames: int) -> None:
        if self._since_fold + frames > _COUNTER_MAX:
            self._fold()
        self._since_fold += frames

    def _fold(self) -> None:
        counters = self._rows[: self.rows, _COUNTERS]
        folded = counters.astype(np.uint64)
        folded[: len(self._folded)] += self._folded
        self._folded = folded
        counters[:] = 0
        self._since_fold = 0

    # What lies beyond the part in use has never been touched, so doubling costs address space, not memory.

    def _reserve_rows(self, more: int) -> None:
        used = self.rows
        if used + more > len(self._rows):
            rows = _cache_aligned(max(2 * used, used + more))
            rows[:used] = self._rows[:used]
            self._rows = rows

    def _grow_cells(self) -> None:
        used = int(self._heap[CELLS_USED])
        if used + self._reserve > _CELLS_MAX:
            raise MemoryError("client sketches of one interval need more than 32 GiB")
        cells = np.empty(min(2 * len(self._cells), _CELLS_MAX), np.uint64)
        cells[:used] = self._cells[:used]
        self._cells = cells
        self._registers = cells.view(np.uint8)

    def _allocate_scratch(self, frames: int) -> None:
        self._frame_of: U32Array = np.empty(frames + 1, np.uint32)
        self._row_of: U32Array = np.empty(frames, np.uint32)
        self._client: U32Array = np.empty(frames, np.uint32)
        self._client_hash: U64Array = np.empty(frames, np.uint64)

    def to_batches(
        self, words: Words, start_time_us: int, rows_per_batch: int = ROWS_PER_BATCH
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order of domain index, as record batches of :data:`~edm.stages.histogram.schema.SCHEMA`.

        Only one batch at a time is in memory. Nothing may be counted while the rows are read.

        Parameters
        ----------
        words : callable
            Maps ``uint32[k]`` domain indices to the ``k`` texts of the entries, in presentation form.
        start_time_us : int
            Begin of the interval, microseconds since 1970 UTC.
        rows_per_batch : int

        Raises
        ------
        ValueError
            If ``words`` returns another number of texts, or null.
        """
        order = np.argsort(self._rows[: self.rows, kernels.INDEX])
        for lo in range(0, self.rows, rows_per_batch):
            yield self._batch(order[lo : lo + rows_per_batch], words, start_time_us)

    def to_table(self, words: Words, start_time_us: int) -> pa.Table:
        """Return all rows as one table; see :meth:`to_batches`."""
        return pa.Table.from_batches(self.to_batches(words, start_time_us), SCHEMA)

    def _batch(self, selected: npt.NDArray[np.intp], words: Words, start_time_us: int) -> pa.RecordBatch:
        n = len(selected)
        rows = self._rows[selected]
        index = np.ascontiguousarray(rows[:, kernels.INDEX])
        counters = rows[:, _COUNTERS].astype(np.uint64)
        old = selected < len(self._folded)
        counters[old] += self._folded[selected[old]]
        start_time = np.full(n, start_time_us, np.int64)
        v4_count, v4_sketch = self._sketch_columns(rows, 0)
        v6_count, v6_sketch = self._sketch_columns(rows, 1)
        labels = _label_columns(_string_array(words(index), n))
        values = {
            "start_time": pa.Array.from_buffers(
                SCHEMA.field("start_time").type, n, [None, _buffer(start_time)]
            ),
            **dict(zip(LABEL_COLUMNS, labels, strict=True)),
            **{
                name: pa.array(np.ascontiguousarray(counters[:, c])) for c, name in enumerate(COUNTER_COLUMNS)
            },
            "edm_status_bits": pa.array(rows[:, kernels.STATUS].astype(np.uint64)),
            "v4client_count": v4_count,
            "v6client_count": v6_count,
            "v4client_count_hll": v4_sketch,
            "v6client_count_hll": v6_sketch,
        }
        return pa.RecordBatch.from_arrays([values[name] for name in SCHEMA.names], schema=SCHEMA)

    def _sketch_columns(self, rows: U32Array, family: int) -> tuple[pa.Array, pa.Array]:
        n = len(rows)
        of_registers = int(
            np.count_nonzero(rows[:, sketches.STATE + family] >> 24 == sketches.REGISTER_CLASS)
        )
        counts = np.empty(n, np.uint64)
        offsets = np.empty(n + 1, np.int32)
        out = np.empty(of_registers * SKETCH_BYTES_MAX, np.uint8)
        valid = np.zeros((n + 7) // 8, np.uint8)
        cutoff = 0x40 | (self.explicit_threshold.bit_length() - 1)
        export_sketches(rows, n, family, self._registers, cutoff, counts, offsets, out, valid)
        buffers = [_buffer(valid), _buffer(offsets), _buffer(out)]
        return pa.array(counts), pa.Array.from_buffers(pa.binary(), n, buffers)


def _label_columns(names: pa.Array) -> list[pa.Array]:
    n = len(names)
    _, offsets_buffer, data_buffer = names.buffers()
    text_offsets = np.frombuffer(offsets_buffer, np.int32)[names.offset : names.offset + n + 1]
    text = np.frombuffer(data_buffer or b"", np.uint8)
    offsets = np.empty((LABELS, n + 1), np.int32)
    data = np.empty(int(text_offsets[-1]) - int(text_offsets[0]), np.uint8)
    base = np.empty(LABELS + 1, np.int64)
    valid = np.zeros((LABELS, (n + 7) // 8), np.uint8)
    split_labels(text, text_offsets, n, offsets, data, base, valid)
    return [
        pa.Array.from_buffers(
            pa.string(), n, [_buffer(valid[j]), _buffer(offsets[j]), _buffer(data[base[j] : base[j + 1]])]
        )
        for j in range(LABELS)
    ]


__all__ = ["EXPLICIT_THRESHOLD_MAX", "ROWS_PER_BATCH", "SCHEMA", "Accumulators", "Words"]
