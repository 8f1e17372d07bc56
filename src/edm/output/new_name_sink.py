"""The sink of new names where nothing is sent: their events go into files, and nowhere else."""

from __future__ import annotations

import threading
import time
from typing import Any

import structlog

from edm.config import Config
from edm.observe.faults import DEFECT
from edm.observe.metrics import Metrics
from edm.output.new_name_file import NewNameFiles
from edm.stages.new_qname.events import EventBlock
from edm.stages.new_qname.queue import EventQueue

CHORES = 1.0
"""Seconds between two looks at what could not be written."""

GATHER = 0.2
"""Seconds for which events come together before they are written: the disk is waited for once for all of them."""

LEAST_GRACE = 5.0
"""Seconds that a stop takes at least, if it has to, to write what the workers found last."""

_BATCH_BYTES = 4 * 1024 * 1024


class NewNamesToFiles:
    """Writes events of new names into files: an :class:`edm.output.sink.EventSink`.

    A name is saved when its event is on disk. So a killed process forgets no name whose event is in a file, except
    those of the last moment, which are then in two.

    Parameters
    ----------
    event_queue : EventQueue
        What the workers fill. It must be closed before :meth:`stop`.
    files : NewNameFiles
    metrics : Metrics
    """

    part = "new_qname_file"
    section = "new_name_files"
    names = b""
    stored = None

    def __init__(self, event_queue: EventQueue, files: NewNameFiles, metrics: Metrics) -> None:
        self._events = event_queue
        self._files = files
        self._metrics = metrics
        self._log = structlog.get_logger()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Make the folder, and begin to write.

        Raises
        ------
        OutputError
            No file can be made in the folder.
        """
        self._files.check()
        self._thread = threading.Thread(target=self._run, name="edm-new-qname", daemon=True)
        self._thread.start()

    def put(self, block: EventBlock) -> tuple[int, int]:
        """Take events into the queue in memory; see :class:`edm.output.sink.EventTaker`."""
        return self._events.put(block)

    def reload(self, config: Config) -> None:
        """Try again at once what could not be written; whether there are files is decided at the start."""
        del config
        self._files.hurry()

    def status(self) -> dict[str, Any]:
        """Return the size of the queue; see :class:`edm.output.sink.Sink`."""
        return {"enabled": True, "memory": self._events.events, "held": self._files.held}

    def certificates(self) -> list[tuple[str, float]]:
        """Return nothing: there is no connection."""
        return []

    def stop(self, grace: float) -> None:
        """Write what the event queue still holds, and end."""
        if self._thread is None:
            return
        self._thread.join(max(grace, LEAST_GRACE))
        if self._thread.is_alive():
            self._log.error("the writing of new names did not end in time", events=self._events.events)

    def _run(self) -> None:
        while not self._events.finished:
            try:
                self._write_some()
            except Exception:  # a bug must not stop the writing for good
                self._metrics.faults.report(DEFECT)
                self._log.exception("new names could not be moved to their file")
                time.sleep(CHORES)
        self._files.close()

    def _write_some(self) -> None:
        block = self._events.get(CHORES)
        if block is None:
            self._files.maintain()
            return
        self._events.gather(GATHER)
        blocks, size = [block], len(block.payloads)
        while size < _BATCH_BYTES and (block := self._events.get(0.0)) is not None:
            blocks.append(block)
            size += len(block.payloads)
        self._files.write(blocks, save=True)


__all__ = ["NewNamesToFiles"]
