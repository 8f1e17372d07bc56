"""Finds messages at which the broker ends the connection, and sets them aside if it accepts others.

Some brokers end the connection at a message that they do not accept, for example one that is too large, each time it
is sent. That one message would block all others for ever. So after a connection that ended with unconfirmed messages,
these are sent one at a time. If the connection ends several times with the same message alone on the wire, that
message waits and later ones are tried. If one of them arrives, the waiting message gets a last chance on the same
connection; if the connection ends again, it is set aside. If none arrives, the broker is the cause, and no message is
set aside.
"""

from __future__ import annotations

from hashlib import blake2b

STRIKES = 3
"""Lost connections with a message alone on the wire, after which other messages are tried instead."""
FIRST_LIMIT = 8
MOST_LIMIT = 512
"""Waiting messages, at first and at most, above which the broker counts as the cause."""

OF_THE_MESSAGE = frozenset((0x95, 0x99))
"""Reason codes that are due to the message (MQTT 5.0, 2.4): packet too large, payload format invalid."""
PERHAPS_OF_THE_MESSAGE = frozenset((0x80, 0x81, 0x82, 0x83)) | OF_THE_MESSAGE
"""Reason codes that may be due to it: unspecified, malformed packet, protocol error, implementation specific."""


class Suspects:
    """Tracks, over all connections, the messages that may be the cause of lost connections.

    Attributes
    ----------
    careful : int
        Number of messages that are still to be sent one by one.
    """

    def __init__(self) -> None:
        self.careful = 0
        self._limit = FIRST_LIMIT
        self._strikes: dict[bytes, int] = {}
        self._waiting: set[bytes] = set()
        self._last_chance: bytes | None = None
        self._found: dict[bytes, str] = {}

    def waits(self, message: bytes) -> bool:
        """Return whether a message has to wait until others have been tried."""
        return bool(self._waiting) and _digest(message) in self._waiting

    def found(self, message: bytes) -> str | None:
        """Return why a message is to be set aside, or None; may be called once for each message."""
        return self._found.pop(_digest(message), None) if self._found else None

    def confirmed(self, messages: int) -> None:
        """Record that further messages have arrived, including the one on its last chance if it was sent."""
        self.careful = max(0, self.careful - messages)
        if self._last_chance is not None:
            self._strikes.pop(self._last_chance, None)
            self._last_chance = None

    def last_chance(self, message: bytes) -> None:
        """Record that a waiting message is sent alone, after the broker has accepted another one."""
        self._last_chance = _digest(message)
        self._waiting.discard(self._last_chance)
        self._limit = FIRST_LIMIT
        self.careful = max(1, self.careful)

    def lost(self, messages: list[bytes], reason: str) -> bool:
        """Record that the broker ended a connection with these messages on the wire, the oldest first.

        Returns whether the broker is the cause, because it accepts no message.
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
        self.careful = max(self.careful, 2)  # the next message is sent alone
        if len(self._waiting) < self._limit:
            return False
        self._limit = min(MOST_LIMIT, 2 * self._limit)
        self._waiting.clear()
        self._strikes.clear()
        return True

    def forget_last_chance(self) -> None:
        """Record that a connection ended for a reason that is not due to a message."""
        if self._last_chance is not None:
            self._waiting.add(self._last_chance)
            self._last_chance = None


def _digest(message: bytes) -> bytes:
    return blake2b(message, digest_size=16).digest()


__all__ = ["OF_THE_MESSAGE", "PERHAPS_OF_THE_MESSAGE", "STRIKES", "Suspects"]
