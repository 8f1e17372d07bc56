"""Summary of a file of new names, for ``edm inspect``."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from edm.errors import InputError

LINE_MAX = 1 << 16
"""Bytes of the longest line that is read; an event has a few kilobytes at most."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_TYPES_MAX = 1 << 16


def inspect_events(path: str, top: int = 10) -> dict[str, Any]:
    """Return the number, times and types of the events in a file of new names, and the first names.

    Parameters
    ----------
    path : str
        A regular file with one event a line.
    top : int
        Names to return.

    Returns
    -------
    dict
        ``file``, ``kind`` (``new_qname``), ``bytes``, ``events``, ``times`` (first and last minute), ``types``
        (events by type of the question), ``shown`` (names), and ``problem`` if some lines are not events. All
        values can be written as JSON.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    events = other = 0
    times: list[str] = []
    types: Counter[int] = Counter()
    shown: list[str] = []
    try:
        with Path(path).open("rb") as file:
            for line in _lines(file):
                event = _event(line)
                if event is None:
                    other += 1
                    continue
                name, qtype, time = event
                events += 1
                types[qtype] += 1
                times = [min([time, *times]), max([time, *times])]
                if len(shown) < top:
                    shown.append(name)
            size = file.tell()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    facts = {"file": path, "kind": "new_qname", "bytes": size, "events": events, "times": times}
    facts |= {"types": {str(qtype): count for qtype, count in types.most_common()}, "shown": shown}
    if other:
        facts["problem"] = f"{path}: {other:,} of {events + other:,} lines are no new_qname events"
    return facts


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines; of a line that is too long, only its beginning, which is not valid JSON."""
    while line := file.readline(LINE_MAX):
        yield line
        while len(line) == LINE_MAX and not line.endswith(b"\n"):
            line = file.readline(LINE_MAX)


def _event(line: bytes) -> tuple[str, int, str] | None:
    """Return name, type and time of the event in a line, or None if the line is not an event."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("type") != "new_qname" or not line.endswith(b"\n"):
        return None
    name, qtype, time = event.get("qname"), event.get("qtype"), event.get("timestamp")
    if not isinstance(name, str) or type(qtype) is not int or not 0 <= qtype < _TYPES_MAX:
        return None
    if not isinstance(time, str) or not _TIME.fullmatch(time):
        return None
    return name, qtype, time


__all__ = ["LINE_MAX", "inspect_events"]
