"""Domain names inside DNS messages: labels and compression pointers (RFC 1035, 4.1.4).

What is accepted is wider than the RFC: a pointer may point anywhere in the buffer, also forward and into
the header, because the Go daemon's library takes it so. Loops end at :data:`POINTERS_MAX`.

A name of two bytes may so be 253 steps long, and a message may have 130,000 of them. Hence the steps behind the first
pointers of names are counted. As long as they are no more than the bytes of the message, which is always so in messages
of DNS servers, names are walked one by one. From then on the result for each place in the message is remembered, so
that no place is walked a second time: whatever a message holds, the steps are a small multiple of its bytes.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from edm.kernel.columns import I64, NAME_MAX, Bytes, Flag, I64Array
from edm.kernel.jit import force_inlined, inlined, u8

POINTERS_MAX = 126
"""Pointers that one name may follow; the 127th makes it invalid."""

_STEPS_MAX = POINTERS_MAX + 128
"""Pointers, labels and the root of the longest valid name."""

NameMemo: TypeAlias = I64Array
"""``int64[MEMO_WORDS]``: remembered facts about the names of one message, see :func:`begin_message`.

The words from ``_PLACES`` on stand for the bytes of the message from the first on, as far as a pointer can lead and the
longest name behind it: ``serial << 30 | extent << 15 | pointers << 8 | length`` of the name that begins at this byte.
``length`` is in bytes, without the root; ``extent`` is how many bytes of the message must be there. A word whose serial
is not that of the message says nothing.
"""

_SERIAL = 0  # number of the message, so that words of others need not be cleared away
_STEPS = 1  # steps left until places are remembered
_PATH = 2  # places of the name being looked up that are not known yet
_PLACES = _PATH + _STEPS_MAX
_PLACES_MAX = (1 << 14) + NAME_MAX
MEMO_WORDS = _PLACES + _PLACES_MAX

_SERIAL_SHIFT = 30
_SERIAL_MAX = (1 << 32) - 1
_WORD_MASK = (1 << _SERIAL_SHIFT) - 1
_EXTENT_SHIFT = 15
_POINTERS_SHIFT = 8


def new_memo() -> NameMemo:
    """Return an empty memo. Each thread that calls the kernels keeps one of its own."""
    memo = np.zeros(MEMO_WORDS, np.int64)
    memo[_SERIAL] = 1
    return memo


@inlined
def begin_message(memo: NameMemo, size: I64) -> None:
    """Forget the names of the message before; this one has ``size`` bytes."""
    if memo[_STEPS] <= 0:  # else nothing was remembered
        if memo[_SERIAL] == _SERIAL_MAX:
            for k in range(_PLACES, MEMO_WORDS):
                memo[k] = 0
            memo[_SERIAL] = 0
        memo[_SERIAL] += 1
    memo[_STEPS] = size


@force_inlined
def _follow(buf: Bytes, base: I64, place: I64, end: I64, room: I64) -> tuple[Flag, I64]:
    """Do the same as :func:`_fits_behind` without a memo; return also how many steps it took."""
    pointers = 1
    steps = 0
    pos = base + place
    # A label that runs over the end leaves pos >= end, so this one test covers it too.
    while pos < end:
        steps += 1
        size = u8(buf, pos)
        pos += 1
        if size == 0:
            return True, steps
        if size < 0x40:
            pos += size
            room -= size + 1
            if room < 0:
                return False, steps
        elif size >= 0xC0 and pos < end:
            pointers += 1
            if pointers > POINTERS_MAX:
                return False, steps
            pos = base + ((size & 0x3F) << 8 | u8(buf, pos))
        else:
            return False, steps
    return False, steps


@force_inlined
def _to_pointer(buf: Bytes, pos: I64, end: I64) -> tuple[I64, I64]:
    """Return where the labels of the name at ``pos`` are followed by a pointer, and how many bytes more it may have.

    Without a pointer: the position after the name and -1, or -1 and -1 if it is not valid.
    """
    room = NAME_MAX - 1  # the root byte is not counted
    while pos < end:
        size = u8(buf, pos)
        if size >= 0x40:
            return (pos, room) if size >= 0xC0 and pos + 1 < end else (-1, -1)
        pos += 1 + size
        if size == 0:
            return pos, -1
        room -= size + 1
        if room < 0:
            return -1, -1
    return -1, -1


@inlined
def skip_lone_name(buf: Bytes, base: I64, pos: I64, end: I64) -> I64:
    """Do the same as :func:`skip_name` for a name that is not one of many, without a memo."""
    pos, room = _to_pointer(buf, pos, end)
    if room < 0:
        return pos
    fits, _ = _follow(buf, base, (u8(buf, pos) & 0x3F) << 8 | u8(buf, pos + 1), end, room)
    return pos + 2 if fits else -1


@inlined
def _remember(buf: Bytes, base: I64, memo: NameMemo, depth: I64, word: I64) -> I64:
    """Fill in the ``depth`` places of the path, given the word of what follows; return the word of the first, or -1."""
    length = word & 0xFF
    pointers = word >> _POINTERS_SHIFT & 0x7F
    extent = word >> _EXTENT_SHIFT
    serial = memo[_SERIAL] << _SERIAL_SHIFT
    while depth > 0:
        depth -= 1
        place = memo[_PATH + depth]
        size = u8(buf, base + place)
        if size >= 0xC0:
            pointers += 1
            extent = max(extent, place + 2)
        else:
            length += size + 1 if size > 0 else 0
            extent = max(extent, place + 1 + size)
        # The message is not valid, whatever else leads here.
        if pointers > POINTERS_MAX or length > NAME_MAX - 1:
            return -1
        word = extent << _EXTENT_SHIFT | pointers << _POINTERS_SHIFT | length
        memo[_PLACES + place] = serial | word
    return word


@inlined
def _look_up(buf: Bytes, base: I64, place: I64, end: I64, memo: NameMemo) -> I64:
    """Return the word of the name at ``place`` (counted from ``base``), or -1 if it is not valid; walk what is new."""
    depth = 0
    word = 0
    while True:
        if base + place >= end or place >= _PLACES_MAX or depth == _STEPS_MAX:
            return -1
        known = memo[_PLACES + place]
        if known >> _SERIAL_SHIFT == memo[_SERIAL]:
            word = known & _WORD_MASK
            break
        memo[_PATH + depth] = place
        depth += 1
        size = u8(buf, base + place)
        if size == 0:
            break
        if size < 0x40:
            place += 1 + size
        elif size >= 0xC0 and base + place + 1 < end:
            place = (size & 0x3F) << 8 | u8(buf, base + place + 1)
        else:
            return -1
    return _remember(buf, base, memo, depth, word)


@inlined
def _fits_behind(buf: Bytes, base: I64, place: I64, end: I64, room: I64, memo: NameMemo) -> Flag:
    """Tell whether a valid name of at most ``room`` bytes, the root not counted, is where a first pointer leads.

    ``place`` counts from ``base``. Steps are counted here only: labels before the first pointer of a name are bytes
    of the message that are not walked again.
    """
    if memo[_STEPS] <= 0:
        word = _look_up(buf, base, place, end, memo)
        return (
            word >= 0
            and base + (word >> _EXTENT_SHIFT) <= end
            and word >> _POINTERS_SHIFT & 0x7F < POINTERS_MAX
            and word & 0xFF <= room
        )
    fits, steps = _follow(buf, base, place, end, room)
    memo[_STEPS] -= steps
    return fits


@inlined
def skip_name(buf: Bytes, base: I64, pos: I64, end: I64, memo: NameMemo) -> I64:
    """Check the name at ``pos`` and return the position after it, or -1 if it is not valid.

    Once a name of a message was not valid, no other of the message may be asked for.

    Parameters
    ----------
    buf : uint8[:]
    base : int64
        Where the message begins: pointers count from here.
    pos, end : int64
        First byte of the name; no byte at or behind ``end`` belongs to the message.
    memo : int64[MEMO_WORDS]
        Of this message: :func:`begin_message` was called for it.
    """
    pos, room = _to_pointer(buf, pos, end)
    if room < 0:
        return pos
    place = (u8(buf, pos) & 0x3F) << 8 | u8(buf, pos + 1)
    return pos + 2 if _fits_behind(buf, base, place, end, room, memo) else -1


@force_inlined
def own_labels_end(buf: Bytes, pos: I64) -> tuple[I64, Flag]:
    """Return where the labels of the valid name at ``pos`` end: at its root byte, or at a pointer (True)."""
    size = u8(buf, pos)
    while 0 < size < 0x40:
        pos += 1 + size
        size = u8(buf, pos)
    return pos, size > 0


@force_inlined
def plain_length(buf: Bytes, pos: I64, end: I64) -> I64:
    """Return the length, root byte included, of a valid name without pointers at ``pos``, or else 0."""
    start = pos
    while pos < end:
        size = u8(buf, pos)
        pos += 1 + size
        if size == 0:
            return pos - start if pos - start <= NAME_MAX else 0
        if size >= 0x40:
            return 0
    return 0


@inlined
def spell_name(buf: Bytes, base: I64, pos: I64, out: Bytes, to: I64) -> I64:
    """Write the name at ``pos`` without compression to ``out[to:]``; return its length with the root byte.

    :func:`skip_name` has accepted the name; ``out`` has room for 255 bytes. Case is kept.
    """
    start = to
    while True:
        size = u8(buf, pos)
        if size >= 0xC0:
            pos = base + ((size & 0x3F) << 8 | u8(buf, pos + 1))
            continue
        for k in range(size + 1):
            out[to + k] = buf[pos + k]
        to += size + 1
        pos += size + 1
        if size == 0:
            return to - start


__all__ = [
    "MEMO_WORDS",
    "POINTERS_MAX",
    "NameMemo",
    "begin_message",
    "new_memo",
    "own_labels_end",
    "plain_length",
    "skip_lone_name",
    "skip_name",
    "spell_name",
]
