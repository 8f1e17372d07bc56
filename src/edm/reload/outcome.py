"""The outcome of a reload, part by part, and the file that tells it to ``edm reload``."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from edm.errors import StoreError
from edm.files.own import make_new

FILE_NAME = "reload.json"
_FILE_MAX = 1 << 20

Result: TypeAlias = Literal["reloaded", "unchanged", "waiting", "failed", "not configured"]


class PartOutcome(NamedTuple):
    """The outcome of one part; ``reasons`` holds one line for each error, or the reason why the part waits."""

    result: Result
    reasons: tuple[str, ...] = ()


class UntrustedError(StoreError):
    """Another user than the daemon's could have written the file with the outcome."""


def _believe(path: Path, file: os.stat_result, user: int) -> None:
    folder = path.parent.stat()
    others = stat.S_IWOTH if folder.st_mode & stat.S_ISVTX else 0
    if not stat.S_ISREG(file.st_mode) or file.st_nlink != 1:
        raise UntrustedError(f"{path}: is not believed: no file of its own")
    if file.st_uid != user:
        raise UntrustedError(f"{path}: is not believed: it belongs to another user than the daemon")
    if file.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UntrustedError(f"{path}: is not believed: others can write to it")
    if folder.st_mode & stat.S_IWOTH & ~others:
        raise UntrustedError(f"{path}: is not believed: others can write to {path.parent}")


@dataclass(frozen=True)
class ReloadOutcome:
    """The outcome of a reload.

    Attributes
    ----------
    serial : int
        Number of the reload since the start of the process; 0 stands for the start itself.
    pid : int
        Number of the daemon's process.
    began_us : int
        When the reload began, before anything was read; microseconds of the system's monotonic clock.
    finished : float
        When it was done, seconds since 1970.
    parts : mapping of str to PartOutcome
        Parts in the order in which they were tried. A part that was not tried is missing.
    restart : tuple of str
        Changed settings that need a restart.
    """

    serial: int
    pid: int
    began_us: int
    finished: float
    parts: Mapping[str, PartOutcome] = field(default_factory=dict)
    restart: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[str, ...]:
        """The parts that keep their old state."""
        return tuple(name for name, part in self.parts.items() if part.result == "failed")

    @property
    def waiting(self) -> tuple[str, ...]:
        """The parts that will be used a little later."""
        return tuple(name for name, part in self.parts.items() if part.result == "waiting")

    def write(self, folder: Path) -> None:
        """Write the outcome into ``folder``, completely or not at all.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        part = folder / f".{FILE_NAME}.tmp"
        descriptor = make_new(part, 0o640)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            # Not json.dump(), which does not use the faster encoder in C.
            file.write(json.dumps({**vars(self), "parts": self._plain_parts()}) + "\n")
        part.replace(folder / FILE_NAME)

    def _plain_parts(self) -> dict[str, dict[str, object]]:
        return {name: part._asdict() for name, part in self.parts.items()}

    @classmethod
    def read(cls, folder: Path, user: int | None = None) -> ReloadOutcome:
        """Read the outcome from ``folder``.

        Parameters
        ----------
        folder : Path
            The data directory.
        user : int, optional
            The number of the user that runs the daemon. A file that another user could have written is refused.

        Raises
        ------
        UntrustedError
            Another user could have written the file.
        StoreError
            There is no such file, or it cannot be read.
        """
        path = folder / FILE_NAME
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                if user is not None:
                    _believe(path, os.fstat(descriptor), user)
                return cls._parse(json.loads(file.read(_FILE_MAX)))
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            raise StoreError(f"{path}: does not hold the outcome of a reload") from None

    @classmethod
    def _parse(cls, found: dict[str, Any]) -> ReloadOutcome:
        if not all(part["result"] in get_args(Result) for part in found["parts"].values()):
            raise ValueError
        parts = {
            str(name): PartOutcome(part["result"], tuple(map(str, part["reasons"])))
            for name, part in found["parts"].items()
        }
        numbers = int(found["serial"]), int(found["pid"]), int(found["began_us"])
        return cls(*numbers, float(found["finished"]), parts, tuple(map(str, found["restart"])))


__all__ = ["FILE_NAME", "PartOutcome", "ReloadOutcome", "Result", "UntrustedError"]
