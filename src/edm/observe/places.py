"""Limits the connections to an HTTP server, in total and per peer; some are reserved for known good peers."""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from typing import Protocol

MOST = 64
"""Most connections at the same time."""
MOST_BY_PEER = 32
"""Most connections of one peer at the same time."""
RESERVED = 16
"""Places reserved for peers that got a successful answer before."""

_REMEMBERED = 256


class Visitor(Protocol):
    """A connection, as :class:`Places` sees it."""

    peer: str
    answered: bool
    """Whether it has got an answer."""

    @property
    def waiting(self) -> bool:
        """Whether the connection has no complete request that is being answered."""

    def displace(self) -> None:
        """Close at once, to make room for another connection."""


def peer_of(host: str) -> str:
    """Return the peer of an address: an IPv4 address itself, or the /64 prefix of an IPv6 address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Places:
    """The connection places of a server. To be used by one thread only.

    When no place is free, a new connection replaces one without a running request. Connections that never got an
    answer are chosen first, then those of the peer with the most connections, then the oldest.

    Parameters
    ----------
    most, by_peer, reserved : int
        See :data:`MOST`, :data:`MOST_BY_PEER` and :data:`RESERVED`.
    """

    def __init__(self, most: int = MOST, by_peer: int = MOST_BY_PEER, reserved: int = RESERVED) -> None:
        self._most = most
        self._by_peer = by_peer
        self._reserved = reserved
        self._taken: dict[Visitor, None] = {}  # in order of arrival
        self._count: Counter[str] = Counter()
        self._known: OrderedDict[str, None] = OrderedDict()

    def make_room(self, peer: str) -> tuple[bool, bool]:
        """Return whether ``peer`` may open a connection, and whether another one was closed for it."""
        if self._count[peer] >= self._by_peer:
            candidates = [visitor for visitor in self._taken if visitor.peer == peer]
        elif len(self._taken) >= self._most:
            candidates = list(self._taken)
            if peer not in self._known:
                candidates = [visitor for visitor in candidates if visitor.peer not in self._known]
        elif peer not in self._known and self._strangers() >= self._most - self._reserved:
            candidates = [visitor for visitor in self._taken if visitor.peer not in self._known]
        else:
            return True, False
        waiting = [visitor for visitor in candidates if visitor.waiting]
        if not waiting:
            return False, False
        victim = min(waiting, key=lambda visitor: (visitor.answered, -self._count[visitor.peer]))
        self.leave(victim)
        victim.displace()
        return True, True

    def take(self, visitor: Visitor) -> None:
        """Give ``visitor`` the place that :meth:`make_room` allowed."""
        self._taken[visitor] = None
        self._count[visitor.peer] += 1

    def leave(self, visitor: Visitor) -> None:
        """Free a connection's place, if it has one."""
        if visitor in self._taken:
            del self._taken[visitor]
            self._count[visitor.peer] -= 1
            if not self._count[visitor.peer]:
                del self._count[visitor.peer]

    def behaved(self, peer: str) -> None:
        """Remember a peer that got a successful answer."""
        self._known[peer] = None
        self._known.move_to_end(peer)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def misbehaved(self, peer: str) -> None:
        """Forget a peer that sent a malformed request."""
        self._known.pop(peer, None)

    def _strangers(self) -> int:
        return sum(count for peer, count in self._count.items() if peer not in self._known)


__all__ = ["MOST", "MOST_BY_PEER", "RESERVED", "Places", "Visitor", "peer_of"]
