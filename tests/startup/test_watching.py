"""The status of a real daemon: its form, its numbers, and its findings when there is a fault."""

from __future__ import annotations

import json
import signal
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edm.kernel.jit import JIT_DISABLED
from edm.observe.status.routes import schema
from support import golden
from support.daemon import Daemon, running
from support.golden import daemon_settings as settings
from support.processes import wait_until

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="the daemon is tested with JIT")

SCHEMA = json.loads(schema())


def valid(kind: str, document: Any) -> Any:
    """Check a document against its part of the schema."""
    jsonschema.validate(document, {"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]})
    return document


def ask(daemon: Daemon, path: str, expected: int = 200) -> Any:
    code, body = daemon.http("GET", path)
    assert code == expected, body
    return json.loads(body)


def codes(daemon: Daemon) -> set[str]:
    return {finding["code"] for finding in ask(daemon, "/api/status")["health"]["findings"]}


def test_the_schema_is_one_and_refuses_what_is_none() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        valid("status", {"version": 1})
    with pytest.raises(jsonschema.ValidationError):
        valid("history", {"version": 1, "step": 2, "end": 0, "count": 0, "series": {}})


def test_all_numbers_of_a_capture(tmp_path: Path) -> None:
    frames = golden.frames("unbound")
    with running(tmp_path, **settings(tmp_path)) as daemon:
        valid("status", ask(daemon, "/api/status"))
        daemon.send(frames)
        daemon.rotate()
        wait_until(
            lambda: ask(daemon, "/api/status")["frames"]["total"] == len(frames), "the cached answer is old"
        )
        status = valid("status", ask(daemon, "/api/status"))
        assert sum(status["frames"]["fates"].values()) == len(frames)
        assert sum(worker["frames"] for worker in status["workers"]) == len(frames)
        assert sum(status["input"]["message_types"].values()) == len(frames)
        (interval,) = [i for i in status["rotation"]["intervals"] if i["frames"]]
        assert interval["closed"]
        assert interval["frames"] == len(frames)
        assert interval["written"]
        assert interval["session_rows"] == status["frames"]["fates"]["session"]
        assert status["health"]["state"] == "ok", status["health"]
        assert status["snapshot"]["lists"][0]["entries"] > 0
        assert 0 < sum(stage["share"] for stage in status["stages"]) <= 1.0001
        assert daemon.metric("edm_worker_frames_total", worker="0") == len(frames)
        frames_by_identity = {
            dict(labels)["identity"]: value
            for (name, labels), value in daemon.metrics().items()
            if name == "edm_sender_frames_total"
        }
        assert frames_by_identity == {"vm": len(frames)}
        for step in (1, 60):
            history = valid("history", ask(daemon, f"/api/history?step={step}"))
            assert all(len(values) == history["count"] for values in history["series"].values())
        valid("live", ask(daemon, "/livez"))
        assert valid("ready", ask(daemon, "/readyz"))["ready"]
        text = daemon.http("GET", "/api/status")[1]
        assert "127.0.0" not in text.replace(f'"address":"{status["input"]["address"]}"', "")


def test_a_reload_that_fails_in_part_is_found_and_told(tmp_path: Path) -> None:
    clients = tmp_path / "clients"
    clients.write_text("192.0.2.0/24\n")
    with Daemon(tmp_path / "run", **settings(tmp_path, ignored_client_ips_file=clients)) as daemon:
        assert "reload-failed" not in codes(daemon)
        clients.write_text("nonsense\n")
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reload-failed" in codes(daemon), "the finding is told")
        status = valid("status", ask(daemon, "/api/status"))
        (entry,) = status["reload"]["history"]
        (failed,) = [part for part in entry["parts"] if part["outcome"] == "failed"]
        assert failed["part"] == "ignored_client_ips"
        assert "clients" in failed["text"]
        assert ask(daemon, "/readyz")["ready"]
        clients.write_text("192.0.2.0/24\n")
        daemon.reload()
        wait_until(lambda: "reload-failed" not in codes(daemon), "it is mended")


def test_the_page_and_its_parts_are_served_with_strict_headers(tmp_path: Path) -> None:
    with running(tmp_path, **settings(tmp_path)) as daemon:
        for path in ("/", "/page.js", "/page.css", "/api/status", "/readyz"):
            with urllib.request.urlopen(
                f"http://127.0.0.1:{daemon.metrics_port}{path}", timeout=30
            ) as answer:
                headers = answer.headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["X-Frame-Options"] == "DENY"
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
        assert daemon.http("POST", "/api/status")[0] == 405
        assert daemon.http("GET", "/api/history?step=7")[0] == 400
