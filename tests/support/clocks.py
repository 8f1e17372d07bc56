"""Clocks that a test controls."""

from __future__ import annotations

from edm.rotation.clock import Instant, writable


class Clocks:
    """A wall clock that can be set, and one that only runs; in place of :func:`edm.rotation.clock.now`."""

    def __init__(self, wall: float) -> None:
        self.wall_us = round(wall * 1e6)
        self.running_us = 5_000_000_000

    def __call__(self) -> Instant:
        return Instant(writable(self.wall_us), self.running_us)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.wall_us += round(seconds * 1e6)
        self.running_us += round(seconds * 1e6)

    def set(self, wall: float) -> None:
        """Set the wall clock."""
        self.wall_us = round(wall * 1e6)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or back."""
        self.wall_us += round(seconds * 1e6)
