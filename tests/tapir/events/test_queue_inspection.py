"""``edm inspect`` of the queue file: events that wait, and events that were set aside."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from edm.cli.main import main
from edm.errors import InputError
from edm.tapir.events.backlog import Backlog
from edm.tapir.events.chunks import chunks_of
from edm.tapir.events.queue_inspection import inspect_queue
from edm.tapir.keys.jwk import load_signing_key
from edm.tapir.keys.jws import JwsSigner
from support.events import block_of, payload, payloads
from support.pki import signing_jwk, write_jwk


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A queue that somebody has open, with seven events waiting and one set aside."""
    key = load_signing_key("test", write_jwk(tmp_path / "key", signing_jwk()))
    file = tmp_path / "queue.sqlite3"
    backlog = Backlog(file, 1 << 30)
    backlog.put(list(chunks_of([block_of(payloads(0, 7))])))
    backlog.set_aside("events/up/x/new_qname", JwsSigner(key).sign(payload(99)), "Packet \x1b[31mtoo large")
    yield file
    backlog.close()


def test_a_queue_in_use(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = path.read_bytes()
    facts = inspect_queue(str(path))
    assert (facts["kind"], facts["waiting_events"], facts["set_aside"]) == ("queue", 7, 1)
    assert facts["totals"]["queued"] == 7
    (entry,) = facts["shown"]
    assert entry["reason"] == "not taken by the broker: Packet \x1b[31mtoo large"
    assert (entry["topic"], entry["payload"]) == ("events/up/x/new_qname", payload(99).decode())
    assert path.read_bytes() == before
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "7 with" in shown
    assert "host-99.example.com." in shown
    assert "\x1b" not in shown
    assert main(["inspect", "--format", "json", "--top", "0", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["shown"] == []


def test_another_database_and_a_damaged_one(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.sqlite3"
    database = sqlite3.connect(other)
    database.execute("CREATE TABLE x (y)")
    database.close()
    with pytest.raises(InputError, match="no queue of new names"):
        inspect_queue(str(other))
    other.write_bytes(path.read_bytes()[:100] + bytes(5000))
    assert main(["inspect", str(other)]) == 1
    assert "no queue of new names, or a damaged one" in capsys.readouterr().err
    with pytest.raises(InputError, match="cannot be read: No such file"):
        inspect_queue(str(tmp_path / "nothing"))
