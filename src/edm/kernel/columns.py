"""The columns of a batch: what each stage's kernel reads and writes, row by row of frames.

A batch is up to :data:`BATCH_ROWS` frames of one block. Its columns are three arrays:

- ``u32``: ``uint32[N_U32, stride]``, one row of the matrix per field named ``*`` in :data:`U32_FIELDS`;
- ``u64``: ``uint64[N_U64, stride]``, likewise for :data:`U64_FIELDS`;
- ``fate``: ``uint8[stride]``, the :class:`Fate` of each frame.

Field ``F`` of frame ``i`` is ``u32[F, i]``. Offsets are byte offsets into the block's buffer. A kernel that
gets ``(buf, u32, u64, fate, n)`` handles the rows ``0 <= i < n`` and, from the DNS stage on, only those whose
fate is still ``PENDING``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

U8Array: TypeAlias = npt.NDArray[np.uint8]
U32Array: TypeAlias = npt.NDArray[np.uint32]
U64Array: TypeAlias = npt.NDArray[np.uint64]
I32Array: TypeAlias = npt.NDArray[np.int32]
I64Array: TypeAlias = npt.NDArray[np.int64]

# What kernels are given, named once. Arrays are typed. Scalars are aliases of ``Any`` with a name that says what Numba
# makes of them: inside a kernel a number is a NumPy scalar or an ``int``, whichever came first, and mypy cannot follow.
Bytes: TypeAlias = U8Array
"""``uint8[size]``: bytes, of a block if nothing else is said; offsets into it are in bytes."""
U32Columns: TypeAlias = U32Array
"""``uint32[N_U32, stride]``: the fields :data:`U32_FIELDS` of a batch."""
U64Columns: TypeAlias = U64Array
"""``uint64[N_U64, stride]``: the fields :data:`U64_FIELDS` of a batch."""
Fates: TypeAlias = U8Array
"""``uint8[stride]``: the :class:`Fate` of each frame of a batch."""
U64: TypeAlias = Any
"""A ``uint64`` scalar: an offset, a size, a hash, an index. Mixed with a signed number it would become a float."""
I64: TypeAlias = Any
"""An ``int64`` scalar or a Python integer: an offset, a size, a count, -1 for "none"."""
Flag: TypeAlias = Any
"""A boolean scalar."""

BATCH_ROWS = 4096
"""Frames in one batch: its columns stay in the L2 cache of one core."""

NAME_MAX = 255
"""Longest domain name in wire form, root byte included (RFC 1035, 2.3.4)."""

SCRATCH_BYTES = BATCH_ROWS * NAME_MAX
"""Room behind a block's data where question names that used compression pointers are written out."""


class Fate(IntEnum):
    """What became of a frame. Every frame ends in exactly one of these; see the ledger."""

    PENDING = 0
    UNDECODABLE = 1
    QUERY = 2
    CLIENT_IGNORED = 3
    CLIENT_ADDRESS_INVALID = 4
    DNS_PARSE_ERROR = 5
    EMPTY_QUESTION = 6
    INVALID_NAME = 7
    QUESTION_IGNORED = 8
    WELL_KNOWN = 9
    SESSION = 10
    SESSION_OFF = 11
    TYPE_IGNORED = 12


# The fates as plain integers for kernels: Numba freezes module globals into the compiled code.
PENDING = int(Fate.PENDING)
UNDECODABLE = int(Fate.UNDECODABLE)
QUERY = int(Fate.QUERY)
CLIENT_IGNORED = int(Fate.CLIENT_IGNORED)
CLIENT_ADDRESS_INVALID = int(Fate.CLIENT_ADDRESS_INVALID)
DNS_PARSE_ERROR = int(Fate.DNS_PARSE_ERROR)
EMPTY_QUESTION = int(Fate.EMPTY_QUESTION)
INVALID_NAME = int(Fate.INVALID_NAME)
QUESTION_IGNORED = int(Fate.QUESTION_IGNORED)
WELL_KNOWN = int(Fate.WELL_KNOWN)
SESSION = int(Fate.SESSION)
SESSION_OFF = int(Fate.SESSION_OFF)
TYPE_IGNORED = int(Fate.TYPE_IGNORED)
N_FATES = len(Fate)

U32_FIELDS = (
    "FRAME_OFF",
    "FRAME_LEN",
    "PRESENT",
    "MESSAGE_TYPE",
    "SOCKET_FAMILY",
    "SOCKET_PROTOCOL",
    "QUERY_PORT",
    "RESPONSE_PORT",
    "RESPONSE_TIME_NSEC",
    "IDENTITY_OFF",
    "IDENTITY_LEN",
    "QUERY_ADDRESS_OFF",
    "QUERY_ADDRESS_LEN",
    "RESPONSE_ADDRESS_OFF",
    "RESPONSE_ADDRESS_LEN",
    "RESPONSE_MESSAGE_OFF",
    "RESPONSE_MESSAGE_LEN",
    "FLAGS",
    "RCODE",
    "QUESTIONS",
    "QTYPE",
    "QCLASS",
    "QNAME_OFF",
    "QNAME_LEN",
    "DOMAIN_INDEX",
    "DOMAIN_MATCH",
    "SOURCE_LEN",
    "DEST_LEN",
    "QNAME_LABELS",
    "LEFT_ROW",
    "FOUND_ROW",
    "FOUND_INDEX",
    "FOUND_POS",
)
N_U32 = len(U32_FIELDS)

# dnstap (written by the dnstap stage)
FRAME_OFF = 0  # frame payload in the buffer (written by frame location)
FRAME_LEN = 1
PRESENT = 2  # bit set of HAS_* below
MESSAGE_TYPE = 3  # low 32 bits of the enum, two's complement
SOCKET_FAMILY = 4  # absent is 1 (INET), proto2 default
SOCKET_PROTOCOL = 5  # meaningful only with HAS_SOCKET_PROTOCOL
QUERY_PORT = 6
RESPONSE_PORT = 7
RESPONSE_TIME_NSEC = 8
IDENTITY_OFF = 9
IDENTITY_LEN = 10
QUERY_ADDRESS_OFF = 11
QUERY_ADDRESS_LEN = 12
RESPONSE_ADDRESS_OFF = 13
RESPONSE_ADDRESS_LEN = 14
RESPONSE_MESSAGE_OFF = 15
RESPONSE_MESSAGE_LEN = 16
# DNS (written by the dns stage)
FLAGS = 17  # the 16-bit flags word of the header, unchanged
RCODE = 18  # 12-bit extended RCODE
QUESTIONS = 19  # questions actually parsed
QTYPE = 20  # of the first question, as are the next three
QCLASS = 21
QNAME_OFF = 22  # uncompressed wire form in the buffer, original case, root byte included
QNAME_LEN = 23
# domains (written by the well-known lookup)
DOMAIN_INDEX = 24  # index of the entry in the domain table; NO_DOMAIN without a match
DOMAIN_MATCH = 25  # 0 none, 1 exact entry, 2 suffix entry: the edm_status_bits
# session (written by pseudonymisation): bytes of the pseudonymised address: 4, 16, or the odd length found
SOURCE_LEN = 26
DEST_LEN = 27
# domains: written with QNAME_HASH; the next four are scratch of a lookup, lists of rows and not fields of a row
QNAME_LABELS = 28  # labels of the first question's name, the root not counted
LEFT_ROW = 29
FOUND_ROW = 30
FOUND_INDEX = 31
FOUND_POS = 32

SUFFIX_DEPTH = 8
"""Parent domains of a question name, counted from the top-level domain, whose hashes a batch holds."""

U64_FIELDS = (
    "RESPONSE_TIME_SEC",
    "QNAME_HASH",
    "SOURCE_HIGH",
    "SOURCE_LOW",
    "DEST_HIGH",
    "DEST_LOW",
    *(f"SUFFIX_HASH_{labels}" for labels in range(1, SUFFIX_DEPTH + 1)),
    "NAME_WORD",
    "NAME_SUM",
)
N_U64 = len(U64_FIELDS)

RESPONSE_TIME_SEC = 0
QNAME_HASH = 1  # hash of the case-folded question name (domains)
# Pseudonymised addresses as big-endian numbers; an address of 4 bytes stands in the low 32 bits of *_LOW.
SOURCE_HIGH = 2
SOURCE_LOW = 3
DEST_HIGH = 4
DEST_LOW = 5
# Hash of the parent domain with 1 label; the next fields are those with 2 to SUFFIX_DEPTH labels. Only fields for
# fewer labels than QNAME_LABELS hold a hash. Its low byte tells where in the question name the parent begins.
SUFFIX_HASH_1 = 6
# Scratch of the hash (domains), not fields of a row: the words of one name after the other. And of a lookup behind it.
NAME_WORD = 14
NAME_SUM = 15

HAS_IDENTITY = 1 << 0
HAS_SOCKET_FAMILY = 1 << 1
HAS_SOCKET_PROTOCOL = 1 << 2
HAS_QUERY_ADDRESS = 1 << 3
HAS_RESPONSE_ADDRESS = 1 << 4
HAS_QUERY_PORT = 1 << 5
HAS_RESPONSE_PORT = 1 << 6
HAS_RESPONSE_TIME_SEC = 1 << 7
HAS_RESPONSE_TIME_NSEC = 1 << 8
HAS_RESPONSE_MESSAGE = 1 << 9

NO_DOMAIN = 0xFFFFFFFF


class Columns:
    """The columns of one batch; a worker owns one and uses it for every batch.

    Attributes
    ----------
    u32 : uint32[N_U32, stride]
    u64 : uint64[N_U64, stride]
    fate : uint8[stride]
    """

    __slots__ = ("fate", "rows", "u32", "u64")

    def __init__(self, rows: int = BATCH_ROWS) -> None:
        # A stride that is an odd number of cache lines: with a power of two all fields of a row would fall
        # into the same set of the L1 cache.
        stride = (rows + 31) // 16 * 16
        stride += 16 * (1 - stride // 16 % 2)
        self.rows = rows
        self.u32: U32Array = np.zeros((N_U32, stride), np.uint32)
        self.u64: U64Array = np.zeros((N_U64, stride), np.uint64)
        self.fate: U8Array = np.zeros(stride, np.uint8)
