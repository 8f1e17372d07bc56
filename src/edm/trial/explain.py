"""What would become of an answer about a name: a made-up frame, run through the real stages, and the reasons."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from edm.config import Config
from edm.config.message_types import MESSAGE_TYPES, parse_message_types
from edm.kernel.columns import CLIENT_IGNORED, QUESTION_IGNORED, WELL_KNOWN, Fate, U8Array, U32Array
from edm.observe.ledger import FATE_NAMES
from edm.snapshot import Snapshot
from edm.stages.clients import ClientPrefixes
from edm.stages.domains import EXACT_MATCH, DomainTable
from edm.stages.histogram.accumulators import Accumulators
from edm.stages.new_qname.seen.store import Candidates
from edm.trial.bench import Bench, NoNames, Verdicts, block_of
from edm.trial.question import Question

VERSION = 1
_CLIENT_RESPONSE = 6

_OF_THE_ANSWER = ("dest_", "source_port", "dns_protocol", "query_", "response_", "server_id")
"""Columns of a session row whose values come from the answer itself, so that a made-up one says nothing about them."""


class Asked(Protocol):
    """What can be asked for names seen before: the store of a daemon, or its files."""

    def candidates(self, buf: U8Array, u32: U32Array, fate: U8Array, n: int) -> Candidates:
        """Return the pending rows whose names have not been seen."""


class _Novelty(NoNames):
    """Asks for a name, and remembers the answer instead of the name."""

    def __init__(self, names: Asked) -> None:
        self._names = names
        self.is_new = False

    def candidates(self, buf: U8Array, u32: U32Array, fate: U8Array, n: int) -> Candidates:
        found = self._names.candidates(buf, u32, fate, n)
        self.is_new = len(found.rows) > 0
        return found


def explain(question: Question, snapshot: Snapshot, names: Asked, started: Config) -> dict[str, Any]:
    """Run a frame with an answer to ``question`` through the pipeline, and tell what decided.

    Parameters
    ----------
    question : Question
    snapshot : Snapshot
        The state; nothing of it is changed.
    names : Asked
        Where names seen before are looked up; nothing is remembered.
    started : Config
        The configuration of the start, for keys that a reload does not change.

    Returns
    -------
    dict
        Plain values for JSON: docs/operations.md, "What becomes of a name", says what they mean.
    """
    types = parse_message_types(started.input_message_types)
    kind = _CLIENT_RESPONSE if not types or _CLIENT_RESPONSE in types else types[0]
    state = snapshot if question.client else dataclasses.replace(snapshot, clients=ClientPrefixes.none())
    novelty = _Novelty(names)
    bench = Bench(state, novelty, types)
    verdicts = bench.run(block_of([question.frame(kind)]), 0, 1)
    fate = int(verdicts.fate[0])
    kept = fate in (Fate.SESSION, Fate.SESSION_OFF)
    return {
        "version": VERSION,
        "name": question.name,
        "type": question.type_text,
        "client": bool(question.client),
        "message_type": MESSAGE_TYPES[kind],
        "fate": FATE_NAMES[fate],
        "lists": _lists(snapshot),
        "ignored_client": _prefix(question, snapshot) if fate == CLIENT_IGNORED else None,
        "ignored_name": _entry(snapshot.ignored_names, verdicts) if fate == QUESTION_IGNORED else None,
        "well_known": _entry(snapshot.well_known, verdicts) if fate == WELL_KNOWN else None,
        "seen": not novelty.is_new if kept else None,
        "events": snapshot.events,
        "event": json.loads(bench.events[0]) if bench.events else None,
        "session_row": _session_row(bench, question) if fate == Fate.SESSION else None,
        "histogram_row": _histogram_row(bench, snapshot) if fate == WELL_KNOWN else None,
    }


def _lists(snapshot: Snapshot) -> dict[str, Mapping[str, Any]]:
    config = snapshot.config
    ignored = snapshot.ignored_names
    return {
        "ignored_client_ips": {"file": config.ignored_client_ips_file, "entries": len(snapshot.clients)},
        "ignored_question_names": {
            "file": config.ignored_question_names_file,
            "entries": 0 if ignored is None else len(ignored),
        },
        "well_known_domains": {"file": config.well_known_domains_file, "entries": len(snapshot.well_known)},
    }


def _prefix(question: Question, snapshot: Snapshot) -> dict[str, Any]:
    found = snapshot.clients.holding(question.client)
    return {"line": found[0].line, "prefix": found[0].text, "others": [each.line for each in found[1:]]}


def _entry(table: DomainTable | None, verdicts: Verdicts) -> dict[str, str]:
    assert table is not None
    match = "exact" if verdicts.match[0] == EXACT_MATCH else "suffix"
    return {"entry": table.word(int(verdicts.entry[0])), "match": match}


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _session_row(bench: Bench, question: Question) -> dict[str, object]:
    hidden = _OF_THE_ANSWER if question.client else (*_OF_THE_ANSWER, "source_")
    row = bench.interval.rows[0].take().to_pylist()[0]
    return {
        name: _plain(value)
        for name, value in row.items()
        if value is not None and not name.startswith(hidden)
    }


def _histogram_row(bench: Bench, snapshot: Snapshot) -> dict[str, object]:
    table = Accumulators.merge(bench.interval.accumulators).to_table(snapshot.well_known.texts, 0)
    row = table.to_pylist()[0]
    return {
        name: _plain(value)
        for name, value in row.items()
        if value and name != "start_time" and not isinstance(value, bytes)
    }


__all__ = ["VERSION", "Asked", "explain"]
