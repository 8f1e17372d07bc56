"""``edm replay``: it asks before it sends made-up data to a receiver with real senders."""

import contextlib
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edm.captures.senders import tcp_senders, unix_senders
from edm.cli.main import main
from support import golden

CAPTURE = str(golden.capture("unbound"))
WENT_ON = "the receiver does not take the stream"
"""What a receiver that closes every connection at once makes of a replay that was begun."""


@contextlib.contextmanager
def receiver(address: Path | None, others: int) -> Iterator[str]:
    """A receiver with some senders already; whoever comes later is sent away. Yields its address."""
    with contextlib.ExitStack() as stack:
        if address is not None:
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(address))
            listening.listen()
        else:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        where = listening.getsockname()
        for _ in range(others):
            sender = stack.enter_context(socket.socket(listening.family))
            sender.connect(where)
            stack.enter_context(listening.accept()[0])

        def send_away() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listening.accept()[0].close()

        thread = threading.Thread(target=send_away)
        thread.start()
        try:
            yield str(address) if address is not None else f"127.0.0.1:{where[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture(params=["unix", "tcp"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", ["edm"])
    return str(request.param)


def path_of(kind: str, tmp_path: Path) -> Path | None:
    return tmp_path / "a socket" if kind == "unix" else None


@pytest.mark.parametrize(("others", "found"), [(1, "has 1 other sender:"), (3, "has 3 other senders:")])
def test_without_a_terminal_nothing_is_sent(
    kind: str, others: int, found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with receiver(path_of(kind, tmp_path), others) as address:
        assert main(["replay", f"--{kind}", address, CAPTURE]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert found in line
        assert line.endswith("nothing was sent. --yes sends it all the same")
        assert main(["replay", f"--{kind}", address, "--yes", CAPTURE]) == 1
        assert WENT_ON in capsys.readouterr().err


def test_a_receiver_without_others_is_not_asked_about(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with receiver(path_of(kind, tmp_path), 0) as address:
        assert main(["replay", f"--{kind}", address, CAPTURE]) == 1
        assert WENT_ON in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "sent"), [("y\n", True), ("yes\n", True), ("n\n", False), ("\n", False)])
def test_on_a_terminal_it_is_asked(tmp_path: Path, answer: str, sent: bool) -> None:
    with receiver(tmp_path / "s", 2) as address:
        master, slave = pty.openpty()
        try:
            os.write(master, answer.encode())
            done = subprocess.run(
                [sys.executable, "-m", "edm.cli.main", "replay", "--unix", address, CAPTURE],
                stdin=slave,
                stdout=subprocess.DEVNULL,
                stderr=slave,
                timeout=120,
                check=False,
            )
            shown = os.read(master, 65536).decode()
        finally:
            os.close(master)
            os.close(slave)
    assert done.returncode == 1
    assert "has 2 other senders" in shown
    assert (WENT_ON in shown) is sent
    assert ("nothing was sent" in shown) is not sent


def test_who_cannot_be_looked_at(tmp_path: Path) -> None:
    assert unix_senders(str(tmp_path / "none")) is None
    with receiver(tmp_path / "s", 1) as address:
        (tmp_path / "link").symlink_to(address)
        assert unix_senders(str(tmp_path / "link")) == 1
        assert unix_senders(os.path.relpath(address)) == 1
    listening = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listening.getsockname()) as sender, listening.accept()[0]:
        assert tcp_senders(sender) == 0
        listening.close()
        assert tcp_senders(sender) is None
    with socket.socket() as lost:
        assert tcp_senders(lost) == 0
