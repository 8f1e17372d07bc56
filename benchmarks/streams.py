"""Streams of dnstap frames to measure with: from the bundled captures, and made up with chosen properties.

A stream is one array of data frames, each behind its length word as in Frame Streams, without control frames.
The generator is vectorised: a frame is a copy of a template (one for each name, address family and direction) into
which client, ports, times and the like are written, so a million frames take about a second.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edm.captures.reading import CaptureReader
from edm.captures.replay import data_frames
from edm.kernel.columns import MESSAGE_TYPE, Columns
from edm.stages.dnstap.decode import decode_frames
from edm.stages.framestream.locate import locate_frames

U8Array = npt.NDArray[np.uint8]
I64Array = npt.NDArray[np.int64]

ROOT = Path(__file__).resolve().parent.parent
CAPTURES = ROOT / "tests" / "captures"
LISTS = CAPTURES / "lists"

CLIENT_QUERY = 5
CLIENT_RESPONSE = 6

PASS_CHARS = 4
"""Characters of a never-seen name that a sender changes with each pass, so that it stays never seen."""

_ALPHABET = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", np.uint8)
_SYLLABLES = [
    "art",
    "bot",
    "cor",
    "dat",
    "eco",
    "fin",
    "gam",
    "hub",
    "kan",
    "lab",
    "med",
    "nor",
    "pix",
    "rod",
    "sol",
    "web",
]
_CONSONANTS = np.frombuffer(b"bcdfghjklmnprstv", np.uint8)
_VOWELS = np.frombuffer(b"aeio", np.uint8)
_ENDINGS = [".", ".", ".", ".", "24.", "-shop.", "media.", "x."]
_ZONES = ["com", "se", "net", "org", "de", "nu", "io", "eu", "info", "co.uk"]
_HOSTS = ["www", "api", "mail", "cdn", "static", "ns1", "login", "m", "edge-01", "_dmarc", "blog", "img"]
_QTYPES = np.array([1, 28, 65, 15, 16, 12, 2, 43, 33, 6])
_QTYPE_SHARES = np.array([50.2, 22.3, 10.1, 4.2, 4.0, 3.0, 2.1, 1.05, 1.05, 2.0]) / 100
_OPT = bytes.fromhex("00002904d0000000000000")
_NOVEL_TEMPLATES = 64
_NOVEL_LABEL = 16  # of which the last PASS_CHARS belong to the sender
_CHUNK = 65536
_SECOND = bytes.fromhex("80a4a7da06")  # varint of 1,800,000,000


@dataclass(frozen=True)
class Parameters:
    """What a made-up stream looks like. The defaults resemble the bundled dnsdist capture.

    Attributes
    ----------
    frames : int
    clients : int
        Client addresses.
    names : int
        Entries of the list of well-known domains; see :func:`well_known_words`.
    other_names : int
        Names not on the list that come again and again.
    known_share : float
        Share of the responses whose name is on the list.
    novelty_share : float
        Share of the responses whose name comes only once, and is not on the list.
    skew : float
        Exponent of the Zipf distribution of names and clients; 0 makes them equally popular.
    ipv6_share : float
        Share of the clients that have an IPv6 address.
    mixed_case_share : float
        Share of the names spelt in capital and small letters at random.
    queries : bool
        Whether each response follows its query.
    padding : int
        Bytes by which each DNS message is longer than usual (EDNS padding, RFC 7830).
    seed : int
    """

    frames: int = 1_000_000
    clients: int = 28_000
    names: int = 36_000
    other_names: int = 12_000
    known_share: float = 0.70
    novelty_share: float = 0.01
    skew: float = 0.65
    ipv6_share: float = 0.30
    mixed_case_share: float = 0.15
    queries: bool = False
    padding: int = 0
    seed: int = 1


@dataclass(frozen=True, eq=False)
class Stream:
    """Data frames with their length words.

    Attributes
    ----------
    data : uint8[:]
    frames : int
    responses : int
        Those that are responses.
    novel : int64[:]
        Where in ``data`` the ``PASS_CHARS`` characters stand that a sender changes with each pass.
    """

    data: U8Array
    frames: int
    responses: int
    novel: I64Array

    def save(self, folder: Path) -> Path:
        """Write the stream into ``folder`` for a sender."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "data.npy", self.data)
        np.save(folder / "novel.npy", self.novel)
        np.save(folder / "counts.npy", np.array([self.frames, self.responses]))
        return folder

    @classmethod
    def load(cls, folder: Path) -> Stream:
        """Read what :meth:`save` has written."""
        frames, responses = np.load(folder / "counts.npy").tolist()
        return cls(np.load(folder / "data.npy"), frames, responses, np.load(folder / "novel.npy"))


def renew(data: U8Array, novel: I64Array, number: int) -> None:
    """Give all never-seen names of a stream another spelling, that of pass ``number``, in place."""
    for position in range(PASS_CHARS):
        data[novel + position] = _ALPHABET[number >> 5 * position & 31]


# Captures


def from_capture(name: str = "dnsdist", *, queries: bool = True) -> Stream:
    """Return the frames of a bundled capture, all of them or responses only."""
    with CaptureReader(str(CAPTURES / name / "input.fstrm.zst")) as reader:
        frames = data_frames(reader)
    if not queries:
        kinds = message_types(b"".join(frames), len(frames))
        # In dnstap all odd types are queries.
        frames = [frame for frame, kind in zip(frames, kinds.tolist(), strict=True) if kind % 2 == 0]
    data = np.frombuffer(bytearray(b"".join(frames)), np.uint8)
    responses = int(np.count_nonzero(message_types(data, len(frames)) % 2 == 0))
    return Stream(data, len(frames), responses, np.zeros(0, np.int64))


def message_types(data: bytes | U8Array, frames: int) -> npt.NDArray[np.uint32]:
    """Return the dnstap message type of each frame of a stream."""
    buf = np.frombuffer(data, np.uint8)
    columns = Columns(frames)
    off, length = columns.u32[0], columns.u32[1]
    count, _, _ = locate_frames(buf, 0, len(buf), len(buf), off, length)
    if count != frames:
        raise ValueError(f"{count} frames found instead of {frames}")
    decode_frames(buf, columns.u32, columns.u64, columns.fate, frames)
    return columns.u32[MESSAGE_TYPE, :frames].copy()


# Lists


def _scatter(numbers: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.uint64]:
    """Permute the numbers below ``2**bits``."""
    mask = np.uint64((1 << bits) - 1)
    half = np.uint64(bits // 2)
    for factor in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F):
        # An odd factor and a shift to the right are both invertible.
        numbers = numbers * np.uint64(factor) & mask
        numbers ^= numbers >> half
    return numbers


@functools.lru_cache(maxsize=4)
def _domains(count: int) -> tuple[str, ...]:
    # Scattered over far more possible names than there are, so that a list is about as hard to compress as one of
    # real names. Neighbours in rank have unlike names.
    pairs = (max(count - 1, 1).bit_length() + 12 + 5) // 6
    numbers = _scatter(np.arange(count, dtype=np.uint64), 6 * pairs)
    letters = np.empty((count, 2 * pairs), np.uint8)
    for pair in range(pairs):
        six = numbers >> np.uint64(6 * pair) & np.uint64(63)
        letters[:, 2 * pair] = _CONSONANTS[six >> np.uint64(2)]
        letters[:, 2 * pair + 1] = _VOWELS[six & np.uint64(3)]
    text = letters.tobytes().decode()
    width = 2 * pairs
    ends = [_ENDINGS[number % 8] + _ZONES[number % 10] for number in range(40)]
    choice = (numbers % np.uint64(40)).tolist()
    return tuple(
        text[at : at + width] + ends[end]
        for at, end in zip(range(0, count * width, width), choice, strict=True)
    )


def well_known_words(names: int) -> list[str]:
    """Return the words of a made-up list: every second one an exact name, the others suffixes."""
    return [f"{'.' * (rank & 1)}{domain}." for rank, domain in enumerate(_domains(names))]


def _known_name(rank: int, names: int) -> str:
    domain = _domains(names)[rank]
    return f"{_HOSTS[rank // 2 % len(_HOSTS)]}.{domain}" if rank & 1 else domain


def _other_name(rank: int) -> str:
    syllables = "".join(_SYLLABLES[rank * 7 >> 4 * digit & 15] for digit in range(5))
    host = f"{_HOSTS[rank % len(_HOSTS)]}." if rank % 3 else ""
    return f"{host}{syllables}x.{_ZONES[rank % 10]}"


# Templates

_BEFORE = b"\x0a\x0cdnsdist-edge\x12\x0ddnsdist 1.7.3\x78\x01\x72"


class _Head(NamedTuple):
    """A dnstap Message up to its DNS message, and where in it what changes stands."""

    data: bytes
    address: int
    port: int
    query_time: int
    response_time: int


def _head(ipv6: bool, response: bool) -> _Head:
    server = bytes.fromhex("20010db8000000000000000000000053" if ipv6 else "c0000235")
    size = bytes([len(server)])
    data = bytearray(b"\x08" + bytes([CLIENT_RESPONSE if response else CLIENT_QUERY]))
    data += b"\x10\x02\x18\x01" if ipv6 else b"\x10\x01\x18\x01"
    data += b"\x22" + size
    address = len(data)
    data += bytes(len(server)) + b"\x2a" + size + server + b"\x30"
    port = len(data)
    data += bytes(3) + b"\x38\x35\x40" + _SECOND + b"\x4d"
    query_time = len(data)
    data += bytes(4)
    response_time = -1
    if response:
        data += b"\x60" + _SECOND + b"\x6d"
        response_time = len(data)
        data += bytes(4)
    return _Head(bytes(data), address, port, query_time, response_time)


_HEADS = {(ipv6, response): _head(ipv6, response) for ipv6 in (False, True) for response in (False, True)}


def wire(name: str) -> bytes:
    """Return the wire form of a name without escapes and without the dot of the root."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def _dns_message(name: bytes, qtype: int, variant: int, response: bool, padding: int) -> bytes:
    flags, answers = 0x0100, b""
    if response:
        flags, answers = (0x8583, b"") if variant % 10 < 3 else (0x8580, b"")
        if variant % 10 >= 6 and qtype in (1, 28):
            size = 4 if qtype == 1 else 16
            answers = b"\xc0\x0c" + qtype.to_bytes(2, "big") + b"\0\1\0\0\1\x2c" + size.to_bytes(2, "big")
            answers += bytes(range(size))
    additional = b""
    if variant % 4 or padding:
        additional = _OPT
        if padding:
            option = b"\0\x0c" + padding.to_bytes(2, "big") + bytes(padding)
            additional = _OPT[:-2] + len(option).to_bytes(2, "big") + option
    counts = bytes((0, 1, 0, bool(answers), 0, 0, 0, bool(additional)))
    question = name + bytes((0, qtype, 0, 1))
    return b"".join((b"\0\0", flags.to_bytes(2, "big"), counts, question, answers, additional))


class _Template(NamedTuple):
    """A frame, and where in it what changes stands: -1 for nowhere."""

    data: bytes
    address: int
    port: int
    query_time: int
    response_time: int
    message_id: int
    novel: int


def _template(
    name: bytes, qtype: int, variant: int, ipv6: bool, response: bool, padding: int, novel: bool
) -> _Template:
    """Lay out a frame with the fields, and in the order, of dnsdist."""
    head = _HEADS[ipv6, response]
    dns = _dns_message(name, qtype, variant, response, padding)
    field = (b"\x72" if response else b"\x52") + _length(len(dns))
    size = len(head.data) + len(field) + len(dns)
    before = _BEFORE + _length(size)
    shift = 4 + len(before)
    message_id = shift + len(head.data) + len(field)
    return _Template(
        b"".join(((len(before) + size).to_bytes(4, "big"), before, head.data, field, dns)),
        shift + head.address,
        shift + head.port,
        shift + head.query_time,
        shift + head.response_time if response else -1,
        message_id,
        message_id + 13 if novel else -1,
    )


def _length(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128, number >> 7])


class _Templates:
    """All templates that a stream needs, end to end in one array."""

    def __init__(self, parameters: Parameters, kinds: I64Array) -> None:
        p = parameters
        rng = np.random.default_rng((p.seed, 1))
        pool = p.names + p.other_names + _NOVEL_TEMPLATES
        qtypes = rng.choice(_QTYPES, pool, p=_QTYPE_SHARES).tolist()
        variants = rng.integers(0, 1 << 16, pool).tolist()
        mixed = (rng.random(pool) < p.mixed_case_share).tolist()
        flips = rng.integers(0, 2, (256, 64), dtype=np.uint8) * 0x20
        made = []
        for kind in kinds.tolist():
            name, ipv6, response = kind >> 2, bool(kind & 2), bool(kind & 1)
            wire = self._name(name, p)
            if mixed[name]:
                wire = _spell(wire, flips[name & 255])
            novel = name >= p.names + p.other_names
            made.append(_template(wire, qtypes[name], variants[name], ipv6, response, p.padding, novel))
        self.data = np.frombuffer(b"".join(t.data for t in made), np.uint8)
        self.size = np.array([len(t.data) for t in made], np.int64)
        self.start = np.cumsum(self.size) - self.size
        self.ipv6 = kinds & 2 != 0
        fields = ("address", "port", "query_time", "response_time", "message_id", "novel")
        self.at = {field: np.array([getattr(t, field) for t in made], np.int64) for field in fields}

    @staticmethod
    def _name(name: int, p: Parameters) -> bytes:
        if name < p.names:
            return wire(_known_name(name, p.names))
        if name < p.names + p.other_names:
            return wire(_other_name(name - p.names))
        return wire("a" * _NOVEL_LABEL + f".x{_ZONES[name % 10]}")


def _spell(wire: bytes, flips: U8Array) -> bytes:
    letters = np.frombuffer(wire, np.uint8).copy()
    flip = np.resize(flips, len(letters))
    small = (letters >= 0x61) & (letters <= 0x7A)
    letters[small] ^= flip[small]
    return letters.tobytes()


# Frames


def _zipf(rng: np.random.Generator, count: int, skew: float, size: int) -> I64Array:
    if count == 0:
        return np.zeros(size, np.int64)
    weights = np.arange(1, count + 1, dtype=np.float64) ** -skew
    cumulated = np.cumsum(weights)
    found: I64Array = np.searchsorted(cumulated, rng.random(size) * cumulated[-1])
    return np.minimum(found, count - 1)


def generate(parameters: Parameters) -> Stream:
    """Return a stream with the given properties; the same for the same parameters."""
    p = parameters
    rng = np.random.default_rng((p.seed, 0))
    exchanges = p.frames // 2 if p.queries else p.frames
    kind = rng.random(exchanges)
    known = kind < p.known_share
    novel = kind >= 1 - p.novelty_share
    name = np.where(
        known, _zipf(rng, p.names, p.skew, exchanges), p.names + _zipf(rng, p.other_names, p.skew, exchanges)
    )
    name[novel] = p.names + p.other_names + rng.integers(0, _NOVEL_TEMPLATES, np.count_nonzero(novel))
    client = _zipf(rng, p.clients, p.skew, exchanges)
    ipv6 = rng.random(p.clients) < p.ipv6_share
    addresses = rng.integers(0, 256, (p.clients, 16), dtype=np.uint8)
    addresses[ipv6, :4] = (0x20, 0x01, 0x0D, 0xB8)
    addresses[~ipv6, 0] = 100
    addresses[~ipv6, 1] = addresses[~ipv6, 1] & 0x3F | 0x40
    values = {
        "address": addresses[client],
        "port": _port_varints(rng, exchanges),
        "query_time": rng.integers(0, 999_999_999, exchanges, dtype=np.uint32).view(np.uint8).reshape(-1, 4),
        "response_time": rng.integers(0, 999_999_999, exchanges, dtype=np.uint32)
        .view(np.uint8)
        .reshape(-1, 4),
        "message_id": rng.integers(0, 256, (exchanges, 2), dtype=np.uint8),
        "novel": _ALPHABET[rng.integers(0, 32, (exchanges, _NOVEL_LABEL), dtype=np.uint8)],
    }
    code = name << 2 | ipv6[client].astype(np.int64) << 1 | 1
    if p.queries:
        code = np.stack((code & ~1, code), axis=1).reshape(-1)
    kinds, which = np.unique(code, return_inverse=True)
    templates = _Templates(p, kinds)
    sizes = templates.size[which]
    ends = np.cumsum(sizes)
    data = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    begins = ends - sizes
    for first in range(0, len(which), _CHUNK):
        _lay_out(data, templates, which, begins, sizes, values, slice(first, first + _CHUNK), 1 + p.queries)
    is_novel = templates.at["novel"][which] >= 0
    positions = begins[is_novel] + templates.at["novel"][which[is_novel]] + _NOVEL_LABEL - PASS_CHARS
    return Stream(data, len(which), exchanges, positions)


def _port_varints(rng: np.random.Generator, count: int) -> U8Array:
    ports = rng.integers(1 << 14, 1 << 16, count)
    return np.stack((ports & 127 | 128, ports >> 7 & 127 | 128, ports >> 14), axis=1).astype(np.uint8)


def _lay_out(
    data: U8Array,
    templates: _Templates,
    which: I64Array,
    begins: I64Array,
    sizes: I64Array,
    values: dict[str, U8Array],
    part: slice,
    frames_per_exchange: int,
) -> None:
    chosen, begin, size = which[part], begins[part], sizes[part]
    end = int(begin[-1] + size[-1])
    start = int(begin[0])
    source = np.repeat(templates.start[chosen] - (begin - start), size)
    source += np.arange(end - start)
    np.take(templates.data, source, out=data[start:end], mode="clip")
    exchange = np.arange(part.start, part.start + len(chosen)) // frames_per_exchange
    for field, content in values.items():
        at = templates.at[field][chosen]
        there = at >= 0
        widths = ((there & ~templates.ipv6[chosen], 4), (there & templates.ipv6[chosen], 16))
        for rows, width in widths if field == "address" else ((there, content.shape[1]),):
            positions = (begin + at)[rows]
            data[positions[:, None] + np.arange(width)] = content[exchange[rows], :width]


def frames_of(stream: Stream) -> Sequence[memoryview]:
    """Return the frames one by one, with their length words; for small streams."""
    view = stream.data.data
    frames = []
    position = 0
    while position < len(view):
        size = 4 + int.from_bytes(view[position : position + 4], "big")
        frames.append(view[position : position + size])
        position += size
    return frames
