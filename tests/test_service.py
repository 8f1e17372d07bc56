"""Messages to a service manager, read at the other end of a real socket."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edm.service import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify")
    address = name if request.param == "path" else f"\0{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.settimeout(10)
        yield sock, address.replace("\0", "@")


def heard(sock: socket.socket) -> list[str]:
    return sock.recv(4096).decode().split("\n")


def nothing_more(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        sock.recv(4096)
    except BlockingIOError:
        return True
    return False


def test_a_life(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    service = ServiceManager({"NOTIFY_SOCKET": address})
    assert service.interval == float("inf")
    service.ready("receiving dnstap")
    assert heard(sock) == ["READY=1", "STATUS=receiving dnstap"]
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    service.reloading()
    kind, clock, status = heard(sock)
    assert (kind, status) == ("RELOADING=1", "STATUS=reloading")
    assert before <= int(clock.removeprefix("MONOTONIC_USEC=")) <= before + 5_000_000
    service.ready("reload failed: å\nREADY=0")  # a status cannot become a variable of its own
    assert heard(sock) == ["READY=1", "STATUS=reload failed: å READY=0"]
    service.stopping()
    assert heard(sock) == ["STOPPING=1", "STATUS=stopping"]
    service.ready("a reload that ended after the stop began")
    service.alive()
    assert nothing_more(sock)


def test_signs_of_life_come_twice_as_often_as_asked_for(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    now = 100.0
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    service = ServiceManager(environ, lambda: now)
    assert service.interval == 1.5
    times = []
    for tenth in range(40):
        now = 100 + tenth / 10
        service.alive()
        if not nothing_more(sock):
            times.append(now)
    assert times == [101.5, 103.0]


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},  # asked of another process
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {},
    ],
)
def test_no_signs_of_life_unless_asked_for(environ: dict[str, str]) -> None:
    assert ServiceManager({"NOTIFY_SOCKET": "@nobody", **environ}).interval == float("inf")


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    service = ServiceManager({**environ, "WATCHDOG_USEC": "1"})
    with capture_logs() as logs:
        service.ready("")
        service.reloading()
        service.alive()
        service.stopping()
    assert logs == []
    assert service.interval == float("inf")


def test_a_manager_that_is_gone_is_logged_once(tmp_path: Path) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    with capture_logs() as logs:
        for _ in range(3):
            service.ready("receiving dnstap")
    (entry,) = logs
    assert entry["event"] == "cannot talk to the service manager"
    assert entry["reason"] == "No such file or directory"


def test_any_thread_may_tell_something(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    service = ServiceManager({"NOTIFY_SOCKET": address})
    threads = [threading.Thread(target=service.ready, args=(str(i),)) for i in range(8)]
    for thread in threads:
        thread.start()
    assert {heard(sock)[1] for _ in threads} == {f"STATUS={i}" for i in range(8)}
    for thread in threads:
        thread.join()
