"""Work that a reload avoids: building an unchanged table, deriving an unchanged key, using a whole core."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from edm.config import Config
from edm.engine import Engine
from edm.observe.metrics import Metrics
from edm.reload.background import NICE, at_low_priority
from edm.reload.reload import Reloader
from edm.stages.domains.dawg.writer import write_dawg


def put(folder: Path, words: list[str], ignored: list[str]) -> None:
    (folder / "known").write_bytes(write_dawg(words))
    (folder / "ignored").write_bytes(write_dawg(ignored))


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    put(tmp_path, ["a.test."], ["b.test."])
    config = Config(
        cryptopan_key="mysecret",
        data_dir=str(tmp_path / "data"),
        well_known_domains_file=str(tmp_path / "known"),
        ignored_question_names_file=str(tmp_path / "ignored"),
    )
    made = Engine(config, Metrics(), events=False)
    made.start()
    yield made
    made.stop()


def test_a_list_with_the_same_content_keeps_its_table(engine: Engine, tmp_path: Path) -> None:
    reloader = Reloader(engine, lambda: engine.config)
    before = engine.cell.current
    put(tmp_path, ["a.test."], ["b.test."])  # new files, the same words
    assert reloader.reload()
    engine.rotate()
    after = engine.cell.current
    assert after.well_known is before.well_known
    assert after.ignored_names is before.ignored_names
    assert after.pseudonyms is before.pseudonyms

    put(tmp_path, ["c.test."], ["d.test."])
    assert reloader.reload()
    assert engine.cell.current.ignored_names is not before.ignored_names
    assert engine.cell.current.well_known is before.well_known
    engine.rotate()
    assert engine.cell.current.well_known.word(0) == "c.test."


def test_going_back_before_the_rotation_takes_the_list_on_disk(engine: Engine, tmp_path: Path) -> None:
    reloader = Reloader(engine, lambda: engine.config)
    for words in (["c.test."], ["a.test."]):
        put(tmp_path, words, ["b.test."])
        assert reloader.reload()
    engine.rotate()
    assert engine.cell.current.well_known.word(0) == "a.test."


def test_a_list_without_words_comes_into_use_like_any_other(engine: Engine, tmp_path: Path) -> None:
    put(tmp_path, [], ["b.test."])
    assert Reloader(engine, lambda: engine.config).reload()
    engine.rotate()
    assert len(engine.cell.current.well_known) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
def test_low_priority_is_that_of_the_work_alone() -> None:
    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = nice()
    assert at_low_priority(nice) == NICE
    assert nice() == before


def test_an_exception_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        at_low_priority(lambda: 1 // 0)
