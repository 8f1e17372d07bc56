"""The limits of the disk budget, and how many bytes are missing to meet them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_NO_BOUND = 1 << 62


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds in bytes; 0 is none.

    Attributes
    ----------
    total : int
        For everything stored.
    free : int
        To stay free on each file system.
    """

    total: int
    free: int

    @property
    def total_of_sessions(self) -> int:
        """Bytes that all data may take before session data is removed."""
        return self.total - self.total // 16

    @property
    def free_of_rest(self) -> int:
        """Free bytes below which other data than session data is removed too."""
        return self.free // 2


@dataclass
class Balance:
    """What is stored and what is free while things are being removed.

    Attributes
    ----------
    total : int
        Bytes of everything stored.
    free : dict[int, int]
        Free bytes on each device.
    """

    total: int
    free: dict[int, int]

    def lacking(self, device: int, most: int, least_free: int) -> int:
        """Return how many bytes must be removed on ``device``; a limit of 0 means none."""
        over = self.total - most if most else 0
        short = least_free - self.free[device] if least_free else 0
        return max(0, over, short)

    def lacks_rest(self, devices: Iterable[int], limits: Limits) -> bool:
        """Return whether more than session data must be removed on any of the devices."""
        return any(self.lacking(device, limits.total, limits.free_of_rest) for device in devices)

    def room_for_sessions(self, device: int, limits: Limits) -> int:
        """Return how many bytes of session data may come; less than 0 if there are too many."""
        room = self.free[device] - limits.free if limits.free else _NO_BOUND
        return min(room, limits.total_of_sessions - self.total) if limits.total else room

    def removed(self, device: int, size: int) -> None:
        """Take note that ``size`` bytes on ``device`` are gone, or have come if it is less than 0."""
        self.total -= size
        self.free[device] += size


__all__ = ["Balance", "Limits"]
