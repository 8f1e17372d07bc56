"""Requests in turns, with a clock and a CPU that the test controls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edm.observe import turns
from edm.observe.turns import Turns

SCOPE: dict[str, Any] = {"type": "http"}


class World:
    """A loop's clock that moves when somebody sleeps, and a thread whose requests cost what they say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 50.0
        self.cpu = 1.0
        self.slept: list[float] = []
        self.answered: list[float] = []
        monkeypatch.setattr(turns.time, "thread_time", lambda: self.cpu)
        monkeypatch.setattr(turns.asyncio, "sleep", self.sleep)
        monkeypatch.setattr(turns.asyncio, "get_running_loop", lambda: self)

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(max(0.0, seconds))
        self.now += max(0.0, seconds)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.answered.append(self.now)
        self.cpu += scope["cost"]
        if scope.get("fails"):
            raise RuntimeError("no answer")

    def ask(self, turns: Turns, cost: float, **more: object) -> None:
        asyncio.run(turns({**SCOPE, "cost": cost, **more}, None, None))  # type: ignore[arg-type]


def test_requests_without_a_pause_get_their_share_of_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    app = Turns(world.app, share=0.05)
    for _ in range(102):
        world.ask(app, 0.003)
    assert world.slept[:2] == [0.0, 0.0]
    assert world.slept[2:] == pytest.approx([0.06] * 100)
    assert (world.cpu - 1.0 - 2 * 0.003) / (world.now - 50.0) == pytest.approx(0.05)


def test_a_request_after_a_rest_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    app = Turns(world.app, share=0.05)
    for _ in range(10):
        world.ask(app, 0.003)
        world.now += 15.0
    assert world.slept == [0.0] * 10


def test_what_a_request_cost_before_it_was_answered_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    app = Turns(world.app, share=0.05)
    for _ in range(3):
        world.cpu += 0.002  # reading and parsing it, say
        world.ask(app, 0.001)
    world.ask(app, 0.001)
    assert world.slept[-1] == pytest.approx(0.003 / 0.05)


def test_a_request_that_fails_has_cost_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    app = Turns(world.app, share=0.05)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            world.ask(app, 0.003, fails=True)
    assert world.slept[-1] == pytest.approx(0.06)


def test_a_request_that_has_to_wait_holds_up_nobody() -> None:
    async def scenario() -> list[str]:
        done: list[str] = []
        rotated = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/rotate":
                await rotated.wait()
            done.append(scope["path"])

        turns = Turns(app)
        rotation = asyncio.create_task(turns({**SCOPE, "path": "/rotate"}, None, None))  # type: ignore[arg-type]
        await turns({**SCOPE, "path": "/metrics"}, None, None)  # type: ignore[arg-type]
        rotated.set()
        await rotation
        return done

    assert asyncio.run(asyncio.wait_for(scenario(), 10)) == ["/metrics", "/rotate"]


def test_what_the_thread_did_for_others_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    app = Turns(world.app, share=0.05)
    for _ in range(5):
        world.cpu += 1.5  # a flood of malformed requests between two scrapes
        world.ask(app, 0.003)
        world.now += 0.1
    assert max(world.slept) <= turns.LONGEST


def test_one_peer_does_not_hold_up_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many requests of one peer as it has connections, each as dear as a scrape, and one of Prometheus behind."""
    order: list[str] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        order.append(scope["client"][0])

    async def ask_all() -> None:
        turns = Turns(app)
        async with turns._queue.turn("198.51.100.1"):
            tasks = [
                asyncio.create_task(turns({**SCOPE, "client": (host, 1)}, None, None))  # type: ignore[arg-type]
                for host in ["192.0.2.1"] * 32 + ["192.0.2.2"]
            ]
            await asyncio.sleep(0)
            tasks[0].cancel()  # a connection that is gone
        await asyncio.wait(tasks)

    asyncio.run(ask_all())
    assert order.index("192.0.2.2") <= 1
    assert len(order) == 32


def test_a_turn_goes_on_if_who_was_called_has_gone() -> None:
    async def run() -> None:
        queue = turns._Queue()

        async def take() -> None:
            async with queue.turn("192.0.2.1"):
                pass

        async with queue.turn("192.0.2.1"):
            first, second = asyncio.create_task(take()), asyncio.create_task(take())
            await asyncio.sleep(0)
        first.cancel()  # called, and not yet awake
        await asyncio.wait_for(second, 5)
        await asyncio.wait_for(take(), 5)

    asyncio.run(run())
