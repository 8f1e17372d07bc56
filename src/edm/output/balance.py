"""The bounds of the disk budget, and what they lack at some moment."""

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
        """What everything together may take before session data give way."""
        return self.total - self.total // 16

    @property
    def free_of_rest(self) -> int:
        """Free bytes below which the rest gives way as well."""
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
        """Return how much of what lies on ``device`` has to go; a bound of 0 is none."""
        over = self.total - most if most else 0
        short = least_free - self.free[device] if least_free else 0
        return max(0, over, short)

    def lacks_rest(self, devices: Iterable[int], limits: Limits) -> bool:
        """Tell whether more than session data has to give way on any of the devices."""
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
