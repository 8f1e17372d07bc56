"""What changes between two states: the same frames are run through both, and their fates compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edm.config import Config
from edm.config.message_types import parse_message_types
from edm.errors import EdmError
from edm.input.blocks import Block
from edm.kernel.columns import (
    BATCH_ROWS,
    CLIENT_IGNORED,
    N_FATES,
    NO_DOMAIN,
    QUESTION_IGNORED,
    WELL_KNOWN,
    I64Array,
)
from edm.observe.ledger import FATE_NAMES
from edm.rotation.interval import Interval
from edm.snapshot import Snapshot
from edm.snapshot.parts import load_clients, make_table, open_ignored_names, open_well_known
from edm.stages.clients import ClientPrefixes
from edm.stages.domains import NO_MATCH, DomainTable
from edm.stages.domains.dawg.dawg import Dawg
from edm.stages.pseudonyms.cryptopan import Pseudonymiser
from edm.trial.bench import Bench, NoNames, Verdicts

VERSION = 1
MOST_ENTRIES = 20
"""List entries in a report."""

_NONE = -1
_LISTS = {
    CLIENT_IGNORED: "ignored_client_ips",
    QUESTION_IGNORED: "ignored_question_names",
    WELL_KNOWN: "well_known_domains",
}
_ADDRESSES_KEPT = 1 << 16


@dataclass(frozen=True)
class State:
    """What the fate of a frame depends on.

    Attributes
    ----------
    message_types : tuple of int
        See :class:`edm.pipeline.Pipeline`.
    """

    config: Config
    clients: ClientPrefixes
    ignored_names: DomainTable | None
    well_known: DomainTable
    message_types: tuple[int, ...]

    @classmethod
    def of(cls, snapshot: Snapshot, started: Config) -> State:
        """Return the state of a running engine; ``started`` is the configuration of its start."""
        types = tuple(parse_message_types(started.input_message_types))
        return cls(snapshot.config, snapshot.clients, snapshot.ignored_names, snapshot.well_known, types)

    @classmethod
    def load(cls, config: Config) -> State:
        """Load the state that a start with this configuration would have.

        Raises
        ------
        EdmError
            A list file cannot be used.
        """
        return cls(
            config,
            load_clients(config),
            make_table(open_ignored_names(config)),
            DomainTable.build(open_well_known(config)),
            tuple(parse_message_types(config.input_message_types)),
        )

    def reloaded(self, new: Config) -> tuple[State, list[str]]:
        """Return the state after a reload of ``new``, and a line for each part that would keep its old state.

        A list with the same content stays the same object, as in a reload.
        """
        problems: list[str] = []

        def tried(work: Callable[[], Any], old: Any) -> Any:
            try:
                return work()
            except EdmError as error:
                problems.append(str(error))
                return old

        after = replace(
            self,
            config=new,
            clients=tried(lambda: load_clients(new), self.clients),
            ignored_names=tried(
                lambda: _changed(open_ignored_names(new), self.ignored_names), self.ignored_names
            ),
            well_known=tried(lambda: _changed(open_well_known(new), self.well_known), self.well_known),
        )
        return after, problems

    def bench(self) -> Bench:
        """Return a pipeline under this state."""
        snapshot = Snapshot(
            generation=0,
            config=self.config,
            # No fate depends on the key, and rows are thrown away.
            pseudonyms=Pseudonymiser(bytes(32), 1),
            clients=self.clients,
            ignored_names=self.ignored_names,
            well_known=self.well_known,
            interval=Interval.begin(1, 0, 1, 1),
            sessions=not self.config.disable_session_files,
            events=False,
        )
        return Bench(snapshot, NoNames(), self.message_types)


def _changed(dawg: Dawg | None, old: DomainTable | None) -> DomainTable | None:
    if dawg is not None and old is not None and dawg.digest() == old.digest:
        return old
    return make_table(dawg)


class Comparison:
    """Counts what becomes of frames under two states.

    Attributes
    ----------
    frames : int
        Frames compared so far.
    """

    def __init__(self, before: State, after: State) -> None:
        self.frames = 0
        self._states = before, after
        self._benches = before.bench(), after.bench()
        self._fates: tuple[I64Array, I64Array] = np.zeros(N_FATES, np.int64), np.zeros(N_FATES, np.int64)
        self._changes: Counter[tuple[int, int]] = Counter()
        # By 0 for the state before or 1 for the one after, both fates, and the entry that decided in that state.
        self._entries: Counter[tuple[int, int, int, int]] = Counter()
        self._lines: tuple[dict[bytes, int], dict[bytes, int]] = {}, {}

    def add(self, block: Block) -> None:
        """Run all frames of a block through both states; the block stays as it is."""
        for first in range(0, block.frames, BATCH_ROWS):
            n = min(BATCH_ROWS, block.frames - first)
            sides = [bench.run(block, first, n) for bench in self._benches]
            self.frames += n
            for side, verdicts in enumerate(sides):
                self._fates[side][:] += np.bincount(verdicts.fate, minlength=N_FATES)
            rows = np.flatnonzero(sides[0].fate != sides[1].fate)
            if len(rows):
                self._count(block, sides, rows)

    def _count(self, block: Block, sides: Sequence[Verdicts], rows: I64Array) -> None:
        fates = [verdicts.fate[rows].astype(np.int64) for verdicts in sides]
        for (old, new), count in _tally(*fates):
            self._changes[old, new] += count
        for side, verdicts in enumerate(sides):
            entries = self._deciding(side, block, verdicts, rows)
            decided = np.flatnonzero(entries != _NONE)
            for (old, new, entry), count in _tally(*(each[decided] for each in (*fates, entries))):
                self._entries[side, old, new, entry] += count

    def _deciding(self, side: int, block: Block, verdicts: Verdicts, rows: I64Array) -> I64Array:
        """Return the entry that decided about each row: its index, or its line for a prefix; else -1."""
        fate = verdicts.fate[rows]
        found = verdicts.match[rows] != NO_MATCH
        named = ((fate == QUESTION_IGNORED) | (fate == WELL_KNOWN)) & found
        named &= verdicts.entry[rows] != NO_DOMAIN
        entries = np.where(named, verdicts.entry[rows].astype(np.int64), _NONE)
        for place in np.flatnonzero(fate == CLIENT_IGNORED).tolist():
            row = rows[place]
            start = int(verdicts.address_off[row])
            address = bytes(block.view[start : start + int(verdicts.address_len[row])])
            entries[place] = self._line(side, address)
        return entries

    def _line(self, side: int, address: bytes) -> int:
        known = self._lines[side]
        if address not in known:
            if len(known) == _ADDRESSES_KEPT:
                known.clear()
            known[address] = self._states[side].clients.holding(address)[0].line
        return known[address]

    def document(self) -> dict[str, Any]:
        """Return the result as plain values: names in it come from the lists, never from the frames."""
        changed = sum(self._changes.values())
        ranked = sorted(self._changes.items(), key=lambda item: (-item[1], item[0]))
        heavy = sorted(self._entries.items(), key=lambda item: (-item[1], item[0]))
        return {
            "version": VERSION,
            "frames": self.frames,
            "changed": changed,
            "before": self._named(0),
            "after": self._named(1),
            "changes": [
                {
                    "from": FATE_NAMES[old],
                    "to": FATE_NAMES[new],
                    "frames": count,
                    "share": count / self.frames,
                }
                for (old, new), count in ranked
            ],
            "entries": [self._shown(key, count) for key, count in heavy[:MOST_ENTRIES]],
            "entries_beyond": max(0, len(heavy) - MOST_ENTRIES),
        }

    def _named(self, side: int) -> dict[str, int]:
        return {FATE_NAMES[fate]: int(count) for fate, count in enumerate(self._fates[side]) if count}

    def _shown(self, key: tuple[int, int, int, int], frames: int) -> dict[str, Any]:
        side, old, new, entry = key
        fate = (old, new)[side]
        state = self._states[side]
        table = state.well_known if fate == WELL_KNOWN else state.ignored_names
        shown: str = f"line {entry}"
        if fate != CLIENT_IGNORED:
            assert table is not None
            shown = table.word(entry)
        return {
            "list": _LISTS[fate],
            "entry": shown,
            "state": ("before", "after")[side],
            "from": FATE_NAMES[old],
            "to": FATE_NAMES[new],
            "frames": frames,
        }


def _tally(*columns: I64Array) -> list[tuple[tuple[int, ...], int]]:
    """Return each combination of values in rows of the columns, and how often it occurs."""
    if not len(columns[0]):
        return []
    rows, counts = np.unique(np.stack(columns, axis=1), axis=0, return_counts=True)
    return list(zip(map(tuple, rows.tolist()), counts.tolist(), strict=True))


__all__ = ["MOST_ENTRIES", "VERSION", "Comparison", "State"]
