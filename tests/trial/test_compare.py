"""Changes between two states: the counts are those of two runs of the minimiser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard
from structlog.testing import capture_logs

from edm.captures.compare import compare
from edm.config import Config
from edm.stages.domains import write_dawg
from edm.trial import compare as module
from edm.trial.compare import Comparison, State
from edm.trial.telling import tell_comparison
from support import golden


def config(folder: Path, **more: object) -> Config:
    return golden.golden_config(folder / "data", **more)


def test_fates_are_those_of_the_minimiser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edm.captures.minimiser import minimise

    before = config(tmp_path / "a", ignored_question_names_file="", ignored_client_ips_file="")
    after = config(tmp_path / "b", disable_session_files=True)
    path = str(golden.capture("dnsdist"))
    with capture_logs() as lines:
        comparison, problems = compare(before, after, [path])
    assert (lines, problems) == ([], [])
    monkeypatch.setattr(module, "MOST_ENTRIES", 1000)
    found = comparison.document()
    assert not (tmp_path / "a" / "data").exists()
    for side, settings in (("before", before), ("after", after)):
        frames = minimise(settings, [path], lambda *_: None).frames
        assert found["frames"] == frames["frames_received"]
        assert found[side] == {name: frames[name] for name in found[side]}
        assert sum(found[side].values()) == found["frames"]
    moves = {(change["from"], change["to"]): change["frames"] for change in found["changes"]}
    assert sum(moves.values()) == found["changed"]
    assert moves["session", "session_off"] == found["after"]["session_off"]
    counters = json.loads((golden.CAPTURES / "dnsdist" / "counters.json").read_text())  # of the Go daemon
    assert found["after"]["client_ignored"] == counters["edm_ignored_client_ip_total"] > 0
    assert found["after"]["question_ignored"] == counters["edm_ignored_question_name_total"] > 0
    decided = [
        each for each in found["entries"] if each["to"] == "client_ignored" and each["state"] == "after"
    ]
    lines_of = (golden.LISTS / "ignored-clients").read_text().split("\n")
    assert sum(each["frames"] for each in decided) == found["after"]["client_ignored"]
    assert all(lines_of[int(each["entry"].removeprefix("line ")) - 1].count("/") == 1 for each in decided)


def test_nothing_changes_between_equal_states(tmp_path: Path) -> None:
    same = config(tmp_path)
    comparison, _ = compare(same, same, [str(golden.capture("dnsdist"))])
    assert comparison.document()["changed"] == 0
    assert next(tell_comparison(comparison.document())).endswith("frames keep their class")
    assert list(tell_comparison(Comparison(State.load(same), State.load(same)).document())) == [
        "no frames to compare"
    ]


def test_a_damaged_capture_is_a_line(tmp_path: Path) -> None:
    cut = tmp_path / "cut.fstrm"
    with golden.capture("dnsdist").open("rb") as file:
        cut.write_bytes(zstandard.ZstdDecompressor().stream_reader(file).read(100_000))
    same = config(tmp_path)
    _, problems = compare(same, same, [str(cut)])
    assert len(problems) == 1
    assert "cut.fstrm" in problems[0]


def test_a_part_that_cannot_be_loaded_keeps_its_state(tmp_path: Path) -> None:
    bad = tmp_path / "clients"
    bad.write_text("10.0.0.0\n")
    old = State.load(config(tmp_path))
    new, problems = old.reloaded(config(tmp_path, ignored_client_ips_file=str(bad)))
    assert problems == [f"{bad}: line 1: no '/' and prefix length behind the address"]
    assert new.clients is old.clients
    assert new.well_known is old.well_known  # the same content, so the same object
    assert new.ignored_names is old.ignored_names


@pytest.mark.parametrize("entry", [".com.", "com."])
def test_names_in_a_report_come_from_the_lists(tmp_path: Path, entry: str) -> None:
    (tmp_path / "known.dawg").write_bytes(bytes(write_dawg([entry])))
    old = config(tmp_path)
    new = config(tmp_path, well_known_domains_file=str(tmp_path / "known.dawg"))
    comparison, _ = compare(old, new, [str(golden.capture("unbound"))])
    found = comparison.document()
    shown = [each["entry"] for each in found["entries"] if each["state"] == "after"]
    assert shown == ([entry] if entry == ".com." else [])
    assert len(found["entries"]) <= 20
