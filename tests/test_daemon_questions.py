"""A real daemon is asked: what becomes of a name, and what a reload would change."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from edm.cli.main import main
from edm.daemon import Daemon
from edm.kernel.jit import JIT_DISABLED
from edm.stages.domains import write_dawg
from edm.trial.question import Question
from support import golden
from support.daemon import running, to_toml

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="the daemon is tested with JIT")


def test_explain_and_preview(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path, **golden.daemon_settings(tmp_path)) as daemon:
        config = ["--config-file", str(daemon.config)]
        socket = daemon.data / ".control.sock"
        assert stat.S_IMODE(socket.lstat().st_mode) == 0o600

        def explain(*arguments: str) -> dict[str, object]:
            capsys.readouterr()
            assert main(["explain", *config, "--json", *arguments]) == 0
            found: dict[str, object] = json.loads(capsys.readouterr().out)
            return found

        first = explain("secret-name.example")
        assert (first["decided_by"], first["pid"]) == ("daemon", daemon.process.pid)
        assert (first["fate"], first["seen"]) == ("session", False)
        frame = Question.parse("secret-name.example").frame(6)
        framed = len(frame).to_bytes(4, "big") + frame
        daemon.send([framed] * 3)
        assert explain("secret-name.example", "--live")["seen"] is True
        ignored = explain("x.example", "--client", "100.64.3.1")
        assert ignored["ignored_client"] == {"line": 2, "prefix": "100.64.3.0/24", "others": []}
        assert main(["explain", *config, "x.example"]) == 0
        assert f"Decided by the running daemon, process {daemon.process.pid}" in capsys.readouterr().out

        # A reload that would ignore the name, tried and not done.
        lists = tmp_path / "ignored.dawg"
        lists.write_bytes(bytes(write_dawg([".example."])))
        daemon.config.write_text(to_toml({**daemon.settings, "ignored_question_names_file": lists}))
        assert main(["reload", *config, "--preview", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["frames"] == found["changed"] == 3
        assert found["changes"] == [{"from": "session", "to": "question_ignored", "frames": 3, "share": 1.0}]
        assert [each["entry"] for each in found["entries"]] == [".example."]
        assert "secret-name" not in json.dumps(found)
        assert main(["reload", *config, "--preview"]) == 0
        assert "3 of 3 frames (100.0%) change their class:" in capsys.readouterr().out
        assert explain("secret-name.example")["fate"] == "session"
        assert "secret-name" not in json.dumps(daemon.log)
        assert daemon.messages("reloaded") == []
    assert not os.path.lexists(socket)
    assert main(["explain", *config, "secret-name.example"]) == 0
    printed = capsys.readouterr()
    assert "Decided by the files" in printed.out
    assert "no daemon with a control socket" in printed.err
    assert main(["explain", *config, "--live", "x.example"]) == 1
    assert main(["reload", *config, "--preview"]) == 1
    assert main(["explain", *config, "--live", "--offline", "x.example"]) == 1
    assert main(["explain", *config, "a..b"]) == 1


def test_without_the_socket_there_is_no_sample(tmp_path: Path) -> None:
    config = golden.golden_config(tmp_path / "data", control_socket=False)
    daemon = Daemon(config, lambda: config)
    daemon._listen_to_questions()
    assert (daemon._control, daemon._recent) == (None, None)


def test_two_configurations_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = golden.golden_toml(tmp_path)
    new = tmp_path / "new.toml"
    new.write_text(old.read_text().replace("ignored-question-names-file", "#"))
    capture = str(golden.capture("dnsdist"))
    assert main(["minimise", "--compare", "--json", str(old), str(new), capture]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["changed"] == found["before"]["question_ignored"] > 0
    assert main(["minimise", "--compare", str(old), str(new), capture]) == 0
    assert "question ignored -> " in capsys.readouterr().out
    assert main(["minimise", "--compare", str(old), capture]) == 1
    assert "--compare needs two configuration files" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
