"""The declaration of the session columns: it is consistent, and a new column is one new line."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edm.captures.minimiser import minimise
from edm.kernel import columns as c
from edm.kernel.jit import JIT_DISABLED
from edm.stages.session import row_kernels as k
from edm.stages.session import rows as rows_module
from edm.stages.session.columns import COLUMNS, SCHEMA, Field, Number, SessionColumn, Text
from support import golden

RCODE = SessionColumn(
    name="response_code",
    type=pa.uint16(),
    source=Field(c.RCODE),
    meaning="extended response code",
    null="never",
)
OPCODE_FLAGS = SessionColumn(
    name="flags", type=pa.uint16(), source=Field(c.FLAGS), meaning="flags of the header", null="never"
)


def test_every_place_of_the_kernels_buffers_is_declared_once() -> None:
    places = {"n32": range(k.N_N32), "n64": range(k.N_N64)}
    for buffer, wanted in places.items():
        numbers = [
            s.place for s in (col.source for col in COLUMNS) if isinstance(s, Number) and s.buffer == buffer
        ]
        assert sorted(numbers) == list(wanted)
    texts = [source.place for source in (col.source for col in COLUMNS) if isinstance(source, Text)]
    assert sorted(texts) == list(range(k.N_TEXTS))


def test_names_are_those_of_the_schema() -> None:
    assert SCHEMA.names == [column.name for column in COLUMNS]
    assert all(SCHEMA.field(column.name).type == column.type for column in COLUMNS)


def test_one_more_column_of_bytes_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(k, "N_TEXTS", k.N_TEXTS + 1)
    rows = rows_module.SessionRows(8)
    sizes = rows_module._first_guess()
    assert len(sizes) == k.N_TEXTS
    assert len(rows._rows.base) == k.N_TEXTS + 1
    assert (rows._rows.base[1:] > rows._rows.base[:-1]).all()
    assert rows._rows.base[-1] == len(rows._rows.texts)


def test_bits_of_validity_fit_into_their_byte() -> None:
    bits = [value for name, value in vars(k).items() if name.startswith("VALID_")]
    assert len(set(bits)) == len(bits) > 4
    assert all(bit.bit_count() == 1 and bit < 256 for bit in bits)


@pytest.mark.skipif(JIT_DISABLED, reason="60,000 frames take minutes without JIT")
def test_one_more_column_is_one_more_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two columns more, declared and nothing else, come out of the whole engine; the others stay as they are."""
    monkeypatch.setattr(rows_module, "COLUMNS", (RCODE, *COLUMNS, OPCODE_FLAGS))
    config = golden.golden_config(tmp_path, 1)
    minimise(config, [str(golden.capture("unbound"))], lambda *_: None)
    table = golden.read_all(tmp_path, "parquet/sessions/*.parquet")
    assert table.column_names == ["response_code", *SCHEMA.names, "flags"]
    messages = table["response_message"].to_pylist()
    flags = [int.from_bytes(message[2:4], "big") for message in messages]
    assert table["flags"].to_pylist() == flags
    assert [code & 15 for code in table["response_code"].to_pylist()] == [word & 15 for word in flags]
    assert table["response_code"].null_count == 0
    expected = pq.read_table(golden.CAPTURES / "unbound" / "session.parquet")
    assert golden.session_rows(table.select(SCHEMA.names), ordered=True) == golden.session_rows(
        expected, ordered=True
    )
