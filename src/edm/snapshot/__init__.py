"""Snapshots: everything that can change at run time, frozen.

A configuration comes in, one immutable bundle goes out; workers hold it for the length of a batch. A new
reloadable object needs a field in :mod:`edm.snapshot.snapshot` and a loader in :mod:`edm.snapshot.parts`.
The engine and :mod:`edm.reload`, both in layers above, publish snapshots.
"""

from edm.snapshot.cell import SnapshotCell
from edm.snapshot.snapshot import Snapshot

__all__ = ["Snapshot", "SnapshotCell"]
