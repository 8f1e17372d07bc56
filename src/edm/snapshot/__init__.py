"""Snapshots: everything that can change at run time, frozen.

A configuration comes in, one immutable bundle goes out; workers hold it for the length of a batch. A new
reloadable object is a field in :mod:`edm.snapshot.snapshot` and a loader in :mod:`edm.snapshot.parts`.
The code that publishes is above: the engine and :mod:`edm.reload`.
"""

from edm.snapshot.cell import SnapshotCell
from edm.snapshot.snapshot import Snapshot

__all__ = ["Snapshot", "SnapshotCell"]
