"""Messages that the Go daemon has left unsent: one file each, holding a complete MQTT PUBLISH packet."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from edm.files.own import open_own
from edm.observe.logs import RateLimited
from edm.tapir.events.backlog import Backlog
from edm.tapir.events.chunks import Chunk, chunk_of_messages
from edm.tapir.mqtt.packets import PacketError, parse_publish

SLICE = 256
"""Files taken over in one go."""

_LISTED = 20_000
_PACKET_MAX = 1 << 20


class GoQueue:
    """Takes the Go daemon's messages over into the backlog, oldest file first, a slice at a time.

    A file is removed once its message is safe on disk, so a message is taken over at least once.

    Parameters
    ----------
    folder : Path
        ``<data-dir>/mqtt/queue``; it need not exist.
    backlog : Backlog

    Attributes
    ----------
    pending : bool
        There may be more to take over.
    """

    def __init__(self, folder: Path, backlog: Backlog) -> None:
        self._folder = folder
        self._backlog = backlog
        self._log = structlog.get_logger()
        self._limited = RateLimited(self._log)
        self._names: Iterator[str] = iter(())
        self._unsafe: list[Path] = []
        self._stuck: set[str] = set()
        self._imported = 0
        self.pending = folder.is_dir()

    def take_over(self) -> bool:
        """Take over one slice; returns whether there is more to do at once."""
        if self._unsafe:
            if not self._backlog.put([]):
                return False  # the disk still cannot take them; the files are as good a place
            self._remove()
        names = list(itertools.islice(self._names, SLICE))
        if not names:
            self._names = iter(self._oldest())
            names = list(itertools.islice(self._names, SLICE))
        if not names:
            self.pending = False
            if self._imported:
                self._log.info("took over messages of the Go daemon", messages=self._imported)
            return False
        read = [(path, message) for name in names if (message := self._read(path := self._folder / name))]
        chunks: list[Chunk] = []
        for topic, group in itertools.groupby(read, lambda item: item[1][0]):
            chunks.append(chunk_of_messages([message for _, (_, message) in group], topic))
        self._unsafe = [path for path, _ in read]
        self._imported += len(read)
        if not self._backlog.put(chunks, imported=True):
            return False
        self._remove()
        return True

    def _remove(self) -> None:
        for path in self._unsafe:
            self._try(path.unlink, path)
        self._unsafe = []

    def _try(self, action: Callable[[], object], path: Path) -> None:
        try:
            action()
        except FileNotFoundError:
            pass
        except OSError as error:
            # It must not be taken over again and again.
            self._stuck.add(path.name)
            self._limited.error(
                "message of the Go daemon cannot be removed", filename=str(path), reason=str(error)
            )

    def _oldest(self) -> list[str]:
        def found() -> Iterator[tuple[int, str]]:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if (
                        entry.name.startswith("queue")
                        and entry.name.endswith(".msg")
                        and entry.name not in self._stuck
                    ):
                        with contextlib.suppress(OSError):
                            if entry.is_file(follow_symlinks=False):
                                yield entry.stat(follow_symlinks=False).st_mtime_ns, entry.name

        try:
            return [name for _, name in heapq.nsmallest(_LISTED, found())]
        except OSError as error:
            self._limited.error("queue of the Go daemon cannot be read", reason=str(error))
            return []

    def _read(self, path: Path) -> tuple[str, bytes] | None:
        try:
            with os.fdopen(open_own(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                return parse_publish(file.read(_PACKET_MAX))
        except (OSError, PacketError) as error:
            self._limited.error("message of the Go daemon set aside", filename=str(path), reason=str(error))
            self._try(lambda: path.rename(path.with_name(path.name + ".CORRUPT")), path)
            return None


__all__ = ["SLICE", "GoQueue"]
