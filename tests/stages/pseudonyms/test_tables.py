"""The tables of a pseudonym cache: attacks by chosen addresses, and how large the tables get."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edm.config.schema import KEYS
from edm.errors import ConfigError
from edm.kernel.columns import Columns, U64Array
from edm.kernel.jit import JIT_DISABLED
from edm.stages.pseudonyms import tables as t
from edm.stages.pseudonyms.cryptopan import (
    CACHE_BYTES,
    CACHE_BYTES_MIN,
    Counts,
    PseudonymCache,
    Pseudonymiser,
    new_hash_key,
)
from oracles.cryptopan import CryptoPan
from oracles.session_rows import Fields, columns_of

SECRET = bytes(range(32))
ORACLE = CryptoPan(SECRET)
_BITS = 4 if JIT_DISABLED else 8


def _top(value: int, width: int) -> int:
    """Return ``value`` in the top ``_BITS`` bits of a word."""
    return value << width - _BITS


def _cancelling() -> list[tuple[int, int]]:
    # The differences of the top bits of one half, and those that they make after a multiplication by an odd number
    # and a shift by half a word: whatever the key, they cancel in one pair of many.
    both = itertools.product(range(1 << _BITS), repeat=2)
    return [(_top(b, 64) ^ _top(b, 32), _top(a, 64) | 1) for a, b in both]


def _tops(*places: tuple[int, int]) -> list[tuple[int, int]]:
    """Return addresses that differ in the top bits of some words: (shift to the word, its width)."""
    bits = 2 * _BITS // len(places)
    numbers = itertools.product(range(1 << bits), repeat=len(places))
    addresses = [
        sum(part << width - bits << shift for part, (shift, width) in zip(parts, places, strict=True))
        for parts in numbers
    ]
    return [(address >> 64, address & (1 << 64) - 1) for address in addresses]


ATTACKS = {
    "high bits that cancel": _cancelling(),
    "top of the address": _tops((64, 64)),
    "top of the low half": _tops((0, 64)),
    "top of both halves": _tops((0, 64), (64, 64)),
    "top of each quarter": _tops((0, 32), (32, 32), (64, 32), (96, 32)),
    "one /64": [(0x20010DB8 << 32, k) for k in range(1 << 2 * _BITS)],
}
ATTACKS_IPV4 = {
    "top": _tops((0, 32)),
    "top of both halves": _tops((0, 16), (16, 16)),
    "one after the other": [(0, k) for k in range(1 << 2 * _BITS)],
}


def _mean_probes(addresses: list[tuple[int, int]], table: t.Table, key: U64Array) -> float:
    """Enter the addresses into an empty table; return the mean of the slots looked at to find one again."""
    mask = len(table.marks) - 1
    probes = 0
    for high, low in addresses:
        slot = int(t.find(np.uint64(high), np.uint64(low), table, key))
        t.put_number(table.slots, np.uint64(slot), np.uint64(high), np.uint64(low), np.uint64(0))
        table.marks[slot] = t.OCCUPIED
        home = int(t.home(np.uint64(high), np.uint64(low), table.slots, key))
        probes += ((slot - home) & mask) + 1
    assert np.count_nonzero(table.marks) == len(set(addresses))
    return probes / len(addresses)


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_choice_of_ipv6_addresses_makes_probing_long(attack: str) -> None:
    addresses = ATTACKS[attack]
    slots = 2 * len(addresses)
    for _ in range(3):
        table = t.Table(np.zeros((slots, 4), np.uint64), np.zeros(slots, np.uint8))
        # At half full, 1.5 is what linear probing takes with random hashes.
        assert _mean_probes(addresses, table, new_hash_key()) < 2


@pytest.mark.parametrize("attack", ATTACKS_IPV4)
def test_no_choice_of_ipv4_addresses_makes_probing_long(attack: str) -> None:
    addresses = ATTACKS_IPV4[attack]
    slots = 2 * len(addresses)
    for _ in range(3):
        table = t.Table(np.zeros(slots, np.uint64), np.zeros(slots, np.uint8))
        assert _mean_probes(addresses, table, new_hash_key()) < 2


def nh(words: list[int], key: list[int]) -> int:
    """NH of UMAC over words of two halves, in plain numbers; with the mixing of the hash of names."""
    total = 0
    for word, part in zip(words, key[:2], strict=False):
        left = ((word & 0xFFFFFFFF) + (part & 0xFFFFFFFF)) % 2**32
        right = ((word >> 32) + (part >> 32)) % 2**32
        total = (total + left * right) % 2**64
    total ^= key[2]
    total = (total ^ (total >> 32)) * 0xFF51AFD7ED558CCD % 2**64
    return total ^ (total >> 32)


def test_the_hash_is_that_of_the_names() -> None:
    small, large = np.zeros(1, np.uint64), np.zeros((1, 4), np.uint64)
    for high, low in [(0, 0), (1, 2), (0x20010DB800000000, 1), (2**64 - 1, 2**64 - 1)]:
        key = new_hash_key()
        plain = [int(word) for word in key]
        assert int(t.home(np.uint64(high), np.uint64(low), large, key)) == nh([low, high], plain)
        low &= 0xFFFFFFFF
        assert int(t.home(np.uint64(0), np.uint64(low), small, key)) == nh([low], plain)


def test_keys_differ_and_their_multipliers_are_odd() -> None:
    keys = [new_hash_key() for _ in range(20)]
    assert len({key.tobytes() for key in keys}) == 20
    assert all(int(word) >> 32 & 1 for key in keys for word in key[:2])


def _batch(cache: PseudonymCache, addresses: list[bytes]) -> tuple[Columns, Counts]:
    buf, columns = columns_of([Fields(query_address=address) for address in addresses])
    return columns, cache.pseudonymise(buf, columns.u32, columns.u64, columns.fate, len(addresses))


@pytest.mark.parametrize("size", [4, 16])
# Without JIT there is no time to fill larger tables.
@pytest.mark.parametrize("limit", [CACHE_BYTES_MIN] if JIT_DISABLED else [CACHE_BYTES_MIN, 200_000])
def test_a_flood_stays_within_the_bytes_and_the_answers_are_right(size: int, limit: int) -> None:
    cache = Pseudonymiser(SECRET, 10_000_000, limit).new_cache()
    total = hits = evictions = 0
    step = 500 if JIT_DISABLED else 4000
    for first in range(0, 3 * step if JIT_DISABLED else 20 * step, step):
        addresses = [(0xFE << 8 * (size - 1) | k).to_bytes(size, "big") for k in range(first, first + step)]
        columns, counts = _batch(cache, addresses)
        assert cache.nbytes <= limit
        total += step
        hits += counts.hits
        evictions += counts.evictions
        for k in range(0, step, step // 20):
            value = int(columns.u64[2, k]) << 64 | int(columns.u64[3, k])
            assert value.to_bytes(16, "big")[-size:] == ORACLE.field(addresses[k])
    assert hits == 0
    assert evictions > 0
    assert total - evictions == len(cache)


def test_a_flood_of_ipv6_addresses_leaves_the_ipv4_clients_their_places() -> None:
    cache = Pseudonymiser(SECRET, 10_000_000, 1 << 18).new_cache()
    clients = [bytes([192, 0, 2, k]) for k in range(200)]
    _batch(cache, clients)
    step, rounds = (1000, 3) if JIT_DISABLED else (4000, 20)
    for k in range(rounds):
        flood = [b"\x20\x01" + (k * step + j).to_bytes(14, "big") for j in range(step)]
        _, counts = _batch(cache, flood)
    assert counts.evictions > 0
    assert _batch(cache, clients)[1].hits == len(clients)


def test_the_default_is_that_of_the_configuration_and_holds_what_its_text_says() -> None:
    key = KEYS["cryptopan-cache-bytes"]
    assert key.default == CACHE_BYTES
    assert key.minimum == CACHE_BYTES_MIN
    cache = Pseudonymiser(SECRET, 10_000_000).new_cache()
    small, large = (slots // 4 * 3 for slots in cache.last_slots)
    assert (small, large) == (3_145_728, 1_572_864)
    assert "1.5 million IPv6 and 3.1 million IPv4" in key.help
    with pytest.raises(ConfigError, match="cryptopan-cache-bytes"):
        Pseudonymiser(SECRET, 1, CACHE_BYTES_MIN - 1)


@pytest.mark.parametrize("limit", [CACHE_BYTES_MIN, 70_000, 1 << 20, 3_333_333, CACHE_BYTES, 1 << 33])
def test_tables_do_not_exceed_the_bytes_while_they_grow(limit: int) -> None:
    small, large = Pseudonymiser(SECRET, 1, limit).new_cache().last_slots
    sizes = small * t.SMALL_SLOT_BYTES, large * t.LARGE_SLOT_BYTES
    assert sum(sizes) + max(sizes) / 2 <= limit
    # And a good part of them is used.
    assert limit < 1 << 20 or sum(sizes) > limit / 3
