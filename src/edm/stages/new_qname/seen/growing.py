"""Kernels that make and enlarge a table of fingerprints; its layout and why it can grow in place: see ``probing``."""

from __future__ import annotations

import numpy as np

from edm.kernel.columns import I64
from edm.kernel.jit import kernel
from edm.stages.new_qname.seen.probing import (
    BEFORE,
    BOUNDARY,
    COUNT,
    LINE,
    LINES,
    PROBE_LIMIT,
    Fingerprints,
    Slots,
    TableState,
    _ask_for,
    _filled,
    _find,
    _home,
    _is_full,
    _layout,
)

_CHUNK = 64  # fingerprints whose lines are asked for before they are looked at, as in probing

_0 = np.uint64(0)
_1 = np.uint64(1)
_LINE = np.uint64(LINE)
_LAST = np.uint64(LINE - 1)
_HELD = np.uint64(2**64 - 1)
_LIMIT = np.uint64(PROBE_LIMIT)


@kernel
def fill(table: Slots, state: TableState, fingerprints: Fingerprints, n: I64) -> None:
    """Store fingerprints that are not in the table yet.

    Parameters
    ----------
    table, state : uint64[:], int64[N_STATE]
        The table, of which nothing is left to move; ``COUNT`` is updated.
    fingerprints : uint64[>= n]
        What to store; 0 is passed over.
    n : int
        How many there are.
    """
    before, boundary, lines = _layout(state)
    for begin in range(0, n, _CHUNK):
        end = min(begin + _CHUNK, n)
        _ask_for(table, fingerprints, begin, end, before, boundary, lines)
        for i in range(begin, end):
            fingerprint = fingerprints[i]
            if fingerprint == _0:
                continue
            slot = _find(table, _home(fingerprint, before, boundary, lines), fingerprint)
            if slot != _HELD and table[slot] == _0:
                table[slot] = fingerprint
                state[COUNT] += 1


@kernel
def move(table: Slots, state: TableState, at_least: I64, scratch: Fingerprints) -> None:
    """Move the next part of a growing table, from the right, to where it belongs.

    Parameters
    ----------
    table, state : uint64[:], int64[N_STATE]
        The table; ``BOUNDARY`` comes down, and at 0 ``BEFORE`` becomes ``LINES``.
    at_least : int
        Lines to look through; some more, up to one with an empty slot.
    scratch : uint64[8 * (at_least + PROBE_LIMIT)]
        Scratch.
    """
    end = state[BOUNDARY]
    begin = max(end - at_least, 0)
    furthest = max(end - scratch.size // LINE, 0)
    while begin > furthest and table[begin * LINE - 1] != _0:
        begin -= 1
    n = 0
    for slot in range(begin * LINE, end * LINE):
        scratch[n] = table[slot]
        n += 1 if table[slot] != _0 else 0
        table[slot] = _0
    state[BOUNDARY] = begin
    if begin == 0:
        state[BEFORE] = state[LINES]
    lines = np.uint64(state[LINES])
    for i in range(n):
        if i % _CHUNK == 0:
            _ask_for(table, scratch, i, min(i + _CHUNK, n), lines, _0, lines)
        # None of them is there twice, so that looking for room is enough.
        line = _home(scratch[i], lines, _0, lines)
        last = line + _LIMIT - _1
        while line < last and _is_full(table, line):
            line += _1
        table[line * _LINE + min(_filled(table, line), _LAST)] = scratch[i]


__all__ = ["fill", "move"]
