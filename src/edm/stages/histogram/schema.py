"""The columns of a histogram file, in order, with the types of the Go daemon's files."""

from __future__ import annotations

import pyarrow as pa

LABEL_COLUMNS = tuple(f"label{i}" for i in range(10))
COUNTER_COLUMNS = (
    "a_count",
    "aaaa_count",
    "mx_count",
    "ns_count",
    "other_type_count",
    "non_in_count",
    "ok_count",
    "nx_count",
    "fail_count",
    "other_rcode_count",
)
SKETCH_COLUMNS = ("v4client_count_hll", "v6client_count_hll")

SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("start_time", pa.timestamp("us", tz="UTC"), nullable=False),
        *(pa.field(name, pa.string()) for name in LABEL_COLUMNS),
        *(
            pa.field(name, pa.uint64(), nullable=False)
            for name in (*COUNTER_COLUMNS, "edm_status_bits", "v4client_count", "v6client_count")
        ),
        *(pa.field(name, pa.binary()) for name in SKETCH_COLUMNS),
    ]
)

__all__ = ["COUNTER_COLUMNS", "LABEL_COLUMNS", "SCHEMA", "SKETCH_COLUMNS"]
