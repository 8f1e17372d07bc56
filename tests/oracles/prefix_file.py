"""The file of ignored clients read line by line with the standard library's ipaddress."""

from __future__ import annotations

import ipaddress
import re

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LONGEST = 65_535


def parse(content: bytes) -> list[Network] | None:
    """Return the prefixes, or None if any line is none."""
    networks = []
    lines = content.split(b"\n")
    for line in lines if lines[-1] else lines[:-1]:
        if len(line) > _LONGEST:
            return None
        text = line.removesuffix(b"\r").decode("latin-1")
        if not text or text[0] == "#":
            continue
        address, slash, length = text.rpartition("/")
        # ipaddress takes a zone and spaces where none may be.
        if (
            not slash
            or not re.fullmatch("0|[1-9][0-9]*", length)
            or not re.fullmatch("[0-9A-Fa-f:.]+", address)
        ):
            return None
        try:
            networks.append(ipaddress.ip_network(f"{address}/{length}", strict=False))
        except ValueError:
            return None
    return networks


def holds(networks: list[Network], address: bytes) -> bool:
    """Tell whether one of the prefixes holds an address of 4 or 16 bytes."""
    value = ipaddress.ip_address(address)
    return any(value in network for network in networks)
