"""Reload on SIGHUP: build all parts first, publish once; a part that cannot be loaded keeps its old state.

The key and the domain lists cost most to make again; a key takes 0.1 s of a core. If they change many times within
seconds, each is made at a pace of its own (:mod:`edm.reload.pace`): the part waits until its pace allows it, and is
then made from its latest state. The key ``reload-at-once`` turns this off. Reloads as a whole have a pace too:
requests that come in the meantime become one reload.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import structlog

from edm.config import Config, diff
from edm.engine import Engine
from edm.errors import ConfigError, EdmError
from edm.files.reading import Stamp, stamp
from edm.observe.privacy import redact
from edm.reload.background import at_low_priority
from edm.reload.outcome import PartOutcome, ReloadOutcome
from edm.reload.pace import Pace
from edm.snapshot.parts import (
    load_clients,
    load_pseudonyms,
    make_table,
    open_ignored_names,
    open_well_known,
    pseudonyms_key,
)
from edm.stages.domains.dawg.dawg import Dawg
from edm.stages.domains.table.table import DomainTable
from edm.stages.pseudonyms.contract import Pseudonyms

CONFIG = "config"
CLIENTS = "ignored_client_ips"
IGNORED_NAMES = "ignored_question_names"
CRYPTOPAN = "cryptopan"
WELL_KNOWN = "well_known_domains"
PARTS = (CONFIG, CLIENTS, IGNORED_NAMES, CRYPTOPAN, WELL_KNOWN)
"""Parts that every daemon reloads; its outputs are further parts."""

KEY_SECONDS = 0.1
"""Seconds of one core that a new key costs, over several threads: deriving it, and filling the caches again."""

KEPT = 20
"""Number of reloads in :attr:`Reloader.history`."""

Work = Callable[[], object]
_Key = tuple[object, ...]


class Reloader:
    """Reloads the parts of an engine's snapshot.

    Parameters
    ----------
    read_config : callable
        Reads the configuration again, with the same flags and environment as at start.
    outputs : mapping
        Functions that apply the new configuration to further parts, by name of the part. Each raises EdmError if it
        cannot, and returns False if the part is not configured.
    clock : callable
        Returns seconds that never go back; for the pace of expensive parts.

    Attributes
    ----------
    outcome : ReloadOutcome
        Outcome of the last reload; before the first one, that of the start.
    history : deque of ReloadOutcome
        The last reloads, the newest last.
    """

    def __init__(
        self,
        engine: Engine,
        read_config: Callable[[], Config],
        outputs: Mapping[str, Callable[[Config], bool | None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outputs = outputs or {}
        self._engine = engine
        self._read_config = read_config
        self._metrics = engine.metrics
        self._log = structlog.get_logger()
        self._key = pseudonyms_key(engine.config)
        self._stamps: dict[str, Stamp | None] = {}
        self._paces = {part: Pace(clock=clock) for part in (IGNORED_NAMES, CRYPTOPAN, WELL_KNOWN)}
        self._pace = Pace(clock=clock)
        self._apart = 0.0  # seconds that parts with a pace of their own took in this reload
        self._waiting: dict[str, Work] = {}
        self._made: dict[str, object] = {}
        self._parts: dict[str, PartOutcome] = {}
        self._restart: tuple[str, ...] = ()
        self.outcome = ReloadOutcome(0, os.getpid(), _monotonic_us(), time.time())
        self.history: deque[ReloadOutcome] = deque(maxlen=KEPT)
        for part in (*PARTS, *self._outputs):
            self._metrics.loaded(part)

    def reload(self) -> bool:
        """Reload; return whether every part could be loaded. Never raises.

        The configuration comes first: if it is not valid, nothing else changes. The pseudonyms are made again only
        if key or salt changed, a domain list only if its file changed. The ignored lists take effect at once. The
        well-known domains are loaded now and take effect at the next rotation. A part that was just made several
        times may have to wait, see :attr:`due`.
        """
        self._parts, self._restart = {}, ()
        began = _monotonic_us()
        cpu = time.thread_time()
        self._apart = 0.0
        self._guard(self._reload)
        self.outcome = ReloadOutcome(
            self.outcome.serial + 1, os.getpid(), began, time.time(), self._parts, self._restart
        )
        self.history.append(self.outcome)
        self._pace.worked(time.thread_time() - cpu - self._apart)
        return not self.outcome.failed

    @property
    def pause(self) -> float:
        """Seconds to wait before the next reload; 0 unless there have just been several."""
        return 0.0 if self._engine.cell.current.config.reload_at_once else self._pace.wait()

    @property
    def due(self) -> float | None:
        """Seconds until :meth:`take_up` has something to do; ``None`` if no part waits."""
        return min((self._paces[part].wait() for part in self._waiting), default=None)

    @property
    def waiting(self) -> int:
        """Number of changed parts that wait until their pace allows them to be made."""
        return len(self._waiting)

    def take_up(self) -> None:
        """Make the parts that have waited long enough, and publish them. Never raises."""
        self._parts = dict(self.outcome.parts)
        self._guard(self._take_up)
        self.outcome = dataclasses.replace(self.outcome, finished=time.time(), parts=self._parts)
        if self.history:
            self.history[-1] = self.outcome

    def _guard(self, work: Callable[[], None]) -> None:
        """Run ``work``; a defect in it is logged and put into the outcome."""
        try:
            work()
        except Exception as error:
            self._log.exception("reload failed, keeping the old state")
            self._stamps.clear()
            self._fail(CONFIG, _fault(error))

    def _take_up(self) -> None:
        self._made = {}
        for part, work in list(self._waiting.items()):
            if not self._paces[part].wait():
                with self._faults(part):
                    self._make(part, work)
        if self._made:
            self._publish({})
            self._log.info(
                "took up what had to wait",
                parts=list(self._made),
                generation=self._engine.cell.current.generation,
            )

    def _reload(self) -> None:
        try:
            new = self._read_config()
        except ConfigError as error:
            for violation in error.violations:
                self._log.error("reload failed, keeping the old configuration", reason=violation)
            self._fail(CONFIG, *error.violations)
            return
        self._succeed(CONFIG)
        for warning in new.warnings:
            self._log.warning(warning)
        self._restart = diff(self._engine.config, new).restart
        if self._restart:
            self._log.warning("changed settings require restart", settings=list(self._restart))
        self._apply(new)

    def _apply(self, new: Config) -> None:
        self._made = {}
        self._load(new, CLIENTS, lambda: self._changed_clients(new))
        self._load(new, IGNORED_NAMES, lambda: self._changed_names(new))
        self._load(new, CRYPTOPAN, lambda: self._changed_key(new))
        for part, take_over in self._outputs.items():
            with self._faults(part):
                configured = take_over(new)
                self._succeed(part)
                if configured is False:
                    self._parts[part] = PartOutcome("not configured")
        self._load(new, WELL_KNOWN, lambda: self._changed_well_known(new))
        self._engine.seen.sync = new.pebble_sync
        self._publish({"config": new, "sessions": not new.disable_session_files})
        failed = any(part.result == "failed" for part in self._parts.values())
        waiting = {"waiting": list(self._waiting)} if self._waiting else {}
        self._log.info(
            "reloaded in part" if failed else "reloaded",
            generation=self._engine.cell.current.generation,
            key_changed=CRYPTOPAN in self._made,
            **waiting,
        )

    def _publish(self, parts: dict[str, object]) -> None:
        fields = {CLIENTS: "clients", IGNORED_NAMES: "ignored_names"}
        parts.update({fields[part]: made for part, made in self._made.items() if part in fields})
        key = self._key
        if CRYPTOPAN in self._made:
            key, parts["pseudonyms"] = self._made[CRYPTOPAN]  # type: ignore[misc]
        if parts:
            self._engine.publish(**parts)
        self._key = key
        if WELL_KNOWN in self._made:
            self._engine.set_next_well_known(self._made[WELL_KNOWN])  # type: ignore[arg-type]

    # What has changed: each returns how to make the part again, or None

    def _changed_key(self, new: Config) -> Work | None:
        # Compared with the key in use, not with the last configuration: a key that failed before is tried again.
        key = pseudonyms_key(new)
        if key == self._key:
            self._waiting.pop(CRYPTOPAN, None)
            return None

        def derive() -> tuple[_Key, Pseudonyms]:
            # Argon2id runs on up to four threads, which must not take time from the workers.
            return key, at_low_priority(lambda: load_pseudonyms(new))

        return derive

    def _changed_clients(self, new: Config) -> Work | None:
        # Small enough to be read each time.
        before = self._engine.cell.current.config.ignored_client_ips_file
        return partial(load_clients, new) if new.ignored_client_ips_file or before else None

    def _changed_names(self, new: Config) -> Work | None:
        path = new.ignored_question_names_file
        return self._changed_list(
            IGNORED_NAMES, path, new, open_ignored_names, lambda: self._engine.cell.current.ignored_names
        )

    def _changed_well_known(self, new: Config) -> Work | None:
        path = new.well_known_domains_file
        return self._changed_list(
            WELL_KNOWN, path, new, open_well_known, lambda: self._engine.latest_well_known
        )

    def _changed_list(
        self,
        part: str,
        path: str,
        new: Config,
        read: Callable[[Config], Dawg | None],
        loaded: Callable[[], DomainTable | None],
    ) -> Work | None:
        if not path and loaded() is None:
            self._waiting.pop(part, None)
            return None
        seen = stamp(path, new.list_file_bytes)
        if seen is not None and seen == self._stamps.get(part):
            self._waiting.pop(part, None)
            return None

        def make() -> object:
            before = stamp(path, new.list_file_bytes)
            self._stamps[part] = None
            dawg = read(new)
            table = loaded()
            if (dawg.digest() if dawg else None) != (table.digest if table else None):
                table = make_table(dawg)
            if stamp(path, new.list_file_bytes) == before:
                self._stamps[part] = before
            return table

        return make

    # Making parts

    def _load(self, new: Config, part: str, prepare: Callable[[], Work | None]) -> None:
        with self._faults(part):
            work = prepare()
            if work is None:
                # An unchanged list file counts as a successful reload, because it was checked. An unchanged key
                # does not, because nothing was derived.
                if part != CRYPTOPAN:
                    self._metrics.reloaded(part, ok=True)
                self._parts[part] = PartOutcome(
                    "unchanged" if self._is_configured(part, new) else "not configured"
                )
                return
            pace = self._paces.get(part)
            wait = pace.wait() if pace and not new.reload_at_once else 0.0
            if wait:
                self._waiting[part] = work
                reason = f"changed several times just now, taken up in {wait:.1f} seconds"
                self._parts[part] = PartOutcome("waiting", (reason,))
            else:
                self._make(part, work)

    @staticmethod
    def _is_configured(part: str, config: Config) -> bool:
        lists = {CLIENTS: config.ignored_client_ips_file, IGNORED_NAMES: config.ignored_question_names_file}
        return bool(lists.get(part, True))

    def _make(self, part: str, work: Work) -> None:
        self._waiting.pop(part, None)
        began = time.thread_time()
        try:
            self._made[part] = work()
        finally:
            if pace := self._paces.get(part):
                took = time.thread_time() - began
                pace.worked(KEY_SECONDS if part == CRYPTOPAN else took)
                self._apart += took
        self._succeed(part)

    @contextmanager
    def _faults(self, part: str) -> Iterator[None]:
        """Turn an error of one part into its outcome, so that the other parts can be loaded."""
        try:
            yield
        except (EdmError, MemoryError) as error:
            reason = str(error) if isinstance(error, EdmError) else "there is not enough memory for it"
            self._log.error("reload failed, keeping the old state", part=part, reason=reason)
            self._fail(part, reason)
        except Exception as error:
            self._log.exception("reload failed, keeping the old state", part=part)
            self._fail(part, _fault(error))

    def _succeed(self, part: str) -> None:
        self._metrics.reloaded(part, ok=True)
        self._parts[part] = PartOutcome("reloaded")

    def _fail(self, part: str, *reasons: str) -> None:
        # Without a stamp the next reload reads the file again, even if it has not changed.
        self._stamps[part] = None
        self._metrics.reloaded(part, ok=False)
        self._parts[part] = PartOutcome("failed", tuple(redact(reason) for reason in reasons))


def _monotonic_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def _fault(error: Exception) -> str:
    return f"a fault in the program, see the log ({type(error).__name__})"


__all__ = ["CONFIG", "PARTS", "Reloader"]
