"""Objects that a failed test leaves open do not break another test (``conftest.py``)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).with_name("conftest.py")

TESTS = """
import gc, socket, threading
import pytest

ended = threading.Event()

class Holder:
    pass
Holder.__module__ = "support.holder"

def wait(sock):
    try:
        sock.recv(1)
    except OSError:
        pass
    ended.set()

@pytest.fixture
def owned():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs
        ours.sendall(b"tidying up works on an open socket")

def test_fails(owned):
    alone, other = socket.socketpair()
    holder = Holder()
    holder.socks = list(socket.socketpair())
    threading.Thread(target=wait, args=(other,), daemon=True).start()
    assert False

def test_innocent():
    gc.collect()
    assert ended.wait(10)

def test_fails_once_more():
    assert False

def test_innocent_too():
    gc.collect()
"""


def test_only_those_fail_that_are_wrong(tmp_path: Path) -> None:
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_them.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    failed = re.findall(r"^(?:FAILED|ERROR) test_them\.py::(\w+)", done.stdout, re.M)
    assert failed == ["test_fails", "test_fails_once_more"], done.stdout
    assert "2 failed, 2 passed" in done.stdout
