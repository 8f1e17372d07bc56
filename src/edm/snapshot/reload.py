"""Reload on SIGHUP: build everything first, publish once; what cannot be loaded keeps its old state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import structlog

from edm.config import Config, diff
from edm.engine import Engine
from edm.errors import ConfigError, EdmError
from edm.snapshot.background import at_low_priority
from edm.snapshot.parts import load_clients, load_ignored_names, load_pseudonymiser, load_well_known

UNCHANGED = object()


class Reloader:
    """Reloads the parts of an engine's snapshot.

    Parameters
    ----------
    read_config : callable
        Reads the configuration anew, with the same flags and environment as at start.
    outputs : mapping
        What else is to take over the new configuration, by name of the part; raises EdmError if it cannot.
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

    def reload(self) -> bool:
        """Reload; return whether every part could be loaded.

        The configuration comes first: if it is not valid, nothing else is touched. The pseudonymiser is made
        anew only if its key or salt changed. The ignored lists take effect at once. The well-known domains are
        loaded now and take effect at the next rotation. All lists are read and checked always, since their files
        may have changed; a table is built anew only if they have.
        """
        old = self._engine.cell.current.config
        try:
            new = self._read_config()
        except ConfigError as error:
            for violation in error.violations:
                self._log.error("reload failed, keeping the old configuration", reason=violation)
            self._metrics.reloaded("config", ok=False)
            return False
        self._metrics.reloaded("config", ok=True)
        for warning in new.warnings:
            self._log.warning(warning)
        changes = diff(self._engine.config, new)
        if changes.restart:
            self._log.warning("changed settings require restart", settings=list(changes.restart))
        return self._apply(old, new)

    def _apply(self, old: Config, new: Config) -> bool:
        parts: dict[str, object] = {"config": new, "sessions": not new.disable_session_files}
        ok = True
        current = self._engine.cell.current
        key_changed = (old.cryptopan_key, old.cryptopan_key_salt) != (
            new.cryptopan_key,
            new.cryptopan_key_salt,
        )
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
                ("cryptopan", "pseudonymiser", lambda: at_low_priority(lambda: load_pseudonymiser(new)))
            )
        for part, field, load in loads:
            loaded = self._load(part, load)
            if loaded is UNCHANGED:
                ok = False
            else:
                parts[field] = loaded
        for part, take_over in self._outputs.items():
            ok = self._load(part, partial(take_over, new)) is not UNCHANGED and ok
        latest = self._engine.latest_well_known
        table = self._load("well_known_domains", lambda: load_well_known(new, latest))
        if table is UNCHANGED:
            ok = False
        else:
            self._engine.set_next_well_known(table)  # type: ignore[arg-type]
        self._engine.seen.sync = new.pebble_sync
        self._engine.publish(**parts)
        self._log.info(
            "reloaded" if ok else "reloaded in part",
            generation=self._engine.cell.current.generation,
            key_changed=key_changed,
        )
        return ok

    def _load(self, part: str, load: Callable[[], object]) -> object:
        try:
            loaded = load()
        except EdmError as error:
            self._log.error("reload failed, keeping the old state", part=part, reason=str(error))
            self._metrics.reloaded(part, ok=False)
            return UNCHANGED
        self._metrics.reloaded(part, ok=True)
        return loaded
