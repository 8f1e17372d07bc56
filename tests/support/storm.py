"""The storm: many reloads and rotations a second while a daemon works at full speed.

Each reload has a number, its *generation*, and generation and contents belong together: key and salt are those of this
generation alone, and which clients and names are ignored, which variant of the well-known domains is
on disk, and whether sessions are collected follows from it. The configuration names files of its own for each
generation's ignored clients and names, so that one renaming puts a whole generation in force; the list of
well-known domains is replaced under a constant name.
"""

from __future__ import annotations

import dataclasses
import itertools
import signal
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from edm.stages.domains.dawg.writer import write_dawg
from support import storm_traffic as traffic
from support.daemon import Daemon, to_toml

PACE = 0.1
"""Seconds between two reloads."""


@dataclasses.dataclass(frozen=True)
class Generation:
    """What a reload is to put in force.

    Parameters
    ----------
    number : int
        From 0, with which the daemon is started.
    switch : bool
        Whether every eighth generation collects no sessions.
    """

    number: int
    switch: bool = False

    @property
    def key(self) -> str:
        """Secret; it changes with every generation of an odd number."""
        return f"storm key {(self.number + 1) // 2}"

    @property
    def salt(self) -> str:
        """Salt; it changes with every generation of an even number."""
        return f"storm salt {self.number // 2}"

    @property
    def clients(self) -> int:
        """Set of ignored clients."""
        return self.number % traffic.CLIENT_SETS

    @property
    def names(self) -> int:
        """Set of ignored names."""
        return self.number % traffic.NAME_SETS

    @property
    def variant(self) -> int:
        """Variant of the well-known domains."""
        return self.number % traffic.VARIANTS

    @property
    def sessions(self) -> bool:
        """Whether sessions are collected."""
        return not (self.switch and self.number % 8 == 7)


class Storm:
    """Changes a daemon's configuration and lists; a context in which reloads and rotations follow each other.

    Parameters
    ----------
    folder : Path
        For lists and configuration.
    switch : bool
        Whether sessions are switched off at times.
    settings
        More configuration.

    Attributes
    ----------
    daemon : Daemon
        Not started yet.
    generations : list of Generation
        All that were put in place.
    placed : list of float
        When each of them was in place: wall clock, seconds since 1970.
    rotations : int
        Rotations on request.
    rotate_every : float
        Seconds between two of them; full minutes come on top.
    """

    rotate_every = 0.7

    def __init__(self, folder: Path, *, switch: bool = False, **settings: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._switch = switch
        self._domains = [write_dawg(traffic.known_list(variant)) for variant in range(traffic.VARIANTS)]
        self._names = [write_dawg(traffic.ignored_list(subset)) for subset in range(traffic.NAME_SETS)]
        self.unix = folder / "dnstap.sock"
        self._constant = {
            "input_unix": self.unix,
            "well_known_domains_file": folder / "domains",
            "reload_at_once": True,
            **settings,
        }
        self.generations: list[Generation] = []
        self.placed: list[float] = []
        self.rotations = 0
        self._failure: BaseException | None = None
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.daemon = Daemon(folder, **self._place())

    def _place(self) -> dict[str, Any]:
        """Write the lists of the next generation; return the settings that put it in force."""
        generation = Generation(len(self.generations), self._switch)
        clients = self.folder / f"clients-{generation.number}"
        clients.write_text(traffic.client_list(generation.clients))
        names = self.folder / f"names-{generation.number}"
        names.write_bytes(self._names[generation.names])
        self._replace(self.folder / "domains", self._domains[generation.variant])
        self.generations.append(generation)
        return {
            **self._constant,
            "cryptopan_key": generation.key,
            "cryptopan_key_salt": generation.salt,
            "ignored_client_ips_file": clients,
            "ignored_question_names_file": names,
            "disable_session_files": not generation.sessions,
            "pebble_sync": generation.number % 8 == 3,  # while it is on, the disk sets the pace
        }

    @staticmethod
    def _replace(path: Path, content: bytes) -> None:
        new = path.with_name(path.name + ".new")
        new.touch(0o600)
        new.write_bytes(content)
        new.replace(path)

    def place(self) -> None:
        """Put the next generation in place, for whoever reads it."""
        self.daemon.settings.update(self._place())
        self._replace(self.daemon.config, to_toml(self.daemon.settings).encode())
        self.placed.append(time.time())

    def reload(self) -> None:
        """Put the next generation in place and send SIGHUP, without waiting for what comes of it."""
        self.place()
        self.daemon.process.send_signal(signal.SIGHUP)

    def settle(self) -> None:
        """Wait until the generation put in place last is in force."""
        # What ends first may have begun before the signal, and its report may be under way already.
        for _ in range(3):
            done = len(self.reports())
            self.daemon.process.send_signal(signal.SIGHUP)
            self.daemon.wait_for_log("reloaded", count=done + 1)

    def start(self) -> None:
        """Begin: a thread for reloads, one for rotations."""
        for work, every in ((self.reload, PACE), (self._rotate, self.rotate_every)):
            thread = threading.Thread(target=self._repeat, args=(work, every))
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End both threads."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._over.clear()
        self._threads.clear()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _repeat(self, work: Any, every: float) -> None:
        due = time.monotonic()
        try:
            while not self._over.wait(max(0.0, due - time.monotonic())):
                work()
                due = max(due + every, time.monotonic())
        except BaseException as failure:
            self._failure = failure

    def _rotate(self) -> None:
        status, text = self.daemon.http("POST", "/debug/rotate-parquet")
        # Over a slow disk the answer may come too late; the rotation comes all the same.
        assert status in (202, 504), text
        self.rotations += status == 202

    def reports(self) -> list[float]:
        """Return when the daemon reported each reload as done: wall clock, seconds since 1970."""
        return [
            datetime.fromisoformat(entry["time"]).timestamp() for entry in self.daemon.messages("reloaded")
        ]


def least_generations(storm: Storm) -> list[tuple[float, int]]:
    """Return from when on (wall clock) all frames must be under which generation or a later one.

    Reloads follow one another in one thread: what the daemon reports as reload ``n`` read its configuration after
    it had reported reload ``n - 1``. Whatever was in place then is in force when reload ``n`` is reported.
    """
    reports = storm.reports()
    bounds = []
    for before, report in itertools.pairwise(reports):
        in_place = sum(placed <= before for placed in storm.placed)
        bounds.append((report, in_place))
    return bounds
