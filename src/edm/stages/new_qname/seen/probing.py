"""Kernels over tables of fingerprints: lines of eight slots, linear probing by lines, growth in place.

A table is ``uint64[8 * (largest + PROBE_LIMIT)]``: a line is eight slots, and ``state[LINES]`` lines are in use. The
home line of a fingerprint is the share of its high 32 bits in ``2**32``, times the lines in use. There it takes the
first empty slot (0), or if there is none, the first one in the lines behind. So a table is roughly sorted, whatever
its size, there is no wrapping around at its end, and at 75 % 94 of 100 fingerprints are in their home lines.

Therefore it can grow in place, by any factor: nothing moves to the left, so what is there is moved from the
right end on, part by part. Meanwhile fingerprints whose home among ``state[BEFORE]`` lines is below ``state[BOUNDARY]``
are still in their old places, and all others in their new ones. A part begins behind a line with an empty slot, so that
nothing of it has overflowed from before.

Slots are written in one store. So :func:`drop_seen` may read a table while another thread inserts or moves: what it
finds has been seen, and what it misses is probed again under the store's lock.

A probe ends after ``PROBE_LIMIT`` lines, which no row of full lines of a table at 85 % reaches: a table damaged so that
no slot is empty costs time, but never hangs.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from edm.kernel.columns import I64, U64, Flag, I64Array, U8Array, U64Array
from edm.kernel.jit import force_inlined, kernel, prefetch

Slots: TypeAlias = U64Array
"""``uint64[8 * (largest + PROBE_LIMIT)]``: the slots of a table, 0 where empty."""
TableState: TypeAlias = I64Array
"""``int64[N_STATE]``: the counts of a table, from ``COUNT`` on."""
Fingerprints: TypeAlias = U64Array
"""``uint64[names or more]``: fingerprints of names, never 0."""
Rows: TypeAlias = I64Array
"""``int64[names or more]``: the rows of a batch in which these names are asked for."""
Marks: TypeAlias = U8Array
"""``uint8[names or more]``: a small number for each of these names."""
Progress: TypeAlias = I64Array
"""``int64[N_PROGRESS]``: how far inserting has come, from ``NEXT`` on."""


class Names(NamedTuple):
    """Names of a batch, packed.

    Attributes
    ----------
    hashes : uint64[names or more]
        Fingerprints.
    rows : int64[names or more]
        The rows they stand for.
    seen : uint8[names or more]
        1 for a name that the previous generation holds, 2 for one it held when the batch began: they are
        stored but not new.
    """

    hashes: Fingerprints
    rows: Rows
    seen: Marks


LINE = 8  # slots
PROBE_LIMIT = 1024

COUNT = 0  # fields of a table's ``state``: fingerprints in the table,
CARRIED = 1  # those of them that the previous generation holds as well,
LINES = 2  # lines in use,
BEFORE = 3  # and before the table began to grow (as many when nothing is to be moved),
BOUNDARY = 4  # lines still laid out as before
N_STATE = 5

NEXT = 0  # fields of ``progress``: next name of the batch to insert,
NEW = 1  # names found to be new,
STORED = 2  # fingerprints stored,
DISPLACED = 3  # fingerprints that were displaced by others
N_PROGRESS = 4

_CHUNK = 64  # names whose lines are asked for before they are looked at: few enough to stay in the L1 cache

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_3 = np.uint64(3)
_4 = np.uint64(4)
_5 = np.uint64(5)
_6 = np.uint64(6)
_LINE = np.uint64(LINE)
_LAST = np.uint64(LINE - 1)
_HELD = np.uint64(2**64 - 1)
_LIMIT = np.uint64(PROBE_LIMIT)
_U32 = np.uint64(32)


@force_inlined
def _layout(state: TableState) -> tuple[U64, U64, U64]:
    return np.uint64(state[BEFORE]), np.uint64(state[BOUNDARY]), np.uint64(state[LINES])


@force_inlined
def _home(fingerprint: U64, before: U64, boundary: U64, lines: U64) -> U64:
    share = fingerprint >> _U32
    old = (share * before) >> _U32
    new = (share * lines) >> _U32
    return old if old < boundary else new


@force_inlined
def _in_line(table: Slots, line: U64, fingerprint: U64) -> Flag:
    # All slots whatever they hold: a loop that ends at the right one would end unforeseen each time.
    s = line * _LINE
    return (
        (table[s] == fingerprint)
        | (table[s + _1] == fingerprint)
        | (table[s + _2] == fingerprint)
        | (table[s + _3] == fingerprint)
        | (table[s + _4] == fingerprint)
        | (table[s + _5] == fingerprint)
        | (table[s + _6] == fingerprint)
        | (table[s + _LAST] == fingerprint)
    )


@force_inlined
def _is_full(table: Slots, line: U64) -> Flag:
    return table[line * _LINE + _LAST] != _0


@force_inlined
def _filled(table: Slots, line: U64) -> U64:
    # Empty slots stand at the end of a line, so halving it finds the first one.
    s = line * _LINE
    if table[s + _LAST] != _0:
        return _LINE
    k = _4 if table[s + _3] != _0 else _0
    k += _2 if table[s + k + _1] != _0 else _0
    return k + (_1 if table[s + k] != _0 else _0)


@force_inlined
def _find(table: Slots, home: U64, fingerprint: U64) -> U64:
    # _HELD, or the empty slot where the fingerprint belongs, or the home line's first one if none is near.
    line = home
    while line < home + _LIMIT:
        if _in_line(table, line, fingerprint):
            return _HELD
        if not _is_full(table, line):
            return line * _LINE + _filled(table, line)
        line += _1
    return home * _LINE


@force_inlined
def _ask_for(
    table: Slots, fingerprints: Fingerprints, begin: I64, end: I64, before: U64, boundary: U64, lines: U64
) -> None:
    for i in range(begin, end):
        line = _home(fingerprints[i], before, boundary, lines)
        prefetch(table, line * _LINE)
        prefetch(table, (line + _1) * _LINE)


@kernel
def drop_seen(table: Slots, state: TableState, hashes: Fingerprints, rows: Rows, seen: Marks, n: I64) -> I64:
    """Drop the fingerprints that a table holds from the packed list; return how many are left.

    Parameters
    ----------
    table, state : uint64[:], int64[N_STATE]
        The table.
    hashes, rows, seen : uint64[>= n], int64[>= n], uint8[>= n]
        Fingerprints, their rows and marks; packed in place, order kept.
    n : int
        How many there are.
    """
    left = 0
    for begin in range(0, n, _CHUNK):
        end = min(begin + _CHUNK, n)
        before, boundary, lines = _layout(state)
        _ask_for(table, hashes, begin, end, before, boundary, lines)
        for i in range(begin, end):
            fingerprint = hashes[i]
            hashes[left] = fingerprint
            rows[left] = rows[i]
            seen[left] = seen[i]
            home = _home(fingerprint, before, boundary, lines)
            left += 0 if _find(table, home, fingerprint) == _HELD else 1
    return left


@kernel
def mark_seen(table: Slots, state: TableState, hashes: Fingerprints, seen: Marks, n: I64) -> None:
    """Set ``seen[i]`` to 1 if the table holds ``hashes[i]``; what was marked and is not there becomes 2.

    The arrays are as in :func:`drop_seen`.
    """
    for begin in range(0, n, _CHUNK):
        end = min(begin + _CHUNK, n)
        before, boundary, lines = _layout(state)
        _ask_for(table, hashes, begin, end, before, boundary, lines)
        for i in range(begin, end):
            if _find(table, _home(hashes[i], before, boundary, lines), hashes[i]) == _HELD:
                seen[i] = 1
            elif seen[i] != 0:
                seen[i] = 2


@force_inlined
def _take_out(table: Slots, line: U64, slot: U64) -> None:
    # The last entry of the line takes the place, so that empty slots stand at the end.
    filled = _filled(table, line)
    last = line * _LINE + filled - _1
    table[slot] = table[last]
    table[last] = _0


@force_inlined
def _remove(table: Slots, slot: U64, lines: U64) -> None:
    # An entry that has overflowed takes the free slot, unless its home is behind it, then one its own slot, and so on.
    line = slot // _LINE
    filled = _filled(table, line)
    _take_out(table, line, slot)
    free = line * _LINE + _LINE - _1
    for _ in range(PROBE_LIMIT):
        line += _1
        if (filled < _LINE) | ((line + _1) * _LINE > np.uint64(table.size)):
            return
        filled = _filled(table, line)
        for i in range(filled):
            slot = line * _LINE + np.uint64(i)
            if _home(table[slot], lines, _0, lines) <= free // _LINE:
                table[free] = table[slot]
                _take_out(table, line, slot)
                free = line * _LINE + _LAST
                break


@force_inlined
def _displace(table: Slots, fingerprint: U64, lines: U64) -> None:
    # Store a fingerprint in a full table at the cost of another one in its home line, or, if that is empty, of the
    # first one behind it. The number of entries stays the same.
    home = _home(fingerprint, lines, _0, lines)
    line = home
    filled = _filled(table, line)
    while filled == _0:
        line += _1
        if (line + _1) * _LINE > np.uint64(table.size):
            line = _0
        if line == home:
            break
        filled = _filled(table, line)
    if line != home:
        _remove(table, line * _LINE, lines)
        table[home * _LINE] = fingerprint
    else:
        table[home * _LINE + fingerprint % max(filled, _1)] = fingerprint


@kernel
def insert_names(
    table: Slots,
    state: TableState,
    names: Names,
    n: I64,
    stop: I64,
    displace: Flag,
    is_new: Marks,
    stored: Fingerprints,
    progress: Progress,
) -> None:
    """Store the fingerprints that the table lacks, and tell which names are new.

    Parameters
    ----------
    table, state : uint64[:], int64[N_STATE]
        The current table; ``COUNT`` and ``CARRIED`` are updated.
    names : Names
        What to store.
    n : int
        How many there are; ``progress[NEXT]`` tells where to begin.
    stop : int
        Without ``displace``: return before storing one more when the table holds so many, or when the one would get
        across ``BOUNDARY``.
    displace : bool
        Replace other fingerprints instead. Nothing may be left to move then.
    is_new : uint8[rows of the batch]
        Set to 1 for the row of each new name.
    stored : uint64[>= n]
        Receives the fingerprints stored, from ``stored[progress[STORED]]`` on.
    progress : int64[N_PROGRESS]
        Updated; ``progress[NEXT] == n`` when all is done.
    """
    hashes, rows, seen = names
    before, boundary, lines = _layout(state)
    asked = progress[NEXT]
    for i in range(progress[NEXT], n):
        if i == asked:
            asked = min(i + _CHUNK, n)
            _ask_for(table, hashes, i, asked, before, boundary, lines)
        fingerprint = hashes[i]
        home = _home(fingerprint, before, boundary, lines)
        slot = _find(table, home, fingerprint)
        if slot == _HELD:
            continue
        if displace:
            _displace(table, fingerprint, lines)
            progress[DISPLACED] += 1
        elif state[COUNT] >= stop or (home < boundary) & (slot >= boundary * _LINE):
            progress[NEXT] = i
            return
        else:
            if table[slot] == _0:
                state[COUNT] += 1
            else:
                progress[DISPLACED] += 1
            table[slot] = fingerprint
        stored[progress[STORED]] = fingerprint
        progress[STORED] += 1
        if seen[i] == 1:
            state[CARRIED] += 1
        elif seen[i] == 0:
            is_new[rows[i]] = 1
            progress[NEW] += 1
    progress[NEXT] = n


__all__ = [
    "BEFORE",
    "BOUNDARY",
    "CARRIED",
    "COUNT",
    "DISPLACED",
    "LINE",
    "LINES",
    "NEW",
    "NEXT",
    "N_PROGRESS",
    "N_STATE",
    "PROBE_LIMIT",
    "STORED",
    "Fingerprints",
    "Marks",
    "Names",
    "Progress",
    "Rows",
    "Slots",
    "TableState",
    "drop_seen",
    "insert_names",
    "mark_seen",
]
