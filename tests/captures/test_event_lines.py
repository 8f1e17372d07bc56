"""``edm inspect`` of files of new names, including damaged and foreign files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edm.captures.event_lines import LINE_MAX, inspect_events
from edm.cli.main import main
from edm.errors import InputError
from support import golden

EVENT = (
    b'{"flags":33152,"qclass":1,"qname":"a\\u001b[31m.example.","qtype":28,"timestamp":"2023-11-14T22:13:00Z",'
    b'"type":"new_qname","version":0}\n'
)


def test_a_real_file(capsys: pytest.CaptureFixture[str]) -> None:
    path = golden.CAPTURES / "unbound" / "new_qname.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    facts = inspect_events(str(path), 3)
    assert facts["events"] == len(lines)
    assert facts["bytes"] == path.stat().st_size
    assert facts["times"] == [min(x["timestamp"] for x in lines), max(x["timestamp"] for x in lines)]
    assert sum(facts["types"].values()) == len(lines)
    assert facts["shown"] == [x["qname"] for x in lines[:3]]
    assert main(["inspect", "--top", "3", str(path)]) == 0
    assert f"{len(lines):,} (" in capsys.readouterr().out


HOSTILE = {
    "half a line": EVENT[:-20],
    "no end": EVENT[:-1],
    "another object": b'{"a":1}\n',
    "another type": EVENT.replace(b"new_qname", b"other"),
    "a list": b'{"\n[1]\n',
    "deep": b'{"a":' + b"[" * 50_000 + b"\n",
    "a long line": b'{"' + b"x" * (3 * LINE_MAX) + b"\n",
    "a long number": EVENT.replace(b"28", b"9" * 5000),
    "a number that is no type": EVENT.replace(b"28", b"65536"),
    "true": EVENT.replace(b"28", b"true"),
    "a time that is none": EVENT.replace(b"22:13:00Z", b"\\u001b[31m"),
    "no UTF-8": EVENT.replace(b"a\\u", b"\xff\\u"),
    "no name": EVENT.replace(b"qname", b"xname"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_lines_that_are_no_events_are_counted(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.jsonl"
    others = HOSTILE[case].count(b"\n") or 1
    path.write_bytes(EVENT + EVENT + HOSTILE[case])
    facts = inspect_events(str(path))
    assert facts["events"] == 2
    assert facts["problem"] == f"{path}: {others} of {2 + others} lines are no new_qname events"
    assert main(["inspect", str(path)]) == 1
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert err.count("\n") == 1


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        inspect_events(str(tmp_path / "no"))
