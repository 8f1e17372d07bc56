"""Running all kernels on a few made-up frames, in memory: no file is read or written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from edm.config import Config
from edm.errors import EdmError
from edm.input.blocks import Intake
from edm.input.reader import FrameReader
from edm.kernel.columns import I64Array, U8Array, U32Array, U64Array
from edm.observe.metrics import Metrics
from edm.pipeline import Pipeline
from edm.rotation.interval import Interval
from edm.snapshot import Snapshot
from edm.snapshot.parts import make_pseudonyms
from edm.stages.clients import ClientPrefixes
from edm.stages.domains.dawg.dawg import Dawg
from edm.stages.domains.table.table import DomainTable
from edm.stages.histogram.accumulators import Accumulators
from edm.stages.names import wire_to_text
from edm.stages.new_qname.events import EventBlock
from edm.stages.new_qname.ordering import NewNames
from edm.stages.new_qname.seen.probing import N_PROGRESS, NEXT, STORED, Names, insert_names
from edm.stages.new_qname.seen.store import Candidates, find_candidates
from edm.stages.new_qname.seen.table import MIN_SLOTS, Table, Tables
from edm.stages.new_qname.seen.unsaved import Unsaved
from edm.stages.pseudonyms import tables as pseudonyms


class KernelError(EdmError):
    """The compiled kernels give a wrong result for the made-up frames."""


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def sample_frame(name: bytes, client: bytes, message_type: int = 6, *, questions: int = 1) -> bytes:
    """Return a dnstap frame: a response to ``client`` about the wire name ``name`` (type A, class IN).

    Parameters
    ----------
    name : bytes
        Uncompressed wire form, root byte included.
    client : bytes
        4 or 16 bytes.
    message_type : int
        ``Message.type`` of dnstap; 6 is CLIENT_RESPONSE.
    questions : int
        Number of questions in the header; ``name`` then holds all of them but the last one's type and class.
    """
    header = bytes.fromhex("12348180") + questions.to_bytes(2, "big") + bytes.fromhex("000100000000")
    answer = bytes.fromhex("c00c000100010000003c0004") + bytes(4)
    response = header + name + bytes.fromhex("00010001") + answer
    message = (
        _field(1, message_type)
        + _field(2, 1 if len(client) == 4 else 2)
        + _field(3, 1)
        + _field(4, client)
        + _field(5, client)
        + _field(6, 53000)
        + _field(7, 53)
        + _field(12, 1_700_000_000)
        + _varint(13 << 3 | 5)
        + bytes(4)
        + _field(14, response)
    )
    return _field(1, b"sample") + _field(14, message) + _field(15, 1)


_TWO_NAMES = b"\x03two\x07example\x03org\x00\x00\x01\x00\x01\x07ignored\x07example\x00"

_FRAMES = (
    # With a second question, for the kernels that search all questions.
    sample_frame(_TWO_NAMES, bytes([192, 0, 2, 1]), questions=2),
    sample_frame(b"\x03www\x07example\x03com\x00", bytes([192, 0, 2, 1])),
    sample_frame(b"\x03new\x07example\x03net\x00", bytes([198, 51, 100, 7])),
    sample_frame(b"\x03sub\x07example\x03org\x00", bytes.fromhex("20010db8") + bytes(12)),
    sample_frame(b"\x07ignored\x07example\x00", bytes([203, 0, 113, 9])),
    sample_frame(b"\x07skipped\x07example\x00", bytes([10, 0, 0, 1])),
    # With an unknown field, for the decoder of unusual frames.
    sample_frame(b"\x03www\x07example\x03com\x00", bytes([192, 0, 2, 1])) + _field(16, 1),
)

# DAWG files of ".example.org." with "www.example.com.", and of "ignored.example.". They are bytes here, because the
# daemon does not need the kernels that make such files.
_WELL_KNOWN = bytes.fromhex(
    "0000002f0709021c1d0052e3bf75e0e57c385daf0763955cef7939d5d0017bbdd5ce57c385daf0763955ce3779dada"
)
_IGNORED = bytes.fromhex("0000001d070801111074b9ddcef79395c8ae72be1c2ed783b1caae8010")


_EXPECTED = {
    "frames_received": 8,
    "query": 0,
    "client_ignored": 1,
    "question_ignored": 2,
    "well_known": 4,
    "session": 1,
    "pending": 0,
    "imbalance": 0,
}


class _Names:
    """Seen names in memory only."""

    def __init__(self) -> None:
        self._key = np.uint64(1), np.uint64(2)
        self._tables = Tables(Table(MIN_SLOTS, 4 * MIN_SLOTS), Table(MIN_SLOTS, MIN_SLOTS))

    def candidates(self, buf: U8Array, u32: U32Array, fate: U8Array, n: int) -> Candidates:
        return find_candidates(self._tables, self._key, buf, u32, fate, n)

    def remember(self, candidates: Candidates) -> tuple[U8Array, Unsaved]:
        n = len(candidates.rows)
        is_new: U8Array = np.zeros(n, np.uint8)
        stored: U64Array = np.empty(n, np.uint64)
        positions: I64Array = np.arange(n, dtype=np.int64)
        progress: I64Array = np.zeros(N_PROGRESS, np.int64)
        table = self._tables.current
        names = Names(candidates.hashes, positions, candidates.seen)
        insert_names(table.array, table.state, names, n, MIN_SLOTS // 2, False, is_new, stored, progress)
        if progress[NEXT] != n or progress[STORED] != n:
            raise KernelError("the kernels do not work: new names are not stored")
        table.grow(2 * MIN_SLOTS)
        table.move(2 * MIN_SLOTS)
        table.fill(stored + np.uint64(1))
        return is_new, Unsaved(b"", [], lambda _: None)


class _Outputs:
    """Outputs of a pipeline that drop everything."""

    def session_rows(self, interval: Interval, batch: pa.RecordBatch) -> None:
        """Drop session rows."""

    def debug_frames(self, frames: Sequence[bytes]) -> None:
        """Drop frames."""


def run_sample(config: Config | None = None) -> None:
    """Run all kernels of the daemon on the made-up frames, and check the results.

    Parameters
    ----------
    config : Config, optional
        Decides which pseudonyms are made, with a made-up key; the default configuration if not given.

    Raises
    ------
    KernelError
        The fates, session rows, histogram rows or events are not the expected ones.
    """
    table = DomainTable.build(Dawg.from_bytes(_WELL_KNOWN))
    interval = Interval.begin(workers=2, domains=len(table), explicit_threshold=20, session_rows=64)
    made_up = dataclasses.replace(config or Config(), cryptopan_key="made up", cryptopan_address_entries=16)
    snapshot = Snapshot(
        generation=1,
        config=made_up,
        pseudonyms=make_pseudonyms(made_up, bytes(32)),
        clients=ClientPrefixes([10 << 32 | 8], [0x20010DB8FFFF << 88 | 48], 2),
        ignored_names=DomainTable.build(Dawg.from_bytes(_IGNORED)),
        well_known=table,
        interval=interval,
        sessions=True,
        events=True,
    )
    events: list[EventBlock] = []
    metrics = Metrics()
    names = NewNames(_Names(), events.append)
    pipelines = [Pipeline(worker, names, _Outputs(), metrics) for worker in range(2)]
    _run_frames(pipelines, snapshot)
    balance = interval.ledger.balance()
    wrong = {name: balance[name] for name, count in _EXPECTED.items() if balance[name] != count}
    session = interval.rows[0].take()
    histogram = Accumulators.merge(interval.accumulators).to_table(table.texts, 0)
    payloads = [payload for block in events for payload in block]
    if wrong or (session.num_rows, histogram.num_rows, len(payloads)) != (1, 2, 1):
        raise KernelError(
            f"the kernels do not work: of made-up frames came {session.num_rows} session rows, "
            f"{histogram.num_rows} histogram rows, {len(payloads)} events, and {wrong or 'the right fates'}"
        )
    use_rare_kernels()


def _run_frames(pipelines: Sequence[Pipeline], snapshot: Snapshot) -> None:
    intake = Intake(blocks=2, block_size=1 << 18, linger=0.0)
    reader = FrameReader(intake, 1 << 16)
    for pipeline, frames in zip(pipelines, (_FRAMES, _FRAMES[1:2]), strict=True):
        reader.prime(b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames))
        block = intake.get()
        assert block is not None
        pipeline.run(block, 0, block.frames, snapshot)
        pipeline.settle(block)
        intake.release(block)


def use_rare_kernels() -> None:
    """Run the kernels that grow tables, write names as text, or serve only lists of hundreds of thousands of names."""
    DomainTable.build(Dawg.from_bytes(_IGNORED), large=0).texts([0])
    wire_to_text(b"\x03www\x00")  # for the debug file
    key: U64Array = np.ones(3, np.uint64)
    for shape in ((), (4,)):
        old, wide = (
            pseudonyms.Table(np.zeros((slots, *shape), np.uint64), np.zeros(slots, np.uint8))
            for slots in (64, 128)
        )
        pseudonyms.rehash(old, key, wide)


__all__ = ["KernelError", "run_sample", "sample_frame", "use_rare_kernels"]
