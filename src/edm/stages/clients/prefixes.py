"""Ignored clients: reading a file of prefixes, and the set of addresses in them.

The file has one prefix in CIDR notation (RFC 4632, RFC 4291) a line. Empty lines and lines that begin with ``#`` are
skipped. Every other line must be a prefix and nothing else: no spaces, no bare address, no zone, no leading zeros in an
octet or the length; address bits after the prefix length are allowed and ignored. One bad line rejects the whole file.

An IPv4-mapped IPv6 address is an IPv6 address here: no IPv4 prefix holds it.
"""

from __future__ import annotations

import io
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edm.errors import ListFileError
from edm.files.reading import LIMIT_SETTING, LIST_FILE_BYTES, UnreadableError, printable, read_whole
from edm.kernel.columns import U8Array, U32Array, U64Array
from edm.stages.clients.matching import RangeArrays, filter_clients

MAX_LINE_BYTES = 65535
"""Longest line, without its line feed."""

_NO_ADDRESS = "neither an IPv4 nor an IPv6 address before the '/'"
_LENGTH = rb"/(0|[1-9][0-9]{0,2})"
_OCTET = rb"(?:0|[1-9][0-9]{0,2})"
_IPV4_ADDRESS = rb"\.".join([_OCTET] * 4)
_IPV4 = re.compile(rb"(" + _IPV4_ADDRESS + rb")" + _LENGTH)
_IPV6 = re.compile(rb"([0-9A-Fa-f:]+:(?:" + _IPV4_ADDRESS + rb"|[0-9A-Fa-f]*))" + _LENGTH)

# First address and prefix length in one number: ``address << 8 | length``. Sorted, a prefix stands before all
# those that lie within.
_Packed = int


class Prefix(NamedTuple):
    """A prefix of the list: the number of its line, and its text with the address bits behind its length cleared."""

    line: int
    text: str


class _Origins:
    """The prefixes of one family as they stand in the file, for :meth:`ClientPrefixes.holding`: 13 or 21 bytes each.

    Attributes
    ----------
    high, low : uint64[prefixes]
        The address of each, as one number of 128 bits.
    length : uint8[prefixes]
    line : uint32[prefixes]
    """

    __slots__ = ("bits", "high", "length", "line", "low")

    def __init__(self, packed: Sequence[_Packed], lines: Sequence[int], bits: int) -> None:
        self.bits = bits
        count = len(packed)
        mask = 0xFFFFFFFFFFFFFFFF
        self.high: U64Array | None = None
        if bits > 64:
            self.high = np.fromiter((each >> 72 for each in packed), np.uint64, count)
        self.low: U64Array = np.fromiter((each >> 8 & mask for each in packed), np.uint64, count)
        self.length: U8Array = np.fromiter((each & 0xFF for each in packed), np.uint8, count)
        self.line: U32Array = np.fromiter(lines, np.uint32, count)

    def holding(self, address: int) -> list[Prefix]:
        found: list[Prefix] = []
        family = ipaddress.IPv4Network if self.bits == 32 else ipaddress.IPv6Network
        for length in sorted(set(self.length.tolist()), reverse=True):
            start = address >> self.bits - length << self.bits - length
            matches = (self.length == length) & (self.low == np.uint64(start & 0xFFFFFFFFFFFFFFFF))
            if self.high is not None:
                matches &= self.high == np.uint64(start >> 64)
            text = str(family((start, length)))
            found += [Prefix(line, text) for line in sorted(self.line[matches].tolist())]
        return found


class ClientPrefixes:
    """A set of clients, as sorted, disjoint address ranges; read-only.

    Attributes
    ----------
    prefixes : int
        Prefixes that the set was made of; with none, no client is ignored and no address is looked at.

    Parameters
    ----------
    v4, v6 : iterable of int
        The prefixes of each family.
    lines : mapping, optional
        By 32 and 128 (IPv4, IPv6), the number of the line of each prefix; without it they are counted from 1.
    """

    __slots__ = ("_origins", "_v4", "_v6", "prefixes")

    def __init__(
        self,
        v4: Iterable[_Packed] = (),
        v6: Iterable[_Packed] = (),
        prefixes: int = 0,
        lines: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        v4, v6 = list(v4), list(v6)
        numbers = lines or {32: range(1, len(v4) + 1), 128: range(len(v4) + 1, len(v4) + len(v6) + 1)}
        self._origins = _Origins(v4, numbers[32], 32), _Origins(v6, numbers[128], 128)
        v4_first, v4_last = _merge(v4, 32)
        v6_first, v6_last = _merge(v6, 128)
        first4 = np.array(v4_first, np.uint32)
        first6 = _halves(v6_first)
        self._v4: RangeArrays = first4, np.array(v4_last, np.uint32), *_jump_table(first4.astype(np.uint64))
        self._v6: RangeArrays = first6, _halves(v6_last), *_jump_table(first6[0])
        self.prefixes = prefixes

    @classmethod
    def none(cls) -> ClientPrefixes:
        """Return the set without any client."""
        return cls()

    def __len__(self) -> int:
        return self.prefixes

    def filter(self, buf: U8Array, u32: U32Array, fate: U8Array, n: int) -> None:
        """Set the fate of pending rows whose client is in the set, or whose client address cannot be one.

        With an empty set nothing is changed: an odd or missing address does not matter then.
        """
        if self.prefixes:
            filter_clients(buf, u32, fate, n, self._v4, self._v6)

    def holding(self, address: bytes) -> list[Prefix]:
        """Return the prefixes that hold an address of 4 or 16 bytes: the longest first, then the first in the file.

        It tells why :meth:`filter` decides as it does; it asks each prefix, so it is not for every frame.
        """
        origins = self._origins[len(address) == 16]
        return origins.holding(int.from_bytes(address, "big"))


def _merge(packed: Iterable[_Packed], bits: int) -> tuple[list[int], list[int]]:
    """Return first and last addresses of disjoint ranges; neighbours become one range."""
    first: list[int] = []
    last: list[int] = []
    end = -1
    for prefix in sorted(packed):
        address = prefix >> 8
        stop = address | ((1 << (bits - (prefix & 0xFF))) - 1)
        if stop <= end:
            continue
        if first and address == end + 1:
            last[-1] = stop
        else:
            first.append(address)
            last.append(stop)
        end = stop
    return first, last


def _halves(addresses: list[int]) -> U64Array:
    halves = np.empty((2, len(addresses)), np.uint64)
    halves[0] = [address >> 64 for address in addresses]
    halves[1] = [address & 0xFFFFFFFFFFFFFFFF for address in addresses]
    return halves


def _jump_table(first: U64Array) -> tuple[U32Array, U64Array]:
    """Divide the span of the ranges' beginnings into equal parts, about as many as there are ranges.

    Returns, for each part and behind the last, how many ranges begin before it; and two numbers: the lowest beginning,
    and the shift that turns the distance from it into the number of the part.
    """
    base = int(first[0]) if len(first) else 0
    span = int(first[-1]) - base if len(first) else 0
    leading = min(16, len(first).bit_length())
    shift = max(0, span.bit_length() - leading)
    parts = (first - np.uint64(base)) >> np.uint64(shift)
    jump = np.searchsorted(parts, np.arange(1 << leading, dtype=np.uint64))
    return np.append(jump, len(first)).astype(np.uint32), np.array([base, shift], np.uint64)


def _parse_prefix(line: bytes) -> tuple[int, _Packed]:
    """Return the address width and the packed prefix.

    Raises
    ------
    ValueError
        If it is no prefix; the message is the reason and does not contain the line.
    """
    if match := _IPV4.fullmatch(line):
        family, bits = socket.AF_INET, 32
    elif match := _IPV6.fullmatch(line):
        family, bits = socket.AF_INET6, 128
    else:
        raise ValueError(_reason(line))
    # The expressions leave nothing on which one system's inet_pton is more lenient than another's.
    try:
        address = int.from_bytes(socket.inet_pton(family, match[1].decode("ascii")), "big")
    except OSError:
        raise ValueError(_NO_ADDRESS) from None
    length = int(match[2])
    if length > bits:
        raise ValueError(f"the prefix length is greater than {bits}")
    return bits, (address >> (bits - length) << (bits - length)) << 8 | length


def _reason(line: bytes) -> str:
    address, slash, length = line.rpartition(b"/")
    if not slash:
        return "no '/' and prefix length behind the address"
    if line != line.strip():
        return "a space before or behind the prefix"
    if not re.fullmatch(rb"0|[1-9][0-9]{0,2}", length):
        return "the prefix length is no plain decimal number"
    if b"%" in address:
        return "a prefix cannot have a zone"
    if re.search(rb"(?:^|\.)0[0-9]", address):
        return "an octet of the address has a leading zero"
    return _NO_ADDRESS


def parse_prefix_file(path: Path | str, limit: int = LIST_FILE_BYTES) -> ClientPrefixes:
    """Read a file of prefixes of at most ``limit`` bytes; a larger file is refused unread.

    Raises
    ------
    ListFileError
        If the file cannot be read or a line is no prefix; the message names the file, the line's number and the
        reason, but not the line, which may hold a client's address.
    """
    packed: dict[int, list[int]] = {32: [], 128: []}
    lines: dict[int, list[int]] = {32: [], 128: []}
    try:
        data = read_whole(path, limit, LIMIT_SETTING, lines=True)
    except UnreadableError as error:
        raise ListFileError(f"{printable(path)}: {error}") from None
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ListFileError(
            f"{path}: line 1: begins with a byte order mark: save it as plain UTF-8 without one"
        )
    for number, line in enumerate(io.BytesIO(data), 1):
        line = line.removesuffix(b"\n")
        if len(line) > MAX_LINE_BYTES:
            raise ListFileError(f"{path}: line {number}: longer than {MAX_LINE_BYTES:,} bytes")
        line = line.removesuffix(b"\r")
        if line and not line.startswith(b"#"):
            try:
                bits, prefix = _parse_prefix(line)
            except ValueError as error:
                raise ListFileError(f"{path}: line {number}: {error}") from None
            packed[bits].append(prefix)
            lines[bits].append(number)
    return ClientPrefixes(packed[32], packed[128], len(packed[32]) + len(packed[128]), lines)


__all__ = ["MAX_LINE_BYTES", "ClientPrefixes", "Prefix", "parse_prefix_file"]
