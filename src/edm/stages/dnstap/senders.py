"""What came from whom: the frames of a batch by message type and identity, and answers of unwanted types."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import numpy as np

from edm.kernel.columns import (
    I64,
    IDENTITY_LEN,
    IDENTITY_OFF,
    MESSAGE_TYPE,
    PENDING,
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
    U64Array,
)
from edm.kernel.jit import force_inlined, kernel, le64

N_TYPES = 15
"""Message types told apart: those of dnstap.proto by their number, all others as 0."""
IDENTITIES = 32
"""Identities told apart; the frames of all further ones are counted together."""
IDENTITY_BYTES = 64
"""Bytes of an identity that are looked at."""


class Known(NamedTuple):
    """Identities met so far, in the order in which they came.

    Attributes
    ----------
    bytes : uint8[IDENTITIES * IDENTITY_BYTES]
        Each in so many bytes.
    ends : uint64[2 * IDENTITIES]
        Its first eight bytes and its last eight, see :func:`_ends`.
    lengths : int64[IDENTITIES]
        Its length in bytes, -1 in rows that are free, which stand behind all others.
    """

    bytes: U8Array
    ends: U64Array
    lengths: I64Array


KnownArrays: TypeAlias = tuple[U8Array, U64Array, I64Array]
"""What :class:`Known` is made of; Python hands it over so, see :mod:`edm.kernel.jit`."""

_0, _1, _2, _8, _16 = (np.uint64(i) for i in (0, 1, 2, 8, 16))
_LOW = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)


@force_inlined
def _ends(buf: Bytes, start: U64, size: U64) -> tuple[U64, U64]:
    """Return the first and the last eight of ``size`` bytes, or both times all of them if they are fewer."""
    if size >= _8:
        return le64(buf, start), le64(buf, start + size - _8)
    word = _0
    for k in range(size):
        word |= np.uint64(buf[start + k]) << _8 * k
    return word, word


@force_inlined
def _same_middle(buf: Bytes, start: U64, other: Bytes, at: U64, size: U64) -> Flag:
    """Tell whether ``size`` bytes of which the ends are the same have nothing else between them."""
    k = _8
    while k + _8 < size:
        if le64(buf, start + k) != le64(other, at + k):
            return False
        k += _8
    return True


@force_inlined
def _row_of(buf: Bytes, start: U64, size: U64, head: U64, tail: U64, known: Known) -> U64:
    """Return the row of an identity; it gets a free one if it has none and there is one, else ``IDENTITIES``."""
    for row in range(np.uint64(IDENTITIES)):
        at = row * np.uint64(IDENTITY_BYTES)
        if known.lengths[row] < 0:
            known.lengths[row] = size
            known.ends[_2 * row] = head
            known.ends[_2 * row + _1] = tail
            for k in range(size):
                known.bytes[at + k] = buf[start + k]
            return row
        if (
            np.uint64(known.lengths[row]) == size
            and known.ends[_2 * row] == head
            and known.ends[_2 * row + _1] == tail
            and _same_middle(buf, start, known.bytes, at, size)
        ):
            return row
    return np.uint64(IDENTITIES)


@kernel
def count_types(
    buf: Bytes,
    u32: U32Columns,
    fate: Fates,
    n: I64,
    wanted: U8Array,
    arrays: KnownArrays,
    counts: I64Array,
) -> bool:
    """Count the frames of a batch, and give answers of unwanted types the fate ``TYPE_IGNORED``.

    Returns whether one of the counts was 0 before and is not any more.

    Parameters
    ----------
    buf : uint8[]
        The block.
    u32 : uint32[N_U32, stride]
        Read: ``MESSAGE_TYPE``, ``IDENTITY_OFF``, ``IDENTITY_LEN`` (0 if there is none) of rows with fate QUERY or
        PENDING.
    fate : uint8[stride]
    n : int
    wanted : uint8[N_TYPES]
        1 for each type that goes on.
    arrays : KnownArrays
        Identities met so far; new ones are added while there is room.
    counts : int64[(IDENTITIES + 1) * N_TYPES]
        Added to, by row of the identity and type; the last row is for identities that have no row.
    """
    known = Known(*arrays)
    limit = np.uint64(buf.shape[0])
    all_wanted = True
    for each in range(N_TYPES):
        all_wanted &= wanted[each] != 0
    row_start = _0
    last_size = np.uint64(IDENTITY_BYTES + 1)  # no identity yet
    last_low = last_head = last_tail = last_start = _0
    first = False
    for i in range(np.uint64(n)):
        if fate[i] != PENDING and fate[i] != QUERY:
            continue
        size = min(np.uint64(u32[IDENTITY_LEN, i]), np.uint64(IDENTITY_BYTES))
        start = np.uint64(u32[IDENTITY_OFF, i])
        # The frames of one sender stand together, so that the identity is nearly always that of the frame before.
        if (
            size != last_size
            or start + _8 > limit
            or (le64(buf, start) ^ last_head) & last_low != _0
            or (size > _8 and le64(buf, start + size - _8) != last_tail)
            or (size > _16 and not _same_middle(buf, start, buf, last_start, size))
        ):
            last_head, last_tail = _ends(buf, start, size)
            last_size, last_start, last_low = size, start, _LOW[min(size, _8)]
            row_start = _row_of(buf, start, size, last_head, last_tail, known) * np.uint64(N_TYPES)
        kind = np.uint64(u32[MESSAGE_TYPE, i])
        place = row_start + (kind if kind < np.uint64(N_TYPES) else _0)
        count = counts[place]
        first |= count == 0
        counts[place] = count + 1
        if not all_wanted and fate[i] == PENDING and wanted[place - row_start] == 0:
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
        self._known = Known(
            bytes=np.zeros(IDENTITIES * IDENTITY_BYTES, np.uint8),
            ends=np.zeros(2 * IDENTITIES, np.uint64),
            lengths=np.full(IDENTITIES, -1, np.int64),
        )
        self._arrays: KnownArrays = (*self._known,)
        self._flat: I64Array = np.zeros((IDENTITIES + 1) * N_TYPES, np.int64)
        self.counts: I64Array = self._flat.reshape(IDENTITIES + 1, N_TYPES)

    def count(self, buf: U8Array, u32: U32Array, fate: U8Array, n: int) -> bool:
        """Count a batch that was decoded; tell whether one of :attr:`counts` is no longer 0."""
        return count_types(buf, u32, fate, n, self.wanted, self._arrays, self._flat)

    def identities(self) -> list[bytes]:
        """Return the identities of the rows of :attr:`counts` that are in use, but for the last one."""
        known = self._known.bytes.reshape(IDENTITIES, IDENTITY_BYTES)
        lengths = self._known.lengths.tolist()
        return [known[row, :size].tobytes() for row, size in enumerate(lengths) if size >= 0]


__all__ = ["IDENTITIES", "IDENTITY_BYTES", "N_TYPES", "SenderTally", "count_types"]
