"""Requests take turns, so that whoever asks without a pause leaves the interpreter to those who work on frames."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Receive, Scope, Send

SHARE = 0.05
"""Part of one core that answering may take."""

LONGEST = 0.5
"""Seconds that a request waits at most for having been paid for: what the thread did for others, such as refusing
malformed requests for a minute, must not keep out the next one."""


class Turns:
    """An ASGI application whose requests wait until answering those before has been paid for in time.

    A request that comes after a rest never waits. How long the others wait follows from the CPU time of the thread
    that serves, so all that a request costs counts, whatever its path.

    Parameters
    ----------
    app : ASGI application
    share : float
        See :data:`SHARE`.
    """

    def __init__(self, app: ASGIApp, share: float = SHARE) -> None:
        self._app = app
        self._share = share
        self._turn = asyncio.Lock()
        self._free = 0.0  # when the next request may be answered, on the loop's clock
        self._cost = 0.0  # CPU seconds of the request answered last
        self._mark = 0.0  # CPU time of the thread when that was done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request when it is its turn."""
        clock = asyncio.get_running_loop().time
        async with self._turn:
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
