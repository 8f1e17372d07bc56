from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edm.errors import EdmError
from edm.observe import control
from edm.observe.control import ControlServer, NoControlError, RefusedError, ask


def echo(question: Mapping[str, Any]) -> dict[str, Any]:
    return {"echo": question["text"]}


def refuse(_question: Mapping[str, Any]) -> dict[str, Any]:
    raise EdmError("not today")


def fail(_question: Mapping[str, Any]) -> dict[str, Any]:
    raise KeyError("secret.example")


ANSWERS = {"echo": echo, "refuse": refuse, "fail": fail}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    deep = tmp_path / ("long" * 30)  # beyond what a socket's path may have
    deep.mkdir()
    return deep


@pytest.fixture
def server(folder: Path) -> Iterator[ControlServer]:
    server = ControlServer(folder, ANSWERS)
    assert server.start()
    yield server
    server.stop()
    assert not os.path.lexists(server.path)


def raw(folder: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, control._folder(folder) as short:
        sock.settimeout(20)
        sock.connect(f"{short}/{control.SOCKET_NAME}")
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        found = b""
        while piece := sock.recv(65536):
            found += piece
        return found


def test_questions_are_answered(folder: Path, server: ControlServer) -> None:
    assert ask(folder, {"ask": "echo", "text": "x" * 60_000}, 20) == {"echo": "x" * 60_000}
    with pytest.raises(RefusedError, match=r"^the daemon says: not today$"):
        ask(folder, {"ask": "refuse"}, 20)
    with pytest.raises(RefusedError, match="no such question; there are: echo, fail, refuse"):
        ask(folder, {"ask": "format"}, 20)


def test_a_fault_is_logged_without_what_was_asked(folder: Path, server: ControlServer) -> None:
    with capture_logs() as lines, pytest.raises(RefusedError, match=r"a fault in the program \(KeyError\)"):
        ask(folder, {"ask": "fail"}, 20)
    assert [(line["event"], line["fault"]) for line in lines] == [
        ("a question on the control socket failed", "KeyError")
    ]
    assert "secret" not in str(lines)


@pytest.mark.parametrize(
    "data", [b"\n", b"[]\n", b"{\n", b"[" * 60_000 + b"\n", b"no end", b'{"ask": []}\n', b"\xff\n"]
)
def test_what_is_no_question_is_refused(folder: Path, server: ControlServer, data: bytes) -> None:
    assert "no such question" in json.loads(raw(folder, data))["error"]
    assert ask(folder, {"ask": "echo", "text": "on"}, 20) == {"echo": "on"}


def test_a_question_that_is_too_long_is_refused(folder: Path, server: ControlServer) -> None:
    with pytest.raises((RefusedError, NoControlError)):
        ask(folder, {"ask": "echo", "text": "x" * (1 << 17)}, 20)
    assert ask(folder, {"ask": "echo", "text": "on"}, 20) == {"echo": "on"}


def test_one_who_says_nothing_does_not_stay(
    folder: Path, server: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PATIENCE", 0.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, control._folder(folder) as short:
        sock.connect(f"{short}/{control.SOCKET_NAME}")
        assert ask(folder, {"ask": "echo", "text": "on"}, 20) == {"echo": "on"}


def test_a_busy_daemon_answers_later_or_is_given_up(folder: Path) -> None:
    gate = threading.Event()

    def wait(_question: Mapping[str, Any]) -> dict[str, Any]:
        gate.wait(30)
        return {}

    server = ControlServer(folder, {**ANSWERS, "wait": wait})
    assert server.start()
    with pytest.raises(NoControlError, match=r"no answer within 0\.1 seconds"):
        ask(folder, {"ask": "wait"}, 0.1)
    threading.Timer(0.1, gate.set).start()
    assert ask(folder, {"ask": "echo", "text": "later"}, 20) == {"echo": "later"}
    server.stop()


def test_only_its_user_may_open_it_whatever_the_umask(folder: Path) -> None:
    old = os.umask(0)
    try:
        server = ControlServer(folder, ANSWERS)
        assert server.start()
    finally:
        os.umask(old)
    mode = server.path.lstat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    server.stop()


def test_another_user_gets_no_answer_even_at_the_socket(folder: Path) -> None:
    server = ControlServer(folder, ANSWERS, users=frozenset((os.geteuid() + 1,)))
    assert server.start()
    with pytest.raises(RefusedError, match="only root and the user that runs the daemon may ask it"):
        ask(folder, {"ask": "echo", "text": "secret"}, 20)
    server.stop()


def test_a_stale_socket_or_link_is_replaced_and_not_followed(folder: Path) -> None:
    target = folder / "precious"
    target.write_text("kept")
    (folder / control.SOCKET_NAME).symlink_to(target)
    server = ControlServer(folder, ANSWERS)
    assert server.start()
    assert target.read_text() == "kept"
    assert stat.S_ISSOCK(server.path.lstat().st_mode)
    again = ControlServer(folder, ANSWERS)
    assert again.start()  # as after a kill: the file of the first is stale
    server.stop()
    assert ask(folder, {"ask": "echo", "text": "on"}, 20) == {"echo": "on"}  # the first did not remove it
    again.stop()


def test_without_a_socket_the_daemon_goes_on(folder: Path) -> None:
    (folder / control.SOCKET_NAME).mkdir()
    server = ControlServer(folder, ANSWERS)
    with capture_logs() as lines:
        assert not server.start()
    assert [line["event"] for line in lines] == ["cannot make the control socket"]
    server.stop()


def test_nobody_answers(folder: Path) -> None:
    with pytest.raises(NoControlError, match="no daemon with a control socket"):
        ask(folder, {}, 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, control._folder(folder) as short:
        sock.bind(f"{short}/{control.SOCKET_NAME}")
    with pytest.raises(NoControlError, match="Connection refused"):
        ask(folder, {}, 1)
    (folder / control.SOCKET_NAME).unlink()
    (folder / control.SOCKET_NAME).symlink_to("/dev/null")
    with pytest.raises(NoControlError, match="is no socket"):
        ask(folder, {}, 1)
