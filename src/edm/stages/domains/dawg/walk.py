"""Kernels that read the words of a DAWG file that :mod:`edm.stages.domains.dawg.kernels` has accepted."""

from __future__ import annotations

import numpy as np

from edm.kernel.columns import I64, U64, Bytes, I64Array
from edm.kernel.jit import force_inlined, kernel
from edm.stages.domains.dawg.arrays import DawgBits, Ends, Stack
from edm.stages.domains.dawg.bits import U0, U1, U2, U3, U4
from edm.stages.domains.dawg.kernels import S_LEFT, S_NODE, next_edge, push_node


@force_inlined
def _put_utf8(character: U64, out: Bytes, pos: U64) -> U64:
    c = np.int64(character)
    if c < 0x80:
        out[pos] = c
        return pos + U1
    if c < 0x800:
        out[pos] = 0xC0 | (c >> 6)
        out[pos + U1] = 0x80 | (c & 0x3F)
        return pos + U2
    if c < 0x10000:
        out[pos] = 0xE0 | (c >> 12)
        out[pos + U1] = 0x80 | ((c >> 6) & 0x3F)
        out[pos + U2] = 0x80 | (c & 0x3F)
        return pos + U3
    out[pos] = 0xF0 | (c >> 18)
    out[pos + U1] = 0x80 | ((c >> 12) & 0x3F)
    out[pos + U2] = 0x80 | ((c >> 6) & 0x3F)
    out[pos + U3] = 0x80 | (c & 0x3F)
    return pos + U4


@kernel
def walk_words(
    dawg: DawgBits, stack: Stack, path: Bytes, depth: I64, text: Bytes, ends: Ends, report: I64Array
) -> None:
    """Write the next words in index order, as many as there is room for.

    Parameters
    ----------
    dawg : DawgBits
        A file that :func:`scan_nodes` and :func:`count_words` have accepted.
    stack : uint64[longest + 2, STACK_FIELDS]
    path : uint8[4 * longest + 4]
        UTF-8 of the characters on the way to the current node. Both arrays are kept between the calls.
    depth : int
        0 to start, then what the last call left in ``report[1]``.
    text : uint8[at least 4 * longest + 4]
        Out: the words in UTF-8, one behind the other.
    ends : int64[at least 1]
        Out: where each word ends in ``text``.
    report : int64[2]
        Out: number of words written; depth at which to go on, or -1 if there are no more words.
    """
    count = 0
    used = U0
    if depth == 0:
        if push_node(dawg, dawg.first, stack, 0, U0) != U0:
            ends[0] = 0
            count = 1
        depth = 1
    while depth > 0 and count < ends.size:
        top = depth - 1
        if stack[top, S_LEFT] == U0:
            depth -= 1
            continue
        length = stack[top, S_NODE]
        if used + length + U4 > np.uint64(text.size):
            break
        character, _, child = next_edge(dawg, stack, top)
        length = _put_utf8(character, path, length)
        if push_node(dawg, child, stack, depth, length) != U0:
            for k in range(length):
                text[used + np.uint64(k)] = path[k]
            used += length
            ends[count] = used
            count += 1
        depth += 1
    report[0] = count
    report[1] = depth if depth > 0 else -1


@kernel
def pick_words(dawg: DawgBits, indexes: I64Array, stack: Stack, text: Bytes, ends: Ends) -> I64:
    """Write the words with certain indexes one behind the other.

    Parameters
    ----------
    dawg : DawgBits
        As for :func:`walk_words`.
    indexes : int64[n]
        Each less than the number of words.
    stack : uint64[1, STACK_FIELDS]
        Scratch.
    text : uint8[...]
        Out: the words in UTF-8.
    ends : int64[n]
        Out: where each word ends in ``text``.

    Returns
    -------
    int
        The first element for which ``text`` has no room; ``len(indexes)`` if all are written.
    """
    used = U0
    for i in range(indexes.size):
        index = np.uint64(indexes[i])
        final = push_node(dawg, dawg.first, stack, 0, U0)
        while final == U0 or index != U0:
            if used + U4 > np.uint64(text.size):
                return i
            character, _, child = next_edge(dawg, stack, 0)
            skip = final
            while stack[0, S_LEFT] != U0:
                next_character, next_skip, next_child = next_edge(dawg, stack, 0)
                if next_skip > index:
                    break
                character = next_character
                skip = next_skip
                child = next_child
            index -= skip
            used = _put_utf8(character, text, used)
            final = push_node(dawg, child, stack, 0, U0)
        ends[i] = used
    return indexes.size


__all__ = ["pick_words", "walk_words"]
