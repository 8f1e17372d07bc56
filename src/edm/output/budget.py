"""The disk budget: limits the stored data, and removes data in a fixed order when a limit is reached.

Session data come first, histograms and events last. In this order: copies of histograms that Core has; files set
aside because they are damaged; the oldest session files; new session rows, which are then not stored; the
session file that is being written; files of new names; refused histograms; the oldest histograms in the outbox;
the oldest events in the queue; the seen names, which stop growing on disk and then lose the file of their
previous generation.

Two bounds, each with a threshold for session data and a later one for all the rest, so that there is always
some room for the rest:

- ``disk-budget-bytes`` for all that is stored: session data may take 15/16 of it;
- ``disk-min-free-bytes`` on each file system below the data directory: the rest is removed only when less than
  half of that is free. And only where it helps: if all that could still be removed would not bring that half
  back, another user fills the disk, and the rest stays.

One thread measures and removes. The writer of session rows asks :meth:`DiskBudget.admit` first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from edm.observe.logs import RateLimited
from edm.observe.metrics import Metrics
from edm.output.balance import Balance, Limits
from edm.output.budget_metrics import BudgetMetrics
from edm.output.paths import DataDirectory
from edm.output.usage import Disk, StoredFile, Usage

CHECK = 5.0
"""Seconds between two looks at the disk."""
PATIENCE = 1.0
"""Seconds that a writer waits for a look at the disk before it is refused, once; then it is refused at once."""

ENOUGH, SESSIONS_GIVE_WAY, REST_GIVES_WAY, CANNOT_BE_KEPT = range(4)
"""States: there is room; session data are removed; other data as well; nothing is left that may be removed."""

STATES = ("ok", "sessions give way", "rest gives way", "full")
"""Names of these states, in words."""

_FAILURES = 8
_WITH_ROWS = ("session", "new_qname", "refused", "outbox")


class Sessions(Protocol):
    """The writer of session files."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes in memory that will go to disk."""

    def abandon(self) -> None:
        """Remove the unfinished files, soon; their rows are counted as shed."""


class Queue(Protocol):
    """Events on disk."""

    @property
    def disk_bytes(self) -> int:
        """Bytes of events that could be dropped."""

    def shed(self, size: int) -> tuple[int, int]:
        """Make the file smaller by ``size`` bytes, dropping the oldest events where that is needed.

        Returns how many events were dropped and by how much the file became smaller.
        """


class SeenNames(Protocol):
    """The store of seen names."""

    @property
    def removable_bytes(self) -> int:
        """Size of the file of the previous generation."""

    def hold(self, held: bool) -> None:
        """Stop growing on disk, or go on."""

    def forget_previous(self) -> int:
        """Remove the file of the previous generation; return its size."""


@dataclass
class _Shed:
    """What was removed of one kind in one look."""

    files: int = 0
    bytes: int = 0
    rows: int = 0
    failed: int = field(default=0, compare=False)


class DiskBudget:
    """Keeps what is stored within its bounds.

    Parameters
    ----------
    data : DataDirectory
    metrics : Metrics
    limits : Limits
    sessions, queue, seen : Sessions, Queue or None, SeenNames
        Owners of data that can shrink without losing a finished file.
    """

    def __init__(
        self,
        data: DataDirectory,
        metrics: Metrics,
        limits: Limits,
        sessions: Sessions,
        queue: Queue | None,
        seen: SeenNames,
    ) -> None:
        self.limits = limits
        self.seen: tuple[Usage | None, int] = (None, ENOUGH)
        """What the last look found (before anything was removed), and the state that it led to."""
        self._disk = Disk(data)
        self._sessions = sessions
        self._queue = queue
        self._seen = seen
        self._counts = BudgetMetrics(metrics)
        self._limited = RateLimited(structlog.get_logger(), on_suppressed=metrics.count_suppressed)
        self._changed = threading.Condition()
        self._room = 0
        self._wanted = 0
        self._asked = self._answered = 0
        self._refusing = False
        self._stopping = False
        self._held = False
        self._thread = threading.Thread(target=self._run, name="edm-disk-budget", daemon=True)

    # Life

    def start(self) -> None:
        """Look for the first time, and go on in a thread."""
        self.check()
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """End the thread; from now on requests are answered by the last measurement."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._limited.flush()

    def reload(self, limits: Limits) -> None:
        """Take other bounds over, at once."""
        self.limits = limits
        self.wake()

    def wake(self) -> None:
        """Look at the disk now rather than when it is due."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked > self._answered or self._stopping, CHECK)
                if self._stopping:
                    return
            self.check()
            self._limited.flush()

    # Asking

    def admit(self, size: int) -> bool:
        """Tell whether ``size`` bytes of session rows may be stored; waits for a look at the disk if need be."""
        with self._changed:
            if self._take(size):
                return True
            self._wanted = max(self._wanted, size)
            if not self._stopping and not self._refusing:
                self._asked = asked = self._asked + 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._answered >= asked or self._stopping, PATIENCE)
                if self._take(size):
                    return True
                self._refusing = True
            return False

    def _take(self, size: int) -> bool:
        if size > self._room:
            return False
        self._room -= size
        return True

    # Looking

    def check(self) -> None:
        """Look at the disk and make room where it is lacking; errors are logged and counted."""
        with self._changed:
            wanted, self._wanted = self._wanted, 0
            asked = self._asked
        try:
            self._make_room(self._disk.look(), wanted)
        except OSError as error:
            self._counts.errors.inc()
            self._limited.error("disk usage cannot be measured", reason=str(error))
        except Exception:  # the thread must outlive whatever happens in one round
            self._counts.errors.inc()
            structlog.get_logger().exception("keeping the disk budget failed")
        with self._changed:
            self._answered = asked
            self._changed.notify_all()

    def _make_room(self, usage: Usage, wanted: int) -> None:
        limits = self.limits
        waiting = self._sessions.waiting_bytes
        home = usage.devices["session"]
        balance = Balance(usage.total, dict(usage.free))
        # What session rows in memory will take, and what their writer asks for, comes first.
        balance.removed(home, -waiting - wanted)
        gave_way, clean = False, True
        for kind in ("sent", "damaged", "session"):
            shed = self._remove(
                kind,
                (f for f in usage.files[kind] if not f.unfinished),
                balance,
                limits.total_of_sessions,
                limits.free,
            )
            gave_way = gave_way or shed.files > 0
            clean = clean and not shed.failed
        balance.removed(home, wanted)
        room = balance.room_for_sessions(home, limits)
        state = SESSIONS_GIVE_WAY if gave_way or room < max(wanted, 1) else ENOUGH
        balance.removed(home, waiting)
        if balance.lacks_rest(usage.devices.values(), limits):
            if not clean:
                # Other data is not removed for data that should have been removed before it.
                state = CANNOT_BE_KEPT
            elif balance.lacking(home, limits.total, limits.free_of_rest) and any(
                file.unfinished and file.size for file in usage.files["session"]
            ):
                self._sessions.abandon()
            else:
                state = self._shed_rest(usage, balance)
        else:
            self._hold(False)
        with self._changed:
            self._room = max(0, room)
            self._refusing = self._refusing and room < wanted
        self.seen = usage, state
        self._counts.show(usage, state)

    # Removing

    def _remove(
        self, kind: str, files: Iterable[StoredFile], balance: Balance, most: int, least_free: int
    ) -> _Shed:
        """Remove files of one kind, in the order given, until the limits are met."""
        shed = _Shed()
        for file in files:
            if shed.failed >= _FAILURES:
                break
            if not balance.lacking(file.device, most, least_free):
                continue
            rows = _rows_in(file, kind)
            try:
                file.path.unlink()
            except FileNotFoundError:
                balance.removed(file.device, file.size)
                continue
            except OSError as error:
                shed.failed += 1
                self._counts.errors.inc()
                self._limited.error(
                    "file cannot be removed to make room", filename=str(file.path), reason=error.strerror
                )
                continue
            balance.removed(file.device, file.size)
            shed.files += 1
            shed.bytes += file.size
            shed.rows += rows
        if shed.files:
            self._counts.shed(kind, shed.files, shed.bytes, shed.rows)
            self._tell(kind, shed.bytes, files=shed.files, rows=shed.rows)
        return shed

    def _tell(self, kind: str, size: int, **more: int) -> None:
        self._limited.warning("removed to make room on the disk", kind=kind, bytes=size, **more)

    def _shed_rest(self, usage: Usage, balance: Balance) -> int:
        """Remove histograms, events and seen names as needed; return the state."""
        most, least = self.limits.total, self.limits.free_of_rest
        balance = self._leave_alone_what_does_not_help(usage, balance, least)
        if not balance.lacks_rest(usage.devices.values(), self.limits):
            self._hold(False)
            self._limited.error(
                "too little disk space is free, and nothing that could be removed would change that",
                free_bytes=min(usage.free.values()),
            )
            return CANNOT_BE_KEPT
        for kind in ("new_qname", "refused", "outbox"):
            whole = (file for file in usage.files[kind] if not file.unfinished)
            if self._remove(kind, whole, balance, most, least).failed:
                return CANNOT_BE_KEPT
        device = usage.devices["queue"]
        if (lacking := balance.lacking(device, most, least)) and self._queue is not None:
            events, size = self._queue.shed(lacking)
            balance.removed(device, size)
            if size:
                self._counts.shed("queue", 0, size, events)
                self._tell("queue", size, events=events)
        device = usage.devices["seen"]
        if not balance.lacking(device, most, least):
            return REST_GIVES_WAY
        if not self._held:
            self._hold(True)
        elif size := self._seen.forget_previous():
            self._counts.shed("seen", 1, size, 0)
            self._tell("seen", size, files=1)
        else:
            self._limited.error("disk budget cannot be kept: nothing is left that may be removed")
            return CANNOT_BE_KEPT
        return REST_GIVES_WAY

    def _leave_alone_what_does_not_help(self, usage: Usage, balance: Balance, least: int) -> Balance:
        """Return the balance without what is lacking on file systems that others have filled."""
        removable = dict.fromkeys(usage.free, 0)
        for kind in ("new_qname", "refused", "outbox"):
            for file in usage.files[kind]:
                removable[file.device] = removable.get(file.device, 0) + file.size
        removable[usage.devices["queue"]] += self._queue.disk_bytes if self._queue is not None else 0
        removable[usage.devices["seen"]] += self._seen.removable_bytes
        free = {
            device: least if room + removable[device] < least else room
            for device, room in balance.free.items()
        }
        return Balance(balance.total, free)

    def _hold(self, held: bool) -> None:
        if held == self._held:
            return
        self._held = held
        self._seen.hold(held)
        if held:
            self._limited.warning("seen names are kept in memory only, to make room on the disk")


def _rows_in(file: StoredFile, kind: str) -> int:
    """Return the number of rows that a Parquet file tells, or of lines; 0 where it cannot be read or has none."""
    if kind not in _WITH_ROWS:
        return 0
    try:
        with file.path.open("rb") as opened:  # the library opens only paths that are UTF-8
            if kind == "new_qname":
                return sum(1 for _ in opened)
            return int(pq.read_metadata(opened).num_rows)
    except (OSError, ValueError, pa.ArrowException):
        return 0


__all__ = [
    "CANNOT_BE_KEPT",
    "ENOUGH",
    "REST_GIVES_WAY",
    "SESSIONS_GIVE_WAY",
    "DiskBudget",
    "Limits",
    "Queue",
    "SeenNames",
    "Sessions",
]
