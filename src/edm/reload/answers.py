"""What a running daemon answers at its control socket: what becomes of a name, and what a reload would change."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from edm.config import Config
from edm.engine import Engine
from edm.input.recent import Recent
from edm.observe.control import Answer
from edm.trial.compare import Comparison, State
from edm.trial.explain import explain
from edm.trial.question import Question


class Answers:
    """Answers from the state of an engine, which stays as it is.

    Parameters
    ----------
    read_config : callable
        Reads the configuration anew, as a reload does.
    recent : Recent
        The sample on which a reload is tried.
    """

    def __init__(self, engine: Engine, read_config: Callable[[], Config], recent: Recent) -> None:
        self._engine = engine
        self._read_config = read_config
        self._recent = recent

    def all(self) -> Mapping[str, Answer]:
        """Return what answers each question."""
        return {"explain": self.explain, "preview": self.preview}

    def explain(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Tell what would become of an answer about a name.

        Raises
        ------
        QuestionError
        """
        asked = Question.parse(question.get("name"), question.get("type", "A"), question.get("client", ""))
        engine = self._engine
        snapshot = engine.cell.current
        found = explain(asked, snapshot, engine.seen, engine.config)
        waiting = engine.latest_well_known is not snapshot.well_known
        return {**found, "generation": snapshot.generation, "pid": os.getpid(), "well_known_waits": waiting}

    def preview(self, _question: Mapping[str, Any]) -> dict[str, Any]:
        """Run the sample through the state that is, and the one that would be after a reload.

        Raises
        ------
        EdmError
            The configuration cannot be read.
        """
        new = self._read_config()
        before = State.of(self._engine.cell.current, self._engine.config)
        after, problems = before.reloaded(new)
        block, seconds = self._recent.block()
        comparison = Comparison(before, after)
        comparison.add(block)
        return {**comparison.document(), "seconds": seconds, "problems": problems, "pid": os.getpid()}


__all__ = ["Answers"]
