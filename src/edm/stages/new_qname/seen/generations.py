"""The names in memory: tables that grow, and generations that take turns when the limit is reached.

- The *current* table takes new names (8 bytes a slot, 10.7 to 13.4 bytes a name).
- When it is 75 % full it becomes larger by a quarter, where it stands; every batch moves a bounded number of slots.
- When the limit is reached a new *generation* begins: the current table becomes the *previous* one, the
  previous one is dropped with its file. A name found in the previous generation is carried over into the
  current one. So the names asked for last are remembered, ``limit_entries`` of them and at most twice that.
- When a new generation cannot be begun (disk or memory full) the current table is filled up to 85 %, then each
  new name displaces another one; every ten seconds it is tried again.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import structlog

from edm.kernel.columns import I64Array, U8Array, U64Array
from edm.stages.new_qname.seen.log import NameLog
from edm.stages.new_qname.seen.probing import (
    CARRIED,
    DISPLACED,
    N_PROGRESS,
    NEXT,
    STORED,
    Names,
    insert_names,
)
from edm.stages.new_qname.seen.table import MIN_SLOTS, Table, Tables, slots_for
from edm.stages.new_qname.seen.unsaved import Write

GROW_AT = 0.75
FULL_AT = 0.85
GROWTH = 1.25
LAST_GROWTH = 1.5  # at most; at least 1.2
LOADED_LOAD = 0.65  # of a table just read: some names can come before it has to grow
# From here on giving a table back takes so long that a thread does it.
LARGE_TABLE_SLOTS = 1 << 20
LOG_RECORDS_PER_SLOT = 4  # beyond this (names displaced for days) a log grows no more
RETRY_SECONDS = 10.0
# Slots moved per batch: enough to be done when an eighth of the old table's slots has come in, which is before it is
# full again.
MOVE_PER_NAME = 8
MOVE_AT_LEAST = 256

Retired = list[tuple[Table, NameLog | None]]
"""Tables that are no longer asked, and the logs that go with them."""

_log = structlog.get_logger()


class Generations:
    """The tables of two generations and their logs. One thread at a time may call the methods.

    Attributes
    ----------
    tables : Tables
        Replaced as a whole, so any thread may take and ask them at any time.
    logs : list of NameLog
        Of the current and the previous generation; replaced as a whole too.
    evicted : int
        Names forgotten because of the limit (or for lack of room) since opening.
    retired : Retired
        What is to be given back with :meth:`give_back`.
    held : bool
        See :meth:`hold`.

    Raises
    ------
    OSError
        A log cannot be read, or there is no memory.
    """

    def __init__(self, directory: Path, logs: list[NameLog], limit_entries: int, first_slots: int) -> None:
        self.logs = logs
        self.evicted = 0
        self.retired: Retired = []
        self.held = False
        self._directory = directory
        self._limit = limit_entries
        self._chores = ThreadPoolExecutor(1, "seen-names")
        self._retry_at = 0.0
        self._failure_logged = False
        self._final_slots = slots_for(limit_entries, GROW_AT)
        self._first_slots = min(max(first_slots, MIN_SLOTS), self._final_slots)
        tables = [_load(log, self._first_slots, self._final_slots) for log in logs]
        tables[0].state[CARRIED] = min(max(0, logs[0].carried), tables[0].count)
        self.tables = Tables(tables[0], tables[1] if len(tables) > 1 else None)
        self._plan()
        if tables[0].largest < self._final_slots:
            _log.warning(
                "no address space for all seen names that are to be kept",
                directory=str(directory),
                kept=int(GROW_AT * tables[0].largest),
                limit=limit_entries,
            )

    @property
    def names(self) -> int:
        """Names in the current generation."""
        return self.tables.current.count

    def insert(
        self, hashes: U64Array, rows: I64Array, seen: U8Array, n: int, is_new: U8Array, writes: list[Write]
    ) -> None:
        """Remember names that the current generation does not hold.

        Parameters
        ----------
        hashes, rows, seen, n
            As :meth:`Tables.look_up` leaves them.
        is_new : uint8[:]
            Receives 1 at the rows of names that are new.
        writes : list of Write
            Receives the names that have to be saved.
        """
        progress: I64Array = np.zeros(N_PROGRESS, np.int64)
        stored: U64Array = np.empty(n, np.uint64)
        total = 0
        self._stop = self._needed_at
        displace = False
        while True:
            table = self.tables.current
            names = Names(hashes, rows, seen)
            insert_names(table.array, table.state, names, n, self._stop, displace, is_new, stored, progress)
            if progress[NEXT] == n:
                break
            log = self.logs[0]
            displace = self._make_room()
            if table is not self.tables.current:
                # What this batch has stored so far is in the old table now: ask all tables for the rest.
                done = int(progress[NEXT])
                hashes, rows, seen = hashes[done:], rows[done:], seen[done:]
                n = self.tables.look_up(hashes, rows, seen, n - done)
                progress[NEXT] = 0
            if log is not self.logs[0]:
                total += self._save(log, table, stored, progress, writes)
        total += self._save(self.logs[0], self.tables.current, stored, progress, writes)
        self.evicted += int(progress[DISPLACED])
        if self.tables.current.to_move:
            self.tables.current.move(MOVE_AT_LEAST + MOVE_PER_NAME * total)

    def _save(
        self, log: NameLog, table: Table, stored: U64Array, progress: I64Array, writes: list[Write]
    ) -> int:
        """Note the names that have to be written to a log: those stored while it was the current one."""
        count = int(progress[STORED])
        progress[STORED] = 0
        if count and log.records < LOG_RECORDS_PER_SLOT * table.slots:
            writes.append((log, log.reserve(count), stored[:count].tobytes(), table.carried))
        return count

    # --- growing and expiring ---

    def _plan(self) -> None:
        """Set the counts at which the current table has to grow or a new generation has to begin."""
        slots = self.tables.current.slots
        self._needed_at = min(self._limit, int(GROW_AT * slots))
        self._full_at = int(FULL_AT * slots)
        self._stop = self._needed_at

    def _make_room(self) -> bool:
        """Let the kernel go on; return True if new names have to displace others."""
        table = self.tables.current
        if table.to_move:
            table.move(table.to_move if table.count >= self._stop else MOVE_AT_LEAST)
            return False
        if table.slots < (largest := min(self._final_slots, table.largest)):
            table.grow(_next_slots(table.slots, largest))
            self._plan()
            return False
        if time.monotonic() >= self._retry_at:
            try:
                self._rotate()
            except OSError as error:
                self._retry_at = time.monotonic() + RETRY_SECONDS
                if not self._failure_logged:
                    self._failure_logged = True
                    _log.warning(
                        "no room for more seen names; when the present table is full, others are forgotten",
                        directory=str(self._directory),
                        reason=error.strerror,
                    )
            else:
                self._failure_logged = False
                self._plan()
                return False
        self._stop = self._full_at
        return self.names >= self._full_at

    def _rotate(self) -> None:
        current, previous = self.tables
        # Not at its final size at once: while there are few names, a small table stays in the cache.
        table = Table(self._first_slots, self._final_slots)
        log = NameLog.create(self._directory, self.logs[0].generation + 1, self.logs[0].key)
        log.held = self.held
        if previous is not None:
            self.evicted += max(0, previous.count - current.carried)
            self.retired.append((previous, self.logs[1] if len(self.logs) > 1 else None))
        self.tables = Tables(table, current)
        self.logs = [log, self.logs[0]]

    # --- giving back ---

    def hold(self, held: bool) -> None:
        """Let the logs write nothing, also those of generations to come, or let them go on."""
        self.held = held
        for log in self.logs:
            log.held = held

    def give_back(self, retired: Retired) -> None:
        """Release tables and delete logs. Any thread may call this."""
        for table, log in retired:
            if table.slots >= LARGE_TABLE_SLOTS:
                self._chores.submit(_discard, table, log)
            else:
                _discard(table, log)

    def close(self) -> None:
        """Wait until the thread has done what it was given; the logs stay open."""
        self._chores.shutdown(wait=True)


def _next_slots(slots: int, final_slots: int) -> int:
    # No small step at the end: the table would be full before it is moved, and one batch would have to move it all.
    return final_slots if slots * LAST_GROWTH >= final_slots else int(slots * GROWTH)


def _load(log: NameLog, first_slots: int, final_slots: int) -> Table:
    enough = max(final_slots, slots_for(log.records, GROW_AT))
    slots = max(first_slots, min(enough, slots_for(log.records, LOADED_LOAD)))
    table = Table(enough if slots * LAST_GROWTH > enough else slots, enough)
    for fingerprints in log.read():
        table.fill(fingerprints)
    return table


def _discard(table: Table, log: NameLog | None) -> None:
    table.release()
    if log is not None:
        log.discard()


__all__ = ["Generations", "Retired"]
