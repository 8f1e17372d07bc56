"""Names of the questions behind the first one; hardly any message has them, but ignored names count there."""

from __future__ import annotations

from typing import Any

import numpy as np

from edm.kernel.columns import PENDING, QUESTIONS, RESPONSE_MESSAGE_LEN, RESPONSE_MESSAGE_OFF
from edm.kernel.jit import kernel
from edm.stages.dns.name import skip_name, spell_name
from edm.stages.dns.walk import HEADER_BYTES, skip_type_and_class


@kernel
def collect_questions(
    buf: Any,
    u32: Any,
    fate: Any,
    n: Any,
    row: Any,
    question: Any,
    names: Any,
    lengths: Any,
    rows: Any,
) -> Any:
    """Spell out the names of the second and later questions of the rows that are still PENDING.

    One question is one entry ``k`` of the result, in the order of rows and of the questions within a row.
    The messages have gone through ``walk_messages``. Start with ``row = 0, question = 1``; where the result
    arrays were too small (the row returned is less than ``n``), call again with the position returned.

    Parameters
    ----------
    buf : uint8[:]
    u32 : uint32[N_U32, stride]
    fate : uint8[stride]
    n : int64
    row, question : int64
        Where to start; questions count from 0, so the second one is 1.
    names : uint8[M, 255]
        Filled with uncompressed names in wire form, original case; ``M`` at least 1.
    lengths : uint32[M]
        Filled with the lengths of the names, root byte included.
    rows : uint32[M]
        Filled with the row that each name comes from.

    Returns
    -------
    count : int64
        Entries filled.
    row, question : int64
        Where to go on; ``row`` is ``n`` when all is done.
    """
    count = 0
    for i in range(row, n):
        total = np.int64(u32[QUESTIONS, i])
        if fate[i] == PENDING and total > question:
            base = np.int64(u32[RESPONSE_MESSAGE_OFF, i])
            end = base + np.int64(u32[RESPONSE_MESSAGE_LEN, i])
            pos = base + HEADER_BYTES
            for k in range(total):
                if k >= question:
                    if count == len(rows):
                        return count, i, k
                    lengths[count] = spell_name(buf, base, pos, names[count], 0)
                    rows[count] = i
                    count += 1
                pos = skip_type_and_class(skip_name(buf, base, pos, end), end)
        question = 1
    return count, n, 1


__all__ = ["collect_questions"]
