"""Histogram rows in plain Python: dictionaries of counters, and the sketches of oracles.hll."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edm.kernel import columns
from oracles.hll import Sketch, murmur3

TYPES = {1: "a_count", 28: "aaaa_count", 15: "mx_count", 2: "ns_count"}
RCODES = {0: "ok_count", 3: "nx_count", 2: "fail_count"}
COUNTERS = (*TYPES.values(), "other_type_count", "non_in_count", *RCODES.values(), "other_rcode_count")


@dataclass(frozen=True)
class Frame:
    domain: int
    match: int = 1
    qtype: int = 1
    qclass: int = 1
    rcode: int = 0
    address: bytes | None = bytes([192, 0, 2, 1])
    well_known: bool = True


def batch(frames: Sequence[Frame]) -> tuple[Any, Any, Any, Any, int]:
    """Return the frames as ``(buf, u32, u64, fate, n)``, with rubbish where a field does not count."""
    n = len(frames)
    batch_columns = columns.Columns(max(n, 1))
    u32, u64, fate = batch_columns.u32, batch_columns.u64, batch_columns.fate
    u32[:] = 0xDEADBEEF
    fate[:] = columns.WELL_KNOWN
    data = bytearray(b"\xff")
    for i, frame in enumerate(frames):
        u32[columns.DOMAIN_INDEX, i] = frame.domain if frame.well_known else columns.NO_DOMAIN
        u32[columns.DOMAIN_MATCH, i] = frame.match
        u32[columns.QTYPE, i] = frame.qtype
        u32[columns.QCLASS, i] = frame.qclass
        u32[columns.RCODE, i] = frame.rcode
        u32[columns.PRESENT, i] = columns.HAS_QUERY_PORT
        if frame.address is not None:
            u32[columns.PRESENT, i] |= columns.HAS_QUERY_ADDRESS
            u32[columns.QUERY_ADDRESS_OFF, i] = len(data)
            u32[columns.QUERY_ADDRESS_LEN, i] = len(frame.address)
            data += frame.address
        fate[i] = columns.WELL_KNOWN if frame.well_known else columns.SESSION
    return np.frombuffer(data, np.uint8), u32, u64, fate, n


def labels(text: str) -> list[str | None]:
    """Return label0 to label9 of a name in presentation form."""
    if text in ("", "."):
        return [None] * 10
    # Odd runs of backslashes escape the dot behind them; pairs are read as one unit.
    units = re.findall(r"\\\\|\\.|.|\\$", text, re.DOTALL)
    if units[-1] == ".":
        units.pop()
    parts = [""]
    for unit in units:
        if unit == ".":
            parts.append("")
        else:
            parts[-1] += unit
    parts.reverse()
    if len(parts) > 10:
        parts[9:] = [".".join(parts[9:])]
    return [*parts, *[None] * (10 - len(parts))]


def rows(frames: Iterable[Frame], threshold: int, texts: list[str], start_time: Any) -> list[dict[str, Any]]:
    """Return the rows of the well-known frames in order of their domain."""
    counters: dict[int, Counter[str]] = {}
    sketches: dict[tuple[int, str], Sketch] = {}
    status: dict[int, int] = {}
    for frame in frames:
        if not frame.well_known:
            continue
        row = counters.setdefault(frame.domain, Counter())
        status[frame.domain] = status.get(frame.domain, 0) | frame.match
        row["non_in_count" if frame.qclass != 1 else TYPES.get(frame.qtype, "other_type_count")] += 1
        row[RCODES.get(frame.rcode, "other_rcode_count")] += 1
        if frame.address is not None and len(frame.address) in (4, 16):
            v4 = len(frame.address) == 4 or frame.address[:12] == bytes(10) + b"\xff\xff"
            sketch = sketches.setdefault((frame.domain, "v4" if v4 else "v6"), Sketch(threshold))
            sketch.add(murmur3(frame.address))
    result = []
    for domain in sorted(counters):
        row_labels = labels(texts[domain])
        v4 = sketches.get((domain, "v4"), Sketch(threshold)).result()
        v6 = sketches.get((domain, "v6"), Sketch(threshold)).result()
        result.append(
            {
                "start_time": start_time,
                **{f"label{i}": label for i, label in enumerate(row_labels)},
                **{name: counters[domain][name] for name in COUNTERS},
                "edm_status_bits": status[domain],
                "v4client_count": v4[0],
                "v6client_count": v6[0],
                "v4client_count_hll": v4[1],
                "v6client_count_hll": v6[1],
            }
        )
    return result
