"""Which prefixes hold an address: the oracle's answer, and the kernel's."""

from __future__ import annotations

import ipaddress
import random
from pathlib import Path

from edm.stages.clients import ClientPrefixes, parse_prefix_file
from oracles import prefix_file


def test_lines_are_those_of_the_oracle(tmp_path: Path) -> None:
    chance = random.Random(5)
    lines = ["# first", "", "0.0.0.0/0", "::/0", "::ffff:0:0/96"]
    for _ in range(300):
        bits, width = chance.choice(((32, 8), (128, 24)))
        address = chance.getrandbits(width) << bits - width | chance.getrandbits(4)
        family = ipaddress.IPv4Address if bits == 32 else ipaddress.IPv6Address
        lines.append(f"{family(address)}/{chance.randint(0, bits)}")
    path = tmp_path / "clients"
    path.write_text("\n".join(lines))
    prefixes = parse_prefix_file(path)
    for _ in range(200):
        address = chance.choice(lines[5:]).partition("/")[0]
        packed = ipaddress.ip_address(address).packed
        packed = packed[:-1] + bytes([chance.getrandbits(8)])
        wanted = set()
        for number, line in enumerate(lines, 1):
            networks = prefix_file.parse(line.encode())
            if networks and prefix_file.holds(networks, packed):
                wanted.add(number)
        found = prefixes.holding(packed)
        assert {prefix.line for prefix in found} == wanted
        lengths = [int(prefix.text.partition("/")[2]) for prefix in found]
        assert lengths == sorted(lengths, reverse=True)
        assert all(ipaddress.ip_address(packed) in ipaddress.ip_network(prefix.text) for prefix in found)


def test_no_prefix_holds_anything() -> None:
    assert ClientPrefixes.none().holding(bytes(4)) == []
    assert ClientPrefixes.none().holding(bytes(16)) == []
