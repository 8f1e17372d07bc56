"""Names of the second and later questions: rare, but a frame is ignored if one of them is an ignored name."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from edm.kernel.columns import (
    I64,
    NAME_MAX,
    PENDING,
    QUESTIONS,
    RESPONSE_MESSAGE_LEN,
    RESPONSE_MESSAGE_OFF,
    Bytes,
    Fates,
    Flag,
    I64Array,
    U8Array,
    U32Array,
    U32Columns,
)
from edm.kernel.jit import inlined, kernel, u8
from edm.stages.dns.name import own_labels_end
from edm.stages.dns.walk import HEADER_BYTES, skip_type_and_class

FEW = 16
"""Questions up to which names that come again are not looked for."""

_FOUND = 1024

# Where a piece of a name was written out last, by its place in the message, for the first bytes of a message: those to
# which pointers lead. A word is serial << 24 | k << 8 | begin within names[k]; one of another serial says nothing.
_PLACES = 1 << 14
_SERIAL = _PLACES
_SERIAL_SHIFT = 24
_SERIAL_MAX = (1 << 38) - 1

Place: TypeAlias = tuple[I64, I64, I64]
"""Row, question (0 is the first one) and where in the block that question begins, which question 0 does not need."""

BEGIN: Place = (0, 0, 0)
"""Where :func:`collect_questions` starts with a batch."""


class MoreQuestions(NamedTuple):
    """Room for names of further questions.

    Attributes
    ----------
    names : uint8[M, 255]
        Uncompressed names in wire form, original case; ``M`` is 1 to 65,536.
    lengths : uint32[M]
        Lengths of the names in bytes, root byte included.
    rows : uint32[M]
        The row that each name comes from.
    found : uint32[1024]
        By a hash of a name's bytes, where in the block the last such name of the row stands; 0 for none.
    spelt : int64[16385]
        For each place of the row's message, where in ``names`` the name that begins there has been written out already.
    """

    names: U8Array
    lengths: U32Array
    rows: U32Array
    found: U32Array
    spelt: I64Array

    @classmethod
    def of(cls, room: int) -> MoreQuestions:
        """Return room for so many names."""
        return cls(
            np.zeros((room, NAME_MAX), np.uint8),
            np.zeros(room, np.uint32),
            np.zeros(room, np.uint32),
            np.zeros(_FOUND, np.uint32),
            np.zeros(_PLACES + 1, np.int64),
        )


@inlined
def _came_before(buf: Bytes, pos: I64, behind: I64, found: U32Array) -> Flag:
    """Tell whether the name ``buf[pos:behind]`` has come before in this row, byte for byte, as far as is remembered.

    A name may be forgotten when another one takes its place in ``found``: it is then collected once more.
    """
    place = 0
    for k in range(pos, behind):
        place = (place * 31 + u8(buf, k)) & 0xFFFFFF
    place = (place * 0x9E3779B1 >> 16) & (_FOUND - 1)
    before = np.int64(found[place])
    found[place] = pos
    if before == 0:
        return False
    for k in range(behind - pos):  # noqa: SIM110 - kernels have no generators
        if buf[before + k] != buf[pos + k]:
            return False
    return True


@inlined
def _forget(spelt: I64Array) -> None:
    """Begin a new serial: another message, or names that may be overwritten."""
    if spelt[_SERIAL] == _SERIAL_MAX:
        for k in range(_PLACES + 1):
            spelt[k] = 0
    spelt[_SERIAL] += 1


@inlined
def _spell(buf: Bytes, base: I64, pos: I64, out: MoreQuestions, row: I64) -> I64:
    """Write the name at ``pos`` to ``out.names[row]``, copying what has been written before; return its length."""
    names, spelt = out.names, out.spelt
    serial = spelt[_SERIAL]
    to = 0
    while True:
        place = pos - base
        if place < _PLACES:
            word = spelt[place]
            if word >> _SERIAL_SHIFT == serial:
                source = word >> 8 & 0xFFFF
                begin = word & 0xFF
                length = np.int64(out.lengths[source]) - begin
                for k in range(length):
                    names[row, to + k] = names[source, begin + k]
                return to + length
            spelt[place] = serial << _SERIAL_SHIFT | row << 8 | to
        size = u8(buf, pos)
        if size >= 0xC0:
            pos = base + ((size & 0x3F) << 8 | u8(buf, pos + 1))
            continue
        for k in range(size + 1):
            names[row, to + k] = buf[pos + k]
        to += size + 1
        pos += size + 1
        if size == 0:
            return to


@kernel
def collect_questions(
    buf: Bytes, u32: U32Columns, fate: Fates, n: I64, place: Place, out: MoreQuestions
) -> tuple[I64, Place]:
    """Write out the names of the second and later questions of the rows that are still PENDING.

    One name is one entry ``k`` of the result, in the order of rows and of the questions within a row. Of more than
    :data:`FEW` questions in a row, those that are written like an earlier one are mostly left out. The messages have
    gone through ``walk_messages``. Start at :data:`BEGIN`; where ``out`` was too small (the row returned is less than
    ``n``), call again with the place returned and the same ``out``.

    Parameters
    ----------
    buf : uint8[:]
    u32 : uint32[N_U32, stride]
    fate : uint8[stride]
    n : int64
    place : Place
        Where to start.
    out : MoreQuestions
        Filled.

    Returns
    -------
    count : int64
        Entries filled.
    place : Place
        Where to go on; its row is ``n`` when all is done.
    """
    count = 0
    row, question, pos = place
    _forget(out.spelt)
    for i in range(row, n):
        total = np.int64(u32[QUESTIONS, i])
        if fate[i] == PENDING and total > 1:
            base = np.int64(u32[RESPONSE_MESSAGE_OFF, i])
            end = base + np.int64(u32[RESPONSE_MESSAGE_LEN, i])
            if question == 0:
                at, pointer = own_labels_end(buf, base + HEADER_BYTES)
                pos = skip_type_and_class(at + 1 + pointer, end)
                question = 1
                _forget(out.spelt)
                if total > FEW:
                    for k in range(_FOUND):
                        out.found[k] = 0
            for k in range(question, total):
                at, pointer = own_labels_end(buf, pos)
                behind = at + 1 + pointer
                if count == len(out.rows):
                    return count, (i, k, pos)
                if total <= FEW or not _came_before(buf, pos, behind, out.found):
                    out.lengths[count] = _spell(buf, base, pos, out, count)
                    out.rows[count] = i
                    count += 1
                pos = skip_type_and_class(behind, end)
        question = 0
    return count, (n, 0, 0)


__all__ = ["BEGIN", "FEW", "MoreQuestions", "Place", "collect_questions"]
