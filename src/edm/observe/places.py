"""Who may have a connection to an HTTP server: places, by peer, with some kept for those that behave."""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from typing import Protocol

MOST = 64
"""Connections at once."""
MOST_BY_PEER = 32
"""Connections of one peer at once."""
RESERVED = 16
"""Places for peers that have had a good answer before."""

_REMEMBERED = 256


class Visitor(Protocol):
    """A connection, as far as its place is concerned."""

    peer: str
    answered: bool
    """Whether it has had an answer."""

    @property
    def waiting(self) -> bool:
        """Whether no whole request of it is being answered."""

    def displace(self) -> None:
        """End at once, in favour of another one."""


def peer_of(host: str) -> str:
    """Return what counts as one peer: an IPv4 address, or the /64 of an IPv6 one."""
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
    """The places of a server. For one thread.

    When there is none for a new connection, one that waits gives way to it: first those that have never had an
    answer, first of the peer that has the most, and the oldest first. Connections whose request is being answered
    keep their place.

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
        """Tell whether a new connection of ``peer`` may have a place, and whether another one gave way."""
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
        """Give a place that was made."""
        self._taken[visitor] = None
        self._count[visitor.peer] += 1

    def leave(self, visitor: Visitor) -> None:
        """Take a connection's place back, if it has one."""
        if visitor in self._taken:
            del self._taken[visitor]
            self._count[visitor.peer] -= 1
            if not self._count[visitor.peer]:
                del self._count[visitor.peer]

    def behaved(self, peer: str) -> None:
        """Remember a peer that had a good answer."""
        self._known[peer] = None
        self._known.move_to_end(peer)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def misbehaved(self, peer: str) -> None:
        """Forget a peer that sent what is no request."""
        self._known.pop(peer, None)

    def _strangers(self) -> int:
        return sum(count for peer, count in self._count.items() if peer not in self._known)


__all__ = ["MOST", "MOST_BY_PEER", "RESERVED", "Places", "Visitor", "peer_of"]
