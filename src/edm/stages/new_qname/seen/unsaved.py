"""Names that are in memory but not yet in the store's file, since their events must be stored first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edm.stages.new_qname.seen.log import KEY_BYTES, NameLog

Write = tuple[NameLog, int, bytes, int]
"""Log, offset of the room reserved there, fingerprints, and how many in the log were carried over."""


@dataclass(slots=True, eq=False)
class Unsaved:
    """What a batch added to the store of seen names, for one thread to :meth:`save`.

    If the process is killed before that, it forgets the names, and they are reported when they are asked for again.
    So names are saved after their events are stored safely, and before the events can be sent.

    Attributes
    ----------
    key : bytes
        That of the fingerprints.
    writes : list of Write
    then : callable
        Called when the logs have got the names; with True if they are to be written at once.
    """

    key: bytes
    writes: list[Write]
    then: Callable[[bool], None]

    def save(self, *, at_once: bool = True) -> None:
        """Save the names; again does nothing.

        Parameters
        ----------
        at_once : bool
            Hand them to the operating system. Without this they are written soon, and the caller does not wait
            for the disk (unless every batch is to be synced).
        """
        writes, self.writes = self.writes, []
        for log, offset, fingerprints, carried in writes:
            log.append(offset, fingerprints, carried)
        if writes:
            self.then(at_once)


def to_record(unsaved: Sequence[Unsaved]) -> bytes:
    """Return what :meth:`edm.stages.new_qname.seen.store.SeenStore.recall` needs to remember these names.

    To be stored in one transaction with the events of the names: a process that is killed between that
    transaction and :meth:`Unsaved.save` then remembers them at its next start.
    """
    fingerprints = [write[2] for names in unsaved for write in names.writes]
    return unsaved[0].key + b"".join(fingerprints) if fingerprints else b""


def from_record(record: bytes, key: bytes) -> bytes:
    """Return the fingerprints of a record; none if they were made with another key or the record is damaged."""
    if record[:KEY_BYTES] != key or (len(record) - KEY_BYTES) % 8:
        return b""
    return record[KEY_BYTES:]


__all__ = ["Unsaved", "Write", "from_record", "to_record"]
