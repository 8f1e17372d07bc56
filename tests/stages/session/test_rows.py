from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.kernel import columns as c
from edm.kernel.jit import JIT_DISABLED
from edm.stages.pseudonyms.cryptopan import Pseudonymiser
from edm.stages.session import rows as rows_module
from edm.stages.session.columns import SCHEMA
from edm.stages.session.rows import RowCounts, SessionRows
from oracles import session_rows as oracle
from oracles.cryptopan import MAPPED, CryptoPan
from oracles.session_rows import CAPTURES, Fields, columns_of, pending_of_capture, question_name

SECRET = bytes.fromhex("eec5b10e13f56d4aa0a5ca35625cb2fd7a4c00d856448765511b67535efc6f09")
CRYPTO_PAN = CryptoPan(SECRET)
V4 = bytes([192, 0, 2, 1])
V6 = bytes.fromhex("20010db8000000000000000000000001")


def fill(builder: SessionRows, fields: list[Fields], names: list[list[bytes]]) -> RowCounts:
    """Pseudonymise one batch and append it."""
    buf, columns = columns_of(fields, names)
    cache = Pseudonymiser(SECRET, 0).new_cache()
    cache.pseudonymise(buf, columns.u32, columns.u64, columns.fate, len(fields))
    columns.fate[: len(fields)] = c.SESSION
    return builder.append(buf, columns.u32, columns.u64, columns.fate, len(fields))


def as_dicts(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return rows without their NULL fields, and times as integers."""
    batch.validate(full=True)
    assert batch.schema.equals(SCHEMA)
    plain = pa.schema([(f.name, pa.int64() if f.name.endswith("_time") else f.type) for f in SCHEMA])
    rows = pa.Table.from_batches([batch]).cast(plain).to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def expected(fields: list[Fields], names: list[list[bytes]]) -> list[dict[str, Any]]:
    return [
        oracle.row(f, name, CRYPTO_PAN.field(f.query_address), CRYPTO_PAN.field(f.response_address))
        for f, name in zip(fields, names, strict=True)
    ]


def one(fields: Fields, name: list[bytes] | None = None) -> dict[str, Any]:
    fields.response_message = fields.response_message or b"m"
    builder = SessionRows(capacity_rows=1)
    fill(builder, [fields], [name or [b"example", b"com"]])
    (row,) = as_dicts(builder.take())
    (wanted,) = expected([fields], [name or [b"example", b"com"]])
    assert row == wanted
    return row


def labels_of(row: dict[str, Any]) -> list[str | None]:
    return [row.get(f"label{k}") for k in range(10)]


def test_schema_is_that_of_the_go_daemon() -> None:
    assert pq.read_schema(CAPTURES / "as-written" / "session.parquet").equals(SCHEMA)


# --- captures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capture", ["unbound", "dnsdist", "mutated"])
def test_rows_are_those_of_the_go_daemon(capture: str) -> None:
    golden = pq.read_table(CAPTURES / capture / "session.parquet").cast(SCHEMA)
    # Once a client is not ignored, a message's fate depends on its bytes alone: the messages of the golden
    # rows tell which frames of the capture make rows.
    messages = set(golden["response_message"].to_pylist())
    limit = 1500 if JIT_DISABLED else None
    chosen = (f for f in pending_of_capture(capture, limit) if f.response_message in messages)
    builder = SessionRows(capacity_rows=5000)
    cache = Pseudonymiser(SECRET, 10_000).new_cache()
    batches = []
    while part := list(itertools.islice(chosen, 1000)):
        buf, columns = columns_of(part, [question_name(f.response_message or b"") for f in part])
        cache.pseudonymise(buf, columns.u32, columns.u64, columns.fate, len(part))
        columns.fate[: len(part)] = c.SESSION
        assert builder.append(buf, columns.u32, columns.u64, columns.fate, len(part)).rows == len(part)
        if builder.full:
            batches.append(builder.take())
    batches.append(builder.take())
    ours = pa.Table.from_batches(batches)
    assert ours.num_rows > (50 if JIT_DISABLED else 8000)
    if limit is None:
        assert ours.num_rows == golden.num_rows
    for name in SCHEMA.names:
        assert ours[name].combine_chunks().equals(golden[name].slice(0, ours.num_rows).combine_chunks()), name


# --- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ([], []),
        ([b"com"], ["com"]),
        ([b"WwW", b"Example", b"COM"], ["COM", "Example", "WwW"]),
        ([b"a.b", b"c"], ["c", "a\\.b"]),
        ([b"\xff\x00e f"], ["\\255\\000e\\ f"]),
        ([b"\\\"'();@"], ["\\\\\\\"\\'\\(\\)\\;\\@"]),
        (list(map(bytes, zip(b"BCDEFGHIJK"))), list("KJIHGFEDCB")),
        (list(map(bytes, zip(b"ABCDEFGHIJKM"))), [*"MKJIHGFED", "C.B.A"]),
        ([b"x." * 4] + [b"l"] * 10, ["l"] * 9 + ["l.x\\.x\\.x\\.x\\."]),
        ([b"\xff" * 63] * 3 + [b"\xff" * 61], ["\\255" * 61, *["\\255" * 63] * 3]),
    ],
)
def test_labels(name: list[bytes], texts: list[str]) -> None:
    fields = Fields(response_message=b"m")
    builder = SessionRows(capacity_rows=1)
    fill(builder, [fields], [name])
    (row,) = as_dicts(builder.take())
    assert labels_of(row) == texts + [None] * (10 - len(texts))


def test_longest_name_of_one_byte_labels() -> None:
    row = one(Fields(), [bytes([0x61 + k % 26]) for k in range(127)])
    assert row["label9"].count(".") == 117
    row = one(Fields(), [b"\x00"] * 127)
    assert row["label9"] == ".".join(["\\000"] * 118)


# --- fields ------------------------------------------------------------------------------------------------


def test_everything_absent() -> None:
    assert one(Fields()) == {
        "response_message": b"m",
        "response_time": 0,
        "label0": "com",
        "label1": "example",
    }


def test_identity() -> None:
    assert one(Fields(identity=b"\xff\xfe"))["server_id"] == b"\xff\xfe"
    assert "server_id" not in one(Fields(identity=b""))


@pytest.mark.parametrize(
    ("port", "stored"),
    [
        (0, 0),
        (53, 53),
        (65535, 65535),
        (65536, 0),
        (65589, 53),
        ((1 << 31) - 1, 65535),
        (1 << 31, 0),
        ((1 << 32) - 1, 0),
    ],
)
def test_ports(port: int, stored: int) -> None:
    row = one(Fields(query_port=port, response_port=port))
    assert (row["source_port"], row["dest_port"]) == (stored, stored)


@pytest.mark.parametrize(
    ("protocol", "stored"), [(0, 0), (1, 1), (9, 9), (255, 255), (256, 0), ((1 << 32) - 1, 255)]
)
def test_protocol(protocol: int, stored: int) -> None:
    assert one(Fields(socket_protocol=protocol))["dns_protocol"] == stored


@pytest.mark.parametrize(
    ("sec", "nsec", "micros"),
    [
        (None, None, 0),
        (None, 5_000, 0),
        (1, None, 1_000_000),
        (1, 1_999, 1_000_001),
        (1, 4_294_967_295, 5_294_967),
        (1_700_000_000, 999_999_999, 1_700_000_000_999_999),
        (253_402_300_800, 0, 253_402_300_800_000_000),
        (9_223_372_036_855, 0, -9_223_372_036_854_551_616),
        ((1 << 63) - 1, 1_000, -1_000_000 + 1),
        (1 << 63, 1_000, 0),
        ((1 << 64) - 1, 0, 0),
    ],
)
def test_response_time(sec: int | None, nsec: int | None, micros: int) -> None:
    assert one(Fields(response_time_sec=sec, response_time_nsec=nsec))["response_time"] == micros


def addresses_of(family: int | None, source: bytes | None, dest: bytes | None) -> set[str]:
    row = one(Fields(socket_family=family, query_address=source, response_address=dest))
    return {name for name in row if "_ipv" in name}


def test_address_columns() -> None:
    v6 = {"ipv6_host", "ipv6_network"}
    for family in (None, 1):
        assert addresses_of(family, V4, None) == {"source_ipv4"}
        assert addresses_of(family, None, V4) == {"dest_ipv4"}
        assert addresses_of(family, MAPPED + V4, V4) == {"source_ipv4", "dest_ipv4"}
        assert addresses_of(family, V6, V4) == {"dest_ipv4"}
    assert addresses_of(2, V6, None) == {f"source_{name}" for name in v6}
    assert addresses_of(2, None, V6) == {f"dest_{name}" for name in v6}
    assert addresses_of(2, V4, b"") == {f"source_{name}" for name in v6}
    for family in (0, 3, 7, (1 << 32) - 1):
        assert addresses_of(family, V4, V6) == set()
    for length in (0, 1, 3, 5, 17):
        for family in (None, 1, 2):
            assert addresses_of(family, bytes(length), V4 + b"x") == set()


def test_ipv4_in_family_inet6_is_stored_mapped() -> None:
    pseudonym = CRYPTO_PAN.field(V4) or b""
    row = one(Fields(socket_family=2, query_address=V4, response_address=MAPPED + V4))
    for side in ("source", "dest"):
        assert row[f"{side}_ipv6_network"] == 0
        assert row[f"{side}_ipv6_host"] == 0xFFFF00000000 | int.from_bytes(pseudonym, "big")


def test_odd_things_are_counted() -> None:
    fields = [
        Fields(query_address=V4, response_address=V4, response_message=b"m"),
        Fields(query_address=V6, response_address=V4, response_message=b"m"),
        Fields(socket_family=1, query_address=V6, response_address=V6, response_message=b"m"),
        Fields(socket_family=2, query_address=V4, response_address=b"odd", response_message=b"m"),
        Fields(query_address=b"", response_message=b"m"),
        Fields(socket_family=0, query_address=V6, response_message=b"m"),
        Fields(socket_family=3, query_address=V6, response_message=b"m"),
        Fields(socket_family=(1 << 32) - 1, response_message=b"m"),
    ]
    counts = fill(SessionRows(), fields, [[b"com"]] * len(fields))
    assert counts == RowCounts(rows=8, unknown_families=2, family_mismatches=3, odd_lengths=2)


numbers32 = st.one_of(st.none(), st.integers(0, 3), st.integers(0, (1 << 32) - 1))
some_address = st.one_of(st.none(), st.binary(min_size=4, max_size=4), st.just(V6), st.binary(max_size=17))
messages = st.builds(
    Fields,
    identity=st.one_of(st.none(), st.binary(max_size=40)),
    socket_family=numbers32,
    socket_protocol=numbers32,
    query_address=some_address,
    response_address=some_address,
    query_port=numbers32,
    response_port=numbers32,
    response_time_sec=st.one_of(st.none(), st.integers(0, 1 << 40), st.integers(0, (1 << 64) - 1)),
    response_time_nsec=numbers32,
    response_message=st.binary(min_size=1, max_size=60),
)


def fitting(labels: list[bytes]) -> list[bytes]:
    room = 254
    name = []
    for label in labels:
        if len(label) + 1 <= room:
            name.append(label)
            room -= len(label) + 1
    return name


any_names = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=3),
        st.binary(min_size=1, max_size=63),
        st.sampled_from([b"www", b"a-b"]),
    ),
    max_size=14,
).map(fitting)


@settings(max_examples=20 if JIT_DISABLED else 80, deadline=None)
@given(
    st.lists(st.lists(st.tuples(messages, any_names), max_size=8), min_size=1, max_size=4), st.integers(1, 20)
)
def test_any_fields(batches: list[list[tuple[Fields, list[bytes]]]], capacity: int) -> None:
    builder = SessionRows(capacity_rows=capacity)
    got: list[dict[str, Any]] = []
    wanted: list[dict[str, Any]] = []
    for batch in batches:
        fields, names = [f for f, _ in batch], [name for _, name in batch]
        assert fill(builder, fields, names).rows == len(fields)
        wanted += expected(fields, names)
        assert builder.full == (len(builder) >= capacity)
        if builder.full:
            got += as_dicts(builder.take())
    got += as_dicts(builder.take())
    assert got == wanted


# --- the builder -------------------------------------------------------------------------------------------


def test_only_session_rows_are_taken() -> None:
    fields = [Fields(response_message=bytes([k])) for k in range(3 * c.N_FATES)]
    buf, columns = columns_of(fields, [[b"com"]] * len(fields))
    columns.fate[: len(fields)] = [k % c.N_FATES for k in range(len(fields))]
    others = columns.fate[: len(fields)] != c.SESSION
    columns.u32[c.RESPONSE_MESSAGE_OFF, : len(fields)][others] = 0xFFFFFFF0
    builder = SessionRows()
    assert builder.append(buf, columns.u32, columns.u64, columns.fate, len(fields)) == RowCounts(3, 0, 0, 0)
    assert [row["response_message"][0] % c.N_FATES for row in as_dicts(builder.take())] == [c.SESSION] * 3


def test_empty_batch() -> None:
    batch = SessionRows().take()
    assert as_dicts(batch) == []


def numbered(first: int, count: int, size: int = 50) -> tuple[list[Fields], list[list[bytes]]]:
    fields = [
        Fields(identity=b"i", response_message=k.to_bytes(4, "big") * size)
        for k in range(first, first + count)
    ]
    return fields, [[str(k).encode(), b"\xff" * 20, b"com"] for k in range(first, first + count)]


def test_grows_beyond_its_capacity_when_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "BATCH_ROWS", 1)
    builder = SessionRows(capacity_rows=3)
    fields: list[Fields] = []
    names: list[list[bytes]] = []
    for first in range(0, 300, 100):
        more, more_names = numbered(first, 100)
        fill(builder, more, more_names)
        fields += more
        names += more_names
    assert builder.full
    assert as_dicts(builder.take()) == expected(fields, names)
    assert len(builder) == 0
    assert not builder.full


def test_a_taken_batch_is_never_written_to_again() -> None:
    builder = SessionRows(capacity_rows=10)
    first, names = numbered(0, 10)
    fill(builder, first, names)
    batch = builder.take()
    for k in range(5):
        fill(builder, *numbered(1000 + 10 * k, 10))
        builder.take()
    assert as_dicts(batch) == expected(first, names)


def test_full_by_bytes() -> None:
    builder = SessionRows(capacity_rows=1000, capacity_bytes=2000)
    fill(builder, *numbered(0, 5))
    assert not builder.full
    fill(builder, *numbered(5, 10))
    assert builder.full


def test_one_huge_message() -> None:
    big = bytes(range(256)) * 1024
    row = one(Fields(response_message=big))
    assert row["response_message"] == big


def test_offsets_never_pass_31_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_OFFSET_MAX", 20_000)
    builder = SessionRows(capacity_rows=10)
    fill(builder, *numbered(0, 60))
    with pytest.raises(OverflowError, match="2 GiB"):
        fill(builder, *numbered(60, 140))
    whole = as_dicts(builder.take())
    assert whole == expected(*numbered(0, len(whole)))


def test_columns_without_nulls_have_no_bitmap() -> None:
    builder = SessionRows()
    fill(builder, *numbered(0, 20))
    batch = builder.take()
    assert batch["response_message"].buffers()[0] is None
    assert batch["label2"].buffers()[0] is None
    assert batch["label3"].null_count == 20
    assert np.all(batch["source_ipv4"].is_null().to_numpy(zero_copy_only=False))
