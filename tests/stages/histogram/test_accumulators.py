from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.kernel import columns
from edm.kernel.jit import JIT_DISABLED
from edm.stages.histogram import accumulators
from edm.stages.histogram.accumulators import Accumulators
from edm.stages.histogram.schema import SCHEMA
from oracles import histogram_rows as oracle
from oracles.histogram_rows import Frame, batch
from oracles.hll import address_of_hash

START = datetime(2023, 11, 29, 13, 50, 0, 4, UTC)
START_US = 1701265800000004
TEXTS = [
    "com.",
    "example.com.",
    ".example.net.",
    ".",
    "a\\.b.c\\\\.org.",
    "\\255\\000e\\ f.test.",
    "a.b.c.d.e.f.g.h.i.j.",
    "A.B.C.D.E.F.G.H.I.J.K.M.",
    ".l9.l8.l7.l6.l5.l4.l3.l2.l1.l0.",
]


def words(index: Any) -> list[str]:
    return [TEXTS[i] for i in index]


def filled(
    frames: Sequence[Frame], threshold: int = 20, batches: int = 1, names: int = len(TEXTS)
) -> Accumulators:
    result = Accumulators(names, threshold)
    step = -(-len(frames) // batches) or 1
    for lo in range(0, len(frames), step):
        result.update(*batch(frames[lo : lo + step]))
    return result


def rows_of(state: Accumulators) -> list[dict[str, Any]]:
    table = state.to_table(words, START_US)
    table.validate(full=True)
    assert table.schema == SCHEMA
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def naive(frames: Sequence[Frame], threshold: int = 20) -> list[dict[str, Any]]:
    return oracle.rows(frames, threshold, TEXTS, START)


def client(number: int) -> bytes:
    return number.to_bytes(4, "big")


# Few clients, so that sets repeat and cross small thresholds; hashes of 0 and below 1024 (no register);
# mapped addresses; and lengths that no client has.
ADDRESSES = st.one_of(
    st.none(),
    st.integers(0, 60).map(client),
    st.integers(0, 60).map(lambda i: bytes(15) + bytes([i])),
    st.integers(0, 60).map(lambda i: bytes(10) + b"\xff\xff" + client(i)),
    st.sampled_from([0, 1, 1023, 1024, 1 << 63, 0x3FF << 54]).map(address_of_hash),
    st.sampled_from([0, 3, 5, 8, 15, 17, 32]).map(bytes),
)
FRAMES = st.builds(
    Frame,
    domain=st.integers(0, len(TEXTS) - 1),
    match=st.sampled_from([1, 2]),
    qtype=st.sampled_from([0, 1, 2, 5, 15, 16, 28, 31, 32, 33, 65, 257, 65535]),
    qclass=st.sampled_from([1, 1, 1, 0, 3, 255, 65535]),
    rcode=st.sampled_from([0, 1, 2, 3, 4, 5, 15, 16, 23, 4095]),
    address=ADDRESSES,
    well_known=st.sampled_from([True, True, True, False]),
)


@settings(deadline=None, max_examples=15 if JIT_DISABLED else 60)
@given(st.lists(FRAMES, max_size=150), st.sampled_from([1, 2, 3, 5, 20, 40]), st.integers(1, 3))
def test_rows_agree_with_naive_counting(frames: list[Frame], threshold: int, batches: int) -> None:
    state = filled(frames, threshold, batches)
    expected = naive(frames, threshold)
    assert state.rows == len(expected)
    assert rows_of(state) == expected


@settings(deadline=None, max_examples=15 if JIT_DISABLED else 60)
@given(
    st.lists(st.lists(FRAMES, max_size=60), min_size=1, max_size=4),
    st.sampled_from([1, 2, 5, 20]),
    st.randoms(use_true_random=False),
)
def test_merging_in_any_order_is_counting_in_sequence(
    parts: list[list[Frame]], threshold: int, shuffle: random.Random
) -> None:
    expected = naive([frame for part in parts for frame in part], threshold)
    for _ in range(2):
        shuffle.shuffle(parts)
        assert rows_of(Accumulators.merge([filled(part, threshold) for part in parts])) == expected


@pytest.mark.parametrize("clients", [1, 2, 3, 20, 21, 33, 200, 300, 900])
def test_client_counts_of_every_kind_of_sketch(clients: int) -> None:
    frames = [Frame(1, address=client(i)) for i in range(clients) for _ in range(2)]
    [row] = rows_of(filled(frames))
    [expected] = naive(frames)
    assert row == expected
    kind = None if clients <= 20 else row["v4client_count_hll"][0]
    assert kind == (None if clients <= 20 else 0x13 if clients <= 300 else 0x14)


def test_the_same_client_plain_and_mapped_counts_twice_as_v4() -> None:
    [row] = rows_of(filled([Frame(0), Frame(0, address=bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1]))]))
    assert (row["v4client_count"], row["v6client_count"]) == (2, 0)


def test_hash_zero_is_no_client_and_small_hashes_have_no_register() -> None:
    small = [Frame(0, address=address_of_hash(h)) for h in range(40)]
    rows = rows_of(filled(small[:5], threshold=4))
    assert rows[0]["v6client_count"] == 4
    rows = rows_of(filled(small, threshold=4))
    assert rows[0]["v6client_count"] == 0
    assert rows[0]["v6client_count_hll"] == bytes([0x13, 0x6A, 0x42])


@pytest.mark.parametrize("zeros", [0, 1, 7, 8, 9, 12, 13, 14, 40, 53])
def test_register_values(zeros: int) -> None:
    frames = [
        Frame(0, address=address_of_hash(5)),
        Frame(0, address=address_of_hash(1 << (zeros + 10) | 700)),
    ]
    [row] = rows_of(filled(frames, threshold=1))
    packed = 700 << 4 | min(15, zeros + 1)
    assert row["v6client_count_hll"] == bytes([0x13, 0x6A, 0x40, packed >> 6, packed << 2 & 0xFF])


@pytest.mark.parametrize(("value", "count"), [(10, 0), (14, None), (15, 2**63)])
def test_estimates_beyond_the_range_of_the_registers(value: int, count: int | None) -> None:
    # A sender can choose addresses that fill every register to the brim.
    frames = [Frame(0, address=address_of_hash(1 << (value + 9) | i)) for i in range(1024)]
    [row] = rows_of(filled(frames, threshold=1))
    [expected] = naive(frames, threshold=1)
    assert row == expected
    assert row["v6client_count"] > 500_000
    if count:
        assert row["v6client_count"] == count


@pytest.mark.parametrize(
    "threshold", [1, 31, 32, 33, 48, 49, 64, 97, 1000] if JIT_DISABLED else [32, 33, 49, 3000, 131072]
)
def test_sets_up_to_the_threshold_are_exact(threshold: int) -> None:
    frames = [Frame(0, address=client(i * 7919)) for i in range(threshold + 1)]
    state = filled([*frames[:-1], *frames[:-1]], threshold)
    [row] = rows_of(state)
    assert row["v4client_count"] == threshold
    assert row["v4client_count_hll"] is None
    state.update(*batch(frames[-1:]))
    [row] = rows_of(state)
    assert row["v4client_count_hll"][:3] == bytes(
        [0x14 if threshold >= 300 else 0x13, 0x6A, 0x40 | threshold.bit_length() - 1]
    )
    assert row["v4client_count_hll"] == naive(frames, threshold)[0]["v4client_count_hll"]


def test_large_sets_merge_to_one() -> None:
    size = 200 if JIT_DISABLED else 20_000
    frames = [Frame(0, address=client(i)) for i in range(size)]
    overlapping = [filled(frames[: size // 2], size), filled(frames[size // 4 :], size)]
    [row] = rows_of(Accumulators.merge(overlapping))
    assert (row["v4client_count"], row["v4client_count_hll"]) == (size, None)
    [row] = rows_of(
        Accumulators.merge([filled(frames[: size // 2], size - 1), filled(frames[size // 4 :], size - 1)])
    )
    assert row == naive(frames, size - 1)[0] | {"a_count": row["a_count"], "ok_count": row["ok_count"]}


def test_thousands_of_names_and_clients_with_growth_and_reuse() -> None:
    generator = random.Random(7)
    names = 300 if JIT_DISABLED else 5000
    count = 3000 if JIT_DISABLED else 60_000
    frames = [
        Frame(
            int(names * generator.random() ** 4),
            address=client(generator.randrange(400)),
            qtype=generator.choice([1, 28]),
        )
        for _ in range(count)
    ]
    texts = [f"n{i}.example." for i in range(names)]
    state = Accumulators(names, 20)
    cells = len(state._cells)
    for lo in range(0, count, 5000):
        state.update(*batch(frames[lo : lo + 5000]))
    if not JIT_DISABLED:
        assert len(state._cells) > cells
        assert state.rows > 1024
    expected = oracle.rows(frames, 20, texts, START)
    assert state.to_table(lambda index: [texts[i] for i in index], START_US).to_pylist() == expected

    parts = [filled(frames[k::3], batches=4, names=names) for k in range(3)]
    merged = Accumulators.merge(parts)
    assert merged.to_table(lambda index: [texts[i] for i in index], START_US).to_pylist() == expected


def test_many_names_with_few_clients_take_little_memory() -> None:
    names = 2000 if JIT_DISABLED else 200_000
    buf, u32, u64, fate, n = batch([Frame(0, address=client(i)) for i in range(2000)])
    state = Accumulators(names, 20)
    for lo in range(0, names, n):
        u32[columns.DOMAIN_INDEX, :n] = np.arange(lo, lo + n)
        for _ in range(3):
            state.update(buf, u32, u64, fate, n)
            u32[columns.QUERY_ADDRESS_OFF, :n] = np.roll(u32[columns.QUERY_ADDRESS_OFF, :n], 1)
    assert state.rows == names
    assert state.state_bytes / names <= 120
    batches = list(state.to_batches(lambda index: [f"n{i}." for i in index], START_US, names // 2 + 1))
    assert [b.num_rows for b in batches] == [names // 2 + 1, names - names // 2 - 1]
    table = pa.Table.from_batches(batches)
    assert table["label0"].to_pylist() == [f"n{i}" for i in range(names)]
    assert table["v4client_count"].to_pylist() == [3] * names


def test_counters_beyond_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accumulators, "_COUNTER_MAX", 100)
    one, two = Accumulators(len(TEXTS), 20), Accumulators(len(TEXTS), 20)
    frames = []
    for round_ in range(10):
        part = [Frame(round_ % 4, qtype=28)] * 30 + [Frame(round_ % 3, rcode=5)] * 7
        one.update(*batch(part))
        two.update(*batch([*part, Frame(8)]))
        frames += [*part, *part, Frame(8)]
    assert int(one._rows[: one.rows, 4:14].max()) <= 100
    assert rows_of(Accumulators.merge([one, two])) == naive(frames)


def test_counters_are_folded_before_they_overflow() -> None:
    state = filled([Frame(0)])
    state._rows[0, 4] = state._rows[0, 10] = 0xFFFFFFFF
    state._since_fold = 0xFFFFFFFF
    state.update(*batch([Frame(0)] * 3))
    [row] = rows_of(state)
    assert (row["a_count"], row["ok_count"]) == (0x100000002, 0x100000002)


def test_labels_agree_with_the_oracle() -> None:
    generator = random.Random(3)
    names = 400 if JIT_DISABLED else 4000
    texts = ["", ".", "..", "a", "\\.", "a\\.", "a\\\\.", ".a", "a..b.", "." * 15, "\\\\\\..x."]
    texts += [
        "".join(generator.choice("ab..\\") for _ in range(generator.randrange(40))) for _ in range(names)
    ]
    texts = [text for text in texts if not text.endswith("\\")]
    state = Accumulators(len(texts), 20)
    state.update(*batch([Frame(i) for i in range(len(texts))]))
    for given_as in (
        list,
        pa.array,
        lambda t: pa.chunked_array([t[:7], t[7:]]),
        lambda t: pa.array(["x", *t])[1:],
    ):
        table = state.to_table(lambda index, form=given_as: form([texts[i] for i in index]), START_US)
        found = list(zip(*(table[f"label{i}"].to_pylist() for i in range(10)), strict=True))
        assert found == [tuple(oracle.labels(text)) for text in texts]


def test_nothing_counted_gives_an_empty_table() -> None:
    state = filled([Frame(0, well_known=False)])
    assert state.rows == 0
    assert list(state.to_batches(words, START_US)) == []
    assert state.to_table(words, START_US).num_rows == 0


def test_a_domain_index_of_another_table_is_refused_and_nothing_counted() -> None:
    state = Accumulators(3, 20)
    with pytest.raises(IndexError, match="3 entries"):
        state.update(*batch([Frame(0), Frame(3)]))
    assert state.rows == 0


def test_an_address_beyond_the_buffer_is_not_read() -> None:
    buf, *rest = batch([Frame(0), Frame(1)])
    state = Accumulators(len(TEXTS), 20)
    state.update(buf[:-1], *rest)
    assert [row["v4client_count"] for row in rows_of(state)] == [1, 0]


@pytest.mark.parametrize("threshold", [0, -1, 131073])
def test_thresholds_out_of_range(threshold: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        Accumulators(1, threshold)


@pytest.mark.parametrize("parts", [[], [(1, 20), (2, 20)], [(1, 20), (1, 21)]])
def test_parts_that_do_not_belong_together(parts: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="cannot be merged"):
        Accumulators.merge([Accumulators(*part) for part in parts])


@pytest.mark.parametrize("texts", [["a."], ["a.", None], ["a.", "b.", "c."]])
def test_words_of_the_wrong_number(texts: list[Any]) -> None:
    with pytest.raises(ValueError, match="2 entries"):
        filled([Frame(0), Frame(1)]).to_table(lambda index: texts, START_US)


def test_clients_aimed_at_one_place_of_the_table_do_not_slow_it_down() -> None:
    # Hashes that agree in their upper or lower bits collide in a table without a secret multiplier.
    size = 300 if JIT_DISABLED else 8000
    for spread in (lambda i: i << 40 | 5, lambda i: 5 << 40 | i):
        state = filled([Frame(0, address=address_of_hash(spread(i))) for i in range(1, size + 1)], size)
        [row] = rows_of(state)
        assert row["v6client_count"] == size
