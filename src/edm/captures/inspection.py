"""Reports on output files and captures, for ``edm inspect``."""

from __future__ import annotations

import os
import threading
from collections import Counter
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np

from edm.captures.parquet import MOST_NAMES, inspect_parquet
from edm.captures.reading import CaptureReader
from edm.errors import EdmError, InputError
from edm.input.blocks import Block, Intake
from edm.input.reader import FrameReader
from edm.kernel.columns import (
    BATCH_ROWS,
    FRAME_LEN,
    FRAME_OFF,
    MESSAGE_TYPE,
    PENDING,
    QNAME_HASH,
    QNAME_LEN,
    QNAME_OFF,
    QUERY,
    RCODE,
    RESPONSE_TIME_SEC,
    Columns,
)
from edm.observe.ledger import FATE_NAMES
from edm.stages.dns.name import new_memo
from edm.stages.dns.walk import walk_messages
from edm.stages.dnstap.decode import decode_frames
from edm.stages.domains.table.hashing import HASH_KEY
from edm.stages.domains.table.name_hashing import hash_names
from edm.stages.names import wire_to_text

Facts: TypeAlias = dict[str, Any]

_PARQUET_MAGIC = b"PAR1"
_MESSAGE_TYPES = (
    *(
        "AUTH_QUERY",
        "AUTH_RESPONSE",
        "RESOLVER_QUERY",
        "RESOLVER_RESPONSE",
        "CLIENT_QUERY",
        "CLIENT_RESPONSE",
    ),
    *("FORWARDER_QUERY", "FORWARDER_RESPONSE", "STUB_QUERY", "STUB_RESPONSE", "TOOL_QUERY", "TOOL_RESPONSE"),
    *("UPDATE_QUERY", "UPDATE_RESPONSE"),
)
_RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
_BLOCK_BYTES = 1 << 20
_MAX_FRAME = 262_144


def inspect(path: str, top: int = 10) -> Facts:
    """Return facts about a file: an output file of this program or of the Go daemon, or a capture.

    Parameters
    ----------
    path : str
        The file; ``-`` is a capture on standard input.
    top : int
        Names to return, the most frequent first.

    Returns
    -------
    dict
        ``file``, ``kind`` (``histogram``, ``session``, ``parquet`` for any other Parquet file, ``capture``), and
        facts that depend on the kind; all of them can be written as JSON. A damaged capture also has ``problem``.

    Raises
    ------
    InputError
        The file cannot be read, or is none of these.
    """
    if path != "-" and _begins_with_magic(path):
        return inspect_parquet(path, top)
    with CaptureReader(path) as capture:
        return _Capture(capture).facts(top)


def _begins_with_magic(path: str) -> bool:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.seekable() and file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


# Captures


class _Capture:
    """Decodes a capture and counts its frames by fate. No list is used, so no frame is ignored or well-known."""

    def __init__(self, capture: CaptureReader) -> None:
        self._capture = capture
        self._intake = Intake(4, _BLOCK_BYTES, linger=0.0)
        self._columns = Columns()
        self._memo = new_memo()
        self._problem = ""
        self._bytes = self._frames = self._oversized = 0
        self._types: Counter[int] = Counter()
        self._fates: Counter[int] = Counter()
        self._rcodes: Counter[int] = Counter()
        self._names: dict[int, list[Any]] = {}
        self._least = 0  # lower bound on different names, once some were dropped
        self._times: list[int] = []

    def facts(self, top: int) -> Facts:
        reader = threading.Thread(target=self._read, name="edm-inspect-reader", daemon=True)
        reader.start()
        while (block := self._intake.get()) is not None:
            for first in range(0, block.frames, BATCH_ROWS):
                self._count(block, first, min(BATCH_ROWS, block.frames - first))
            self._frames += block.frames
            self._oversized += block.oversized
            self._bytes += int(block.length[: block.frames].sum())
            self._intake.release(block)
        reader.join()
        facts = self._facts(top)
        return facts | {"problem": self._problem} if self._problem else facts

    def _read(self) -> None:
        frames = FrameReader(self._intake, _MAX_FRAME, until_stop=False)
        try:
            while frames.pump_block(self._capture.readinto) > 0:
                pass
            self._capture.check_end(frames.unconsumed)
        except InputError as error:
            self._problem = str(error)
        except EdmError as error:
            self._problem = f"{self._capture.name}: {error}"
        finally:
            self._intake.close()

    def _count(self, block: Block, first: int, n: int) -> None:
        buf, u32, u64, fate = block.buf, self._columns.u32, self._columns.u64, self._columns.fate
        u32[FRAME_OFF, :n] = block.off[first : first + n]
        u32[FRAME_LEN, :n] = block.length[first : first + n]
        decode_frames(buf, u32, u64, fate, n)
        _add(self._types, u32[MESSAGE_TYPE, :n][(fate[:n] == QUERY) | (fate[:n] == PENDING)])
        walk_messages(buf, block.capacity, u32, fate, n, self._memo)
        _add(self._fates, fate[:n])
        hash_names(buf, u32, u64, fate, n, HASH_KEY)
        rows = np.flatnonzero(fate[:n] == PENDING)
        if not len(rows):
            return
        _add(self._rcodes, u32[RCODE, rows])
        self._add_times(u64[RESPONSE_TIME_SEC, rows])
        hashes, where, counts = np.unique(u64[QNAME_HASH, rows], return_index=True, return_counts=True)
        for key, row, count in zip(hashes.tolist(), rows[where].tolist(), counts.tolist(), strict=True):
            seen = self._names.get(key)
            if seen is None:
                start = int(u32[QNAME_OFF, row])
                wire = bytes(buf[start : start + int(u32[QNAME_LEN, row])])
                self._names[key] = [count, wire]
            else:
                seen[0] += count
        if len(self._names) > MOST_NAMES:
            self._least = max(self._least, len(self._names))
            most = sorted(self._names.items(), key=lambda item: -item[1][0])
            self._names = dict(most[: MOST_NAMES // 2])

    def _add_times(self, seconds: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
        # 0 means that there is no time; a year after 9999 cannot be shown.
        known = seconds[(seconds > 0) & (seconds < 253_402_300_800)]
        if len(known):
            self._times = [min([int(known.min()), *self._times]), max([int(known.max()), *self._times])]

    def _facts(self, top: int) -> Facts:
        fates = {
            FATE_NAMES[number]: count for number, count in sorted(self._fates.items()) if number != PENDING
        }
        most = sorted(self._names.values(), key=lambda entry: (-entry[0], entry[1]))[:top]
        return {
            "file": self._capture.name,
            "kind": "capture",
            "bytes": self._capture.size,
            "frames": self._frames,
            "frame_bytes": self._bytes,
            "frames_oversized": self._oversized,
            "types": {_type_name(number): count for number, count in self._types.most_common()},
            "fates": fates | {"response": self._fates[PENDING]},
            "rcodes": {
                _RCODES.get(code, f"RCODE{code}"): count for code, count in self._rcodes.most_common()
            },
            "response_times": [_time(second) for second in self._times] or None,
            "names": max(self._least, len(self._names)),
            "names_complete": not self._least,
            "top": [{"name": wire_to_text(wire).lower(), "responses": count} for count, wire in most],
        }


def _add(counter: Counter[int], values: np.ndarray[Any, np.dtype[Any]]) -> None:
    numbers, counts = np.unique(values, return_counts=True)
    for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        counter[number] += count


def _type_name(number: int) -> str:
    return _MESSAGE_TYPES[number - 1] if 0 < number <= len(_MESSAGE_TYPES) else f"type {number}"


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


__all__ = ["inspect"]
