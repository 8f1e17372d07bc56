"""Stages by themselves, in the conditions that the pipeline does not show: new addresses, huge lists, full stores."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks.lists import load
from benchmarks.results import Result, median
from benchmarks.streams import U8Array, well_known_words
from edm.kernel.columns import (
    BATCH_ROWS,
    DOMAIN_INDEX,
    DOMAIN_MATCH,
    FRAME_OFF,
    HAS_QUERY_ADDRESS,
    PRESENT,
    QNAME_LEN,
    QNAME_OFF,
    QUERY_ADDRESS_LEN,
    QUERY_ADDRESS_OFF,
    WELL_KNOWN,
    Columns,
)
from edm.output.histogram_file import write_histogram
from edm.stages.histogram.accumulators import Accumulators
from edm.stages.new_qname.seen.store import SeenStore
from edm.stages.pseudonyms.cryptopan import PseudonymCache, Pseudonymiser

_SECRET = bytes(range(32))
_NAME_BYTES = 25  # label of 15, label of 3, "com": 1 + 15 + 1 + 3 + 1 + 3 + 1


def _seconds(work: Callable[[], object]) -> float:
    # CPU time of this thread: on a machine that others use too, it tells more than the clock.
    began = time.thread_time()
    work()
    return time.thread_time() - began


# Pseudonyms


class _Addresses:
    """Batches of random client addresses of one family."""

    def __init__(self, size: int, batches: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.buf: U8Array = rng.integers(0, 256, batches * BATCH_ROWS * size, dtype=np.uint8)
        self.batches = batches
        self._size = size
        self._columns = Columns()
        self._columns.u32[PRESENT] = HAS_QUERY_ADDRESS
        self._columns.u32[QUERY_ADDRESS_LEN] = size

    def run(self, cache: PseudonymCache) -> float:
        """Pseudonymise all batches; return the seconds per address."""
        columns = self._columns
        rows = np.arange(BATCH_ROWS, dtype=np.uint32) * np.uint32(self._size)
        total = 0.0
        for batch in range(self.batches):
            columns.u32[QUERY_ADDRESS_OFF, :BATCH_ROWS] = rows + np.uint32(batch * BATCH_ROWS * self._size)
            columns.fate[:] = 0
            total += _seconds(
                lambda: cache.pseudonymise(self.buf, columns.u32, columns.u64, columns.fate, BATCH_ROWS)
            )
        return total / (self.batches * BATCH_ROWS)


def _cipher_alone(blocks: int) -> float:
    """Return the seconds that AES takes for an address of so many blocks, in pieces that stay in the cache."""
    encryptor = Cipher(algorithms.AES(_SECRET[:16]), modes.ECB()).encryptor()
    count = 8192
    plain, encrypted = bytes(16 * count), bytearray(16 * count + 16)
    rounds = 100
    return (
        _seconds(lambda: [encryptor.update_into(plain, encrypted) for _ in range(rounds)])
        * blocks
        / (rounds * count)
    )


def pseudonyms(rounds: int, batches: int) -> list[Result]:
    """Time new addresses, ones that are in the cache, and for comparison the cipher alone."""
    results = []
    for name, size in (("IPv4", 4), ("IPv6", 16)):
        alone = [_cipher_alone(8 * size) for _ in range(rounds)]
        results.append(Result(f"pseudonyms: the cipher alone, {name}", cpu=median(alone)))
        new, known = [], []
        for number in range(rounds + 1):
            addresses = _Addresses(size, batches, number)
            cache = Pseudonymiser(_SECRET, 10_000_000).new_cache()
            new.append(addresses.run(cache))
            known.append(addresses.run(cache))
        count = f"{batches * BATCH_ROWS:,} addresses"
        results.append(Result(f"pseudonyms: new {name}", cpu=median(new[1:]), note=count))
        results.append(Result(f"pseudonyms: cached {name}", cpu=median(known[1:]), note=count))
    return results


# Names


class _Names:
    """Batches of names that have never been seen, by number."""

    _DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)

    def __init__(self) -> None:
        wire = b"\x0f" + b"x" * 15 + b"\x03abc\x03com\0"
        self.buf: U8Array = np.tile(np.frombuffer(wire, np.uint8), BATCH_ROWS)
        self.columns = Columns()
        self.columns.u32[QNAME_OFF, :BATCH_ROWS] = np.arange(BATCH_ROWS) * _NAME_BYTES
        self.columns.u32[QNAME_LEN] = _NAME_BYTES

    def spell(self, batch: int) -> None:
        """Give the batch its names."""
        numbers = np.arange(batch * BATCH_ROWS, (batch + 1) * BATCH_ROWS, dtype=np.uint64)
        rows = self.buf.reshape(BATCH_ROWS, _NAME_BYTES)
        for digit in range(12):
            rows[:, 1 + digit] = self._DIGITS[numbers >> np.uint64(4 * digit) & np.uint64(15)]
        self.columns.fate[:] = 0

    def insert(self, store: SeenStore) -> None:
        """Ask the store for the batch and let it remember what is new."""
        c = self.columns
        store.commit(store.candidates(self.buf, c.u32, c.fate, BATCH_ROWS))


def seen_names(rounds: int, sizes: Sequence[int], batches: int) -> list[Result]:
    """Time the store of seen names at several sizes: names that are new, and names seen before."""
    results = []
    names = _Names()
    with (
        tempfile.TemporaryDirectory(prefix="edm-bench-") as folder,
        SeenStore.open(Path(folder), limit_entries=1 << 28, sync=False) as store,
    ):
        for size in sizes:
            for at in range(store.names // BATCH_ROWS, size // BATCH_ROWS - rounds * batches):
                names.spell(at)
                names.insert(store)
            results += _at_size(names, store, size, rounds, batches)
    return results


def _at_size(names: _Names, store: SeenStore, size: int, rounds: int, batches: int) -> list[Result]:
    new, known = [], []
    rng = np.random.default_rng(size)
    for _ in range(rounds):
        at = store.names // BATCH_ROWS
        new.append(_run_names(names, store, range(at, at + batches)))
        known.append(_run_names(names, store, rng.integers(0, at, batches).tolist()))
    note = f"{store.memory_bytes >> 20:,} MiB of tables"
    label = f"at {size:,} names"
    return [
        Result(f"seen names: new, {label}", cpu=median(new), note=note),
        Result(f"seen names: known, {label}", cpu=median(known), note=note),
    ]


def _run_names(names: _Names, store: SeenStore, batches: Sequence[int]) -> float:
    total = 0.0
    for batch in batches:
        names.spell(batch)
        total += _seconds(lambda: names.insert(store))
    return total / (len(batches) * BATCH_ROWS)


# Histograms


def histograms(names: int, clients_per_name: int) -> list[Result]:
    """Time counting and writing an interval in which every name of a list was touched."""
    table, _, _ = load(well_known_words(names))
    addresses = np.random.default_rng(1).integers(0, 256, 4 * BATCH_ROWS, dtype=np.uint8)
    columns = Columns()
    u32 = columns.u32
    u32[PRESENT] = HAS_QUERY_ADDRESS
    u32[QUERY_ADDRESS_LEN] = 4
    u32[QUERY_ADDRESS_OFF, :BATCH_ROWS] = np.arange(BATCH_ROWS) * 4
    u32[FRAME_OFF] = 0
    u32[DOMAIN_MATCH] = 1
    accumulators = Accumulators(names, 20)
    counting = 0.0
    frames = 0
    for first in range(0, names * clients_per_name, BATCH_ROWS):
        u32[DOMAIN_INDEX, :BATCH_ROWS] = (first + np.arange(BATCH_ROWS)) * 7919 % names
        columns.fate[:] = WELL_KNOWN
        counting += _seconds(
            lambda: accumulators.update(addresses, u32, columns.u64, columns.fate, BATCH_ROWS)
        )
        frames += BATCH_ROWS
    with tempfile.TemporaryDirectory(prefix="edm-bench-") as folder:
        path = Path(folder) / "histogram.parquet"
        before = resource.getrusage(resource.RUSAGE_SELF)
        began = time.monotonic()
        rows = write_histogram(accumulators.to_batches(table.texts, 0), path, {})
        writing = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    note = f"{rows:,} names in {writing:.2f} s"
    return [
        Result(f"histogram of {names:,}: count, names in no order", cpu=counting / frames),
        Result(f"histogram of {names:,}: write, per name", cpu=cpu / rows, note=note),
    ]
