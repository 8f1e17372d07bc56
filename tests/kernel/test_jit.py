from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edm.kernel.jit import JIT_DISABLED, be16, be32, kernel, prefetch, u8

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from edm.stages.names import put_name
try:
    put_name(np.frombuffer(b"\\x03abc\\x00", np.uint8).copy(), 0, 5, np.empty(2, np.uint8), 0)
except IndexError:
    print("checked")
else:
    print("unchecked")
"""


def test_readers_widen() -> None:
    buf = np.array([0xC0, 0x0C, 0xFF, 0xFE], np.uint8)
    assert u8(buf, 0) == 0xC0
    assert be16(buf, 0) == 0xC00C
    assert be32(buf, 0) == 0xC00CFFFE


@kernel
def fetch_and_read(array, i, far):  # type: ignore[no-untyped-def]
    prefetch(array, i)
    prefetch(array, far)
    return array[i]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64])
def test_prefetch_changes_nothing(dtype: type) -> None:
    """Not even with an index beyond the array."""
    array = np.arange(100).astype(dtype)
    assert fetch_and_read(array, np.uint64(7), np.uint64(1 << 60)) == 7


@pytest.mark.skipif(JIT_DISABLED, reason="about compiled kernels")
def test_the_bounds_check_is_not_lost_in_the_cache(tmp_path: Path) -> None:
    """A kernel cached without the check must not serve a run that asks for it, nor the other way round."""
    source = str(Path(__file__).resolve().parent.parent.parent / "src")

    def run(check: str) -> str:
        env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_BOUNDSCHECK": check}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, source], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    # Two bytes beyond a tiny array are within the allocation: nothing bad happens where it is unchecked.
    assert [run(check) for check in ("0", "1", "0", "1")] == ["unchecked", "checked", "unchecked", "checked"]
