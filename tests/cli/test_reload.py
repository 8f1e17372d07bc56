"""``edm reload``: finding the daemon, and what it prints; with a real daemon in tests/test_daemon_reload.py."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edm.cli import checks
from edm.cli import reload as module
from edm.cli.main import main
from edm.cli.reload import NoDaemonError, as_text, find_daemon, request_reload
from edm.errors import StoreError
from edm.reload.outcome import PartOutcome, ReloadOutcome
from support import golden
from support.processes import end_child

GOOD = {"config": PartOutcome("reloaded"), "well_known_domains": PartOutcome("reloaded")}
BAD = {
    "config": PartOutcome("reloaded"),
    "ignored_client_ips": PartOutcome("failed", ("clients: line 3: no",)),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "seen-names").mkdir(parents=True)
    return folder


@pytest.fixture
def holder(data: Path) -> Iterator[int]:
    """This process, with the lock of the data directory open."""
    lock = data / "seen-names" / "lock"
    lock.write_text(f"{os.getpid()}\n")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield os.getpid()


def clock() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.fixture
def daemon(data: Path, holder: int) -> Iterator[Callable[[dict[str, PartOutcome]], None]]:
    """Play a daemon: at SIGHUP, leave the outcome that the test has chosen."""
    parts: list[dict[str, PartOutcome]] = []

    def reload(_number: int, _frame: object) -> None:
        # One that was under way already, and whose outcome says nothing; then the one that was asked for.
        early = ReloadOutcome(1, holder, clock() - 1_000_000, time.time(), BAD)
        late = ReloadOutcome(2, holder, clock(), time.time(), parts[-1], ("data-dir",))
        early.write(data)
        timer = threading.Timer(0.2, late.write, [data])
        timers.append(timer)
        timer.start()

    timers: list[threading.Timer] = []
    old = signal.signal(signal.SIGHUP, reload)
    yield parts.append
    signal.signal(signal.SIGHUP, old)
    for timer in timers:
        timer.join()


def test_the_process_with_the_lock_is_found(data: Path, holder: int) -> None:
    assert find_daemon(data) == holder
    assert find_daemon(data, holder) == holder


def test_no_daemon(data: Path) -> None:
    with pytest.raises(NoDaemonError, match=f"no daemon has ever used the data directory {data}"):
        find_daemon(data)
    lock = data / "seen-names" / "lock"
    lock.write_text("")
    with pytest.raises(NoDaemonError, match="does not hold the number of a process"):
        find_daemon(data)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    lock.write_text(f"{child.pid}\n")
    with pytest.raises(NoDaemonError, match=f"no daemon runs with the data directory {data}"):
        find_daemon(data)


def test_a_process_that_only_has_the_number_is_left_alone(data: Path, holder: int) -> None:
    """SIGHUP would end it."""
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(NoDaemonError, match=f"process {stranger.pid} is none that uses it"):
            find_daemon(data, stranger.pid)
        (data / "seen-names" / "lock").write_text(f"{stranger.pid}\n")
        with pytest.raises(NoDaemonError, match=f"process {stranger.pid} is none that uses it"):
            find_daemon(data)
        assert stranger.poll() is None
    finally:
        end_child(stranger)


def test_processes_of_others_are_not_for_us(data: Path, holder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.Path, "iterdir", forbidden)
    with pytest.raises(NoDaemonError, match="only root and the user that runs it"):
        find_daemon(data)


def test_the_outcome_of_the_reload_that_was_asked_for(
    data: Path, holder: int, daemon: Callable[[dict[str, PartOutcome]], None]
) -> None:
    daemon(GOOD)
    outcome = request_reload(holder, data, 10)
    assert outcome.serial == 2
    assert outcome.failed == ()


def test_no_outcome(data: Path, holder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "kill", lambda pid, number: None)
    (data / "reload.json").write_text("{")
    with pytest.raises(NoDaemonError, match=r"no outcome of the reload within 0.2 seconds"):
        request_reload(holder, data, 0.2)


def test_a_daemon_that_ends_instead(data: Path) -> None:
    # SIGHUP ends it, also if whoever started the tests ignores that signal.
    child = subprocess.Popen(["sleep", "60"], preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
    waiter = threading.Thread(target=child.wait)
    waiter.start()
    with pytest.raises(NoDaemonError, match="has ended"):
        request_reload(child.pid, data, 30)
    waiter.join()


# What others can write is not believed


def spoof(data: Path, pid: int) -> Path:
    ReloadOutcome(9, pid, clock() + 10**9, time.time(), {"x": PartOutcome("failed", ("spoofed",))}).write(
        data
    )
    return data / "reload.json"


def not_believed(data: Path, holder: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(module.os, "kill", lambda pid, number: None)
    with pytest.raises(NoDaemonError, match="no outcome of the reload within") as refused:
        request_reload(holder, data, 0.2)
    return str(refused.value)


def test_an_outcome_that_others_can_write_is_not_believed(
    data: Path, holder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spoof(data, holder)
    for mode in (0o662, 0o620, 0o602):
        path.chmod(mode)
        assert "is not believed: others can write to it" in not_believed(data, holder, monkeypatch)
    path.chmod(0o640)
    data.chmod(0o777)
    assert f"is not believed: others can write to {data}" in not_believed(data, holder, monkeypatch)
    data.chmod(0o1777)
    assert request_reload(holder, data, 5).serial == 9
    (data / "other").hardlink_to(path)
    assert "is not believed: no file of its own" in not_believed(data, holder, monkeypatch)
    path.unlink()
    path.symlink_to(data / "other")
    assert "see the log of the daemon" in not_believed(data, holder, monkeypatch)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_an_outcome_of_another_user_is_not_believed(
    data: Path, holder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(spoof(data, holder), 12345, 12345)
    assert "it belongs to another user than the daemon" in not_believed(data, holder, monkeypatch)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_process_of_another_user_is_no_daemon(data: Path) -> None:
    lock = data / "seen-names" / "lock"
    lock.touch(mode=0o666)
    with lock.open() as file:
        stranger = subprocess.Popen(["sleep", "60"], stdin=file, user=12345, group=12345)
    try:
        lock.write_text(f"{stranger.pid}\n")
        data.chmod(0o777)
        with pytest.raises(NoDaemonError, match="is not believed to be the daemon"):
            find_daemon(data)
        data.chmod(0o755)  # who wrote the number was allowed to by the operator
        assert find_daemon(data) == stranger.pid
    finally:
        end_child(stranger)


@pytest.mark.parametrize("text", ["[" * 50_000, '{"serial": 1e999, "pid": 1, "parts": {}}'])
def test_an_outcome_that_python_cannot_hold_is_none(data: Path, text: str) -> None:
    (data / "reload.json").write_text(text)
    with pytest.raises(StoreError, match="does not hold the outcome of a reload"):
        ReloadOutcome.read(data)


def test_an_outcome_of_another_kind_is_none(data: Path) -> None:
    (data / "reload.json").write_text(
        '{"serial": 1, "pid": 1, "began_us": 1, "finished": 1, "restart": [], "parts": {"x": {"result": "fine", '
        '"reasons": []}}}'
    )
    with pytest.raises(StoreError, match="does not hold the outcome of a reload"):
        ReloadOutcome.read(data)


def test_text() -> None:
    parts = {**GOOD, **BAD, "cryptopan": PartOutcome("unchanged")}
    text = as_text(ReloadOutcome(1, 2, 3, 4.0, parts, ("data-dir", "debug")))
    assert text == (
        "config              reloaded\n"
        "well_known_domains  reloaded, used from the next rotation on\n"
        "ignored_client_ips  FAILED, keeps its old state\n"
        "                    clients: line 3: no\n"
        "cryptopan           unchanged\n"
        "changed, but not used before a restart: data-dir, debug\n"
    )


# The command


@pytest.fixture
def reload(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setattr(sys, "argv", ["edm"])
    for name in [n for n in os.environ if n.startswith("DNSTAPIR_EDM_")]:
        monkeypatch.delenv(name)
    (data.parent / "edm.toml").write_text(
        f'cryptopan-key = "a secret that is long"\ninput-unix = "{data}/s"\nwell-known-domains-file = "{data}/list"\n'
        f'data-dir = "{data}"\ndisable-mqtt = true\ndisable-histogram-sender = true\n'
    )
    (data.parent / "edm.toml").chmod(0o600)
    shutil.copy(golden.LISTS / "well-known.dawg", data / "list")
    monkeypatch.setattr(checks, "CHECKS", [checks.lists_are_valid])

    def run(*flags: str) -> tuple[int, str, str]:
        code = main(["reload", "--config-file", str(data.parent / "edm.toml"), *flags])
        return code, *capsys.readouterr()

    return run


def test_everything_reloaded(
    reload: Callable[..., tuple[int, str, str]], daemon: Callable[[dict[str, PartOutcome]], None]
) -> None:
    daemon(GOOD)
    code, out, err = reload()
    assert (code, err) == (0, "")
    assert out.startswith("config              reloaded\n")


def test_reloaded_in_part(
    reload: Callable[..., tuple[int, str, str]], daemon: Callable[[dict[str, PartOutcome]], None]
) -> None:
    daemon(BAD)
    code, out, err = reload()
    assert code == 1
    assert "clients: line 3: no" in out
    assert err == "edm: not everything could be reloaded: ignored_client_ips\n"


def test_what_would_fail_is_not_tried(
    data: Path,
    reload: Callable[..., tuple[int, str, str]],
    daemon: Callable[[dict[str, PartOutcome]], None],
) -> None:
    line = f"well-known-domains-file: {data}/list: No such file or directory"
    (data / "list").unlink()
    daemon(BAD)
    for flags in ((), ("--check",)):
        assert reload(*flags) == (1, "", f"edm: {line}\n")
    assert not (data / "reload.json").exists()
    code, out, err = reload("--force")
    assert code == 1
    assert err.splitlines()[0] == f"edm: {line}"
    assert "FAILED" in out
    assert reload("--no-such-flag")[0] == 1


def test_only_checked(reload: Callable[..., tuple[int, str, str]]) -> None:
    assert reload("--check") == (0, "A reload would work.\n", "")
    code, out, err = reload()
    assert (code, out) == (1, "")
    assert "no daemon has ever used the data directory" in err


def test_waiting_is_bounded(
    reload: Callable[..., tuple[int, str, str]], holder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "kill", lambda pid, number: None)
    code, _, err = reload("--timeout=0", f"--pid={holder}")
    assert code == 1
    assert "within 0 seconds" in err
