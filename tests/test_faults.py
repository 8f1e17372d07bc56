"""Every loss caused by a defect or a disk is visible: exit code, summary, state, metric, log."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import support.daemon
from edm.kernel.jit import JIT_DISABLED
from support import golden
from support.daemon import Daemon
from support.processes import start_child
from support.small_disk import small_disk

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="60,000 frames take minutes without JIT")

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}


def minimise(folder: Path, defect: str, *more: str, data: Path | None = None) -> tuple[int, Any, str]:
    """Minimise a capture by a program with a defect; return exit code, summary, and what it complained of."""
    config = golden.golden_toml(folder)
    program = ["support.defective", defect] if defect else ["edm.cli.main"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", *program, "minimise", "--config-file", config, "--summary", "json"),
            *("--data-dir", str(data or folder / "data"), *more, str(golden.capture("unbound"))),
        ],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


def test_all_is_well(tmp_path: Path) -> None:
    code, summary, complaints = minimise(tmp_path, "")
    assert (code, summary["faults"], summary["problems"]) == (0, [], [])
    assert "ERROR" not in complaints


@pytest.mark.parametrize(
    ("defect", "faults"),
    [
        (
            "decode",
            ["60,000 frames lost to a defect", "1 interval whose ledger does not balance"],
        ),
        ("ledger", ["1 interval whose ledger does not balance"]),
        ("settle", ["defects of EDM, see the log"]),
        ("histogram", ["1 defect of EDM, see the log"]),
        ("session", ["defect of EDM, see the log", "session rows that were not written"]),
    ],
)
def test_a_defect_shows_in_the_exit_code_and_the_summary(
    tmp_path: Path, defect: str, faults: list[str]
) -> None:
    code, summary, complaints = minimise(tmp_path, defect)
    assert code == 1
    assert len(summary["faults"]) == len(faults)
    for told, fault in zip(summary["faults"], faults, strict=True):
        assert told.endswith(fault)
        assert f": {told}" in complaints.splitlines()[-len(faults) :][faults.index(fault)]
    # The traceback is in the log, and not once for every batch.
    assert complaints.count("Traceback") <= 3


def test_the_rest_is_done_all_the_same(tmp_path: Path) -> None:
    code, summary, _ = minimise(tmp_path, "session")
    assert code == 1
    assert summary["histogram_rows"] > 0
    assert summary["new_names"] > 0
    assert any("histogram" in path for path in summary["files"])


def test_the_text_shows_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "support.defective", "decode", "minimise"),
            *("--config-file", golden.golden_toml(tmp_path), str(golden.capture("unbound"))),
        ],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "FAULT  60,000 frames lost to a defect" in done.stdout


@pytest.mark.parametrize("leave", [100_000, 700_000])
def test_a_disk_that_is_full(tmp_path: Path, leave: int) -> None:
    """Whichever file it is that cannot be written: one line, no traceback."""
    with small_disk(tmp_path / "disk", 8 << 20) as disk:
        disk.fill(leave)
        code, summary, complaints = minimise(tmp_path, "", data=disk.data)
    assert code == 1
    assert summary is None or summary["faults"]
    assert "No space left on device" in complaints
    assert "Traceback" not in complaints


def notices(sock: socket.socket, wanted: str) -> str:
    """Return the first state that the service manager is told with ``wanted`` in it."""
    while True:
        for line in sock.recv(4096).decode().split("\n"):
            if line.startswith("STATUS=") and wanted in line:
                return line


@pytest.mark.slow
def test_the_daemon_tells_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_defect(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        at = command.index("edm.cli.main")
        return start_child([*command[:at], "support.defective", "decode", *command[at + 1 :]], **options)

    monkeypatch.setattr(support.daemon, "start_child", with_a_defect)
    frames = golden.frames("unbound")[:1000]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{tmp_path}/notify")
        sock.settimeout(60)
        daemon = Daemon(
            tmp_path / "run",
            environment=ENVIRONMENT | {"NOTIFY_SOCKET": f"@{tmp_path}/notify"},
            **golden.daemon_settings(tmp_path),
        )
        with daemon:
            assert notices(sock, "receiving") == "STATUS=receiving dnstap"
            with support.daemon.connect(unix=str(tmp_path / "dnstap.sock")) as connection:
                sender = support.daemon.Sender(connection)
                sender.send(b"".join(frames))
                sender.finish()
            daemon.wait_for_metric("edm_faults_total", len(frames), kind="frames_lost")
            assert "frames lost to a defect" in notices(sock, "lost")
            daemon.rotate(settle=False)
            daemon.wait_for_metric("edm_faults_total", 1, kind="ledger")
            assert daemon.stop() == 1
            (line,) = daemon.messages("not all went well")
            assert "1,000 frames lost to a defect" in line["faults"]
