"""``edm inspect`` of captures and output files agrees with what independent readers find in them."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from edm.captures.minimiser import minimise
from edm.cli.main import main
from edm.stages.framestream.protocol import CONTENT_TYPE, START, STOP, encode_control
from edm.stages.histogram.schema import SCHEMA
from oracles import dnstap_pb2
from support import golden


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["edm"])


def inspected(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[dict[str, Any]]:
    main(["inspect", "--format", "json", *map(str, arguments)])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("name", golden.NAMES)
def test_a_capture(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (facts,) = inspected(capsys, golden.capture(name))
    frames = golden.frames(name)
    assert facts["kind"] == "capture"
    assert facts["frames"] == len(frames) == sum(facts["fates"].values())
    assert facts["frame_bytes"] == sum(len(frame) - 4 for frame in frames)
    assert facts["bytes"] == golden.capture(name).stat().st_size
    # Nothing is ignored here, so what the Go daemon ignored for its content is a lower bound, exact where no
    # list comes before it.
    counters = golden.expected_counters(name)
    assert facts["fates"].get("empty_question", 0) >= counters["edm_ignored_empty_question_section_total"]
    assert facts["fates"].get("dns_parse_error", 0) >= counters["edm_ignored_dns_parse_error_total"]
    assert sum(facts["rcodes"].values()) == facts["fates"]["response"]


def test_types_and_names_agree_with_another_decoder(capsys: pytest.CaptureFixture[str]) -> None:
    types: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for frame in golden.frames("unbound"):
        dnstap = dnstap_pb2.decode(frame[4:])
        assert dnstap is not None
        types[{5: "CLIENT_QUERY", 6: "CLIENT_RESPONSE"}[dnstap["message"]["type"]]] += 1
        if "rm" in dnstap["message"]:
            labels, pos = [], 12
            message = dnstap["message"]["rm"]
            while message[pos]:
                labels.append(message[pos + 1 : pos + 1 + message[pos]].decode().lower())
                pos += 1 + message[pos]
            names[".".join([*labels, ""])] += 1
    (facts,) = inspected(capsys, "--top", "100000", golden.capture("unbound"))
    assert facts["types"] == types
    assert {row["name"]: row["responses"] for row in facts["top"]} == names
    assert facts["names"] == len(names)
    counts = [row["responses"] for row in facts["top"]]
    assert counts == sorted(counts, reverse=True)


def test_a_damaged_capture_is_shown_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.fstrm.zst"
    frames = golden.frames("unbound")[:100]
    head = encode_control(START, (CONTENT_TYPE,))
    path.write_bytes(zstandard.compress(head + b"".join(frames)[:-3]))
    assert main(["inspect", str(path)]) == 1
    shown = capsys.readouterr()
    assert "99 with " in shown.out
    assert f"edm: {path}: ends inside the frame" in shown.err


def test_oversized_frames_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "large.fstrm"
    large = (300_000).to_bytes(4, "big") + bytes(300_000)
    head = encode_control(START, (CONTENT_TYPE,))
    path.write_bytes(head + large + golden.frames("unbound")[0] + encode_control(STOP))
    (facts,) = inspected(capsys, path)
    assert (facts["frames"], facts["frames_oversized"]) == (1, 1)


def test_our_own_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = golden.golden_config(tmp_path)
    summary = minimise(config, [str(golden.capture("unbound"))], lambda *_: None)
    histogram, session = inspected(
        capsys, *sorted(path for path in summary.files if path.suffix == ".parquet")
    )
    assert (histogram["kind"], session["kind"]) == ("histogram", "session")
    assert histogram["rows"] == summary.histogram_rows
    assert session["rows"] == summary.session_rows == summary.frames["session"]
    assert histogram["responses"] == summary.frames["well_known"]
    for facts in (histogram, session):
        start, stop = facts["interval"]
        assert start < stop
        assert facts["metadata"]["edm.ledger.closed"] == "true"
        assert facts["metadata"]["edm.ledger.frames_received"] == str(summary.frames["frames_received"])
    table = pq.read_table(golden.CAPTURES / "unbound" / "session.parquet", columns=golden.LABELS)
    names: Counter[str] = Counter()
    for row in table.to_pylist():
        labels = [label for label in row.values() if label is not None]
        labels[9:] = labels[9].split(".") if len(labels) == 10 else []  # no label here has an escape
        names[".".join([*reversed(labels), ""]).lower()] += 1
    assert session["names"] == len(names)
    assert [row["rows"] for row in session["top"]] == [count for _, count in names.most_common(10)]
    assert all(names[row["name"]] == row["rows"] for row in session["top"])

    assert main(["inspect", *map(str, summary.files[:1])]) == 0
    assert "ledger, closed" in capsys.readouterr().out


def test_files_of_the_go_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "dns_histogram-2023-11-29T13-50-00Z_2023-11-29T13-51-00Z.parquet"
    path.write_bytes((golden.CAPTURES / "as-written" / "histogram.parquet").read_bytes())
    (facts,) = inspected(capsys, path)
    assert facts["interval"] == ["2023-11-29T13-50-00Z", "2023-11-29T13-51-00Z"]
    assert facts["created_by"] == "github.com/parquet-go/parquet-go"
    assert facts["metadata"] == {}
    assert main(["inspect", str(golden.CAPTURES / "as-written" / "session.parquet")]) == 0
    assert "ledger              none in this file" in capsys.readouterr().out


def test_names_of_more_than_ten_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "h.parquet"
    row: dict[str, Any] = dict.fromkeys(SCHEMA.names, 0)
    row |= {f"label{i}": chr(ord("a") + i) for i in range(9)}
    row |= {"label9": r"j.k\.k.l", "a_count": 3, "v4client_count_hll": None, "v6client_count_hll": None}
    pq.write_table(pa.Table.from_pylist([row], SCHEMA), path)
    (facts,) = inspected(capsys, path)
    assert facts["top"][0]["name"] == r"l.k\.k.j.i.h.g.f.e.d.c.b.a."


def test_what_is_neither_ends_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, cut, other = tmp_path / "text", tmp_path / "cut.parquet", tmp_path / "other.parquet"
    text.write_text("no capture")
    cut.write_bytes((golden.CAPTURES / "as-written" / "session.parquet").read_bytes()[:-100])
    pq.write_table(pa.table({"a\x1b": [1, 2]}), other)
    assert main(["inspect", str(text), str(cut), str(tmp_path / "none"), str(tmp_path), str(other)]) == 1
    shown = capsys.readouterr()
    assert [
        line.removeprefix("edm: ").removeprefix(str(tmp_path))[:20] for line in shown.err.splitlines()
    ] == [
        "/text: not a Frame S",
        "/cut.parquet: not a ",
        "/none: cannot be rea",
        ": cannot be read: Is",
    ]
    assert "columns             a\\x1b" in shown.out
    assert "\x1b" not in shown.out


def test_no_names_if_none_are_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    path = golden.CAPTURES / "as-written" / "histogram.parquet"
    (facts,) = inspected(capsys, "--top=0", path)
    assert facts["top"] == []
    assert main(["inspect", "--top", "-1", str(path)]) == 1
    assert "--top must not be negative" in capsys.readouterr().err
