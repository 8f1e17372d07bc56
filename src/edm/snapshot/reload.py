"""Reload on SIGHUP: build everything first, publish once; what cannot be loaded keeps its old state."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from edm.config import Config, diff
from edm.engine import Engine
from edm.errors import ConfigError, EdmError
from edm.observe.privacy import redact
from edm.snapshot.background import at_low_priority
from edm.snapshot.outcome import PartOutcome, ReloadOutcome
from edm.snapshot.parts import load_clients, load_ignored_names, load_pseudonymiser, load_well_known

UNCHANGED = object()

CONFIG = "config"
CRYPTOPAN = "cryptopan"
PARTS = (CONFIG, "ignored_client_ips", "ignored_question_names", CRYPTOPAN, "well_known_domains")
"""What every daemon reloads; the outputs that it has come to these."""


class Reloader:
    """Reloads the parts of an engine's snapshot.

    Parameters
    ----------
    read_config : callable
        Reads the configuration anew, with the same flags and environment as at start.
    outputs : mapping
        What else is to take over the new configuration, by name of the part; raises EdmError if it cannot.

    Attributes
    ----------
    outcome : ReloadOutcome
        Of the last reload; before the first one, that of the start.
    """

    def __init__(
        self,
        engine: Engine,
        read_config: Callable[[], Config],
        outputs: Mapping[str, Callable[[Config], None]] | None = None,
    ) -> None:
        self._outputs = outputs or {}
        self._engine = engine
        self._read_config = read_config
        self._metrics = engine.metrics
        self._log = structlog.get_logger()
        self._key = _key(engine.config)
        self._parts: dict[str, PartOutcome] = {}
        self._restart: tuple[str, ...] = ()
        self.outcome = ReloadOutcome(0, os.getpid(), _monotonic_us(), time.time())
        for part in (*PARTS, *self._outputs):
            self._metrics.loaded(part)

    def reload(self) -> bool:
        """Reload; return whether every part could be loaded. Never raises.

        The configuration comes first: if it is not valid, nothing else is touched. The pseudonymiser is made
        anew only if its key or salt changed. The ignored lists take effect at once. The well-known domains are
        loaded now and take effect at the next rotation. All lists are read and checked always, since their files
        may have changed; a table is built anew only if they have.
        """
        self._parts, self._restart = {}, ()
        began = _monotonic_us()
        try:
            self._reload()
        except Exception as error:
            self._log.exception("reload failed, keeping the old state")
            self._fail(CONFIG, _fault(error))
        self.outcome = ReloadOutcome(
            self.outcome.serial + 1, os.getpid(), began, time.time(), self._parts, self._restart
        )
        return not self.outcome.failed

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
        parts: dict[str, object] = {"config": new, "sessions": not new.disable_session_files}
        current = self._engine.cell.current
        # Not by comparing with the configuration before: a key that could not be taken up then is taken up now.
        key_changed = self._key != _key(new)
        loads: list[tuple[str, str, Callable[[], object]]] = [
            ("ignored_client_ips", "clients", lambda: load_clients(new)),
            (
                "ignored_question_names",
                "ignored_names",
                lambda: load_ignored_names(new, current.ignored_names),
            ),
        ]
        if key_changed:
            # Some 80 ms of CPU on up to four threads: not at the workers' expense.
            loads.append(
                (CRYPTOPAN, "pseudonymiser", lambda: at_low_priority(lambda: load_pseudonymiser(new)))
            )
        else:
            self._parts[CRYPTOPAN] = PartOutcome("unchanged")
        for part, field, load in loads:
            loaded = self._load(part, load)
            if loaded is not UNCHANGED:
                parts[field] = loaded
        if "pseudonymiser" in parts:
            self._key = _key(new)
        for part, take_over in self._outputs.items():
            self._load(part, partial(take_over, new))
        latest = self._engine.latest_well_known
        table = self._load("well_known_domains", lambda: load_well_known(new, latest))
        if table is not UNCHANGED:
            self._engine.set_next_well_known(table)  # type: ignore[arg-type]
        self._engine.seen.sync = new.pebble_sync
        self._engine.publish(**parts)
        failed = any(part.result == "failed" for part in self._parts.values())
        self._log.info(
            "reloaded in part" if failed else "reloaded",
            generation=self._engine.cell.current.generation,
            key_changed=key_changed,
        )

    def _load(self, part: str, load: Callable[[], object]) -> object:
        try:
            loaded = load()
        except (EdmError, MemoryError) as error:
            reason = str(error) if isinstance(error, EdmError) else "there is not enough memory for it"
            self._log.error("reload failed, keeping the old state", part=part, reason=reason)
            self._fail(part, reason)
            return UNCHANGED
        except Exception as error:  # the fault of one part is no reason to keep the others from being loaded
            self._log.exception("reload failed, keeping the old state", part=part)
            self._fail(part, _fault(error))
            return UNCHANGED
        self._succeed(part)
        return loaded

    def _succeed(self, part: str) -> None:
        self._metrics.reloaded(part, ok=True)
        self._parts[part] = PartOutcome("reloaded")

    def _fail(self, part: str, *reasons: str) -> None:
        self._metrics.reloaded(part, ok=False)
        self._parts[part] = PartOutcome("failed", tuple(redact(reason) for reason in reasons))


def _key(config: Config) -> tuple[str, str]:
    return config.cryptopan_key, config.cryptopan_key_salt


def _monotonic_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def _fault(error: Exception) -> str:
    return f"a fault in the program, see the log ({type(error).__name__})"


__all__ = ["CONFIG", "PARTS", "Reloader"]
