"""Deciding which names are new, in the order in which their blocks arrived and not in that in which workers finish.

Of several responses about a new name, the first one to arrive makes the event. Workers handle blocks at the same
time, so each hands in the candidates of its block. The worker whose block completes the sequence decides about all
blocks up to there. No worker waits for a block that another one is still processing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edm.kernel.columns import U8Array, U32Array
from edm.stages.new_qname.events import EventBlock
from edm.stages.new_qname.seen.store import Candidates
from edm.stages.new_qname.seen.unsaved import Unsaved


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Candidates of one batch, and their events (``None`` where events are switched off)."""

    candidates: Candidates
    events: EventBlock | None


class Names(Protocol):
    """The part of :class:`edm.stages.new_qname.seen.store.SeenStore` that a pipeline uses; see there."""

    def candidates(self, buf: U8Array, u32: U32Array, fate: U8Array, n: int) -> Candidates:
        """Return the pending rows whose names have not been seen."""

    def remember(self, candidates: Candidates) -> tuple[U8Array, Unsaved]:
        """Remember candidates; tell which of them are new."""


class NewNames:
    """Commits candidates block by block, and emits the events of those that are new.

    Parameters
    ----------
    emit : callable
        Gets the events of each batch that had any, and makes sure that their names are saved
        (:meth:`EventBlock.save_names`); must not wait long.
    """

    def __init__(self, store: Names, emit: Callable[[EventBlock], None]) -> None:
        self.store = store
        self._emit = emit
        self._waiting: dict[int, Sequence[Found]] = {}
        self._next = 1
        self._lock = threading.Lock()

    def settle(self, sequence: int, found: Sequence[Found]) -> None:
        """Hand in what block number ``sequence`` (from 1, each exactly once) may hold of new names."""
        with self._lock:
            self._waiting[sequence] = found
            while self._next in self._waiting:
                due = self._waiting.pop(self._next)
                self._next += 1
                for batch in due:
                    self._commit(batch)

    def _commit(self, batch: Found) -> None:
        is_new, unsaved = self.store.remember(batch.candidates)
        if batch.events is not None and is_new.any():
            self._emit(replace(batch.events.select(is_new != 0), unsaved=unsaved))
        else:
            unsaved.save(at_once=False)  # no worker waits for the disk here
