"""Messages at which the broker ends the connection: found one by one, and set aside when it takes others.

A broker that cannot bear a message (too large for it, say) ends the connection, and does so again whenever the message
is sent again: one message would hold up all others for ever. After a connection that ended with something on the wire,
only one message at a time is sent, until what was under way then has arrived. If the connection ends several times
with the same message alone on the wire, that message waits and those after it are tried. When one of them arrives, the
broker takes messages, and the one that waits gets its last chance on the same connection: if that ends again, it is set
aside. When none arrives, it is the broker, and nothing is given up.
"""

from __future__ import annotations

from hashlib import blake2b

STRIKES = 3
"""Connections that must end with a message alone on the wire before others are tried instead."""
FIRST_LIMIT = 8
MOST_LIMIT = 512
"""Messages that wait at a time, at first and at most, before the broker is held to be the cause."""

OF_THE_MESSAGE = frozenset((0x95, 0x99))
"""Reasons that are the message's own (MQTT 5.0, 2.4): packet too large, payload format invalid."""
PERHAPS_OF_THE_MESSAGE = frozenset((0x80, 0x81, 0x82, 0x83)) | OF_THE_MESSAGE
"""Those that may be: unspecified, malformed packet, protocol error, implementation specific."""


class Suspects:
    """What is known of messages that may be the reason for lost connections, over all connections.

    Attributes
    ----------
    careful : int
        So many messages are still to be sent one by one.
    """

    def __init__(self) -> None:
        self.careful = 0
        self._limit = FIRST_LIMIT
        self._strikes: dict[bytes, int] = {}
        self._waiting: set[bytes] = set()
        self._last_chance: bytes | None = None
        self._found: dict[bytes, str] = {}

    def waits(self, message: bytes) -> bool:
        """Tell whether a message is to wait until others have been tried."""
        return bool(self._waiting) and _digest(message) in self._waiting

    def found(self, message: bytes) -> str | None:
        """Return why a message is to be set aside, None if it is not; asked once for each."""
        return self._found.pop(_digest(message), None) if self._found else None

    def confirmed(self, messages: int) -> None:
        """Take note that so many messages have arrived; the one with its last chance is among them if it was sent."""
        self.careful = max(0, self.careful - messages)
        if self._last_chance is not None:
            self._strikes.pop(self._last_chance, None)
            self._last_chance = None

    def last_chance(self, message: bytes) -> None:
        """Take note that a message that waited is sent, alone, to a broker that has just taken another."""
        self._last_chance = _digest(message)
        self._waiting.discard(self._last_chance)
        self._limit = FIRST_LIMIT
        self.careful = max(1, self.careful)

    def lost(self, messages: list[bytes], reason: str) -> bool:
        """Take note of a connection that the broker ended with these messages on the wire, oldest first.

        Returns whether it is the broker that takes nothing.
        """
        last_chance, self._last_chance = self._last_chance, None
        if not messages:
            return False
        self.careful = max(self.careful, len(messages))
        if len(messages) > 1:
            return False
        digest = _digest(messages[0])
        if digest == last_chance:
            self._strikes.pop(digest, None)
            self._found[digest] = reason
            return False
        self._strikes[digest] = self._strikes.get(digest, 0) + 1
        if self._strikes[digest] < STRIKES:
            return False
        self._waiting.add(digest)
        self.careful = max(self.careful, 2)  # the next one must prove itself alone
        if len(self._waiting) < self._limit:
            return False
        self._limit = min(MOST_LIMIT, 2 * self._limit)
        self._waiting.clear()
        self._strikes.clear()
        return True

    def forget_last_chance(self) -> None:
        """Take note of a connection that ended for a reason that lies in no message."""
        if self._last_chance is not None:
            self._waiting.add(self._last_chance)
            self._last_chance = None


def _digest(message: bytes) -> bytes:
    return blake2b(message, digest_size=16).digest()


__all__ = ["OF_THE_MESSAGE", "PERHAPS_OF_THE_MESSAGE", "STRIKES", "Suspects"]
