"""Files of ignored clients: which are accepted, and which addresses match, compared with ipaddress."""

from __future__ import annotations

import ipaddress
import zlib
from collections.abc import Sequence
from random import Random

import numpy as np

from edm.errors import ListFileError
from edm.kernel import columns as c
from edm.kernel.columns import Columns
from edm.stages.clients import parse_prefix_file
from edm.stages.clients.prefixes import ClientPrefixes
from fuzz.guarded import guard
from fuzz.scratch import scratch_file
from fuzz.target import Target, agree, one_line
from oracles import prefix_file
from oracles.framestream import CAPTURES

_LOOKED_AT = 12
_LINES = (
    b"", b"#", b"# 10.0.0.0/8", b"\r", b"10.1.2.3/8", b"0.0.0.0/0", b"255.255.255.255/32", b"::/0", b"2001:db8::/32",
    b"::ffff:10.0.0.0/104", b"::1.2.3.4/128", b"1:2:3:4:5:6:7::/64", b"fe80::1%eth0/64", b" 10.0.0.0/8", b"10.0.0.0/08",
    b"010.0.0.0/8", b"10.0.0.1", b"::/129", b"10.0.0.0/33", b"1:2:3:4:5:6:7:8/127", b"10.0.0.0/8\r\r",
)  # fmt: skip


def _candidates(networks: list[prefix_file.Network], content: bytes) -> list[bytes]:
    rng = Random(zlib.crc32(content))
    found = {b"\0" * 4, b"\xff" * 4, b"\0" * 16, b"\xff" * 16, rng.randbytes(4), rng.randbytes(16)}
    for network in rng.sample(networks, min(_LOOKED_AT, len(networks))):
        size = network.max_prefixlen // 8
        for edge in (int(network.network_address), int(network.broadcast_address)):
            for value in (edge - 1, edge, edge + 1, edge ^ 1 << rng.randrange(8 * size)):
                if 0 <= value < 1 << 8 * size:
                    found.add(value.to_bytes(size, "big"))
        if size == 4:
            found.add(bytes(10) + b"\xff\xff" + network.network_address.packed)
    return sorted(found)


def fates(prefixes: ClientPrefixes, addresses: Sequence[bytes]) -> list[int]:
    """Run the kernel over addresses that stand directly one behind the other."""
    n = len(addresses)
    columns = Columns(n)
    lengths = np.fromiter(map(len, addresses), np.int64, n)
    columns.u32[c.QUERY_ADDRESS_LEN, :n] = lengths
    columns.u32[c.QUERY_ADDRESS_OFF, :n] = np.cumsum(lengths) - lengths
    columns.u32[c.PRESENT, :n] = c.HAS_QUERY_ADDRESS
    buf = np.frombuffer(bytearray(b"".join(addresses)), np.uint8)
    prefixes.filter(guard(buf), guard(columns.u32), guard(columns.fate), n)
    return columns.fate[:n].tolist()


class PrefixesTarget(Target):
    name = "prefixes"
    batch = 64
    longest = 1500

    def corpus(self) -> list[bytes]:
        return [
            (CAPTURES / "lists" / "ignored-clients").read_bytes(),
            b"\n".join(_LINES[:12]),
            b"\n".join(_LINES[4:9]),
        ]

    def generate(self, rng: Random) -> bytes:
        lines = []
        near = rng.getrandbits(128)
        for _ in range(rng.choice((0, 1, 2, 3, 8, 40))):
            if rng.random() < 0.06:
                lines.append(rng.choice(_LINES))
                continue
            bits = rng.choice((32, 128))
            length = rng.randrange(bits + 1)
            # Some lie within each other or side by side.
            value = (near ^ rng.getrandbits(rng.choice((4, 12, 128)))) % (1 << bits)
            kind = ipaddress.IPv4Address if bits == 32 else ipaddress.IPv6Address
            text = kind(value).exploded if rng.random() < 0.2 else str(kind(value))
            lines.append(f"{text}/{length}".encode())
        return rng.choice((b"\n", b"\n", b"\r\n")).join(lines) + rng.choice((b"", b"\n"))

    def check(self, inputs: Sequence[bytes]) -> list[bool]:
        return [self._one(data) for data in inputs]

    def _one(self, data: bytes) -> bool:
        networks = prefix_file.parse(data)
        path = scratch_file("clients", data)
        try:
            prefixes = parse_prefix_file(path)
        except ListFileError as error:
            one_line(error, f"{path}: line ")
            agree(data, None, networks)
            return False
        agree(data, len(prefixes), None if networks is None else len(networks))
        assert networks is not None
        addresses = _candidates(networks, data)
        held = [c.CLIENT_IGNORED if prefix_file.holds(networks, a) else c.PENDING for a in addresses]
        agree(data, fates(prefixes, addresses), held)
        return True


__all__ = ["PrefixesTarget", "fates"]
