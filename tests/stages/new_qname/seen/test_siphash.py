from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.kernel.columns import PENDING, QNAME_LEN, QNAME_OFF, WELL_KNOWN
from edm.kernel.jit import JIT_DISABLED
from edm.stages.new_qname.seen.siphash import hash_names
from oracles.siphash import siphash
from stages.new_qname.batches import batch_of

KEY = bytes(range(16))
ROUNDS = 20 if JIT_DISABLED else 200


def hashes_of(names: list[bytes], key: bytes, fates: list[int] | None = None) -> dict[int, int]:
    batch = batch_of(names, fates)
    k0, k1 = (np.uint64(int.from_bytes(key[i : i + 8], "little")) for i in (0, 8))
    hashes = np.zeros(batch.rows, np.uint64)
    rows = np.zeros(batch.rows, np.int64)
    is_new = np.ones(batch.rows, np.uint8)
    columns = batch.columns
    count = hash_names(batch.buf, columns.u32, columns.fate, batch.rows, k0, k1, hashes, rows, is_new)
    assert not is_new.any()
    return dict(zip(rows[:count].tolist(), hashes[:count].tolist(), strict=True))


@pytest.mark.parametrize(
    ("length", "expected"),
    # The first of the test vectors published with SipHash-2-4, and the example of the paper's appendix A.
    [
        (0, "310e0edd47db6f72"),
        (1, "fd67dc93c539f874"),
        (2, "5a4fa9d909806c0d"),
        (3, "2d7efbd796666785"),
        (15, "e545be4961ca29a1"),
    ],
)
def test_oracle_agrees_with_published_vectors(length: int, expected: str) -> None:
    assert siphash(KEY, bytes(range(length)), 2, 4).to_bytes(8, "little").hex() == expected


@pytest.mark.skipif(sys.hash_info.algorithm != "siphash13", reason="this Python hashes with something else")
def test_kernel_agrees_with_the_interpreters_own_siphash13() -> None:
    # With PYTHONHASHSEED=0 the key of hash() is all zero.
    names = [bytes(range(128, 128 + length)) for length in range(1, 70)]
    script = "import sys; print(*(hash(bytes(range(128, 128 + n))) % 2**64 for n in range(1, 70)))"
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert list(hashes_of(names, bytes(16)).values()) == [int(word) for word in answer.stdout.split()]


def test_every_length_and_every_byte() -> None:
    names = [bytes((7 * length + i) % 256 for i in range(length)) for length in range(1, 256)]
    expected = [siphash(KEY, name.lower(), 1, 3) for name in names]
    assert list(hashes_of(names, KEY).values()) == expected


@settings(max_examples=ROUNDS, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=255), min_size=1, max_size=20),
    st.binary(min_size=16, max_size=16),
)
def test_kernel_agrees_with_the_oracle(names: list[bytes], key: bytes) -> None:
    # bytes.lower() folds ASCII letters and nothing else
    expected = [siphash(key, name.lower(), 1, 3) for name in names]
    assert list(hashes_of(names, key).values()) == expected


def test_only_pending_rows_are_hashed() -> None:
    names = [b"\1a\0", b"\1b\0", b"\1c\0"]
    assert hashes_of(names, KEY, [WELL_KNOWN, PENDING, WELL_KNOWN]).keys() == {1}


def test_rows_that_point_outside_of_the_buffer_are_passed_over() -> None:
    batch = batch_of([b"\1a\0", b"\1b\0", b"\1c\0", b"\1d\0"])
    batch.columns.u32[QNAME_OFF, 0] = 0xFFFFFFFF
    batch.columns.u32[QNAME_LEN, 1] = 0xFFFFFFFF
    batch.columns.u32[QNAME_LEN, 2] = 0
    hashes, rows, is_new = np.zeros(4, np.uint64), np.zeros(4, np.int64), np.zeros(4, np.uint8)
    u32, fate = batch.columns.u32, batch.columns.fate
    count = hash_names(batch.buf, u32, fate, 4, np.uint64(1), np.uint64(2), hashes, rows, is_new)
    assert rows[:count].tolist() == [3]
