"""The account of new names: names whose event was lost are counted as dropped."""

import json
from pathlib import Path

import pytest

from edm.captures.minimiser import EVENTS_FILE, minimise
from edm.kernel.jit import JIT_DISABLED
from edm.observe.metrics import Metrics
from oracles.dnstap_pb2 import dnstap_class
from oracles.framestream import capture_stream, frames_start
from support import golden

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="the engine is tested with JIT")

YEAR_10000 = 253_402_300_800


def frames(times: dict[str, int]) -> list[bytes]:
    made = []
    for name, seconds in times.items():
        frame = dnstap_class()()
        frame.ParseFromString(golden.frames("unbound")[1][4:])
        wire = b"".join(bytes([len(label)]) + label.encode() for label in f"{name}.unseen.example".split("."))
        header = bytes.fromhex("123481800001000000000000")
        frame.message.response_message = header + wire + bytes.fromhex("0000010001")
        frame.message.type = 6  # CLIENT_RESPONSE
        frame.message.response_time_sec = seconds
        made.append(frame.SerializeToString())
    return made


def test_an_event_beyond_the_year_9999_is_dropped_and_counted(tmp_path: Path) -> None:
    times = {"a": 1_700_000_000, "b": YEAR_10000 - 1, "c": YEAR_10000, "d": YEAR_10000 + (1 << 40)}
    capture = tmp_path / "capture.fstrm"
    head = capture_stream("unbound")
    data = b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames(times))
    stop = bytes.fromhex("000000000000000400000003")
    capture.write_bytes(head[: frames_start(head)] + data + stop)
    metrics = Metrics()
    summary = minimise(golden.golden_config(tmp_path / "data"), [str(capture)], lambda *_: None, metrics)

    assert summary.frames["session"] == 4, summary.frames

    def total(name: str) -> float | None:
        return metrics.registry.get_sample_value(f"edm_new_qname_{name}_total")

    written = [json.loads(line) for line in (tmp_path / "data" / EVENTS_FILE).read_text().splitlines()]
    assert [event["qname"] for event in written] == ["a.unseen.example.", "b.unseen.example."]
    assert summary.new_names == 2
    assert (total("queued"), total("dropped"), total("discarded")) == (4, 2, 0)
    assert total("queued") == len(written) + total("dropped")
