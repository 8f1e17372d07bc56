"""Walk over the response messages of a batch: check each completely, keep its header and first question.

RFC 1035, 4, with the acceptance rules of the Go daemon's library. They are lax about counts (a record section
may stop where the message ends, a question may lack its class) and exact about everything that is there.
"""

from __future__ import annotations

import numpy as np

from edm.kernel.columns import (
    DNS_PARSE_ERROR,
    EMPTY_QUESTION,
    FLAGS,
    HAS_RESPONSE_MESSAGE,
    I64,
    PENDING,
    PRESENT,
    QCLASS,
    QNAME_LEN,
    QNAME_OFF,
    QTYPE,
    QUESTIONS,
    RCODE,
    RESPONSE_MESSAGE_LEN,
    RESPONSE_MESSAGE_OFF,
    Bytes,
    Fates,
    Flag,
    U32Columns,
)
from edm.kernel.jit import be16, force_inlined, kernel, u8
from edm.stages.dns.name import NameMemo, begin_message, plain_length, skip_name, spell_name
from edm.stages.dns.rdata import rdata_fits

HEADER_BYTES = 12

_A = 1
_AAAA = 28
_OPT = 41


@force_inlined
def skip_type_and_class(pos: I64, end: I64) -> I64:
    """Return the end of the question whose name ends at ``pos``, or -1 (also for a ``pos`` of -1).

    A message may end behind the name, or behind the type, of its last question.
    """
    left = end - pos
    if pos < 0 or left == 1 or left == 3:
        return -1
    return pos + min(left, 4)


@force_inlined
def skip_records(
    buf: Bytes, base: I64, pos: I64, end: I64, count: I64, plain: Flag, memo: NameMemo
) -> tuple[I64, I64]:
    """Check a section of up to ``count`` records from ``pos`` on.

    ``plain`` says that an uncompressed name stands right after the header.

    Returns
    -------
    pos : int64
        Where the section ends; -1 if a record is not valid.
    extension : int64
        The upper 8 bits of the extended RCODE in the section's last OPT record (RFC 6891, 6.1.3), or 0.
    """
    extension = 0
    while count > 0 and pos < end:
        count -= 1
        # Nearly every owner is the first question's name: known to be valid, so not walked again.
        if plain and pos + 2 <= end and be16(buf, pos) == 0xC000 | HEADER_BYTES:
            pos += 2
        else:
            pos = skip_name(buf, base, pos, end, memo)
        if pos < 0 or pos + 10 > end:
            return -1, 0
        rrtype = be16(buf, pos)
        size = be16(buf, pos + 8)
        if rrtype == _OPT:
            extension = u8(buf, pos + 4)
        pos += 10
        if pos + size > end:
            return -1, 0
        if size > 0:
            if rrtype == _A:
                if size != 4:
                    return -1, 0
            elif rrtype == _AAAA:
                if size != 16:
                    return -1, 0
            elif not rdata_fits(buf, base, rrtype, pos, pos + size, memo):
                return -1, 0
        pos += size
    return pos, extension


@force_inlined
def skip_sections(buf: Bytes, base: I64, pos: I64, end: I64, plain: Flag, memo: NameMemo) -> tuple[I64, I64]:
    """Check the three sections of records; return what :func:`skip_records` does of the last one."""
    extension = 0
    for section in range(6, HEADER_BYTES, 2):
        if 0 <= pos < end:
            pos, extension = skip_records(buf, base, pos, end, be16(buf, base + section), plain, memo)
        else:
            extension = 0
    return pos, extension


@force_inlined
def _put_header(buf: Bytes, base: I64, u32: U32Columns, i: I64, questions: I64, extension: I64) -> None:
    flags = be16(buf, base + 2)
    u32[FLAGS, i] = flags
    u32[RCODE, i] = (flags & 0xF) | extension << 4
    u32[QUESTIONS, i] = questions


@kernel
def walk_messages(buf: Bytes, scratch: I64, u32: U32Columns, fate: Fates, n: I64, memo: NameMemo) -> I64:
    """Unpack the response messages of the rows ``0 <= i < n`` whose fate is PENDING.

    Writes FLAGS, RCODE, QUESTIONS, QTYPE, QCLASS, QNAME_OFF and QNAME_LEN. A row whose message is absent or
    not valid becomes DNS_PARSE_ERROR (its columns are left alone), one without a question EMPTY_QUESTION.

    Parameters
    ----------
    buf : uint8[:]
        The block. Question names that used compression pointers are written out after its data.
    scratch : int64
        First free byte of ``buf``: ``len(buf) - scratch >= 255 * n``.
    u32 : uint32[N_U32, stride]
        RESPONSE_MESSAGE_OFF and _LEN lie within the data of ``buf``: the dnstap stage has seen to that.
    fate : uint8[stride]
    n : int64
    memo : int64[MEMO_WORDS]
        From :func:`edm.stages.dns.name.new_memo`, for this and later calls.

    Returns
    -------
    scratch : int64
        First byte of ``buf`` that is still free.
    """
    for i in range(n):
        if fate[i] != PENDING:
            continue
        base = np.int64(u32[RESPONSE_MESSAGE_OFF, i])
        length = np.int64(u32[RESPONSE_MESSAGE_LEN, i])
        end = base + length
        if not u32[PRESENT, i] & HAS_RESPONSE_MESSAGE or length < HEADER_BYTES:
            fate[i] = DNS_PARSE_ERROR
            continue
        begin_message(memo, length)
        first = base + HEADER_BYTES
        pos = first
        questions = 0
        name_length = 0
        name_end = first
        if length > HEADER_BYTES:
            questions = be16(buf, base + 4)
        if questions > 0:
            name_length = plain_length(buf, first, end)
            name_end = first + name_length if name_length > 0 else skip_name(buf, base, first, end, memo)
            pos = skip_type_and_class(name_end, end)
            for _ in range(questions - 1):
                if pos < 0:
                    break
                pos = skip_type_and_class(skip_name(buf, base, pos, end, memo), end)
        pos, extension = skip_sections(buf, base, pos, end, name_length > 0, memo)
        if pos < 0:
            fate[i] = DNS_PARSE_ERROR
            continue
        _put_header(buf, base, u32, i, questions, extension)
        if questions == 0:
            fate[i] = EMPTY_QUESTION
            continue
        u32[QTYPE, i] = be16(buf, name_end) if name_end + 2 <= end else 0
        u32[QCLASS, i] = be16(buf, name_end + 2) if name_end + 4 <= end else 0
        if name_length > 0:
            u32[QNAME_OFF, i] = first
            u32[QNAME_LEN, i] = name_length
        else:
            name_length = spell_name(buf, base, first, buf, scratch)
            u32[QNAME_OFF, i] = scratch
            u32[QNAME_LEN, i] = name_length
            scratch += name_length
    return scratch


__all__ = ["HEADER_BYTES", "skip_type_and_class", "walk_messages"]
