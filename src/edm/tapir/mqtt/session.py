"""What happens on one connection to the broker: fetching, signing, handing over, and learning what arrived."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import structlog

from edm.observe.logs import RateLimited
from edm.tapir.events.backlog import Backlog
from edm.tapir.events.metrics import EventsMetrics
from edm.tapir.mqtt.flight import Flight
from edm.tapir.mqtt.mqtt import Connection, Waker

SLICE = 64
"""Events signed or handed to the connection at a stretch: bounds how long one thread keeps the others waiting."""
WINDOW = {0: 2048, 1: 512}
"""Most messages on the wire of which nothing is known yet, by quality of service."""
PING_EVERY = 0.02
"""Least time between two pings that ask how far the broker has come, in seconds."""
_IDLE = 1.0


@dataclass(slots=True)
class _Job:
    """Some messages of one topic, being signed or ready."""

    topic: str
    future: Future[list[bytes | None]] | None
    messages: Sequence[bytes | None] = ()
    position: int = 0

    @property
    def ready(self) -> bool:
        if self.future is not None and self.future.done():
            self.messages = self.future.result()
            self.future = None
        return self.future is None


class Control(Protocol):
    """What a session needs to know of the shutdown."""

    @property
    def stopping(self) -> bool:
        """The daemon stops: finish what is on the wire."""

    @property
    def draining(self) -> bool:
        """The daemon stops, and what is in memory must be sent first."""

    @property
    def expired(self) -> bool:
        """The grace time is over."""


class Session:
    """What happens on one connection.

    Parameters
    ----------
    connection : Connection
        Opened.
    backlog : Backlog
    sign : callable
        Starts signing payloads and returns the promise of the messages.
    topic : str
        Where signed events go.
    qos : int
        At most; the broker may allow less.
    metrics : EventsMetrics
    waker : Waker
        Woken when there is something new in the backlog.
    control : Control
    pipeline : int
        Slices of events that are being signed or wait signed.

    Attributes
    ----------
    flight : Flight
    sent : int
        Messages that have arrived.
    """

    def __init__(
        self,
        connection: Connection,
        backlog: Backlog,
        sign: Callable[[list[bytes]], Future[list[bytes | None]]],
        topic: str,
        qos: int,
        metrics: EventsMetrics,
        waker: Waker,
        control: Control,
        pipeline: int,
    ) -> None:
        self.connection = connection
        self.flight = Flight()
        self.sent = 0
        self._backlog = backlog
        self._sign = sign
        self._topic = topic
        self._qos = qos
        self._metrics = metrics
        self._waker = waker
        self._control = control
        self._pipeline = pipeline
        self._jobs: deque[_Job] = deque()
        self._numbers: dict[int, tuple[int, float]] = {}
        self._ping: tuple[int, int, float] | None = None
        self._pinged = 0.0
        self._window = WINDOW[qos]
        self._limited = RateLimited(structlog.get_logger())

    def greet(self) -> bool:
        """Wait for the broker's answer to the greeting; returns whether it accepts the connection."""
        connection, control = self.connection, self._control
        while connection.lost is None and not connection.established:
            if control.stopping and (control.expired or not control.draining):
                return False
            connection.turn(_IDLE, self._waker)
        return connection.lost is None

    def run(self) -> None:
        """Send until the connection ends or the daemon stops."""
        connection = self.connection
        self._qos = min(self._qos, connection.maximum_qos)
        self._window = min(WINDOW[self._qos], connection.receive_maximum if self._qos else WINDOW[0])
        while connection.lost is None and not self._over():
            self.step()
        self._settle()

    def _over(self) -> bool:
        control = self._control
        if not control.stopping:
            return False
        if control.expired:
            return True
        if control.draining:
            return self._backlog.memory_events == 0
        self._jobs.clear()
        return self.flight.unresolved == 0

    def step(self) -> None:
        """Do a slice of each thing there is to do, then wait for the next event."""
        self._settle()
        if not self._control.stopping or self._control.draining:
            self._fetch()
            self._publish()
        self._ask()
        self.connection.write()
        self.connection.turn(self._patience(), self._waker)

    def _fetch(self) -> None:
        if len(self._jobs) >= self._pipeline:
            return
        entries = self._backlog.take(self._pipeline * SLICE, memory_first=self._control.draining)
        payloads: list[bytes] = []
        topic: str | None = None
        for entry in entries:
            chunk = entry.chunk
            self.flight.add(entry.id, len(chunk), chunk.done)
            if chunk.topic != topic:
                self._start(payloads, topic)
                payloads, topic = [], chunk.topic
            for start in range(chunk.done, len(chunk), SLICE):
                payloads += chunk.messages(start, min(start + SLICE, len(chunk)))
                if len(payloads) >= SLICE:
                    self._start(payloads, topic)
                    payloads = []
        self._start(payloads, topic)

    def _start(self, payloads: list[bytes], topic: str | None) -> None:
        if not payloads:
            return
        if topic is not None:
            self._jobs.append(_Job(topic, None, payloads))
            return
        future = self._sign(payloads)
        self._jobs.append(_Job(self._topic, future))
        future.add_done_callback(lambda _: self._waker.wake())

    def _publish(self) -> None:
        budget = SLICE
        while budget and self._jobs and self._jobs[0].ready and not self.connection.congested:
            job = self._jobs[0]
            room = min(budget, self._window - self.flight.unresolved)
            if room <= 0:
                return
            part = job.messages[job.position : job.position + room]
            self._hand_over(job.topic, part)
            job.position += len(part)
            budget -= len(part)
            if job.position == len(job.messages):
                self._jobs.popleft()
                self.connection.write()

    def _hand_over(self, topic: str, messages: Sequence[bytes | None]) -> None:
        largest = self.connection.largest(topic)
        good: list[bytes] = []
        for number, message in enumerate(messages, self.flight.hand_over(len(messages))):
            if message is None:
                self._give_up(number, "sign")
            elif len(message) > largest:
                self._give_up(number, "too_large")
                self._limited.error("new name is too large for the MQTT broker", limit=largest)
            elif self._qos:
                self._numbers[self.connection.publish(topic, message)] = number, time.monotonic()
            else:
                good.append(message)
        if good:
            self.connection.publish_all(topic, good)

    def _give_up(self, number: int, reason: str) -> None:
        self._metrics.failed(reason)
        self.flight.resolve(number, sent=False)

    def _ask(self) -> None:
        """Send a ping behind what was handed over, if there is something to learn from the answer."""
        if self._qos or self._ping is not None or not self.flight.unresolved:
            return
        now = time.monotonic()
        if self.flight.unresolved < self._window and now - self._pinged < PING_EVERY:
            return
        self._ping = self.connection.ping(), self.flight.handed, now
        self._pinged = now

    def _patience(self) -> float:
        if self.connection.congested:
            return _IDLE
        full = self.flight.unresolved >= self._window
        if self._jobs and self._jobs[0].ready and not full:
            return 0.0
        if not self._qos and self._ping is None and self.flight.unresolved:
            return max(0.0, self._pinged + PING_EVERY - time.monotonic())
        return _IDLE

    def _settle(self) -> None:
        """Work off what the broker has confirmed."""
        connection = self.connection
        now = time.monotonic()
        if self._ping is not None and connection.pongs >= self._ping[0]:
            self.flight.resolve_before(self._ping[1])
            self._metrics.round_trip(now - self._ping[2])
            self._ping = None
        while connection.confirmations:
            word = connection.confirmations.popleft()
            number, began = self._numbers.pop(word.mid, (-1, now))
            if number < 0:
                continue
            self.flight.resolve(number, sent=word.refused is None)
            if word.refused is not None:
                self._metrics.failed("refused")
                self._limited.error("new name refused by the MQTT broker", reason=word.refused)
            elif not connection.confirmations:
                self._metrics.round_trip(now - began)
        progress = self.flight.progress()
        if progress is not None:
            self._backlog.acknowledge(
                progress.finished, progress.partial, sent=progress.sent, failed=progress.failed
            )
            self.sent += progress.sent
            if progress.sent:
                self._metrics.succeeded()


__all__ = ["PING_EVERY", "SLICE", "WINDOW", "Control", "Session"]
