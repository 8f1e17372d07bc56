"""Limits the CPU time of HTTP requests, so that requests without a pause do not slow down the workers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from edm.observe.places import peer_of

SHARE = 0.05
"""Largest share of one core for answering requests."""

LONGEST = 0.5
"""Longest pause in seconds after a request. Other work of the thread, such as refusing malformed requests for a
minute, counts as cost too and must not block the next request for long."""


class _Queue:
    """A lock with one queue per peer; the peers get the lock in turn.

    However many requests one peer has waiting, another peer waits for only one of them.
    """

    def __init__(self) -> None:
        self._held = False
        self._waiting: dict[str, deque[asyncio.Event]] = {}  # in the order in which peers are served

    @asynccontextmanager
    async def turn(self, peer: str) -> AsyncIterator[None]:
        """Hold the lock for ``peer`` after waiting for its turn."""
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
            self._waiting[peer] = queue  # at the end of the order


class Turns:
    """An ASGI application that pauses between requests in proportion to the CPU time of the one before.

    A request after an idle time never waits. The pause follows from the CPU time of the serving thread, so the whole
    cost of a request counts, whatever its path. Requests of one peer do not delay those of another.

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
        # Outside the turn: a request may wait for something else, such as a rotation.
        try:
            await self._app(scope, receive, send)
        finally:
            now = time.thread_time()
            # The first measurement would include the start of the thread.
            self._cost = now - self._mark if self._mark else 0.0
            self._mark = now
            self._free = max(self._free, began + min(LONGEST, self._cost / self._share))


__all__ = ["LONGEST", "SHARE", "Turns"]
