"""Closes what a failed test has left open, so that it does not make other tests fail.

The traceback of a failed test keeps its sockets alive. Collected later, each would end whatever test runs by then
with a warning about itself, and what listens or waits at its other end would go on in a thread.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Any

import pytest

_LEFT = pytest.StashKey[list[socket.socket]]()


def _sockets_in(value: Any, depth: int = 2) -> Iterator[socket.socket]:
    """Yield a socket, those in a collection of them, and those that an object of the tests holds."""
    if isinstance(value, socket.socket):
        yield value
    elif depth and isinstance(value, dict):
        for item in list(value.values()):
            yield from _sockets_in(item, depth - 1)
    elif depth and isinstance(value, list | tuple | set):
        for item in list(value):
            yield from _sockets_in(item, depth - 1)
    elif depth and type(value).__module__.partition(".")[0] in ("edm", "support"):
        yield from _sockets_in(getattr(value, "__dict__", {}), depth)


def _left_by(traceback: TracebackType | None) -> Iterator[socket.socket]:
    while traceback is not None:
        for value in list(traceback.tb_frame.f_locals.values()):
            yield from _sockets_in(value)
        traceback = traceback.tb_next


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.excinfo is not None:
        item.stash.setdefault(_LEFT, []).extend(_left_by(call.excinfo.tb))
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    done = yield
    # Behind the fixtures' own tidying up, which may still need them.
    for sock in item.stash.get(_LEFT, []):
        with contextlib.suppress(OSError):
            # Whoever waits in another thread for something to come wakes up.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            sock.close()
    return done
