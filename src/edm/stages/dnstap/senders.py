"""What came from whom: the frames of a batch by message type and identity, and answers of unwanted types."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edm.kernel.columns import (
    HAS_IDENTITY,
    IDENTITY_LEN,
    IDENTITY_OFF,
    MESSAGE_TYPE,
    PENDING,
    PRESENT,
    QUERY,
    TYPE_IGNORED,
    U64,
    Bytes,
    Fates,
    Flag,
    I64Array,
    U8Array,
    U32Array,
    U32Columns,
)
from edm.kernel.jit import force_inlined, kernel, le64

N_TYPES = 15
"""Message types told apart: those of dnstap.proto by their number, all others as 0."""
IDENTITIES = 32
"""Identities told apart; the frames of all further ones are counted together."""
IDENTITY_BYTES = 64
"""Bytes of an identity that are looked at."""


_8 = np.uint64(8)


@force_inlined
def _is_identity(buf: Bytes, start: U64, known: U8Array, at: U64, size: U64) -> Flag:
    """Tell whether the ``size`` bytes at ``start`` are those at ``at`` in ``known``; eight at a time if there are."""
    k = np.uint64(0)
    if size >= _8:
        while k + _8 < size:
            if le64(buf, start + k) != le64(known, at + k):
                return False
            k += _8
        k = size - _8
        return le64(buf, start + k) == le64(known, at + k)
    while k < size:
        if buf[start + k] != known[at + k]:
            return False
        k += np.uint64(1)
    return True


@kernel
def count_types(
    buf: Bytes,
    u32: U32Columns,
    fate: Fates,
    n: int,
    wanted: U8Array,
    known: U8Array,
    lengths: I64Array,
    counts: I64Array,
) -> bool:
    """Count the frames of a batch, and give answers of unwanted types the fate ``TYPE_IGNORED``.

    Returns whether one of the counts was 0 before and is not any more.

    Parameters
    ----------
    buf : uint8[]
        The block.
    u32 : uint32[N_U32, stride]
        Read: ``MESSAGE_TYPE``, ``PRESENT``, ``IDENTITY_OFF``, ``IDENTITY_LEN`` of rows with fate QUERY or PENDING.
    fate : uint8[stride]
    n : int
    wanted : uint8[N_TYPES]
        1 for each type that goes on.
    known : uint8[IDENTITIES * IDENTITY_BYTES]
        Identities met so far, each in bytes of its own; new ones are added while there is room.
    lengths : int64[IDENTITIES]
        Their lengths in bytes, -1 in free rows, which stand behind all others.
    counts : int64[IDENTITIES + 1, N_TYPES]
        Added to; the last row is for identities that have no row.
    """
    row = 0
    first = False
    for i in range(n):
        if fate[i] != PENDING and fate[i] != QUERY:
            continue
        kind = np.int64(u32[MESSAGE_TYPE, i])
        if kind >= N_TYPES:
            kind = np.int64(0)
        start = np.int64(u32[IDENTITY_OFF, i])
        size = np.int64(0)
        if u32[PRESENT, i] & np.uint32(HAS_IDENTITY):
            size = min(np.int64(u32[IDENTITY_LEN, i]), np.int64(IDENTITY_BYTES))
        # The frames of one sender stand together: the row of the frame before is nearly always the right one.
        for step in range(IDENTITIES + 1):
            if step:
                row = step - 1
            if row == IDENTITIES:
                continue
            at = row * IDENTITY_BYTES
            if lengths[row] < 0:
                lengths[row] = size
                for k in range(size):
                    known[at + k] = buf[start + k]
                break
            if lengths[row] == size and _is_identity(
                buf, np.uint64(start), known, np.uint64(at), np.uint64(size)
            ):
                break
        else:
            row = IDENTITIES
        first |= counts[row, kind] == 0
        counts[row, kind] += 1
        if fate[i] == PENDING and wanted[kind] == 0:
            fate[i] = TYPE_IGNORED
    return first


class SenderTally:
    """The counts of one worker.

    Parameters
    ----------
    wanted : iterable of int
        Types of answers that go on; none means all.

    Attributes
    ----------
    wanted : uint8[N_TYPES]
        1 for each type that goes on.
    counts : int64[IDENTITIES + 1, N_TYPES]
        Frames so far, by identity and type; the last row is for all identities that have none of their own. Only
        :meth:`count` changes it, any thread may read it.
    """

    def __init__(self, wanted: Iterable[int] = ()) -> None:
        chosen = list(wanted)
        self.wanted: U8Array = np.full(N_TYPES, not chosen, np.uint8)
        self.wanted[chosen] = 1
        self._known: U8Array = np.zeros(IDENTITIES * IDENTITY_BYTES, np.uint8)
        self._lengths: I64Array = np.full(IDENTITIES, -1, np.int64)
        self.counts: I64Array = np.zeros((IDENTITIES + 1, N_TYPES), np.int64)

    def count(self, buf: U8Array, u32: U32Array, fate: U8Array, n: int) -> bool:
        """Count a batch that was decoded; tell whether one of :attr:`counts` is no longer 0."""
        return count_types(buf, u32, fate, n, self.wanted, self._known, self._lengths, self.counts)

    def identities(self) -> list[bytes]:
        """Return the identities of the rows of :attr:`counts` that are in use, but for the last one."""
        known = self._known.reshape(IDENTITIES, IDENTITY_BYTES)
        lengths = self._lengths.tolist()
        return [known[row, :size].tobytes() for row, size in enumerate(lengths) if size >= 0]


__all__ = ["IDENTITIES", "IDENTITY_BYTES", "N_TYPES", "SenderTally", "count_types"]
