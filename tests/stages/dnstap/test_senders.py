"""Senders: frames are counted by type and identity as plain Python counts them, within bounds."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from edm.kernel import columns as c
from edm.stages.dnstap.senders import IDENTITIES, IDENTITY_BYTES, N_TYPES, SenderTally

Row = tuple[bytes | None, int, int]


def batch(rows: list[Row]) -> tuple[c.U8Array, c.U32Array, c.U8Array]:
    """Lay out rows of identity, message type and fate."""
    columns = c.Columns(max(1, len(rows)))
    data = bytearray()
    for i, (identity, kind, fate) in enumerate(rows):
        columns.u32[c.MESSAGE_TYPE, i] = kind
        columns.u32[c.PRESENT, i] = 0 if identity is None else c.HAS_IDENTITY
        columns.u32[c.IDENTITY_OFF, i] = len(data)
        columns.u32[c.IDENTITY_LEN, i] = len(identity or b"")
        columns.fate[i] = fate
        data += identity or b""
    return np.frombuffer(bytes(data) or b"\0", np.uint8).copy(), columns.u32, columns.fate


def counted(tally: SenderTally, rows: list[Row]) -> tuple[Counter[tuple[bytes | None, int]], list[int]]:
    buf, u32, fate = batch(rows)
    before = all_counts(tally)
    first = tally.count(buf, u32, fate, len(rows))
    after = all_counts(tally)
    assert first == (after.keys() != before.keys())
    return after - before, fate[: len(rows)].tolist()


def all_counts(tally: SenderTally) -> Counter[tuple[bytes | None, int]]:
    """Return the frames so far by identity and type, and check that they are in rows that are in use."""
    identities: list[bytes | None] = [*tally.identities()]
    unused = IDENTITIES - len(identities)
    assert not tally.counts[len(identities) : IDENTITIES].any()
    by_identity = zip([*identities, *[b""] * unused, None], tally.counts.tolist(), strict=True)
    found: Counter[tuple[bytes | None, int]] = Counter()
    for identity, frames in by_identity:
        found.update({(identity, kind): count for kind, count in enumerate(frames) if count})
    return found


@pytest.mark.parametrize("seed", range(20))
def test_counts_like_plain_python(seed: int) -> None:
    chance = random.Random(seed)
    names: list[bytes | None] = [
        None,
        b"",
        b"a",
        b"b",
        b"ab",
        b"x" * 64,
        b"x" * 65,
        b"x" * 300,
        b"\xff\x1b[2J",
    ]
    tally = SenderTally()
    for _ in range(3):
        rows = [
            (
                chance.choice(names),
                chance.choice([*range(17), 1 << 31, (1 << 32) - 1]),
                chance.randrange(c.N_FATES),
            )
            for _ in range(chance.randrange(200))
        ]
        expected = Counter(
            ((identity or b"")[:IDENTITY_BYTES], kind if kind < N_TYPES else 0)
            for identity, kind, fate in rows
            if fate in (c.PENDING, c.QUERY)
        )
        found, fates = counted(tally, rows)
        assert found == expected
        assert fates == [fate for _, _, fate in rows]


def test_identities_beyond_the_bound_share_a_count() -> None:
    rows: list[Row] = [(b"%d" % i, 6, c.PENDING) for i in range(IDENTITIES + 10)]
    tally = SenderTally()
    for _ in range(2):
        found, _ = counted(tally, rows)
        assert found[None, 6] == 10
        assert found.total() == len(rows)


def test_unwanted_answers_have_a_fate_of_their_own() -> None:
    rows: list[Row] = [
        (b"s", kind, fate)
        for kind, fate in ((6, c.PENDING), (4, c.PENDING), (5, c.QUERY), (99, c.PENDING), (4, c.UNDECODABLE))
    ]
    _, fates = counted(SenderTally([6, 8]), rows)
    assert fates == [c.PENDING, c.TYPE_IGNORED, c.QUERY, c.TYPE_IGNORED, c.UNDECODABLE]
