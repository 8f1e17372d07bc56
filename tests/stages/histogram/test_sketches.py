"""Client sketches, compared with vectors, the Go daemon's files, the storage specification's suite and a library."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from python_hll2.hll import HLL

from edm.kernel.jit import JIT_DISABLED
from edm.stages.histogram import kernels, sketches
from edm.stages.histogram.accumulators import Accumulators
from edm.stages.histogram.export import SKETCH_BYTES_MAX, export_sketches
from oracles import hll
from oracles.histogram_rows import Frame, batch

TESTS = Path(__file__).parents[2]
VECTORS = json.loads((TESTS / "vectors" / "hll_log2m10_rw4_t20.json").read_text())
CAPTURES = ["unbound", "dnsdist", "mutated", "as-written"]
SPECIFICATION = TESTS.parents[1] / "shared" / "vectors" / "hll-storage-spec-log2m-10-regwidth-4"


def row_of(addresses: Iterable[bytes], threshold: int) -> dict[str, Any]:
    state = Accumulators(1, threshold)
    state.update(*batch([Frame(0, address=address) for address in addresses]))
    [row] = state.to_table(lambda index: ["."], 0).to_pylist()
    return dict(row)


@pytest.mark.parametrize("vector", VECTORS, ids=[str(len(v["ips"])) for v in VECTORS])
def test_vectors(vector: dict[str, Any]) -> None:
    addresses = [bytes.fromhex(ip) for ip in vector["ips"]]
    if JIT_DISABLED and len(addresses) > 2000:
        pytest.skip("too long without JIT")
    state = Accumulators(1, 20)
    # One family only: the vectors are of addresses of 4 bytes, or of 16 that are not mapped.
    families = {len(address) for address in addresses}
    for lo in range(0, len(addresses), 4096):
        state.update(*batch([Frame(0, address=address) for address in addresses[lo : lo + 4096]]))
    if not addresses:
        assert state.rows == 0
        return
    assert len(families) == 1
    family = "v4" if families == {4} else "v6"
    [row] = state.to_table(lambda index: ["."], 0).to_pylist()
    assert row[f"{family}client_count"] == vector["cardinality"]
    expected = bytes.fromhex(vector["bytes"])
    assert row[f"{family}client_count_hll"] == (expected if expected[0] in (0x13, 0x14) else None)


@pytest.mark.parametrize("capture", CAPTURES)
def test_sketches_of_the_go_daemon_come_out_as_they_went_in(capture: str) -> None:
    table = pq.read_table(TESTS / "captures" / capture / "histogram.parquet")
    for family, name in enumerate(("v4client_count", "v6client_count")):
        pairs = [
            (sketch, count)
            for sketch, count in zip(table[f"{name}_hll"].to_pylist(), table[name].to_pylist(), strict=True)
            if sketch is not None
        ][: 20 if JIT_DISABLED else None]
        n = len(pairs)
        registers = np.array([hll.parse(sketch) for sketch, _ in pairs], np.uint8).reshape(n, 1024)
        packed = np.ascontiguousarray(registers[:, ::2] << 4 | registers[:, 1::2]).reshape(-1)
        rows = np.zeros((n, kernels.ROW_WORDS), np.uint32)
        rows[:, sketches.CELL + family] = np.arange(n) * sketches.REGISTER_CELLS
        rows[:, sketches.STATE + family] = int(sketches.REGISTER_CLASS) << 24
        counts, offsets = np.zeros(n, np.uint64), np.zeros(n + 1, np.int32)
        out, valid = np.zeros(n * SKETCH_BYTES_MAX, np.uint8), np.zeros(n // 8 + 1, np.uint8)
        export_sketches(rows, n, family, packed, 0x44, counts, offsets, out, valid)
        assert counts.tolist() == [count for _, count in pairs]
        found = [out[a:b].tobytes() for a, b in pairwise(offsets)]
        assert found == [sketch for sketch, _ in pairs]
        assert np.unpackbits(valid, bitorder="little")[:n].all()


def specification(name: str) -> list[list[str]]:
    path = SPECIFICATION / f"v1_cumulative_{name}.csv.gz"
    if not path.exists():
        pytest.skip("the suite of the storage specification is not beside the project")
    with gzip.open(path, "rt") as file:
        return list(csv.reader(file))[1:]


@pytest.mark.parametrize("name", ["cardinality_correction", "sparse_edge", "sparse_random", "sparse_step"])
def test_storage_specification_adding(name: str) -> None:
    lines = specification(f"add_{name}")
    hashes = [int(line[1]) % 2**64 for line in lines]
    # The suite begins with empty registers, so the sketch is looked at once it has left the explicit form.
    # It becomes dense later than in the Go daemon's library; where it has not yet, registers are compared.
    for size in {*range(2, 12), 256, 257, 258, 300, 500, len(lines)}:
        if size > len(lines) or (JIT_DISABLED and size > 300):
            continue
        distinct = dict.fromkeys(h for h in hashes[:size] if h)
        row = row_of(map(hll.address_of_hash, distinct), 1)
        expected = bytes.fromhex(lines[size - 1][2][2:])
        sketch = row["v6client_count_hll"]
        if len(distinct) > 1 and expected[0] == sketch[0]:
            assert sketch[3:] == expected[3:]
            cardinality = float(lines[size - 1][0])
            assert row["v6client_count"] == (2**63 if math.isnan(cardinality) else math.ceil(cardinality))
        elif len(distinct) > 1:
            assert hll.parse(sketch) == hll.parse(expected)


def test_storage_specification_promotion() -> None:
    lines = specification("add_comprehensive_promotion")
    hashes = [int(line[1]) % 2**64 for line in lines]
    for size in (1, 2, 255, 256, 257, 300, 600, 2000, len(lines)):
        if JIT_DISABLED and size > 300:
            continue
        row = row_of(map(hll.address_of_hash, hashes[:size]), 256)
        expected = bytes.fromhex(lines[size - 1][2][2:])
        assert row["v6client_count"] == math.ceil(float(lines[size - 1][0]))
        sketch = row["v6client_count_hll"]
        assert (sketch is None) == (expected[0] in (0x11, 0x12))
        assert sketch is None or hll.parse(sketch) == hll.parse(expected)


@settings(deadline=None, max_examples=5 if JIT_DISABLED else 20)
@given(st.integers(0, 2**32), st.integers(2, 300 if JIT_DISABLED else 3000))
def test_library_gives_the_same_registers(seed: int, clients: int) -> None:
    addresses = np.random.default_rng(seed).bytes(4 * clients)
    addresses_of_4 = [addresses[i : i + 4] for i in range(0, len(addresses), 4)]
    # The library knows thresholds that are powers of two only. Without the explicit form it agrees from the
    # second distinct client on. It takes hashes as signed numbers.
    library = HLL(10, 4, 0, True)
    for address in addresses_of_4:
        h = hll.murmur3(address)
        library.add_raw(h - (h >> 63 << 64))
    row = row_of(addresses_of_4, 1)
    expected = bytes(b & 0xFF for b in library.to_bytes())
    assert row["v4client_count_hll"][0] == expected[0]
    assert row["v4client_count_hll"][3:] == expected[3:]
    assert row["v4client_count"] == library.cardinality()
