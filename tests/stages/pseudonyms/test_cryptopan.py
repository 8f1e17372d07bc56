from __future__ import annotations

import ipaddress
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yacryptopan import CryptoPAn as Yacryptopan

from edm.errors import ConfigError
from edm.kernel import columns as c
from edm.kernel.jit import JIT_DISABLED
from edm.stages.pseudonyms import tables
from edm.stages.pseudonyms.cryptopan import Counts, PseudonymCache, Pseudonymiser, derive_key, new_hash_key
from oracles.cryptopan import MAPPED, Counter, CryptoPan
from oracles.session_rows import CAPTURES, Fields, columns_of, pending_of_capture

VECTORS = json.loads((Path(__file__).parent.parent.parent / "vectors" / "cryptopan.json").read_text())
SECRET = bytes.fromhex(VECTORS["key"])
UPSTREAM = bytes.fromhex("1522178d33a4cf80130a5b1649907d10d8988f837979652762574c2d2a842202")
DEFAULT = bytes.fromhex("eec5b10e13f56d4aa0a5ca35625cb2fd7a4c00d856448765511b67535efc6f09")
ORACLE = CryptoPan(SECRET)

Pair = tuple[bytes | None, bytes | None]


def run(cache: PseudonymCache, pairs: list[Pair]) -> tuple[list[Pair], Counts]:
    """Pseudonymise one batch of (query_address, response_address)."""
    fields = [Fields(query_address=source, response_address=dest) for source, dest in pairs]
    buf, columns = columns_of(fields)
    counts = cache.pseudonymise(buf, columns.u32, columns.u64, columns.fate, len(fields))
    return [read(columns, i) for i in range(len(fields))], counts


def read(columns: c.Columns, i: int) -> Pair:
    sides: list[bytes | None] = []
    for side, flag in ((0, c.HAS_QUERY_ADDRESS), (1, c.HAS_RESPONSE_ADDRESS)):
        length = int(columns.u32[c.SOURCE_LEN + side, i])
        high = int(columns.u64[c.SOURCE_HIGH + 2 * side, i])
        low = int(columns.u64[c.SOURCE_LOW + 2 * side, i])
        if not columns.u32[c.PRESENT, i] & flag:
            assert (length, high, low) == (0, 0, 0)
            sides.append(None)
        elif length == 16:
            sides.append(high.to_bytes(8, "big") + low.to_bytes(8, "big"))
        else:
            assert high == 0
            sides.append(low.to_bytes(length, "big"))
    return sides[0], sides[1]


def one(secret: bytes, address: str) -> str:
    packed = ipaddress.ip_address(address).packed
    ((source, dest),), _ = run(Pseudonymiser(secret, 10).new_cache(), [(packed, packed)])
    assert source == dest
    assert source is not None
    return str(ipaddress.ip_address(source))


@pytest.mark.parametrize(
    ("key", "salt", "secret"),
    [
        ("key1", "aabbccddeeffgghh", "2be502e9809c222baec21f41799295b5ac4f1c47de7f15b9f90418346bb1c99d"),
        ("key2", "aabbccddeeffgghh", "52c629cc577fdf5fc2570f949b9bad3450ae93de4756c5d9207a2ed509828b7d"),
        ("mysecret", "edm-kdf-salt-val", DEFAULT.hex()),
    ],
)
def test_derive_key(key: str, salt: str, secret: str) -> None:
    assert derive_key(key, salt).hex() == secret


def test_short_salt_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="cryptopan-key-salt: 7 bytes"):
        derive_key("key", "1234567")
    assert len(derive_key("key", "1234ää")) == 32  # 8 bytes of UTF-8


def test_wrong_secret_or_entries() -> None:
    with pytest.raises(ConfigError, match="31 bytes"):
        Pseudonymiser(bytes(31), 1)
    with pytest.raises(ConfigError, match="-1"):
        Pseudonymiser(bytes(32), -1)


def test_secret_does_not_show() -> None:
    text = repr(Pseudonymiser(b"S" * 32, 5))
    assert "SSS" not in text


@pytest.mark.parametrize(
    ("secret", "address", "pseudonym"),
    [
        (UPSTREAM, "128.11.68.132", "135.242.180.132"),
        (UPSTREAM, "129.118.74.4", "134.136.186.123"),
        (UPSTREAM, "4.3.88.225", "124.60.155.63"),
        (UPSTREAM, "::1", "78ff:f001:9fc0:20df:8380:b1f1:704:ed"),
        (UPSTREAM, "::2", "78ff:f001:9fc0:20df:8380:b1f1:704:ef"),
        (UPSTREAM, "::ffff", "78ff:f001:9fc0:20df:8380:b1f1:704:f838"),
        (UPSTREAM, "2001:db8::1", "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1e"),
        (SECRET, "198.51.100.20", "58.92.11.53"),
        (SECRET, "::ffff:198.51.100.20", "58.92.11.53"),
        (SECRET, "2001:db8:1122:3344:5566:7788:99aa:bbcc", "b780:8dc8:6ed9:cbc5:4d61:a6bb:6255:5a03"),
        (DEFAULT, "198.51.100.20", "57.179.102.226"),
        (DEFAULT, "2001:db8::1", "ef90:f1ca:c007:81ff:c23:e7fe:181c:1f9"),
    ],
    ids=str,
)
def test_published_pseudonyms(secret: bytes, address: str, pseudonym: str) -> None:
    assert one(secret, address) == pseudonym


def test_vectors() -> None:
    pairs = [(bytes.fromhex(a), bytes.fromhex(b)) for a, b in VECTORS["pairs"]]
    cache = Pseudonymiser(SECRET, 10_000).new_cache()
    for _ in range(2):  # new, then from the cache
        rows, _ = run(cache, [(a, None) for a, _ in pairs])
        assert [source for source, _ in rows] == [b for _, b in pairs]


@settings(max_examples=5 if JIT_DISABLED else 50, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.lists(st.integers(0, 2**128 - 1), min_size=1, max_size=5))
def test_agrees_with_yacryptopan(secret: bytes, numbers: list[int]) -> None:
    library = Yacryptopan(secret)
    for number in numbers:
        v4, v6 = ipaddress.IPv4Address(number >> 96), ipaddress.IPv6Address(number)
        if v6.ipv4_mapped is None:
            # Compared as numbers: the library writes zeros out in some forms.
            assert ipaddress.ip_address(one(secret, str(v6))) == ipaddress.ip_address(
                library.anonymize(str(v6))
            )
        assert one(secret, str(v4)) == library.anonymize(str(v4))


addresses = st.one_of(
    st.none(),
    st.integers(0, 9).map(bytes),
    st.binary(max_size=20),
    st.sampled_from([bytes([10, 0, 0, k]) for k in range(9)]),
    st.sampled_from([MAPPED + bytes([10, 0, 0, k]) for k in range(9)]),
    st.sampled_from([bytes(15) + bytes([k]) for k in range(9)]),
)
pairs_lists = st.lists(st.lists(st.tuples(addresses, addresses), max_size=30), min_size=1, max_size=4)


@settings(max_examples=15 if JIT_DISABLED else 200, deadline=None)
@given(pairs_lists, st.sampled_from([0, 1, 2, 3, 7, 10_000]))
def test_any_addresses_and_cache_sizes(batches: list[list[Pair]], entries: int) -> None:
    cache = Pseudonymiser(SECRET, entries).new_cache()
    counter = Counter()
    hits = evictions = 0
    for pairs in batches:
        rows, counts = run(cache, pairs)
        assert rows == [(ORACLE.field(source), ORACLE.field(dest)) for source, dest in pairs]
        odd = sum(a is not None and len(a) not in (4, 16) for pair in pairs for a in pair)
        assert counts.odd_lengths == odd
        for address in itertools.chain.from_iterable(pairs):
            counter.look_up(address)
        hits += counts.hits
        evictions += counts.evictions
        assert len(cache) <= entries
    if entries == 0:
        assert (hits, evictions) == (0, 0)
    elif entries >= len(counter.seen):
        assert (hits, evictions, len(cache)) == (counter.hits, 0, len(counter.seen))
    else:
        assert evictions > 0


@pytest.mark.parametrize("length", [0, 1, 3, 5, 17])
def test_odd_lengths_become_zeros(length: int) -> None:
    cache = Pseudonymiser(SECRET, 10).new_cache()
    rows, counts = run(
        cache, [(b"\xaa" * length, bytes([192, 0, 2, 1])), (bytes([192, 0, 2, 1]), b"\xaa" * length)]
    )
    assert rows[0][0] == rows[1][1] == bytes(length)
    assert counts == Counts(hits=1, evictions=0, odd_lengths=2)
    assert len(cache) == 1


def test_result_in_the_mapped_range_becomes_4_bytes() -> None:
    # Crypto-PAn is a bijection on prefixes: choose the address bit by bit so that the result is as wanted.
    wanted = f"{int.from_bytes(MAPPED + bytes([1, 2, 3, 4]), 'big'):0128b}"
    address = ""
    for i in range(128):
        block = int(address + ORACLE.pad[i:], 2).to_bytes(16, "big")
        address += str(int(wanted[i]) ^ (ORACLE.encrypt(block)[0] >> 7))
    packed = int(address, 2).to_bytes(16, "big")
    cache = Pseudonymiser(SECRET, 10).new_cache()
    for _ in range(2):
        assert run(cache, [(packed, None)])[0] == [(bytes([1, 2, 3, 4]), None)]


def test_only_pending_rows_are_touched() -> None:
    fields = [Fields(query_address=bytes([192, 0, 2, 1])) for _ in range(2 * c.N_FATES)]
    buf, columns = columns_of(fields)
    columns.fate[: len(fields)] = [k % c.N_FATES for k in range(len(fields))]
    columns.u32[c.QUERY_ADDRESS_OFF, : len(fields)][columns.fate[: len(fields)] != c.PENDING] = 0xFFFFFFF0
    counts = (
        Pseudonymiser(SECRET, 10)
        .new_cache()
        .pseudonymise(buf, columns.u32, columns.u64, columns.fate, len(fields))
    )
    assert counts == Counts(1, 0, 0)
    for i in range(len(fields)):
        assert columns.u32[c.SOURCE_LEN, i] == (4 if i % c.N_FATES == c.PENDING else 77)


def test_empty_batch() -> None:
    assert run(Pseudonymiser(SECRET, 10).new_cache(), []) == ([], Counts(0, 0, 0))


def test_a_new_key_starts_with_an_empty_cache() -> None:
    old, new = Pseudonymiser(SECRET, 10), Pseudonymiser(UPSTREAM, 10)
    assert old.identity != new.identity
    pair: Pair = (bytes([198, 51, 100, 20]), bytes([198, 51, 100, 30]))
    run(old.new_cache(), [pair])
    cache = new.new_cache()
    assert cache.pseudonymiser is new
    rows, counts = run(cache, [pair])
    assert counts.hits == 0
    oracle = CryptoPan(UPSTREAM)
    assert rows == [(oracle.field(pair[0]), oracle.field(pair[1]))]


def random_pairs(rng: np.random.Generator, count: int, distinct: int) -> list[Pair]:
    numbers = rng.integers(0, distinct, count).tolist()
    width = {
        0: lambda k: bytes([10]) + k.to_bytes(3, "big"),
        1: lambda k: b"\x20\x01" + k.to_bytes(14, "big"),
    }
    return [(width[k % 2](k), width[k // 2 % 2](k)) for k in numbers]


@pytest.mark.parametrize("entries", [1, 5, 64, 700])
def test_eviction_keeps_the_bound_and_the_answers(entries: int) -> None:
    rng = np.random.default_rng(entries)
    cache = Pseudonymiser(SECRET, entries).new_cache()
    total = Counts(0, 0, 0)
    rounds, size = (2, 150) if JIT_DISABLED else (20, 400)
    for _ in range(rounds):
        pairs = random_pairs(rng, size, 2000)
        rows, counts = run(cache, pairs)
        assert rows == [(ORACLE.field(a), ORACLE.field(b)) for a, b in pairs]
        assert len(cache) <= entries
        total = Counts(*(a + b for a, b in zip(total, counts, strict=True)))
    lookups = 2 * rounds * size
    # Each lookup is a hit or an insertion, and what was inserted is still there or was evicted.
    assert lookups - total.hits - total.evictions == len(cache)


def test_second_chance_keeps_what_is_asked_for_again() -> None:
    entries = 60
    cache = Pseudonymiser(SECRET, entries).new_cache()
    popular: list[Pair] = [(bytes([10, 0, 0, k]), None) for k in range(20)]
    hits = 0
    rounds = 10 if JIT_DISABLED else 40
    for k in range(rounds):
        flood: list[Pair] = [(bytes([11, 0, k, j]), None) for j in range(20)]
        run(cache, flood)
        hits += run(cache, popular)[1].hits
    assert hits > 0.8 * 20 * rounds


def test_tables_grow_from_small_and_keep_everything() -> None:
    distinct = 1500 if JIT_DISABLED else 40_000
    cache = Pseudonymiser(SECRET, 10_000_000).new_cache()
    assert cache.nbytes < 100_000
    first: list[Pair] = [(k.to_bytes(4, "big"), k.to_bytes(16, "big")) for k in range(distinct)]
    before, counts = run(cache, first)
    assert counts == Counts(0, 0, 0)
    assert len(cache) == 2 * distinct
    assert cache.nbytes < 2 * distinct * 64
    after, counts = run(cache, first)
    assert counts.hits == 2 * distinct
    assert after == before
    for k in range(0, distinct, distinct // 50):
        assert before[k] == (ORACLE.field(first[k][0]), ORACLE.field(first[k][1]))


def test_deletion_keeps_every_probe_sequence_whole() -> None:
    # A small, full table in which each eviction has to close a gap in a cluster.
    hash_key = new_hash_key()
    k = tables
    table = k.Table(np.zeros(16, np.uint64), np.zeros(16, np.uint8))
    slots, marks = table
    rng = np.random.default_rng(7)
    hand = 0
    inside: set[int] = set()
    for number in rng.integers(0, 1 << 32, 300).tolist():
        if number in inside:
            continue
        if len(inside) == 13:
            hand = int(k.evict(table, hash_key, hand))
        key = np.uint64(number)
        slot = k.find(np.uint64(0), key, table, hash_key)
        assert marks[slot] == 0
        slots[slot] = key << np.uint64(32)
        marks[slot] = k.OCCUPIED
        inside = {int(word) >> 32 for word, mark in zip(slots, marks, strict=True) if mark}
        assert number in inside
        assert len(inside) == np.count_nonzero(marks)
        for other in inside:
            at = k.find(np.uint64(0), np.uint64(other), table, hash_key)
            assert int(slots[at]) >> 32 == other
            assert marks[at] != 0


@pytest.mark.skipif(JIT_DISABLED, reason="whole captures take minutes without JIT")
@pytest.mark.parametrize("capture", ["unbound", "dnsdist", "mutated"])
def test_hits_are_those_of_the_go_daemon(capture: str) -> None:
    counters = json.loads((CAPTURES / capture / "counters.json").read_text())
    cache = Pseudonymiser(DEFAULT, 10_000_000).new_cache()
    total = Counts(0, 0, 0)
    messages = pending_of_capture(capture)
    while batch := list(itertools.islice(messages, c.BATCH_ROWS)):
        buf, columns = columns_of(batch)
        counts = cache.pseudonymise(buf, columns.u32, columns.u64, columns.fate, len(batch))
        total = Counts(*(a + b for a, b in zip(total, counts, strict=True)))
    assert total.hits == counters["edm_cryptopan_lru_hit_total"]
    assert total.evictions == counters["edm_cryptopan_lru_evicted_total"]
