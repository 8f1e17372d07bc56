"""Values loaded from files that are renewed while they are in use: keys, certificates, lists of authorities.

Tools that renew certificates replace the files without notifying anybody. So the files are checked from time to time
and before they are needed. If they can be loaded they are used; otherwise the old value stays in use.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import structlog

from edm.errors import EdmError

S = TypeVar("S")
T = TypeVar("T")


class Renewable(Generic[S, T]):
    """A value loaded from files. Any thread may use it.

    Parameters
    ----------
    name : str
        What the value is, for the log.
    settings : S
    paths : callable
        Returns the paths of the files that ``settings`` name; an empty path stands for no file.
    load : callable
        Makes the value; raises EdmError if it cannot be made.

    Raises
    ------
    EdmError
        From ``load``.

    Attributes
    ----------
    value : T
        Replaced as a whole.
    """

    def __init__(
        self, name: str, settings: S, paths: Callable[[S], Sequence[str]], load: Callable[[S], T]
    ) -> None:
        self._name = name
        self._settings = settings
        self._paths = paths
        self._load = load
        self._lock = threading.Lock()
        self._seen = _look(paths(settings))
        self.value = load(settings)

    def reload(self, settings: S) -> None:
        """Load the value again, from the files that the new ``settings`` name.

        Raises
        ------
        EdmError
            From ``load``; the old value stays.
        """
        with self._lock:
            self._settings = settings
            # Before it is loaded: what is changed meanwhile is found at the next look.
            self._seen = _look(self._paths(settings))
            self.value = self._load(settings)

    def refresh(self) -> bool:
        """Load the value again if a file has changed since the last time; return whether there is a new value.

        A line in the log tells either way, once for each change.
        """
        with self._lock:
            found = _look(self._paths(self._settings))
            if found == self._seen:
                return False
            self._seen = found
            try:
                self.value = self._load(self._settings)
            except EdmError as error:
                structlog.get_logger().warning(
                    "renewed on disk but not usable, keeping the old one", part=self._name, reason=str(error)
                )
                return False
        structlog.get_logger().info("renewed on disk, taken up", part=self._name)
        return True


def reload_all(settings: S, *parts: Renewable[S, Any]) -> None:
    """Reload each part, whatever becomes of the others.

    Raises
    ------
    EdmError
        Of the first part that could not be reloaded, with what is wrong with the others too.
    """
    errors = []
    for part in parts:
        try:
            part.reload(settings)
        except EdmError as error:
            errors.append(error)
    if errors:
        raise type(errors[0])("; ".join(map(str, errors)))


def _look(paths: Sequence[str]) -> list[tuple[int, ...] | None]:
    return [_state(path) for path in paths]


def _state(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a few hundred times a second at most, but also then cheap
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


__all__ = ["Renewable", "reload_all"]
