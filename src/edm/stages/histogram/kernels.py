"""Kernels that count: one cache line of counters per well-known name, and its client sketches.

All state of a worker in an interval lies in arrays that :class:`edm.stages.histogram.accumulators.Accumulators` owns
and grows:

- ``index_row``: uint32[names], 1 + the row of a domain index, 0 while the name has not been seen;
- ``state``: the other arrays. ``rows``: uint32[*, 16], one row per name seen, whose words are named below;
  ``cells``: uint64[*], storage of the sketches, and ``registers``, the same memory as uint8;
  ``heap``: uint64[HEAP_WORDS], how much of ``rows`` and ``cells`` is taken, the free lists, the multiplier.

The sketches are described in :mod:`edm.stages.histogram.sketches`.
"""

from __future__ import annotations

import numpy as np

from edm.kernel.columns import (
    DOMAIN_INDEX,
    DOMAIN_MATCH,
    HAS_QUERY_ADDRESS,
    I64,
    PRESENT,
    QCLASS,
    QTYPE,
    QUERY_ADDRESS_LEN,
    QUERY_ADDRESS_OFF,
    RCODE,
    U64,
    WELL_KNOWN,
    Bytes,
    Fates,
    U32Array,
    U32Columns,
    U64Array,
)
from edm.kernel.jit import inlined, kernel, le64
from edm.stages.histogram.murmur3 import le32, murmur3_ipv4, murmur3_ipv6
from edm.stages.histogram.sketches import (
    CELL,
    CELLS_USED,
    CLASS_SHIFT,
    COUNT_MASK,
    INDEX_MASK,
    LIST_CLASS,
    MULTIPLIER,
    REGISTER_BYTES,
    REGISTER_CLASS,
    ROWS_USED,
    STATE,
    TOUCHED,
    State,
    StateArrays,
    add_hash,
    admit,
    in_list,
    observe,
    place,
    promote,
)

# Words of a row; words 2, 3, 14 and 15 belong to the sketches.
ROW_WORDS = 16  # 64 bytes: one cache line
INDEX = 0  # domain index
STATUS = 1  # edm_status_bits
COUNTERS = 4  # ten counters in the order of the columns a_count .. other_rcode_count
N_COUNTERS = 10

_0 = np.uint64(0)
_1 = np.uint64(1)
_8 = np.uint64(8)
_CELL = np.uint64(CELL)
_STATE = np.uint64(STATE)
_MAPPED_LOW = np.uint64(0xFFFF0000)  # bytes 00 00 FF FF read as a little-endian number
_LOW32 = np.uint64(0xFFFFFFFF)
_WINDOW = 64

# Which counter a QTYPE below 32 or an RCODE below 4 bumps: tables instead of branches, because the mix of
# A and AAAA is what a branch predictor cannot guess.
_TYPE_COUNTER = np.full(32, COUNTERS + 4, np.uint8)
_TYPE_COUNTER[1] = COUNTERS  # A
_TYPE_COUNTER[28] = COUNTERS + 1  # AAAA
_TYPE_COUNTER[15] = COUNTERS + 2  # MX
_TYPE_COUNTER[2] = COUNTERS + 3  # NS
_NOT_IN = COUNTERS + 5
_RCODE_COUNTER = np.full(5, COUNTERS + 9, np.uint8)
_RCODE_COUNTER[0] = COUNTERS + 6  # NOERROR
_RCODE_COUNTER[3] = COUNTERS + 7  # NXDOMAIN
_RCODE_COUNTER[2] = COUNTERS + 8  # SERVFAIL


@inlined
def _row_of(index_row: U32Array, rows: U32Array, heap: U64Array, domain: U64) -> U64:
    """Return the row of a domain index; a new one is given out if it has none. There is room for it."""
    r = np.uint64(index_row[domain])
    if r != _0:
        return r - _1
    r = heap[ROWS_USED]
    heap[ROWS_USED] = r + _1
    index_row[domain] = r + _1
    for word in range(ROW_WORDS):
        rows[r, word] = 0
    rows[r, INDEX] = domain
    return r


@kernel
def count_rows(
    u32: U32Columns,
    fate: Fates,
    n: I64,
    index_row: U32Array,
    arrays: StateArrays,
    frame_of: U32Array,
    row_of: U32Array,
) -> I64:
    """Find or give out the row of each well-known frame of a batch, and count the frame in it.

    The loops are separate and short so that the cache misses of many frames overlap.

    Parameters
    ----------
    u32 : uint32[N_U32, stride]
    fate : uint8[stride]
    n : int
    index_row, arrays
        See the module's docstring; ``arrays`` are those of ``state``. ``rows`` has room for ``n`` more.
    frame_of : uint32[n + 1]
        Receives the well-known frames.
    row_of : uint32[n]
        Receives their rows.

    Returns
    -------
    int64
        Number of well-known frames; ``-1``, with nothing counted, if a domain index lies outside the table
        that this state was made for.
    """
    rows, _, _, heap = arrays
    names = np.uint64(index_row.shape[0])
    found = _0
    beyond = _0
    for k in range(n):
        i = np.uint64(k)
        # No branch: which frames are of well-known names cannot be predicted.
        frame_of[found] = i
        hit = np.uint64(fate[i] == WELL_KNOWN)
        found += hit
        beyond |= hit & np.uint64(u32[DOMAIN_INDEX, i] >= names)
    if beyond != _0:
        return -1
    for k in range(found):
        j = np.uint64(k)
        row_of[j] = _row_of(index_row, rows, heap, np.uint64(u32[DOMAIN_INDEX, np.uint64(frame_of[j])]))
    for k in range(found):
        j = np.uint64(k)
        i = np.uint64(frame_of[j])
        r = np.uint64(row_of[j])
        rows[r, STATUS] |= u32[DOMAIN_MATCH, i]
        qtype = np.uint64(u32[QTYPE, i])
        counter = np.uint64(_TYPE_COUNTER[qtype if qtype < np.uint64(32) else _0])
        if u32[QCLASS, i] != 1:
            counter = np.uint64(_NOT_IN)
        rows[r, counter] += np.uint32(1)
        rcode = np.uint64(u32[RCODE, i])
        counter = np.uint64(_RCODE_COUNTER[rcode if rcode < np.uint64(4) else np.uint64(4)])
        rows[r, counter] += np.uint32(1)
    return np.int64(found)


@kernel
def list_clients(
    buf: Bytes,
    u32: U32Columns,
    found: I64,
    frame_of: U32Array,
    row_of: U32Array,
    client: U32Array,
    client_hash: U64Array,
) -> I64:
    """Hash the client addresses of the frames that :func:`count_rows` found; return how many there are.

    Parameters
    ----------
    buf : uint8[:]
    u32 : uint32[N_U32, stride]
    found : int
    frame_of, row_of : uint32[found]
    client : uint32[found]
        Receives row << 1 | family.
    client_hash : uint64[found]
        Receives the hash of the address.
    """
    size = np.uint64(buf.shape[0])
    clients = _0
    for k in range(found):
        j = np.uint64(k)
        i = np.uint64(frame_of[j])
        length = u32[QUERY_ADDRESS_LEN, i]
        at = np.uint64(u32[QUERY_ADDRESS_OFF, i])
        if u32[PRESENT, i] & HAS_QUERY_ADDRESS == 0 or at + np.uint64(length) > size:
            continue
        family = _0
        if length == 4:
            h = murmur3_ipv4(le32(buf, at))
        elif length == 16:
            high = le64(buf, at)
            low = le64(buf, at + _8)
            h = murmur3_ipv6(high, low)
            if high != _0 or low & _LOW32 != _MAPPED_LOW:
                family = _1
        else:
            continue
        client[clients] = np.uint64(row_of[j]) << _1 | family
        client_hash[clients] = h
        clients += _1
    return np.int64(clients)


@kernel
def add_clients(
    client: U32Array,
    client_hash: U64Array,
    start: I64,
    n: I64,
    arrays: StateArrays,
    threshold: I64,
    reserve: I64,
) -> I64:
    """Add the clients ``start <= i < n`` that :func:`list_clients` listed to their sketches.

    Parameters
    ----------
    client : uint32[:]
    client_hash : uint64[:]
    start, n : int
    arrays
        Those of ``state``, see the module's docstring.
    threshold : int
        Most hashes that a sketch holds as a set.
    reserve : int
        Free cells that must be at hand before a client is added.

    Returns
    -------
    int64
        Where it stopped: ``n``, or less if ``cells`` must grow first.
    """
    state = State(*arrays)
    rows, cells, registers, heap = state
    room = np.uint64(cells.shape[0])
    multiplier = heap[MULTIPLIER]
    for begin in range(start, n, _WINDOW):
        end = min(begin + _WINDOW, n)
        # Touch the sketches of a window first: the loads do not depend on each other, so the misses overlap.
        touched = _0
        for k in range(begin, end):
            i = np.uint64(k)
            r = np.uint64(client[i] >> 1)
            family = np.uint64(client[i]) & _1
            cell = np.uint64(rows[r, _CELL + family])
            if np.uint64(rows[r, _STATE + family]) >> CLASS_SHIFT == REGISTER_CLASS:
                cell += (client_hash[i] & INDEX_MASK) >> np.uint64(4)
            touched ^= cells[cell]
        heap[TOUCHED] = touched
        for k in range(begin, end):
            if heap[CELLS_USED] + np.uint64(reserve) > room:
                return k
            i = np.uint64(k)
            r = np.uint64(client[i] >> 1)
            family = np.uint64(client[i]) & _1
            h = client_hash[i]
            kind = np.uint64(rows[r, _STATE + family])
            cell = np.uint64(rows[r, _CELL + family])
            size_class = kind >> CLASS_SHIFT
            # The frequent cases stand here and not in a function: Numba counts references to arrays, with
            # atomic operations, in every function that hands arrays on.
            if size_class == REGISTER_CLASS:
                observe(registers, cell, h)
            elif h == _0:
                continue
            elif size_class <= LIST_CLASS:
                if not in_list(cells, cell, kind & COUNT_MASK, h):
                    admit(state, r, family, threshold, h)
            elif cells[place(cells, cell, size_class, multiplier, h)] != h:
                admit(state, r, family, threshold, h)
    return n


@kernel
def merge_rows(
    other: State, start: I64, n: I64, index_row: U32Array, state: State, threshold: I64, reserve: I64
) -> I64:
    """Add the rows ``start <= i < n`` of another state to this one; return the row where it stopped.

    The state of the other is only read. ``rows`` has room for ``n`` more. Returns less than
    ``n`` if ``cells`` must grow first.
    """
    rows, cells, registers, heap = state
    room = np.uint64(cells.shape[0])
    for k in range(start, n):
        i = np.uint64(k)
        if heap[CELLS_USED] + np.uint64(reserve) > room:
            return k
        r = _row_of(index_row, rows, heap, np.uint64(other.rows[i, INDEX]))
        rows[r, STATUS] |= other.rows[i, STATUS]
        for word in range(COUNTERS, COUNTERS + N_COUNTERS):
            rows[r, word] += other.rows[i, word]
        for f in range(2):
            family = np.uint64(f)
            kind = np.uint64(other.rows[i, _STATE + family])
            size_class = kind >> CLASS_SHIFT
            cell = np.uint64(other.rows[i, _CELL + family])
            if size_class == REGISTER_CLASS:
                if np.uint64(rows[r, _STATE + family]) >> CLASS_SHIFT != REGISTER_CLASS:
                    promote(state, r, family)
                mine = np.uint64(rows[r, _CELL + family]) << np.uint64(3)
                theirs = cell << np.uint64(3)
                for b in range(REGISTER_BYTES):
                    x = np.int64(registers[mine + np.uint64(b)])
                    y = np.int64(other.registers[theirs + np.uint64(b)])
                    registers[mine + np.uint64(b)] = max(x & 0xF0, y & 0xF0) | max(x & 0x0F, y & 0x0F)
                continue
            count = kind & COUNT_MASK
            places = count if size_class <= LIST_CLASS else _1 << size_class
            for b in range(places):
                h = other.cells[cell + np.uint64(b)]
                if h != _0:
                    add_hash(state, r, family, threshold, h)
    return n
