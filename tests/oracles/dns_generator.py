"""Makes DNS messages from a seed: valid ones with RDATA of every type, and damaged ones from them."""

from __future__ import annotations

from random import Random

from oracles import dns_message

TYPES = (*sorted(dns_message.GRAMMAR), 0, 11, 22, 38, 54, 103, 251, 259, 262, 65280, 65535)
LABEL_BYTES = b"abcXYZ019-_.\\ \"'();@\x00\x1f\x7f\xff"


def number(rng: Random, size: int) -> bytes:
    return rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))


def octets(rng: Random, most: int = 12) -> bytes:
    return rng.randbytes(rng.randrange(most + 1))


def string(rng: Random) -> bytes:
    data = octets(rng)
    return bytes([len(data)]) + data


def name(rng: Random, pointer: bool = True) -> bytes:
    """Return a name that stands on its own or, mostly, ends in a pointer to the first question's name."""
    wire = b""
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        size = rng.choice((1, 2, 3, 8, 63)) if rng.random() < 0.3 else rng.randrange(1, 9)
        wire += bytes([size]) + bytes(rng.choices(LABEL_BYTES, k=size))
    return wire + (b"\xc0\x0c" if pointer and rng.random() < 0.6 else b"\0")


def bitmap(rng: Random) -> bytes:
    windows = sorted(rng.sample(range(256), rng.randrange(4)))
    return b"".join(bytes([w, size := rng.randrange(1, 33)]) + rng.randbytes(size) for w in windows)


def option(rng: Random) -> bytes:
    code = rng.choice((*range(1, 21), 65001))
    data = {
        1: rng.randbytes(18),
        2: rng.randbytes(rng.choice((4, 8))),
        8: b"\0\1" + bytes([rng.randrange(33), rng.randrange(33)]) + octets(rng),
        9: rng.randbytes(rng.choice((0, 4))),
        11: rng.randbytes(rng.choice((0, 2))),
        15: b"\0\x16" + octets(rng),
        18: name(rng, pointer=False) + octets(rng),
        19: b"\1\0" + octets(rng),
    }.get(code, octets(rng))
    return code.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data


def parameters(rng: Random) -> bytes:
    wire = b""
    for key in sorted(rng.sample((*range(10), 100, 65534), rng.randrange(5))):
        value = {
            0: rng.randbytes(2 * rng.randrange(3)),
            1: b"".join(string(rng) for _ in range(rng.randrange(3))),
            2: b"",
            3: rng.randbytes(2),
            4: rng.randbytes(4 * rng.randrange(1, 4)),
            6: b"\x20" + rng.randbytes(16 * rng.randrange(1, 3) - 1),
            8: b"",
        }.get(key, octets(rng))
        wire += key.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value
    return wire


def prefix(rng: Random) -> bytes:
    family = rng.choice((1, 2))
    address = rng.randbytes(rng.randrange((4, 16)[family - 1]))
    address += b"\1" if address else b""
    flag = rng.choice((0, 0x80))
    return bytes([0, family, rng.randrange((33, 129)[family - 1]), flag | len(address)]) + address


def gateway(rng: Random, between: int) -> bytes:
    kind = rng.choice((0, 1, 2, 3, 9, 0x81))
    place = {1: rng.randbytes(4), 2: rng.randbytes(16), 3: name(rng)}.get(kind, b"")
    return bytes([kind]) + rng.randbytes(between) + place


def counted(rng: Random, width: int) -> bytes:
    data = octets(rng)
    return len(data).to_bytes(width, "big") + data


def rdata(rng: Random, rrtype: int) -> bytes:
    """Return acceptable RDATA of the type (empty where the type takes none)."""
    wire = b""
    for kind in dns_message.GRAMMAR.get(rrtype, ["r"]):
        if kind.isdigit():
            wire += number(rng, int(kind))
        elif kind == "n":
            wire += name(rng)
        elif kind == "s":
            wire += string(rng)
        elif kind == "t":
            wire += b"".join(string(rng) for _ in range(rng.randrange(1, 4)))
        elif kind == "r":
            wire += octets(rng)
        elif kind == "b":
            wire += bitmap(rng)
        elif kind == "options":
            wire += b"".join(option(rng) for _ in range(rng.randrange(4)))
        elif kind == "svcb":
            wire += rng.randbytes(2) + name(rng) + parameters(rng)
        elif kind == "prefixes":
            wire += b"".join(prefix(rng) for _ in range(rng.randrange(1, 4)))
        elif kind == "ipseckey":
            wire += rng.randbytes(1) + gateway(rng, 1) + octets(rng)
        elif kind == "amtrelay":
            wire += rng.randbytes(1) + gateway(rng, 0)
        elif kind == "nsec3param":
            wire += rng.randbytes(4) + counted(rng, 1)
        elif kind == "nsec3":
            wire += rng.randbytes(4) + counted(rng, 1) + counted(rng, 1) + bitmap(rng)
        elif kind == "hip":
            tag, key = octets(rng), octets(rng)
            wire += bytes([len(tag), 2]) + len(key).to_bytes(2, "big") + tag + key
            wire += b"".join(name(rng) for _ in range(rng.randrange(3)))
        elif kind == "tkey":
            wire += name(rng) + rng.randbytes(12) + counted(rng, 2) + counted(rng, 2)
        elif kind == "tsig":
            wire += name(rng) + rng.randbytes(8) + counted(rng, 2) + rng.randbytes(4) + counted(rng, 2)
        else:
            raise AssertionError(kind)
    return wire


def record(rrtype: int, data: bytes, owner: bytes = b"\xc0\x0c", ttl: int = 300) -> bytes:
    fixed = rrtype.to_bytes(2, "big") + b"\0\1" + ttl.to_bytes(4, "big") + len(data).to_bytes(2, "big")
    return owner + fixed + data


def header(
    questions: int, answers: int = 0, authority: int = 0, additional: int = 0, flags: int = 0x8180
) -> bytes:
    words = (0x1234, flags, questions, answers, authority, additional)
    return b"".join(word.to_bytes(2, "big") for word in words)


QUESTION = b"\3www\7example\3com\0\0\1\0\1"


def valid_message(rng: Random) -> bytes:
    counts = [1 if rng.random() < 0.8 else rng.randrange(4), *(rng.randrange(3) for _ in range(3))]
    body = b""
    for at in range(counts[0]):
        body += name(rng, pointer=at > 0) + rng.choice((b"\0\1", b"\0\x1c")) + b"\0\1"
    for section in range(3):
        for _ in range(counts[1 + section]):
            rrtype = rng.choice(TYPES)
            if section == 2 and rng.random() < 0.5:
                rrtype = 41
            owner = name(rng, pointer=counts[0] > 0)
            body += record(rrtype, rdata(rng, rrtype), owner, rng.getrandbits(32))
    return header(*counts, flags=rng.getrandbits(16)) + body


def damaged(rng: Random, message: bytes) -> bytes:
    """Return the message with a few octets changed, cut, doubled or put in."""
    data = bytearray(message)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = (
            rng.randrange(len(data)) if len(data) < 13 or rng.random() < 0.1 else rng.randrange(12, len(data))
        )
        kind = rng.randrange(7)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            data[at : at + 1] = bytes([data[at] + rng.choice((1, 255)) & 0xFF])
        elif kind == 4:
            del data[at : at + rng.randrange(1, 5)]
        elif kind == 5:
            data[at:at] = rng.randbytes(rng.randrange(1, 5))
        else:
            data[at : at + 2] = (0xC000 + rng.randrange(len(data) + 2)).to_bytes(2, "big")
        if not data:
            break
    return bytes(data)
