"""What is told about a name is what a daemon really does with such a frame."""

from __future__ import annotations

import ipaddress
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from edm.engine import Engine
from edm.errors import StoreError
from edm.input.reader import FrameReader
from edm.observe.ledger import FATE_NAMES
from edm.observe.metrics import Metrics
from edm.stages.domains.dawg.dawg import Dawg
from edm.stages.domains.table.table import DomainTable
from edm.stages.new_qname.events import EventBlock
from edm.stages.new_qname.seen.reading import SavedNames
from edm.stages.new_qname.seen.store import FOLDER_NAME
from edm.trial.explain import explain
from edm.trial.question import Question, QuestionError
from edm.trial.telling import tell_explanation
from oracles import domain_match, prefix_file
from support import golden

CLIENTS = ["192.0.2.7", "100.64.3.9", "100.64.201.1", "127.0.5.255", "2001:db8:4000:10::7", "2001:db8::1", ""]


class Running:
    """An engine with the lists of the captures; takes its events."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.engine = Engine(golden.golden_config(folder / "data", **settings), Metrics(), events=True)
        self.engine.event_taker = self
        self.events: list[bytes] = []
        self.engine.start()
        self._reader = FrameReader(self.engine.intake, 1 << 16)

    def put(self, block: EventBlock) -> tuple[int, int]:
        self.events += block
        block.save_names()
        return len(block), 0

    def explain(self, question: Question) -> dict[str, Any]:
        engine = self.engine
        return explain(question, engine.cell.current, engine.seen, engine.config)

    def really(self, question: Question) -> tuple[str, list[bytes], list[dict[str, Any]]]:
        """Send the frame; return its fate, its events and its session rows."""
        self.events.clear()
        interval = self.engine.cell.current.interval
        before = interval.ledger.fates()
        frame = question.frame(6, time.time_ns())
        self._reader.prime(len(frame).to_bytes(4, "big") + frame)
        assert self.engine.intake.drain(30)
        (fate,) = np.flatnonzero(interval.ledger.fates() - before).tolist()
        return FATE_NAMES[fate], list(self.events), interval.rows[0].take().to_pylist()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("explain"))
    yield running
    running.engine.stop()


def words(name: str) -> dict[str, int]:
    table = DomainTable.build(Dawg.open(golden.LISTS / name))
    return {word: i for i, word in enumerate(table.texts(range(len(table))).to_pylist())}


def names_to_ask() -> list[str]:
    chance = random.Random(11)
    names = [".", "a" * 63 + ".example.", "\\000\\255.x\\.y.example.", "WWW.Example.COM"]
    for file in ("well-known.dawg", "ignored-names.dawg"):
        for word in chance.sample(found := sorted(words(file)), min(25, len(found))):
            bare = word.removeprefix(".")
            names += [bare, f"below.{bare}", f"x{bare}"] if bare else ["."]
    for capture in golden.NAMES:
        rows = pq.read_table(golden.CAPTURES / capture / "session.parquet", columns=golden.LABELS).to_pylist()
        for row in chance.sample(rows, min(20, len(rows))):
            labels = [row[label] for label in golden.LABELS[:9] if row[label] is not None]
            names.append(".".join(reversed(labels)) + ".")
    return names


def test_an_explanation_equals_what_the_daemon_does(running: Running) -> None:
    known, ignored = words("well-known.dawg"), words("ignored-names.dawg")
    networks = prefix_file.parse((golden.LISTS / "ignored-clients").read_bytes())
    assert networks
    met = set()
    for i, name in enumerate(names_to_ask()):
        try:
            question = Question.parse(name, ("A", "AAAA", "TYPE65280")[i % 3], CLIENTS[i % len(CLIENTS)])
        except QuestionError:
            continue  # a word of a list that is no domain name
        for _ in range(2):  # the second time, it has been seen
            with capture_logs() as lines:
                told = running.explain(question)
            assert lines == []
            fate, events, rows = running.really(question)
            met.add((fate, told["seen"]))
            assert told["fate"] == fate, name
            assert (told["event"] is None) == (events == []), name
            if events:
                real = json.loads(events[0])
                assert told["event"].keys() == real.keys()
                differ = {key for key in real if real[key] != told["event"][key]}
                assert differ <= {"timestamp", "query_time", "response_time", "time"}
            assert (told["session_row"] is None) == (rows == [])
            if rows:
                shown = {key: value for key, value in told["session_row"].items() if key in rows[0]}
                assert shown == told["session_row"]
                assert all(rows[0][key] == value for key, value in shown.items())
                assert any(key.startswith("source_") for key in shown) == bool(question.client)
            list_of = {
                "well_known": (known, told["well_known"]),
                "question_ignored": (ignored, told["ignored_name"]),
            }
            for which, (entries, hit) in list_of.items():
                if fate != which:
                    assert hit is None
                else:
                    index, kind = domain_match.match(entries, question.name)
                    assert entries[hit["entry"]] == index
                    assert hit["match"] == ("", "exact", "suffix")[kind]
            if fate == "client_ignored":
                line = (
                    (golden.LISTS / "ignored-clients")
                    .read_bytes()
                    .split(b"\n")[told["ignored_client"]["line"] - 1]
                )
                assert ipaddress.ip_address(question.client) in ipaddress.ip_network(
                    line.decode(), strict=False
                )
            assert all(text.isprintable() for text in tell_explanation(told))
    assert met >= {
        ("client_ignored", None),
        ("question_ignored", None),
        ("well_known", None),
        ("session", False),
        ("session", True),
    }


def test_asking_leaves_nothing(running: Running) -> None:
    question = Question.parse("asked-but-never-sent.example")
    interval = running.engine.cell.current.interval
    before = running.engine.seen.names, interval.ledger.fates().tolist(), running.engine.metrics.render("")[0]
    assert running.explain(question)["seen"] is False
    assert running.explain(question)["seen"] is False
    now = running.engine.seen.names, interval.ledger.fates().tolist()
    assert now == before[:2]


def test_switches_that_take_rows_and_events_away(tmp_path: Path) -> None:
    running = Running(tmp_path, disable_session_files=True, input_message_types="AUTH_RESPONSE")
    told = running.explain(Question.parse("new.example"))
    assert (told["fate"], told["message_type"]) == ("session_off", "AUTH_RESPONSE")
    assert told["event"] is not None
    assert told["session_row"] is None
    running.engine.stop()


def test_files_of_seen_names_tell_the_same_without_the_lock(tmp_path: Path) -> None:
    running = Running(tmp_path)
    question, other = Question.parse("once.example"), Question.parse("never.example")
    running.really(question)
    running.engine.seen.flush()
    saved = SavedNames(tmp_path / "data" / FOLDER_NAME)
    state = running.engine.cell.current
    assert explain(question, state, saved, running.engine.config)["seen"] is True
    assert explain(other, state, saved, running.engine.config)["seen"] is False
    assert running.explain(question)["seen"] is True
    running.engine.stop()


def test_a_folder_without_names_and_files_that_are_none(tmp_path: Path) -> None:
    assert SavedNames(tmp_path / "none")._files == []
    (tmp_path / "names-00000002.seen").write_bytes(b"no log at all")
    (tmp_path / "names-00000001.seen").symlink_to(tmp_path / "names-00000002.seen")
    with pytest.raises(
        StoreError, match=r"names-00000001\.seen: cannot read the seen names: is a symbolic link"
    ):
        SavedNames(tmp_path)
    (tmp_path / "names-00000001.seen").unlink()
    assert SavedNames(tmp_path)._files == []
    assert (tmp_path / "names-00000002.seen").exists()


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (("a..b",), "is no domain name: a label is empty"),
        (("\x1b[2J",), r"\\x1b\[2J.*is no domain name"),
        (("a", "NOTYPE"), "--type: 'NOTYPE' is no DNS type"),
        (("a", "TYPE65536"), "--type: 'TYPE65536' is no DNS type"),
        (("a", "A", "192.0.2.300"), "--client: must be an IPv4 or IPv6 address"),
        (("a", "A", "fe80::1%eth0"), "--client: must be an IPv4 or IPv6 address"),
        ((7,), "a question is a name"),
        (("a" * 5000,), "a question is a name"),
    ],
)
def test_what_is_no_question(texts: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(QuestionError, match=reason) as caught:
        Question.parse(*texts)
    assert str(caught.value).isprintable()
    assert "192.0.2.300" not in str(caught.value)
