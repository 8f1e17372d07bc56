from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edm.stages.histogram.murmur3 import murmur3
from oracles import hll

VECTORS = Path(__file__).parents[2] / "vectors" / "murmur3_sum64.json"

# (input, hash) as the Go daemon's library gives them.
KNOWN = [
    (b"", 0),
    (b"a", 0x85555565F6597889),
    (b"abcdefgh", 0xCC8A0AB037EF8C02),
    (b"abcdefghijklmnop", 0xC4CA3CA3224CB723),
    (b"abcdefghijklmnopq", 0x7564747F88BDA657),
    (bytes([192, 0, 2, 1]), 0x596A50A5A9831DFF),
    (bytes(4), 0xCFA0F7DDD84C76BC),
    (bytes(10) + b"\xff\xff" + bytes([198, 51, 100, 20]), 0xD15C7AF2A92FEA2F),
    (bytes.fromhex("20010db8000000000000000000000001"), 0x6ABAAEE0764BF3C5),
]


def hashed(data: bytes, before: bytes = b"", after: bytes = b"") -> int:
    buf = np.frombuffer(bytearray(before + data + after + b"\0"), np.uint8)
    return int(murmur3(buf, len(before), len(data)))


@pytest.mark.parametrize(("data", "expected"), KNOWN)
def test_known_hashes(data: bytes, expected: int) -> None:
    assert hashed(data) == expected
    assert hll.murmur3(data) == expected


def test_vectors_of_all_lengths() -> None:
    vectors = json.loads(VECTORS.read_text())
    assert {len(data) // 2 for data, _ in vectors} >= set(range(40))
    for data, expected in vectors:
        assert hashed(bytes.fromhex(data)) == int(expected)


@given(st.binary(max_size=70), st.binary(max_size=9), st.binary(max_size=9))
def test_agrees_with_the_definition_anywhere_in_a_buffer(data: bytes, before: bytes, after: bytes) -> None:
    assert hashed(data, before, after) == hll.murmur3(data)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_any_hash_has_an_address(wanted: int, other: int) -> None:
    assert hashed(hll.address_of_hash(wanted, other)) == wanted
