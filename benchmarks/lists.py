"""Domain lists of several sizes: loading them, and looking names up in them, all sizes in turn."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import Result, median
from benchmarks.streams import Parameters, U8Array, well_known_words, wire
from edm.kernel.columns import BATCH_ROWS, QNAME_LEN, QNAME_OFF, Columns
from edm.stages.domains.dawg.dawg import Dawg
from edm.stages.domains.dawg.writer import write_dawg
from edm.stages.domains.table.hashing import HASH_KEY
from edm.stages.domains.table.name_hashing import hash_names
from edm.stages.domains.table.table import DomainTable

_POPULARITY = (("", 0.0), (", popular as in a stream", Parameters.skew), (", Zipf 1", 1.0))
_WARM = 2  # batches before the clock starts: what another size has left in the cache is gone then


class _Names:
    """Question names one behind the other, of which batches are drawn by their popularity."""

    def __init__(self, names: Sequence[str]) -> None:
        wires = [wire(name.rstrip(".")) for name in names]
        self._wires: U8Array = np.frombuffer(b"".join(wires), np.uint8)
        self._sizes = np.array([len(wire) for wire in wires], np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._shares: dict[float, Any] = {}

    def draw(self, skew: float, rng: np.random.Generator, columns: Columns) -> U8Array:
        """Fill a batch's columns with names by Zipf's law; return the buffer they point to."""
        if skew not in self._shares:
            self._shares[skew] = np.cumsum(np.arange(1, len(self._sizes) + 1, dtype=np.float64) ** -skew)
        shares = self._shares[skew]
        drawn = np.searchsorted(shares, rng.random(BATCH_ROWS) * shares[-1])
        chosen = np.minimum(drawn, len(self._sizes) - 1)
        sizes = self._sizes[chosen]
        begins = np.cumsum(sizes) - sizes
        # As much room around the names as the block of a batch has.
        buf: U8Array = np.zeros(64 + int(sizes.sum()) + 128, np.uint8)
        taken = np.repeat(self._starts[chosen] - begins, sizes) + np.arange(int(sizes.sum()))
        buf[64 : 64 + len(taken)] = self._wires[taken]
        columns.u32[QNAME_LEN, :BATCH_ROWS] = sizes
        columns.u32[QNAME_OFF, :BATCH_ROWS] = 64 + begins
        columns.fate[:] = 0
        return buf


def load(words: Sequence[str]) -> tuple[DomainTable, float, int]:
    """Return a table of words, the seconds that loading took, and the size of the file."""
    with tempfile.TemporaryDirectory(prefix="edm-bench-") as folder:
        path = Path(folder) / "list.dawg"
        path.write_bytes(write_dawg(words))
        began = time.monotonic()
        table = DomainTable.build(Dawg.open(path))
        return table, time.monotonic() - began, path.stat().st_size


class _List:
    """A loaded list, and the names that are asked of it: by kind of match."""

    def __init__(self, size: int) -> None:
        words = well_known_words(size)
        self.size = size
        self.table, self.load_seconds, self.file_bytes = load(words)
        exact = [word for word in words if not word.startswith(".")]
        self.names = {
            "exact": _Names(exact),
            "suffix": _Names(["www" + word for word in words if word.startswith(".")]),
            "no match": _Names(["x" + word for word in exact]),
        }
        self.times: dict[str, list[tuple[float, float]]] = {}

    def measure(self, kind: str, skew: float, batches: int, rng: np.random.Generator) -> tuple[float, float]:
        """Return the seconds of a lookup, and of hashing and lookup together, which is what a frame pays."""
        columns = Columns()
        lookups, sums = [], []
        for _ in range(_WARM + batches):
            buf = self.names[kind].draw(skew, rng, columns)
            began = time.thread_time()
            hash_names(buf, columns.u32, columns.u64, columns.fate, BATCH_ROWS, HASH_KEY)
            hashed = time.thread_time()
            self.table.lookup(buf, columns.u32, columns.u64, columns.fate, BATCH_ROWS)
            ended = time.thread_time()
            lookups.append((ended - hashed) / BATCH_ROWS)
            sums.append((ended - began) / BATCH_ROWS)
        return median(lookups[_WARM:]), median(sums[_WARM:])


def lists(rounds: int, sizes: Sequence[int], batches: int) -> list[Result]:
    """Time loading lists of several sizes and looking names up in them; ratios are formed within a round."""
    loaded = [_List(size) for size in sizes]
    rng = np.random.default_rng(1)
    for _ in range(rounds):
        for kind in loaded[0].names:
            for popularity, skew in _POPULARITY:
                for each in loaded:
                    measured = each.measure(kind, skew, batches, rng)
                    each.times.setdefault(kind + popularity, []).append(measured)
    usual = next((each for each in loaded if each.size == Parameters.names), None)
    return [result for each in loaded for result in _results(each, usual)]


def _results(mine: _List, usual: _List | None) -> list[Result]:
    growth = mine.table.nbytes / mine.file_bytes
    note = f"loaded in {mine.load_seconds:.2f} s, {growth:.2f} times the file's {mine.file_bytes:,} bytes"
    extra = {
        "load_seconds": mine.load_seconds,
        "bytes": float(mine.table.nbytes),
        "file_bytes": float(mine.file_bytes),
    }
    results = []
    for label, times in mine.times.items():
        for what, part in (("", 0), (", with hashing", 1)):
            told, more = note, extra
            if usual is not None and usual is not mine:
                ratio = median([a[part] / b[part] for a, b in zip(times, usual.times[label], strict=True)])
                told = f"{ratio:.2f} times that of {usual.size:,} names; {note}"
                more = extra | {"of_usual": ratio}
            name = f"list of {mine.size:,}: {label}{what}"
            results.append(Result(name, cpu=median([each[part] for each in times]), note=told, extra=more))
    return results
