"""Snapshots: everything that can change at run time, frozen, and changed only by publishing the next one."""

from edm.snapshot.cell import SnapshotCell
from edm.snapshot.snapshot import Snapshot

__all__ = ["Snapshot", "SnapshotCell"]
