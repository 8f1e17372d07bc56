"""Requests take turns, so that whoever asks without a pause leaves the interpreter to those who work on frames."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from edm.observe.places import peer_of

SHARE = 0.05
"""Part of one core that answering may take."""

LONGEST = 0.5
"""Seconds that a request waits at most for having been paid for: what the thread did for others, such as refusing
malformed requests for a minute, must not keep out the next one."""


class _Queue:
    """A lock for which peers wait, each in a queue of its own, and are served one after the other.

    However many requests one peer has waiting, another one waits for one of them only.
    """

    def __init__(self) -> None:
        self._held = False
        self._waiting: dict[str, deque[asyncio.Event]] = {}  # in the order in which peers are served

    @asynccontextmanager
    async def turn(self, peer: str) -> AsyncIterator[None]:
        """Wait for the turn of ``peer``, and have it."""
        if self._held:
            await self._wait(peer)
        self._held = True
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, peer: str) -> None:
        called = asyncio.Event()
        self._waiting.setdefault(peer, deque()).append(called)
        try:
            await called.wait()
        except BaseException:
            if called.is_set():
                self._pass_on()
            else:
                self._waiting[peer].remove(called)
                if not self._waiting[peer]:
                    del self._waiting[peer]
            raise

    def _pass_on(self) -> None:
        self._held = bool(self._waiting)
        if not self._held:
            return
        peer = next(iter(self._waiting))
        queue = self._waiting.pop(peer)
        queue.popleft().set()
        if queue:
            self._waiting[peer] = queue  # behind the others


class Turns:
    """An ASGI application whose requests wait until answering those before has been paid for in time.

    A request that comes after a rest never waits. How long the others wait follows from the CPU time of the thread
    that serves, so all that a request costs counts, whatever its path. Those of one peer do not
    hold up those of another.

    Parameters
    ----------
    app : ASGI application
    share : float
        See :data:`SHARE`.
    """

    def __init__(self, app: ASGIApp, share: float = SHARE) -> None:
        self._app = app
        self._share = share
        self._queue = _Queue()
        self._free = 0.0  # when the next request may be answered, on the loop's clock
        self._cost = 0.0  # CPU seconds of the request answered last
        self._mark = 0.0  # CPU time of the thread when that was done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request when it is its turn."""
        clock = asyncio.get_running_loop().time
        client = scope.get("client")
        async with self._queue.turn(peer_of(client[0]) if client else ""):
            await asyncio.sleep(self._free - clock())
            began = clock()
            self._free = began + min(LONGEST, self._cost / self._share)
        # Not within the turn: a request may have to wait for something else, such as a rotation.
        try:
            await self._app(scope, receive, send)
        finally:
            now = time.thread_time()
            # The first time, what the thread needed to come up is in it.
            self._cost = now - self._mark if self._mark else 0.0
            self._mark = now
            self._free = max(self._free, began + min(LONGEST, self._cost / self._share))


__all__ = ["LONGEST", "SHARE", "Turns"]
