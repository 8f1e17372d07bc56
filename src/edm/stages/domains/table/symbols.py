r"""Short codes for strings that are frequent in the names of a list, so that names take less memory.

A code is one byte and stands for a symbol of 1 to 8 bytes of wire form, such as ``\x03com`` or ``sh``; the symbols
are chosen for each list (after FSST: Boncz, Neumann, Leis, Fast Random Access String Compression, 2020). A name is
told from another without writing it out: each code's symbol is compared where it would stand.

- Code ``ESCAPE``: the next byte stands for itself.
- Code ``NOTHING``, never written, stands for no bytes: what a lookup takes for codes behind a name's last one.
- Code ``RAW``, only at the beginning: all that follows stands for itself. The root, of size 0, is this code alone.

A name of ``size`` bytes takes 1 to ``size + 1`` codes. As elsewhere in this package, the root byte does not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from edm.kernel.columns import U64, Bytes, Flag, I64Array, U8Array, U32Array
from edm.kernel.jit import force_inlined, inlined, kernel, le64, put_le64
from edm.stages.domains.dawg.bits import U0, U1, U3, U8
from edm.stages.domains.table.arrays import Book, Ends, Singles, Starts
from edm.stages.domains.table.hashing import fold, load_short, same_name

NOTHING = 0
RAW = 254
ESCAPE = 255
MAX_SYMBOLS = 253
SYMBOL_BYTES = 8

_ROUNDS = 6
_CANDIDATES = 2000
_TOKENS = 512  # the codes, and behind them the bytes that have none

_RAW = np.uint64(RAW)
_ESCAPE = np.uint64(ESCAPE)
_U72 = np.uint64(72)
_U256 = np.uint64(256)
_NONE = np.uint64(_TOKENS)
_U255 = np.uint64(255)
_SIX_BITS = np.uint64(0x7E7E7E7E7E7E7E7E)
_TWO = np.uint64(0x0202020202020202)
_HIGH_BITS = np.uint64(0x8080808080808080)
_U65535 = np.uint64(0xFFFF)


# ``book``, uint64[768], for each code: what it stands for, the first byte lowest; the bits of that in which a name must
# agree, which are all of its bytes but that for the case of a letter; and how many bytes these are.
_EXACT_BITS = np.uint64(256)
_SIZES = np.uint64(512)


class Symbols(NamedTuple):
    """The symbols of a table.

    Attributes
    ----------
    book : uint64[768]
        What each code stands for, see above.
    starts : uint8[65537]
        Symbols of two and more bytes that begin with the bytes ``p & 255`` and ``p >> 8`` are the codes
        ``starts[p]`` to ``starts[p + 1] - 1``, longest first.
    singles : uint8[256]
        Code of each byte by itself; ``ESCAPE`` if it has none.
    """

    book: Book
    starts: Starts
    singles: Singles


def make_symbols(strings: Iterable[bytes]) -> Symbols:
    """Return the tables for up to ``MAX_SYMBOLS`` different strings of 1 to ``SYMBOL_BYTES`` bytes."""
    book = np.zeros((3, 256), np.uint64)
    singles = np.full(256, ESCAPE, np.uint8)
    pairs = np.zeros(1 << 16, np.int64)

    def rank(string: bytes) -> tuple[int, int, bytes]:
        return (int.from_bytes(string[:2], "little") if len(string) > 1 else 1 << 16, -len(string), string)

    for code, string in enumerate(sorted(strings, key=rank), NOTHING + 1):
        book[0, code] = int.from_bytes(string, "little")
        letters = bytes(0x20 if 0x61 <= byte <= 0x7A else 0 for byte in string)
        book[1, code] = ((1 << 8 * len(string)) - 1) ^ int.from_bytes(letters, "little")
        book[2, code] = len(string)
        if len(string) == 1:
            singles[string[0]] = code
        else:
            pairs[rank(string)[0]] += 1
    starts = (NOTHING + 1 + np.concatenate([[0], np.cumsum(pairs)])).astype(np.uint8)
    return Symbols(book.reshape(-1), starts, singles)


def choose_symbols(wire: U8Array, ends: I64Array) -> Symbols:
    """Choose symbols for names like those of a sample.

    Parameters
    ----------
    wire : uint8[ends[-1] + 8 or more]
        Names in wire form without root byte, one behind the other.
    ends : int64[names]
        Where each ends.
    """
    symbols = make_symbols([])
    for _ in range(_ROUNDS):
        counts = np.zeros(_TOKENS, np.uint32)
        pairs = np.zeros((_TOKENS, _TOKENS), np.uint32)
        count_tokens(wire, ends, symbols, counts, pairs)
        symbols = make_symbols(_best(symbols, counts, pairs))
    return symbols


def _best(symbols: Symbols, counts: U32Array, pairs: U32Array) -> list[bytes]:
    # Each round may join two symbols that often stand side by side; what they cover most bytes with counts.
    content, _, sizes = symbols.book.reshape(3, 256).tolist()
    tokens = [number.to_bytes(8, "little")[:size] for number, size in zip(content, sizes, strict=True)]
    tokens += [bytes((byte,)) for byte in range(256)]
    lengths = np.array([len(token) for token in tokens])
    joined = lengths[:, None] + lengths[None, :]
    gains = np.where(joined <= SYMBOL_BYTES, pairs * joined, 0).reshape(-1)
    best = np.argpartition(gains, -_CANDIDATES)[-_CANDIDATES:]
    gain = {tokens[k]: int(counts[k]) * len(tokens[k]) for k in np.flatnonzero(counts).tolist()}
    for k in best[gains[best] > 0].tolist():
        string = tokens[k // _TOKENS] + tokens[k % _TOKENS]
        gain[string] = gain.get(string, 0) + int(gains[k])
    return sorted(gain, key=lambda string: (-gain[string], string))[:MAX_SYMBOLS]


@force_inlined
def _longest(word: U64, left: U64, symbols: Symbols) -> U64:
    """Return the code (uint64) of the longest symbol that ``left`` bytes, the first in ``word``, begin with."""
    book, starts, singles = symbols
    pair = word & _U65535
    for k in range(starts[pair], starts[pair + U1]):
        code = np.uint64(k)
        size = book[_SIZES + code]
        if size <= left and (word ^ book[code]) << ((U8 - size) << U3) == U0:
            return code
    return np.uint64(singles[word & _U255])


@kernel
def count_tokens(wire: Bytes, ends: Ends, symbols: Symbols, counts: U32Array, pairs: U32Array) -> None:
    """Count with what codes, and pairs of codes, names would be written.

    Parameters
    ----------
    wire : uint8[ends[-1] + 8 or more], ends : int64[names]
        The names, as for :func:`choose_symbols`.
    symbols : Symbols
    counts : uint32[512], pairs : uint32[512, 512], zeroed
        Out: how often each token occurs, and each before another; token 256 + b is a byte b that has no code.
    """
    pos = U0
    for i in range(ends.size):
        end = np.uint64(ends[i])
        before = _NONE
        while pos < end:
            word = le64(wire, pos)
            token = _longest(word, end - pos, symbols)
            if token == _ESCAPE:
                token = _U256 + (word & _U255)
                pos += U1
            else:
                pos += symbols.book[_SIZES + token]
            counts[token] += 1
            if before != _NONE:
                pairs[before, token] += 1
            before = token


@force_inlined
def encode_name(wire: Bytes, at: U64, size: U64, symbols: Symbols, codes: Bytes, begin: U64) -> U64:
    """Write the codes of the name ``wire[at:at+size]`` to ``codes`` from ``begin`` on; return their end (all uint64).

    Eight bytes behind the name are read. ``codes`` must have room for ``size + 1`` bytes.
    """
    pos = at
    end = at + size
    o = begin
    while pos < end and o - begin < size:
        word = le64(wire, pos)
        code = _longest(word, end - pos, symbols)
        codes[o] = code
        o += U1
        if code == _ESCAPE:
            codes[o] = word & _U255
            o += U1
            pos += U1
        else:
            pos += symbols.book[_SIZES + code]
    if pos < end or size == U0:
        codes[begin] = RAW
        for k in range(size):
            codes[begin + U1 + k] = wire[at + k]
        o = begin + U1 + size
    return o


@force_inlined
def decode_name(codes: Bytes, pos: U64, count: U64, book: Book, out: Bytes) -> U64:
    """Write the name of the ``count`` codes at ``pos`` to ``out`` (uint8[264]) and return its size (all uint64)."""
    end = pos + count
    o = U0
    raw = np.uint64(codes[pos]) == _RAW
    pos += U1 if raw else U0
    while pos < end:
        code = np.uint64(codes[pos])
        pos += U1
        if raw:
            out[o] = code
            o += U1
        elif code == _ESCAPE:
            out[o] = codes[pos]
            pos += U1
            o += U1
        else:
            put_le64(out, o, book[code])
            o += book[_SIZES + code]
    return o


@force_inlined
def _has_special(eight: U64) -> Flag:
    """Tell whether one of eight codes is RAW or ESCAPE, which have all bits but the lowest in common."""
    return ((eight & _SIX_BITS) + _TWO) & eight & _HIGH_BITS != U0


@inlined
def same_coded(codes: Bytes, pos: U64, count: U64, book: Book, buf: Bytes, off: U64, size: U64) -> Flag:
    """Tell whether the ``count`` codes at ``pos`` are the name ``buf[off:off+size]``, letter case ignored."""
    if np.uint64(codes[pos]) == _RAW:
        return count == size + U1 and same_name(codes, pos + U1, buf, off, size)
    end = pos + count
    at = U0
    while pos < end:
        code = np.uint64(codes[pos])
        pos += U1
        if code == _ESCAPE:
            symbol = np.uint64(codes[pos])
            length = U1
            pos += U1
        else:
            symbol = book[code]
            length = book[_SIZES + code]
        if at + length > size or fold(load_short(buf, off + at, length)) != symbol:
            return False
        at += length
    return at == size


@force_inlined
def surely_same_coded(
    codes: Bytes, pos: U64, count: U64, book: Book, buf: Bytes, off: U64, size: U64
) -> Flag:
    """Tell what :func:`same_coded` does, but faster; False also where that would take longer.

    That is for names near the end of ``buf`` and codes other than symbols. Eight bytes before the codes are read.
    """
    different = U0
    at = U0
    done = U0
    # Eight codes at once whatever the count: most names have no more, and a loop's end would often be mispredicted.
    # They stand for up to 64 bytes, so that is how far the name is read, and eight bytes more.
    while done < count:
        part = min(count - done, U8)
        # The eight bytes up to the last code: the eight from the first one on might reach into another cache line.
        eight = le64(codes, pos + done + part - U8) >> ((U8 - part) << U3)
        if off + at + _U72 > np.uint64(buf.size) or _has_special(eight):
            return False
        for i in range(8):
            code = (eight >> np.uint64(8 * i)) & _U255
            different |= (le64(buf, off + at) ^ book[code]) & book[_EXACT_BITS + code]
            at += book[_SIZES + code]
        done += U8
    return (at == size) & (different == U0)


__all__ = [
    "ESCAPE",
    "MAX_SYMBOLS",
    "RAW",
    "SYMBOL_BYTES",
    "Symbols",
    "choose_symbols",
    "count_tokens",
    "decode_name",
    "encode_name",
    "make_symbols",
    "same_coded",
    "surely_same_coded",
]
