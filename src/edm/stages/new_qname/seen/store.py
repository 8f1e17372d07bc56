"""The store of seen names: which question names have been reported before.

A name is remembered by the 64-bit fingerprint of its wire form, so a new name is taken for a seen one with
probability ``N / 2**64`` when ``N`` names are stored: 5.4e-12 per name at 10**8 names. The expected number of
names ever missed while 10**8 names are collected is 2.7e-4. The other direction (a name reported twice)
happens only to names that were forgotten on purpose or in a power cut.

They are held in memory, in tables of two generations (:mod:`edm.stages.new_qname.seen.generations`), and each is
appended to a file as well (:mod:`edm.stages.new_qname.seen.log`). At opening the files are read into tables, some 10
million names a second.

A process may be killed at any moment. A name is with the operating system before :meth:`SeenStore.commit` reports it
as new; with :meth:`SeenStore.remember` the caller says when that is to be (:mod:`edm.stages.new_qname.seen.unsaved`).
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edm.errors import StoreError
from edm.kernel.columns import I64Array, U8Array, U32Array, U64Array
from edm.stages.new_qname.seen.folder import lock_folder, open_logs
from edm.stages.new_qname.seen.generations import Generations
from edm.stages.new_qname.seen.log import NameLog
from edm.stages.new_qname.seen.siphash import hash_names
from edm.stages.new_qname.seen.table import Tables
from edm.stages.new_qname.seen.unsaved import Unsaved, Write, from_record

FOLDER_NAME = "seen-names"
"""Name of the store's folder within the data directory."""

FIRST_SLOTS = 1 << 17


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


def find_candidates(
    tables: Tables, key: tuple[np.uint64, np.uint64], buf: U8Array, u32: U32Array, fate: U8Array, n: int
) -> Candidates:
    """Return the pending rows of a batch whose names are not in ``tables``.

    The parameters are those of :meth:`SeenStore.insert`, and the two halves of the key of the fingerprints.
    """
    hashes: U64Array = np.empty(n, np.uint64)
    rows: I64Array = np.empty(n, np.int64)
    unused: U8Array = np.empty(n, np.uint8)
    left = hash_names(buf, u32, fate, n, *key, hashes, rows, unused)
    seen: U8Array = np.zeros(left, np.uint8)
    left = tables.look_up(hashes, rows, seen, left)
    return Candidates(rows[:left].copy(), hashes[:left].copy(), seen[:left], tables)


class SeenStore:
    """Names seen before, persistent, for any number of threads.

    Attributes
    ----------
    sync : bool
        Make what is saved durable at once. May be changed at any time.
    """

    def __init__(
        self, directory: Path, lock_fd: int, logs: list[NameLog], limit_entries: int, first_slots: int
    ) -> None:
        self.directory = directory
        self.sync = False
        self._lock_fd = lock_fd
        self._lock = threading.Lock()
        self._generations = Generations(directory, logs, limit_entries, first_slots)
        self._writer = ThreadPoolExecutor(1, "seen-names-log")
        self._writing: Future[None] | None = None
        self._closed = False
        key = logs[0].key
        self._k0 = np.uint64(int.from_bytes(key[:8], "little"))
        self._k1 = np.uint64(int.from_bytes(key[8:], "little"))

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
            Size of the table that a new store begins with; at least 64.

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

        Hashing and the search for names already seen happen without a lock. The lock is taken once, if any names
        are left.

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
        return find_candidates(self._generations.tables, (self._k0, self._k1), buf, u32, fate, n)

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
            The names to save.

        Raises
        ------
        StoreError
            The store was closed.
        """
        left = len(candidates.rows)
        is_new: U8Array = np.zeros(left, np.uint8)
        writes: list[Write] = []
        unsaved = Unsaved(self._generations.logs[0].key, writes, self._saved)
        if left == 0:
            return is_new, unsaved
        hashes, seen = candidates.hashes, candidates.seen
        positions: I64Array = np.arange(left, dtype=np.int64)
        generations = self._generations
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.directory}: the seen names are closed")
            if candidates.tables is not generations.tables:  # rotated meanwhile
                left = generations.tables.look_up(hashes, positions, seen, left)
            generations.insert(hashes, positions, seen, left, is_new, writes)
        if generations.retired:
            self._clean_up()
        return is_new, unsaved

    def recall(self, record: bytes) -> int:
        """Remember the names of a record whose events were stored; return how many had been forgotten.

        Parameters
        ----------
        record : bytes
            From :func:`edm.stages.new_qname.seen.unsaved.to_record`. One that does not belong to this store is ignored.
        """
        fingerprints = from_record(record, self._generations.logs[0].key)
        hashes: U64Array = np.frombuffer(fingerprints, "<u8").astype(np.uint64)
        n = len(hashes)
        return int(self.commit(Candidates(np.arange(n), hashes, np.zeros(n, np.uint8), None)).sum())

    def _saved(self, write: bool) -> None:
        if self.sync:
            self.flush()
        elif write:
            self.write_out()
        else:
            self.write_soon()

    # --- disk ---

    def _clean_up(self) -> None:
        """Release tables and delete logs that are no longer needed."""
        with self._lock:
            retired, self._generations.retired = self._generations.retired, []
        self._generations.give_back(retired)

    def write_out(self) -> None:
        """Hand all names committed so far to the operating system; a failure is logged. May wait for the disk."""
        for log in self._generations.logs:
            log.write_out()

    def write_soon(self) -> None:
        """Have all names committed so far written by a thread. Never waits."""
        if not self._generations.held and (self._writing is None or self._writing.done()):
            with suppress(RuntimeError):  # closed meanwhile, which writes everything
                self._writing = self._writer.submit(self.write_out)

    def hold(self, held: bool) -> None:
        """Stop growing on disk, or go on: names that come meanwhile wait in memory, within a bound."""
        with self._lock:
            self._generations.hold(held)

    @property
    def removable_bytes(self) -> int:
        """Size of the file of the previous generation."""
        return sum(log.size for log in self._generations.logs[1:])

    def forget_previous(self) -> int:
        """Remove the file of the previous generation; return its size.

        Its names stay known as long as they are in memory, that is until the store is closed or the
        generation after this one begins.
        """
        with self._lock:
            if self._closed:
                return 0
            logs = self._generations.logs
            gone, self._generations.logs = logs[1:], logs[:1]
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
        for log in self._generations.logs:
            log.sync()

    def close(self) -> None:
        """Make everything durable and give the folder free, once no thread inserts or saves any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._clean_up()
        self._generations.close()
        self._writer.shutdown(wait=True)
        for log in self._generations.logs:
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
            return self._generations.names

    @property
    def evicted(self) -> int:
        """Names forgotten because of the limit (or for lack of room) since opening."""
        return self._generations.evicted

    @property
    def generation(self) -> int:
        """Number of the current generation, from 1."""
        return self._generations.logs[0].generation

    @property
    def unsaved(self) -> int:
        """Names that are in memory only because the disk took them too late or not at all."""
        return sum(log.unsaved for log in self._generations.logs)

    @property
    def memory_bytes(self) -> int:
        """Size of the tables in use."""
        return sum(8 * table.slots for table in self._generations.tables if table is not None)


__all__ = ["FOLDER_NAME", "SeenStore", "find_candidates"]
