"""The store of seen names: which question names have been reported before.

A name is remembered by the 64-bit fingerprint of its wire form, so a new name is taken for a seen one with
probability ``N / 2**64`` when ``N`` names are stored: 5.4e-12 per name at 10**8 names. The expected number of
names ever missed while 10**8 names are collected is 2.7e-4. The other direction (a name reported twice)
happens only to names that were forgotten on purpose or in a power cut.

Shape of the store:

- The *current* table takes new names, in memory (8 bytes a slot, 10 to 27 bytes a name), and each is appended
  to a file as well. At opening the file is read into a table, some 10 million names a second.
- When the table is 60 % full one of double size takes over (a large one has been made ready in a thread); every
  batch moves a bounded number of slots, and both are probed until the old one is empty.
- When the limit is reached a new *generation* begins: the current table becomes the *previous* one, the
  previous one is dropped with its file. A name found in the previous generation is carried over into the
  current one. So the names asked for last are remembered, ``limit_entries`` of them and at most twice that.
- When a new generation cannot be begun (disk full) or a larger table not be had, the current table is filled
  up to 85 %, then each new name displaces another one; every ten seconds it is tried again.

A process may be killed at any moment. A name is with the operating system before :meth:`SeenStore.commit` reports it
as new; with :meth:`SeenStore.remember` the caller says when that is to be (:mod:`edm.new_qname.unsaved`).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

from edm.columns import I64Array, U8Array, U32Array, U64Array
from edm.errors import StoreError
from edm.new_qname.folder import lock_folder, open_logs
from edm.new_qname.log import NameLog
from edm.new_qname.probing import CARRIED, DISPLACED, N_PROGRESS, NEW, NEXT, STORED, insert_names
from edm.new_qname.siphash import hash_names
from edm.new_qname.table import Table, Tables, capacity_for
from edm.new_qname.unsaved import Unsaved, Write, from_record

FOLDER_NAME = "seen-names"
"""Name of the store's folder within the data directory."""

FIRST_SLOTS = 1 << 17
GROW_AT = 0.6
LAST_LOAD = 0.8  # a table is large enough if the limit fills it no more than this
FULL_AT = 0.85
PREPARE_AT = 0.54
LARGE_TABLE_SLOTS = (
    1 << 20
)  # from here on making a table or giving it back takes so long that a thread does it
LOG_RECORDS_PER_SLOT = 4  # beyond this (names displaced for days) a log grows no more
RETRY_SECONDS = 10.0
# Slots moved per batch: enough to be done when an eighth of the old table's capacity has come in.
MOVE_PER_NAME = 8
MOVE_AT_LEAST = 256

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Names of a batch that had not been seen when they were looked up; for one :meth:`SeenStore.remember`.

    Attributes
    ----------
    rows : int64[k]
        Their rows in the batch.
    hashes, seen, tables
        What :meth:`SeenStore.remember` needs.
    """

    rows: I64Array
    hashes: U64Array
    seen: U8Array
    tables: Tables | None


class SeenStore:
    """Names seen before, persistent, for any number of threads.

    Attributes
    ----------
    sync : bool
        Make what is saved durable at once. May be changed at any time.
    evicted : int
        Names forgotten because of the limit (or for want of room) since opening.
    """

    def __init__(
        self, directory: Path, lock_fd: int, logs: list[NameLog], limit_entries: int, first_slots: int
    ) -> None:
        self.directory = directory
        self.limit_entries = limit_entries
        self.sync = False
        self.evicted = 0
        self._lock_fd = lock_fd
        self._lock = threading.Lock()
        self._chores = ThreadPoolExecutor(1, "seen-names")
        self._writer = ThreadPoolExecutor(1, "seen-names-log")
        self._writing: Future[None] | None = None
        self._held = False
        self._logs = logs  # newest first: of the current and the previous generation
        self._cursor = 0  # slots of the migrating table moved so far
        self._remaining = 0  # and fingerprints in the others
        self._larger: Future[Table] | None = None  # being made ready
        self._retry_at = 0.0
        self._failure_logged = False
        self._retired: list[tuple[Table, NameLog | None]] = []
        self._closed = False
        key = logs[0].key
        self._k0 = np.uint64(int.from_bytes(key[:8], "little"))
        self._k1 = np.uint64(int.from_bytes(key[8:], "little"))
        self._final_capacity = capacity_for(limit_entries, LAST_LOAD)
        self._first_capacity = min(capacity_for(first_slots - 1, 1), self._final_capacity)
        tables = [_load(log, self._first_capacity, self._final_capacity) for log in logs]
        tables[0].state[CARRIED] = min(max(0, logs[0].carried), tables[0].count)
        self._tables = Tables(tables[0], None, tables[1] if len(tables) > 1 else None)
        self._plan()

    @classmethod
    def open(
        cls, directory: Path | str, *, limit_entries: int, sync: bool, first_slots: int = FIRST_SLOTS
    ) -> SeenStore:
        """Open the store in a folder, or make one there.

        Parameters
        ----------
        directory : path
            The store's own folder (``FOLDER_NAME`` in the data directory).
        limit_entries : int
            Names that are remembered before the oldest are forgotten.
        sync : bool
            See :attr:`sync`.
        first_slots : int
            Size of the table that a new store begins with; rounded up to a power of two.

        Raises
        ------
        StoreError
            Another process uses the folder, it cannot be written, there is no room for the store, or it holds
            a file of another format version.
        """
        directory = Path(directory)
        if limit_entries <= 0:
            raise StoreError(
                f"{directory}: the number of seen names to keep must be positive, not {limit_entries}"
            )
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            lock_fd = lock_folder(directory)
        except OSError as error:
            raise StoreError(f"{directory}: cannot keep seen names here: {error.strerror}") from error
        logs: list[NameLog] = []
        try:
            logs = open_logs(directory)
            store = cls(directory, lock_fd, logs, limit_entries, first_slots)
        except BaseException as error:
            for log in logs:
                log.abandon()
            os.close(lock_fd)
            if isinstance(error, OSError):
                raise StoreError(f"{directory}: cannot open the seen names: {error.strerror}") from error
            raise
        store.sync = sync
        return store

    # --- asking ---

    def insert(self, buf: U8Array, u32: U32Array, fate: U8Array, n: int, is_new: U8Array) -> int:
        """Remember the question names of the pending rows; tell which were never seen.

        Hashing and the search for names already seen happen without a lock; the lock is taken once for
        what is left, if anything.

        Parameters
        ----------
        buf : uint8[:]
            The block's buffer.
        u32, fate : uint32[N_U32, stride], uint8[stride]
            Columns of the batch.
        n : int
            Rows in the batch.
        is_new : uint8[>= n]
            Receives 1 for each row whose name is new (of several rows with that name, the first), else 0.

        Returns
        -------
        int
            How many names are new.

        Raises
        ------
        StoreError
            The store was closed.
        """
        found = self.candidates(buf, u32, fate, n)
        is_new[:n] = 0
        is_new[found.rows] = self.commit(found)
        return int(is_new[:n].sum())

    def candidates(self, buf: U8Array, u32: U32Array, fate: U8Array, n: int) -> Candidates:
        """Return the pending rows whose names have not been seen up to now; takes no lock, remembers nothing.

        The parameters are those of :meth:`insert`.
        """
        hashes: U64Array = np.empty(n, np.uint64)
        rows: I64Array = np.empty(n, np.int64)
        unused: U8Array = np.empty(n, np.uint8)
        left = hash_names(buf, u32, fate, n, self._k0, self._k1, hashes, rows, unused)
        seen: U8Array = np.zeros(left, np.uint8)
        tables = self._tables
        left = tables.look_up(hashes, rows, seen, left)
        return Candidates(rows[:left].copy(), hashes[:left].copy(), seen[:left], tables)

    def commit(self, candidates: Candidates) -> U8Array:
        """Remember candidates as :meth:`remember` does, and save them."""
        is_new, unsaved = self.remember(candidates)
        unsaved.save()
        return is_new

    def remember(self, candidates: Candidates) -> tuple[U8Array, Unsaved]:
        """Remember candidates in memory, unless they have been seen meanwhile. Does not wait for the disk.

        Returns
        -------
        uint8[len(candidates.rows)]
            1 for each candidate that is new (of several with the same name, the first), else 0.
        Unsaved
            What is to be saved of it.

        Raises
        ------
        StoreError
            The store was closed.
        """
        left = len(candidates.rows)
        is_new: U8Array = np.zeros(left, np.uint8)
        writes: list[Write] = []
        unsaved = Unsaved(self._logs[0].key, writes, self._saved)
        if left == 0:
            return is_new, unsaved
        hashes, seen = candidates.hashes, candidates.seen
        positions: I64Array = np.arange(left, dtype=np.int64)
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.directory}: the seen names are closed")
            if candidates.tables is not self._tables:  # rotated or migrated meanwhile
                left = self._tables.look_up(hashes, positions, seen, left)
            self._insert_locked(hashes, positions, seen, left, is_new, writes)
        if self._retired:
            self._clean_up()
        return is_new, unsaved

    def recall(self, record: bytes) -> int:
        """Remember the names of a record whose events were stored; return how many had been forgotten.

        Parameters
        ----------
        record : bytes
            From :func:`edm.new_qname.unsaved.to_record`. One that does not belong to this store is ignored.
        """
        hashes: U64Array = np.frombuffer(from_record(record, self._logs[0].key), "<u8").astype(np.uint64)
        n = len(hashes)
        return int(self.commit(Candidates(np.arange(n), hashes, np.zeros(n, np.uint8), None)).sum())

    def _saved(self, write: bool) -> None:
        if self.sync:
            self.flush()
        elif write:
            self.write_out()
        else:
            self.write_soon()

    def _insert_locked(
        self, hashes: U64Array, rows: I64Array, seen: U8Array, n: int, is_new: U8Array, writes: list[Write]
    ) -> int:
        progress: I64Array = np.zeros(N_PROGRESS, np.int64)
        stored: U64Array = np.empty(n, np.uint64)
        total = 0
        self._stop = self._needed_at
        displace = False
        while True:
            table = self._tables.current
            names = (hashes, rows, seen, n)
            stop = self._stop - self._remaining
            insert_names(
                table.slots, table.bits, table.state, *names, stop, displace, is_new, stored, progress
            )
            if progress[NEXT] == n:
                break
            log = self._logs[0]
            displace = self._make_room()
            if table is not self._tables.current:
                # What this batch has stored so far is in the old table now: ask all tables for the rest.
                done = int(progress[NEXT])
                hashes, rows, seen = hashes[done:], rows[done:], seen[done:]
                n = self._tables.look_up(hashes, rows, seen, n - done)
                progress[NEXT] = 0
            if log is not self._logs[0]:
                total += self._save(log, table, stored, progress, writes)
        total += self._save(self._logs[0], self._tables.current, stored, progress, writes)
        self.evicted += int(progress[DISPLACED])
        if self._tables.migrating is not None:
            self._migrate(MOVE_AT_LEAST + MOVE_PER_NAME * total)
        elif self._larger is None and self._names() >= self._prepare_at:
            self._larger = self._chores.submit(Table.populated, 2 * self._tables.current.capacity)
        return int(progress[NEW])

    def _save(
        self, log: NameLog, table: Table, stored: U64Array, progress: I64Array, writes: list[Write]
    ) -> int:
        """Take down what has to be written to a log: what was stored while it was the current one."""
        count = int(progress[STORED])
        progress[STORED] = 0
        if count and log.records < LOG_RECORDS_PER_SLOT * table.capacity:
            writes.append((log, log.reserve(count), stored[:count].tobytes(), table.carried))
        return count

    # --- growing and expiring (all with the lock held) ---

    def _names(self) -> int:
        return self._tables.current.count + self._remaining

    def _plan(self) -> None:
        """Set the counts at which something has to be done about the current table."""
        capacity = self._tables.current.capacity
        self._growing = capacity < self._final_capacity
        self._needed_at = int(GROW_AT * capacity) if self._growing else self.limit_entries
        self._full_at = int(FULL_AT * capacity)
        prepares = self._growing and 2 * capacity >= LARGE_TABLE_SLOTS
        self._prepare_at = int(PREPARE_AT * capacity) if prepares else sys.maxsize
        self._stop = self._needed_at

    def _make_room(self) -> bool:
        """Let the kernel go on; return True if new names have to displace others."""
        if self._tables.migrating is not None:
            self._migrate(self._tables.migrating.capacity)
            return False
        full = self._names() >= self._full_at
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
                        directory=str(self.directory),
                        reason=error.strerror,
                    )
            else:
                self._failure_logged = False
                self._plan()
                return False
        self._stop = self._full_at
        return full

    def _grow(self) -> None:
        current, _, previous = self._tables
        prepared, self._larger = self._larger, None
        larger = prepared.result() if prepared is not None else Table(2 * current.capacity)
        larger.state[CARRIED] = current.carried
        self._cursor, self._remaining = 0, current.count
        self._tables = Tables(larger, current, previous)

    def _rotate(self) -> None:
        current, _, previous = self._tables
        # Not at its final size at once: while there are few names, a small table stays in the cache.
        table = Table(self._first_capacity)
        log = NameLog.create(self.directory, self._logs[0].generation + 1, self._logs[0].key)
        log.held = self._held
        if previous is not None:
            self.evicted += max(0, previous.count - current.carried)
            self._retired.append((previous, self._logs[1] if len(self._logs) > 1 else None))
        self._tables = Tables(table, None, current)
        self._logs = [log, self._logs[0]]

    def _migrate(self, slots: int) -> None:
        current, old, previous = self._tables
        assert old is not None
        end = min(self._cursor + slots, old.capacity)
        self._remaining -= current.fill(old.slots[self._cursor : end])
        self._cursor = end
        if end == old.capacity:
            self._tables = Tables(current, None, previous)
            self._retired.append((old, None))

    # --- disk ---

    def _clean_up(self) -> None:
        """Give back what is no longer needed."""
        with self._lock:
            retired, self._retired = self._retired, []
        for table, log in retired:
            if table.capacity >= LARGE_TABLE_SLOTS:
                self._chores.submit(_discard, table, log)
            else:
                _discard(table, log)

    def write_out(self) -> None:
        """Hand all names committed so far to the operating system; a failure is logged. May wait for the disk."""
        for log in self._logs:
            log.write_out()

    def write_soon(self) -> None:
        """Have all names committed so far written by a thread. Never waits."""
        if not self._held and (self._writing is None or self._writing.done()):
            with suppress(RuntimeError):  # closed meanwhile, which writes everything
                self._writing = self._writer.submit(self.write_out)

    def hold(self, held: bool) -> None:
        """Stop growing on disk, or go on: names that come meanwhile wait in memory, within a bound."""
        with self._lock:
            self._held = held
            for log in self._logs:
                log.held = held

    @property
    def removable_bytes(self) -> int:
        """Size of the file of the previous generation."""
        return sum(log.size for log in self._logs[1:])

    def forget_previous(self) -> int:
        """Remove the file of the previous generation; return its size.

        Its names stay known as long as they are in memory, that is until the store is closed or the
        generation after this one begins.
        """
        with self._lock:
            if self._closed:
                return 0
            gone, self._logs = self._logs[1:], self._logs[:1]
        size = 0
        for log in gone:
            size += log.size
            log.discard()
        return size

    def flush(self) -> None:
        """Make durable what came since the last time; a failure is logged.

        To be called every few seconds where :attr:`sync` is off: a power cut takes what came after the last
        call (and those names are then reported once more).
        """
        for log in self._logs:
            log.sync()

    def close(self) -> None:
        """Make everything durable and give the folder free, once no thread inserts or saves any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._clean_up()
        self._chores.shutdown(wait=True)
        self._writer.shutdown(wait=True)
        for log in self._logs:
            log.close()
        os.close(self._lock_fd)

    def __enter__(self) -> SeenStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- numbers ---

    @property
    def names(self) -> int:
        """Names in the current generation."""
        with self._lock:
            return self._names()

    @property
    def generation(self) -> int:
        """Number of the current generation, from 1."""
        return self._logs[0].generation

    @property
    def unsaved(self) -> int:
        """Names that are in memory only because the disk took them too late or not at all."""
        return sum(log.unsaved for log in self._logs)

    @property
    def memory_bytes(self) -> int:
        """Size of the tables in use."""
        return sum(8 * table.capacity for table in self._tables if table is not None)


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


__all__ = ["FOLDER_NAME", "SeenStore"]
