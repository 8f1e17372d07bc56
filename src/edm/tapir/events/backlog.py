"""The queue of outgoing events: on disk if possible, else in memory, with counts of every outcome."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from edm.errors import OutputError
from edm.observe.logs import RateLimited
from edm.tapir.events.chunks import Chunk, chunk_of_messages
from edm.tapir.events.queue_database import DiskError, InUseError
from edm.tapir.events.queue_file import Entry, QueueFile
from edm.tapir.events.steady_file import SteadyFile

MEMORY_BYTES = 16 * 1024 * 1024
"""Most bytes of events kept in memory when the disk cannot take them or is not used."""

_RETRY = 1.0
_INSERT_BYTES = 4 * 1024 * 1024
_TROUBLE = (DiskError, InUseError, OutputError, OSError)


class Backlog:
    """A queue of chunks with fetching, acknowledging and starting over. Any thread may use it.

    New chunks pass through memory to the file. What the file cannot take stays in memory, within a bound, and
    is moved later; the oldest are dropped beyond the bound. Fetched entries stay in the queue until they are
    acknowledged; :meth:`rewind` makes those that are not be fetched again.

    Parameters
    ----------
    path : Path or None
        The queue file; None keeps everything in memory.
    limit : int
        Bytes that may wait in the file.
    memory : int
        Bytes that may wait in memory.

    Raises
    ------
    OutputError
        The file cannot be used, for another reason than that the disk is full.

    Attributes
    ----------
    loaded : int
        Events found waiting at the start.
    queued, imported, sent, failed : int
        Events since the start: put, thereof taken over from another program's queue, acknowledged as sent and
        as failed.
    dropped : dict[str, int]
        Events dropped since the start, by reason.
    memory_events : int
        Events that are only in memory, those being sent included.
    on_put, on_dropped : callable
        Called after :meth:`put`, and with reason and number when events are dropped.
    """

    def __init__(self, path: Path | None, limit: int, memory: int = MEMORY_BYTES) -> None:
        self._limit = limit
        self._memory_limit = memory
        self._limited = RateLimited(structlog.get_logger())
        self._lock = threading.RLock()
        self._memory: deque[Chunk] = deque()
        self._memory_bytes = 0
        self._disk = SteadyFile(path, limit)
        self._broken = 0
        self._retry_at = 0.0
        # Numbers of entries: the last one fetched from the file, the last one finished.
        self._cursor = 0
        self._finished = 0
        self._progress: tuple[int, int] | None = None
        self._unnoted: list[int] = []
        self._unnoted_events = 0
        self._fetched: dict[int, Chunk] = {}
        self._last_memory_id = 0
        self._closed = False
        self._owed = {"queued": 0, "sent": 0, "failed": 0, "dropped": 0, "damaged": 0}
        self.queued = self.imported = self.sent = self.failed = self.memory_events = 0
        self.dropped = {"queue_full": 0, "memory_full": 0, "disk_budget": 0, "shutdown": 0}
        self.on_put: Callable[[], None] = lambda: None
        self.on_dropped: Callable[[str, int], None] = lambda _reason, _events: None
        if path is not None:
            try:
                self._disk.open()
            except DiskError as error:
                self._trouble(error)
        self.loaded = self.disk_events

    # The queue

    @property
    def disk_events(self) -> int:
        """Events in the file, those being sent included."""
        file = self._disk.file
        return file.events - self._unnoted_events if file else 0

    @property
    def disk_bytes(self) -> int:
        """Bytes of these."""
        file = self._disk.file
        return file.bytes if file else 0

    @property
    def damaged(self) -> int:
        """Events since the start that were lost to damage."""
        return self._broken + self._disk.lost

    @property
    def totals(self) -> dict[str, int]:
        """What became of all events over the life of the file, as it stands there."""
        file = self._disk.file
        return dict(file.totals) if file else {}

    @property
    def names(self) -> bytes:
        """Names that came with the last events of an earlier run; see :class:`edm.tapir.events.chunks.Chunk`."""
        file = self._disk.file
        return file.names if file else b""

    # The way in

    def put(
        self, chunks: Sequence[Chunk], *, imported: bool = False, stored: Callable[[], None] = lambda: None
    ) -> bool:
        """Append chunks; return whether they and all earlier ones are now on disk.

        ``stored`` is called when they are, or cannot be for now, and before they can be fetched.
        """
        with self._lock:
            events = sum(chunk.waiting for chunk in chunks)
            self.queued += events
            self.memory_events += events
            if imported:
                self.imported += events
            self._memory.extend(chunks)
            self._memory_bytes += sum(chunk.size for chunk in chunks)
            try:
                self._flush()
            finally:
                stored()
            self._trim()
            safe = self._disk.file is not None and not self._memory
        self.on_put()
        return safe

    def maintain(self) -> None:
        """Do the periodic work: move events from memory to disk, and free disk space."""
        with self._lock:
            self._flush()
            with contextlib.suppress(*_TROUBLE):
                self._disk.attempt(QueueFile.give_back)
        self._limited.flush()

    def shed(self, size: int) -> tuple[int, int]:
        """Make the file smaller by ``size`` bytes if possible; drop the oldest events if needed.

        Returns
        -------
        tuple[int, int]
            Events dropped, and by how many bytes the file became smaller.
        """
        with self._lock:
            if self._disk.path is None or self._closed:
                return 0, 0
            try:
                self._note()  # what is done must not be dropped as well
                dropped, freed = self._disk.attempt(lambda file: file.shed(size, self._cursor))
            except _TROUBLE as error:
                self._trouble(error)
                return 0, 0
            self._count_dropped("disk_budget", dropped)
            return dropped, freed

    def _flush(self) -> None:
        if self._disk.path is None or self._closed or time.monotonic() < self._retry_at:
            return
        try:
            self._note()
            while self._memory:
                part, size = [], 0
                for chunk in self._memory:
                    part.append(chunk)
                    size += chunk.size
                    if size >= min(_INSERT_BYTES, self._limit // 4):
                        break
                self._insert(part, size)
        except _TROUBLE as error:
            self._trouble(error)

    def _insert(self, part: list[Chunk], size: int) -> None:
        dropped = self._disk.attempt(lambda file: file.insert(part, self._cursor, {}))
        for _ in part:
            self._memory.popleft()
        self._memory_bytes -= size
        self.memory_events -= sum(chunk.waiting for chunk in part)
        if dropped:
            self._count_dropped("queue_full", dropped)
            self._limited.warning("queue of new names is full, dropping the oldest", count=dropped)

    def _trim(self) -> None:
        dropped = 0
        while self._memory_bytes > self._memory_limit and len(self._memory) > 1:
            chunk = self._memory.popleft()
            self._memory_bytes -= chunk.size
            dropped += chunk.waiting
        if dropped:
            self._out_of_memory(dropped)
            self._owed["dropped"] += dropped
            self._count_dropped("memory_full", dropped)
            self._limited.warning("memory for new names is full, dropping the oldest", count=dropped)

    def _count_dropped(self, reason: str, events: int) -> None:
        self.dropped[reason] += events
        self.on_dropped(reason, events)

    def _out_of_memory(self, events: int) -> None:
        # They were never in the file, whose totals must balance all the same.
        self._owed["queued"] += events
        self.memory_events -= events

    # The way out

    def take(self, most_events: int, *, memory_first: bool = False) -> list[Entry]:
        """Fetch the oldest entries that are not being sent, at least ``most_events`` events if there are."""
        with self._lock:
            if memory_first and self._memory:
                return [self._from_memory()]
            entries = self._from_file(most_events)
            if not entries and self._memory:
                entries = [self._from_memory()]
            return entries

    def _from_memory(self) -> Entry:
        chunk = self._memory.popleft()
        self._memory_bytes -= chunk.size
        self._last_memory_id -= 1
        self._fetched[self._last_memory_id] = chunk
        return Entry(self._last_memory_id, chunk)

    def _from_file(self, most_events: int) -> list[Entry]:
        if self._disk.path is None or self._closed:
            return []
        try:
            entries, broken = self._disk.attempt(lambda file: file.read(self._cursor, most_events))
        except _TROUBLE as error:
            self._limited.error("queue of new names cannot be read", reason=str(error))
            return []
        for wreck in broken:
            self._broken += wreck.events
            self._limited.error(
                "damaged entry in the queue of new names set aside", reason=wreck.reason, events=wreck.events
            )
        for entry in entries:
            if self._progress is not None and entry.id == self._progress[0]:
                entry.chunk.done = max(entry.chunk.done, self._progress[1])
        self._cursor = max([self._cursor, *(e.id for e in entries), *(b.id for b in broken)])
        return entries

    def acknowledge(
        self, finished: Sequence[int], partial: tuple[int, int] | None, *, sent: int, failed: int
    ) -> None:
        """Record the outcome of fetched entries, in the order in which they were fetched.

        Parameters
        ----------
        finished : sequence of int
            Entries of which nothing is left to do.
        partial : tuple[int, int] or None
            The entry after these, and how many of its events are done.
        sent, failed : int
            What became of the events that this makes done.
        """
        with self._lock:
            if self._closed:
                return
            self.sent += sent
            self.failed += failed
            self._owed["sent"] += sent
            self._owed["failed"] += failed
            in_memory = self.memory_events
            for number in finished:
                if number < 0:
                    self._out_of_memory(self._fetched.pop(number).waiting)
                else:
                    self._finished = number
                    self._unnoted.append(number)
            if partial is not None and partial[0] < 0:
                chunk = self._fetched[partial[0]]
                self._out_of_memory(partial[1] - chunk.done)
                chunk.done = partial[1]
            elif partial is not None:
                self._progress = partial
            self._unnoted_events += sent + failed - (in_memory - self.memory_events)
            if self._disk.path is not None and time.monotonic() >= self._retry_at:
                try:
                    self._note()
                except _TROUBLE as error:
                    self._trouble(error)

    def _note(self) -> None:
        """Write finished entries to disk; those that cannot be written now are remembered and not sent again."""
        numbers = self._unnoted
        progress = self._progress if self._progress and self._progress[0] > self._finished else None
        owed = {name: amount for name, amount in self._owed.items() if amount}
        if numbers or owed:
            self._disk.attempt(lambda file: file.acknowledge(numbers, progress, owed))
            self._unnoted = []
            self._unnoted_events = 0
            self._owed = dict.fromkeys(self._owed, 0)

    def set_aside(self, topic: str, message: bytes, reason: str) -> None:
        """Keep a message that the broker refuses in the file, for inspection.

        Its entry is acknowledged as any other. Without a file, or when it cannot be written, nothing is kept.
        """
        with self._lock:
            if self._disk.path is None or self._closed:
                return
            try:
                chunk = chunk_of_messages([message], topic)
                self._disk.attempt(lambda file: file.keep(chunk, reason))
            except _TROUBLE as error:
                self._trouble(error)

    def rewind(self) -> None:
        """Make all fetched entries that are not acknowledged available for fetching again."""
        with self._lock:
            if self._closed:
                return
            self._cursor = self._finished
            for number in sorted(self._fetched):  # the youngest has the lowest number
                chunk = self._fetched.pop(number)
                self._memory.appendleft(chunk)
                self._memory_bytes += chunk.size

    # Trouble

    def _trouble(self, error: Exception) -> None:
        self._retry_at = time.monotonic() + _RETRY
        self._limited.error(
            "queue of new names cannot be written, keeping them in memory",
            reason=str(error),
            memory_bytes=self._memory_bytes,
        )

    def close(self) -> int:
        """Move the events in memory to disk and close the file; return the number of events lost."""
        with self._lock:
            self.rewind()
            self._retry_at = 0.0
            self._flush()
            lost, self.memory_events = self.memory_events, 0
            self._count_dropped("shutdown", lost)
            self._memory.clear()
            self._closed = True
            self._disk.close()
            return lost


__all__ = ["MEMORY_BYTES", "Backlog"]
