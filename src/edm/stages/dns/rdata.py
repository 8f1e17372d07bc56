"""Checking the RDATA of every type.

The grammar of a type is a row of field codes in :data:`GRAMMAR`, which one small interpreter follows, so a
type costs a line and no code. The rules are those of the Go daemon's library: wherever a field could begin
the RDATA may also end (an SOA of two names is fine), a field cut short is an error, and so are octets behind
the last field. Values are looked at only where lengths depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edm.kernel.columns import I64, Bytes, Flag, I64Array, U8Array
from edm.kernel.jit import be16, inlined, u8
from edm.stages.dns.name import NameMemo, skip_lone_name, skip_name

# Field codes. 1 to 16: so many octets. END: nothing may follow.
END = 0
FIXED_MAX = 16
NAME = 17
STRING = 18  # <character-string>: a length octet and so many octets
STRINGS = 19  # <character-string>s to the end
REST = 20  # any octets to the end
BITMAP = 21  # type bit maps to the end (RFC 4034, 4.1.2)
COUNTED8 = 22  # a length octet and so many octets; the RDATA may end between the two
COUNTED16 = 23  # likewise with a length of two octets
OPTIONS = 24  # EDNS options to the end (RFC 6891, 6.1.2)
PARAMETERS = 25  # SvcParams to the end (RFC 9460, 2.2)
PREFIXES = 26  # APL items to the end (RFC 3123, 4)
IDENTITY = 27  # HIP from its first octet to the end (RFC 8005, 5)
GATEWAY = 28  # gateway type and gateway (RFC 8777, 4.2)
GATEWAY_KEY = 29  # the same with an algorithm octet between them (RFC 4025, 2.1)
REQUIRED = 0x80  # added to a code: the RDATA may not end before this field

_CODES = {
    "n": NAME,
    "s": STRING,
    "t": STRINGS,
    "r": REST,
    "b": BITMAP,
    "c": COUNTED8,
    "C": COUNTED16,
    "o": OPTIONS,
    "v": PARAMETERS,
    "x": PREFIXES,
    "h": IDENTITY,
    "g": GATEWAY,
    "k": GATEWAY_KEY,
    "8": 8,
    "6": 6,
    "4": 4,
    "2": 2,
    "1": 1,
    "F": 16,
}

# Type number to fields, one letter each; "!" makes the next field required. Types not named are opaque.
_FIELDS = {
    **dict.fromkeys((2, 3, 4, 5, 7, 8, 9, 12, 23, 39), "n"),  # NS MD MF CNAME MB MG MR PTR NSAP-PTR DNAME
    **dict.fromkeys((14, 17, 58), "nn"),  # MINFO RP TALINK
    **dict.fromkeys((15, 18, 21, 36, 107), "2n"),  # MX AFSDB RT KX LP
    **dict.fromkeys((16, 56, 99, 258, 261), "t"),  # TXT NINFO SPF AVC RESINFO
    **dict.fromkeys((13, 20), "ss"),  # HINFO ISDN
    **dict.fromkeys((19, 100), "s"),  # X25 UINFO
    **dict.fromkeys((24, 46), "2114442nr"),  # SIG RRSIG
    **dict.fromkeys((25, 43, 48, 57, 59, 60, 32768, 32769), "211r"),  # KEY DS DNSKEY RKEY CDS CDNSKEY TA DLV
    **dict.fromkeys((30, 47), "nb"),  # NXT NSEC
    **dict.fromkeys((52, 53), "111r"),  # TLSA SMIMEA
    **dict.fromkeys((64, 65), "2nv"),  # SVCB HTTPS
    **dict.fromkeys((1, 101, 102), "4"),  # A UID GID
    **dict.fromkeys((104, 106), "28"),  # NID L64
    **dict.fromkeys((128, 255), ""),  # NXNAME ANY: only without RDATA
    6: "nn44444",  # SOA
    26: "2nn",  # PX
    27: "sss",  # GPOS
    28: "F",  # AAAA
    29: "1111444",  # LOC
    33: "222n",  # SRV
    35: "22sssn",  # NAPTR
    37: "221r",  # CERT
    41: "o",  # OPT
    42: "x",  # APL
    44: "11r",  # SSHFP
    45: "1kr",  # IPSECKEY
    50: "112c!cb",  # NSEC3
    51: "112c",  # NSEC3PARAM
    55: "h",  # HIP
    62: "42b",  # CSYNC
    63: "411r",  # ZONEMD
    105: "24",  # L32
    108: "6",  # EUI48
    109: "8",  # EUI64
    249: "n4422C!C",  # TKEY
    250: "n62C!22C",  # TSIG
    256: "22r",  # URI
    257: "1sr",  # CAA
    260: "1g",  # AMTRELAY
}

_OPAQUE = 0
_NEAR = 4096  # types below it have their rows in order, the few above are looked for one after the other


def _grammar(fields: Mapping[int, str]) -> tuple[U8Array, I64Array]:
    """Return the rows of :data:`GRAMMAR`, and the types of its last rows, which are out of order."""
    far = sorted(number for number in fields if number >= _NEAR)
    near = 1 + max(number for number in fields if number < _NEAR)
    rows = {number: near + k for k, number in enumerate(far)}
    # A flag is no field, and behind the last field there is always an END.
    width = 1 + max(len(letters.replace("!", "")) for letters in fields.values())
    table = np.zeros((near + len(far), width), np.uint8)
    table[:, 0] = REST
    for number, letters in fields.items():
        codes: list[int] = []
        flag = 0
        for letter in letters:
            if letter == "!":
                flag = REQUIRED
            else:
                codes.append(_CODES[letter] | flag)
                flag = 0
        table[rows.get(number, number)] = codes + [END] * (width - len(codes))
    return table, np.array(far, np.int64)


GRAMMAR, _FAR = _grammar(_FIELDS)
"""uint8[TYPES + len(_FAR), _WIDTH]: the fields of each type, ended by END."""
TYPES = GRAMMAR.shape[0] - len(_FAR)
_WIDTH = GRAMMAR.shape[1]
_N_FAR = len(_FAR)

_OPTIONS = 20


def _option_sizes() -> npt.NDArray[np.int64]:
    anything = (1 << 32) - 1
    masks = np.full(_OPTIONS, anything, np.int64)
    masks[1] = anything >> 18 << 18  # LLQ
    masks[2] = 1 << 4 | 1 << 8  # UL
    masks[8] = anything >> 4 << 4  # ECS
    masks[9] = anything >> 4 << 4 | 1  # EXPIRE
    masks[11] = 1 << 2 | 1  # TCP-KEEPALIVE
    masks[15] = masks[19] = anything >> 2 << 2  # EDE, ZONEVERSION
    return masks


_OPTION_SIZES = _option_sizes()
"""int64[20]: for each EDNS option code, bit ``min(size, 31)`` says whether data of that size may be valid."""


@inlined
def skip_bitmap(buf: Bytes, pos: I64, end: I64) -> I64:
    """Return ``end`` if type bit maps fill the octets up to it, or -1."""
    last = -1
    while pos < end:
        if pos + 2 > end:
            return -1
        window = u8(buf, pos)
        size = u8(buf, pos + 1)
        pos += 2 + size
        if window <= last or size < 1 or size > 32:
            return -1
        last = window
    return pos if pos == end else -1


@inlined
def option_fits(buf: Bytes, code: I64, pos: I64, size: I64) -> Flag:
    """Tell whether an EDNS option's data ``buf[pos:pos+size]`` is valid for its code."""
    if code >= _OPTIONS:
        return True
    if _OPTION_SIZES[code] >> min(size, 31) & 1 == 0:
        return False
    if code == 8:  # ECS (RFC 7871, 6)
        family = be16(buf, pos)
        source = u8(buf, pos + 2)
        if family == 0:
            return source == 0
        longest = 32 if family == 1 else 128
        return family <= 2 and source <= longest and u8(buf, pos + 3) <= longest
    if code == 18:  # REPORT-CHANNEL: the option is a buffer of its own, and octets after the name are fine
        return skip_lone_name(buf, pos, pos, pos + size) >= 0
    return True


@inlined
def parameter_fits(buf: Bytes, key: I64, pos: I64, size: I64) -> Flag:
    """Tell whether a SvcParam's value ``buf[pos:pos+size]`` is valid for its key."""
    if key == 0:  # mandatory
        return size & 1 == 0
    if key == 1:  # alpn
        end = pos + size
        while pos < end:
            pos += 1 + u8(buf, pos)
        return pos == end
    if key == 2 or key == 8:  # no-default-alpn, ohttp
        return size == 0
    if key == 3:  # port
        return size == 2
    if key == 4:  # ipv4hint
        return size > 0 and size & 3 == 0
    if key == 6:  # ipv6hint: an IPv4-mapped address is not an IPv6 address
        if size == 0 or size & 15 != 0:
            return False
        for at in range(pos, pos + size, 16):
            k = 0
            while k < 10 and u8(buf, at + k) == 0:
                k += 1
            if k == 10 and be16(buf, at + 10) == 0xFFFF:
                return False
        return True
    return key != 0xFFFF


@inlined
def skip_pairs(buf: Bytes, pos: I64, end: I64, options: Flag) -> I64:
    """Return ``end`` if EDNS options, or else SvcParams, fill the octets up to it, or -1.

    Both are a code, a length and so many octets; the keys of SvcParams rise strictly.
    """
    last = -1
    while pos < end:
        if pos + 4 > end:
            return -1
        code = be16(buf, pos)
        size = be16(buf, pos + 2)
        pos += 4
        if pos + size > end:
            return -1
        if options:
            fits = option_fits(buf, code, pos, size)
        else:
            fits = code > last and parameter_fits(buf, code, pos, size)
        if not fits:
            return -1
        last = code
        pos += size
    return pos


@inlined
def skip_prefixes(buf: Bytes, pos: I64, end: I64) -> I64:
    """Return ``end`` if APL items fill the octets up to it, or -1."""
    while pos < end:
        if pos + 4 > end:
            return -1
        family = be16(buf, pos)
        size = u8(buf, pos + 3) & 0x7F
        if family < 1 or family > 2 or size > (4 if family == 1 else 16):
            return -1
        if u8(buf, pos + 2) > (32 if family == 1 else 128):
            return -1
        pos += 4 + size
        if pos > end or (size > 0 and u8(buf, pos - 1) == 0):
            return -1
    return pos


@inlined
def skip_identity(buf: Bytes, base: I64, pos: I64, end: I64, memo: NameMemo) -> I64:
    """Return ``end`` if HIP RDATA fills the octets up to it, or -1."""
    if end - pos <= 2:
        return end
    if end - pos < 4:
        return -1
    if end - pos == 4:
        return end
    pos += 4 + u8(buf, pos) + be16(buf, pos + 2)
    if pos > end:
        return -1
    while 0 <= pos < end:
        pos = skip_name(buf, base, pos, end, memo)
    return pos


@inlined
def skip_gateway(buf: Bytes, base: I64, pos: I64, end: I64, between: I64, memo: NameMemo) -> I64:
    """Return the position after a gateway type, ``between`` (0 or 1) octets and the gateway, or -1."""
    kind = u8(buf, pos)
    pos += 1
    if pos < end:
        pos += between
    if pos == end:
        return pos
    if kind == 1:
        return pos + 4
    if kind == 2:
        return pos + 16
    if kind == 3:
        return skip_name(buf, base, pos, end, memo)
    return pos


@inlined
def rdata_fits(buf: Bytes, base: I64, rrtype: I64, pos: I64, end: I64, memo: NameMemo) -> Flag:
    """Tell whether ``buf[pos:end]``, not empty, is valid RDATA of type ``rrtype``.

    Parameters
    ----------
    buf : uint8[:]
    base : int64
        Where the message begins: compression pointers count from here, and may not reach ``end``.
    rrtype : int64
        Any type number from 0 to 65535.
    pos, end : int64
    memo : int64[MEMO_WORDS]
        Of this message, see :func:`edm.stages.dns.name.skip_name`.
    """
    if rrtype >= TYPES:
        row = np.int64(_OPAQUE)
        for k in range(_N_FAR):
            if _FAR[k] == rrtype:
                row = np.int64(TYPES + k)
        rrtype = row
    for k in range(_WIDTH):
        code = np.int64(GRAMMAR[rrtype, k])
        if pos == end and code < REQUIRED:
            return True
        code &= REQUIRED - 1
        if code == END:
            return False
        if code <= FIXED_MAX:
            pos += code
        elif code == NAME:
            pos = skip_name(buf, base, pos, end, memo)
        elif code == REST:
            return True
        elif code == STRING:
            pos += 1 + u8(buf, pos)
        elif code == STRINGS:
            while pos < end:
                pos += 1 + u8(buf, pos)
        elif code == BITMAP:
            pos = skip_bitmap(buf, pos, end)
        elif COUNTED8 <= code <= COUNTED16:
            width = code - COUNTED8 + 1
            if pos + width > end:
                return False
            size = u8(buf, pos) if width == 1 else be16(buf, pos)
            pos += width
            if pos == end:
                return True
            pos += size
        elif OPTIONS <= code <= PARAMETERS:
            pos = skip_pairs(buf, pos, end, code == OPTIONS)
        elif code == PREFIXES:
            pos = skip_prefixes(buf, pos, end)
        elif code == IDENTITY:
            pos = skip_identity(buf, base, pos, end, memo)
        else:
            pos = skip_gateway(buf, base, pos, end, code - GATEWAY, memo)
        if pos < 0 or pos > end:
            return False
    return False


__all__ = ["GRAMMAR", "rdata_fits"]
