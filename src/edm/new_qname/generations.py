"""The names in memory: tables that grow, and generations that take turns when the limit is reached.

- The *current* table takes new names (8 bytes a slot, 10 to 27 bytes a name).
- When it is 60 % full one of double size takes over (a large one has been made ready in a thread); every
  batch moves a bounded number of slots, and both are probed until the old one is empty.
- When the limit is reached a new *generation* begins: the current table becomes the *previous* one, the
  previous one is dropped with its file. A name found in the previous generation is carried over into the
  current one. So the names asked for last are remembered, ``limit_entries`` of them and at most twice that.
- When a new generation cannot be begun (disk full) or a larger table not be had, the current table is filled
  up to 85 %, then each new name displaces another one; every ten seconds it is tried again.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import structlog

from edm.columns import I64Array, U8Array, U64Array
from edm.new_qname.log import NameLog
from edm.new_qname.probing import CARRIED, DISPLACED, N_PROGRESS, NEXT, STORED, insert_names
from edm.new_qname.table import Table, Tables, capacity_for
from edm.new_qname.unsaved import Write

GROW_AT = 0.6
LAST_LOAD = 0.8  # a table is large enough if the limit fills it no more than this
FULL_AT = 0.85
PREPARE_AT = 0.54
# From here on making a table or giving it back takes so long that a thread does it.
LARGE_TABLE_SLOTS = 1 << 20
LOG_RECORDS_PER_SLOT = 4  # beyond this (names displaced for days) a log grows no more
RETRY_SECONDS = 10.0
# Slots moved per batch: enough to be done when an eighth of the old table's capacity has come in.
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
        Names forgotten because of the limit (or for want of room) since opening.
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
        self._cursor = 0  # slots of the migrating table moved so far
        self._remaining = 0  # and fingerprints in the others
        self._larger: Future[Table] | None = None  # being made ready
        self._retry_at = 0.0
        self._failure_logged = False
        self._final_capacity = capacity_for(limit_entries, LAST_LOAD)
        self._first_capacity = min(capacity_for(first_slots - 1, 1), self._final_capacity)
        tables = [_load(log, self._first_capacity, self._final_capacity) for log in logs]
        tables[0].state[CARRIED] = min(max(0, logs[0].carried), tables[0].count)
        self.tables = Tables(tables[0], None, tables[1] if len(tables) > 1 else None)
        self._plan()

    @property
    def names(self) -> int:
        """Names in the current generation."""
        return self.tables.current.count + self._remaining

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
            Receives what has to be saved of it.
        """
        progress: I64Array = np.zeros(N_PROGRESS, np.int64)
        stored: U64Array = np.empty(n, np.uint64)
        total = 0
        self._stop = self._needed_at
        displace = False
        while True:
            table = self.tables.current
            names = (hashes, rows, seen, n)
            stop = self._stop - self._remaining
            insert_names(
                table.slots, table.bits, table.state, *names, stop, displace, is_new, stored, progress
            )
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
        if self.tables.migrating is not None:
            self._migrate(MOVE_AT_LEAST + MOVE_PER_NAME * total)
        elif self._larger is None and self.names >= self._prepare_at:
            self._larger = self._chores.submit(Table.populated, 2 * self.tables.current.capacity)

    def _save(
        self, log: NameLog, table: Table, stored: U64Array, progress: I64Array, writes: list[Write]
    ) -> int:
        """Take down what has to be written to a log: what was stored while it was the current one."""
        count = int(progress[STORED])
        progress[STORED] = 0
        if count and log.records < LOG_RECORDS_PER_SLOT * table.capacity:
            writes.append((log, log.reserve(count), stored[:count].tobytes(), table.carried))
        return count

    # --- growing and expiring ---

    def _plan(self) -> None:
        """Set the counts at which something has to be done about the current table."""
        capacity = self.tables.current.capacity
        self._growing = capacity < self._final_capacity
        self._needed_at = int(GROW_AT * capacity) if self._growing else self._limit
        self._full_at = int(FULL_AT * capacity)
        prepares = self._growing and 2 * capacity >= LARGE_TABLE_SLOTS
        self._prepare_at = int(PREPARE_AT * capacity) if prepares else sys.maxsize
        self._stop = self._needed_at

    def _make_room(self) -> bool:
        """Let the kernel go on; return True if new names have to displace others."""
        if self.tables.migrating is not None:
            self._migrate(self.tables.migrating.capacity)
            return False
        full = self.names >= self._full_at
        unready = self._larger is not None and not self._larger.done() and not full
        if not unready and time.monotonic() >= self._retry_at:
            try:
                if self._growing:
                    self._grow()
                else:
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
        return full

    def _grow(self) -> None:
        current, _, previous = self.tables
        prepared, self._larger = self._larger, None
        larger = prepared.result() if prepared is not None else Table(2 * current.capacity)
        larger.state[CARRIED] = current.carried
        self._cursor, self._remaining = 0, current.count
        self.tables = Tables(larger, current, previous)

    def _rotate(self) -> None:
        current, _, previous = self.tables
        # Not at its final size at once: while there are few names, a small table stays in the cache.
        table = Table(self._first_capacity)
        log = NameLog.create(self._directory, self.logs[0].generation + 1, self.logs[0].key)
        log.held = self.held
        if previous is not None:
            self.evicted += max(0, previous.count - current.carried)
            self.retired.append((previous, self.logs[1] if len(self.logs) > 1 else None))
        self.tables = Tables(table, None, current)
        self.logs = [log, self.logs[0]]

    def _migrate(self, slots: int) -> None:
        current, old, previous = self.tables
        assert old is not None
        end = min(self._cursor + slots, old.capacity)
        self._remaining -= current.fill(old.slots[self._cursor : end])
        self._cursor = end
        if end == old.capacity:
            self.tables = Tables(current, None, previous)
            self.retired.append((old, None))

    # --- giving back ---

    def hold(self, held: bool) -> None:
        """Let the logs write nothing, also those of generations to come, or let them go on."""
        self.held = held
        for log in self.logs:
            log.held = held

    def give_back(self, retired: Retired) -> None:
        """Release tables and delete logs. Any thread may call this."""
        for table, log in retired:
            if table.capacity >= LARGE_TABLE_SLOTS:
                self._chores.submit(_discard, table, log)
            else:
                _discard(table, log)

    def close(self) -> None:
        """Wait until the thread has done what it was given; the logs stay open."""
        self._chores.shutdown(wait=True)


def _load(log: NameLog, first_capacity: int, final_capacity: int) -> Table:
    enough = max(final_capacity, capacity_for(log.records, LAST_LOAD))
    table = Table(max(first_capacity, min(enough, capacity_for(log.records, GROW_AT))))
    for fingerprints in log.read():
        table.fill(fingerprints)
    return table


def _discard(table: Table, log: NameLog | None) -> None:
    table.release()
    if log is not None:
        log.discard()


__all__ = ["Generations", "Retired"]
