"""Batches of question names for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edm.kernel.columns import PENDING, QNAME_LEN, QNAME_OFF, Columns, U8Array
from edm.stages.new_qname.seen.store import SeenStore


def wire(text: str) -> bytes:
    """Return the wire form of a name without escapes."""
    labels = [label.encode() for label in text.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


@dataclass
class Batch:
    buf: U8Array
    columns: Columns
    rows: int


def batch_of(names: Sequence[bytes], fates: Sequence[int] | None = None) -> Batch:
    """Lay wire names out in a buffer, one after another, and make columns that point to them."""
    columns = Columns(max(len(names), 1))
    columns.u32[:] = 0xFFFFFFFF  # nothing but the fields below may be used
    offset = 0
    for row, name in enumerate(names):
        columns.u32[QNAME_OFF, row] = offset
        columns.u32[QNAME_LEN, row] = len(name)
        columns.fate[row] = PENDING if fates is None else fates[row]
        offset += len(name)
    return Batch(np.array(list(b"".join(names)), np.uint8), columns, len(names))


def insert(store: SeenStore, names: Sequence[bytes], fates: Sequence[int] | None = None) -> list[bool]:
    """Put names into a store; tell for each whether it was new."""
    batch = batch_of(names, fates)
    is_new: U8Array = np.full(batch.rows, 7, np.uint8)
    found = store.insert(batch.buf, batch.columns.u32, batch.columns.fate, batch.rows, is_new)
    assert found == is_new.sum()
    assert set(is_new.tolist()) <= {0, 1}
    return [bool(flag) for flag in is_new]
