"""Addresses to listen on or connect to: parsing ``HOST:PORT`` and opening a socket for it.

The forms are those of Go's ``net`` package, which the Go daemon uses: a port may be the name of a service, an empty
port is 0 (the system chooses), and an empty host, ``0.0.0.0`` and ``::`` all mean every address of both families.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from typing import NamedTuple

_DECIMAL = re.compile(r"[0-9]+")
_WILDCARDS = frozenset(("", "0.0.0.0", "::"))
_PORT_MAX = 0xFFFF


class Address(NamedTuple):
    """Host and port; an empty host means all addresses of this machine, an IPv6 address may have a zone."""

    host: str
    port: int


def parse_address(text: str) -> Address:
    """Split ``HOST:PORT`` (``[v6]:PORT``, ``[v6%ZONE]:PORT``, ``:PORT``).

    An IPv4 address that is written as an IPv6 one (``::ffff:192.0.2.1``) becomes an IPv4 address again.

    Raises
    ------
    ValueError
        It has another form; the reason can stand behind the name of a key.
    """
    if any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError("must be HOST:PORT without spaces or control characters")
    host, colon, port = text.rpartition(":")
    if not colon or (text.startswith("[") and text.endswith("]")):
        raise ValueError("must be HOST:PORT, the port is missing")
    return Address(_host(host), _port(port))


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a host as :func:`parse_address` returns it."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def _host(host: str) -> str:
    if host.startswith("["):
        if not host.endswith("]") or "[" in host[1:] or "]" in host[1:-1]:
            raise ValueError("must be HOST:PORT, the brackets around the address do not match")
        host = host[1:-1]
        if ":" in host:
            return _ipv6(host)
    elif ":" in host:
        raise ValueError("must be HOST:PORT, an IPv6 address needs brackets: [ADDRESS]:PORT")
    elif "[" in host or "]" in host:
        raise ValueError("must be HOST:PORT, there is a stray bracket")
    if any(c in host for c in "/@%?#\\"):
        raise ValueError("must be HOST:PORT, not a URL: the host has a character that no host name has")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("must be HOST:PORT, the host is no name of a host") from None
    return host


def _ipv6(host: str) -> str:
    address, percent, zone = host.partition("%")
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        raise ValueError("must be HOST:PORT, there is no IPv6 address between the brackets") from None
    if percent and (not zone or "%" in zone or "/" in zone):
        raise ValueError("must be HOST:PORT, the zone behind the % is no name of a network interface")
    return str(found.ipv4_mapped) if found.ipv4_mapped else host


def _port(port: str) -> int:
    if not port:
        return 0
    if _DECIMAL.fullmatch(port):
        digits = port.lstrip("0") or "0"
        if len(digits) > len(str(_PORT_MAX)) or int(digits) > _PORT_MAX:
            raise ValueError("must have a port between 0 and 65535")
        return int(digits)
    try:
        return socket.getservbyname(port, "tcp")
    except (OSError, UnicodeError, ValueError):
        raise ValueError("must have a port that is a number or the name of a service") from None


def bind(address: Address) -> socket.socket:
    """Return a TCP socket that is bound to ``address`` and does not listen yet.

    Every address of this machine means both families where the system has both, and a name its first IPv4 address,
    as in Go.

    Raises
    ------
    OSError
        It cannot be resolved, or not be bound: see :func:`reason_of`.
    """
    host, port = address
    if host in _WILDCARDS and socket.has_dualstack_ipv6():
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        where: tuple[str, int] | tuple[str, int, int, int] = ("::", port, 0, 0)
    else:
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        sock, where = socket.socket(family, socket.SOCK_STREAM), place  # type: ignore[assignment]
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host not in _WILDCARDS)
        sock.bind(where)
    except BaseException:
        sock.close()
        raise
    return sock


def reason_of(error: OSError) -> str:
    """Return why an address cannot be used, without the address, which Python's own texts repeat."""
    # The numbers of the resolver are negative, and have texts of their own.
    number = error.errno
    return os.strerror(number) if isinstance(number, int) and number > 0 else str(error.strerror or error)


__all__ = ["Address", "bind", "parse_address", "reason_of"]
