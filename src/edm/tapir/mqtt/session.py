"""Runs one connection to the broker: fetches, signs and sends events, and processes confirmations."""

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
from edm.tapir.mqtt.mqtt import Confirmation, Connection, Waker
from edm.tapir.mqtt.suspects import OF_THE_MESSAGE, PERHAPS_OF_THE_MESSAGE, Suspects
from edm.tapir.mqtt.window import Mark, Window

SLICE = 64
"""Events signed or sent in one slice; limits how long one thread makes the others wait."""
WINDOW = {0: 2048, 1: 512}
"""Most unconfirmed messages on the wire, by QoS."""
PING_EVERY = 0.02
"""Shortest time in seconds between two pings that ask for progress, while few messages are unconfirmed."""
TINY = 4096
"""Bytes of the largest message. A broker that takes less is wrongly configured; events are kept then."""
_IDLE = 1.0
_PINGS = 16


@dataclass(slots=True)
class _Job:
    """Messages of one topic that are being signed, or are signed."""

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
    """What a session has to know about the shutdown."""

    @property
    def stopping(self) -> bool:
        """Whether the daemon stops: wait for the unconfirmed messages."""

    @property
    def draining(self) -> bool:
        """Whether the daemon stops and events that are only in memory must be sent first."""

    @property
    def expired(self) -> bool:
        """Whether the grace time is over."""


class Session:
    """Sends events over one connection until it ends.

    Parameters
    ----------
    connection : Connection
        Opened.
    backlog : Backlog
    sign : callable
        Starts to sign payloads and returns a future of the messages.
    topic : str
        Where signed events go.
    qos : int
        Highest QoS to use; the broker may allow less.
    metrics : EventsMetrics
    waker : Waker
        Woken when the backlog has new events.
    control : Control
    pipeline : int
        Most slices of events that are being signed, or are signed and not sent.
    suspects : Suspects, optional
        What earlier connections showed about messages at which the broker ends the connection.
    outdated : callable
        Returns whether the connection should end because a new one is to replace it.

    Attributes
    ----------
    flight : Flight
    qos : int
    sent : int
        Number of messages that have arrived.
    held : str or None
        Why the broker accepts no more messages, or None; the events are kept.
    blamed : bool
        Whether the last message may be the cause.
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
        suspects: Suspects | None = None,
        outdated: Callable[[], bool] = lambda: False,
    ) -> None:
        self.connection = connection
        self.flight = Flight()
        self.sent = 0
        self._backlog = backlog
        self._sign = sign
        self._topic = topic
        self.qos = qos
        self._metrics = metrics
        self._waker = waker
        self._control = control
        self._pipeline = pipeline
        self._jobs: deque[_Job] = deque()
        self.held: str | None = None
        self.blamed = False
        self._suspects = suspects or Suspects()
        self._outdated = outdated
        # By packet identifier, at QoS 1: number of the message, its size, and the time when it was handed over.
        self._numbers: dict[int, tuple[int, int, float]] = {}
        self._marks: deque[Mark] = deque()
        self._taken = 0  # messages that the broker has confirmed, in any order
        self._unmarked = [0, 0]  # messages and bytes
        self._wire = [0, 0]  # the same for all unconfirmed messages
        self._aboard: deque[tuple[int, bytes]] = (
            deque()
        )  # number and message, in order; some are confirmed already
        self._waiting: list[tuple[int, str, bytes]] = []  # messages that are sent only after others
        self._pinged = 0.0
        self._window = Window(WINDOW[qos])
        self._limited = RateLimited(structlog.get_logger())

    def greet(self) -> bool:
        """Wait for the broker's CONNACK; return whether it accepts the connection."""
        connection, control = self.connection, self._control
        while connection.lost is None and not connection.established:
            if control.stopping and (control.expired or not control.draining):
                return False
            connection.turn(_IDLE, self._waker)
        return connection.lost is None

    def run(self) -> None:
        """Send until the connection ends or the daemon stops."""
        connection = self.connection
        self.qos = min(self.qos, connection.maximum_qos)
        self._window.messages = min(WINDOW[self.qos], connection.receive_maximum if self.qos else WINDOW[0])
        while connection.lost is None and not self._over():
            self.step()
        self._settle()

    @property
    def unconfirmed(self) -> int:
        """Number of messages that would be sent again if the connection ended now, though they may have arrived."""
        return self._wire[0] + self.flight.early

    def on_wire(self) -> list[bytes]:
        """Return the unresolved messages, the oldest first."""
        return [message for number, message in self._aboard if not self.flight.is_resolved(number)]

    @property
    def _done_here(self) -> bool:
        return self.held is not None or self._outdated()

    def _over(self) -> bool:
        control = self._control
        if self._done_here and not self._wire[0]:
            return True
        if not control.stopping:
            return False
        if control.expired:
            return True
        if control.draining:
            return self._backlog.memory_events == 0
        self._jobs.clear()
        return not self._wire[0]

    def step(self) -> None:
        """Do one slice of each kind of work, then wait for the next event."""
        self._settle()
        if not self._done_here and (not self._control.stopping or self._control.draining):
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

    @property
    def _room(self) -> bool:
        messages, size = self._wire
        return not messages or (not self._suspects.careful and self._window.has_room(messages, size))

    def _publish(self) -> None:
        budget = SLICE
        if self._waiting and self._taken and not self._wire[0]:
            self._try_again()
        while budget and self._jobs and self._jobs[0].ready and not self.connection.congested and self._room:
            job = self._jobs[0]
            count = self._fitting(job, budget)
            part = job.messages[job.position : job.position + count]
            self._hand_over(job.topic, part)
            job.position += count
            budget -= count
            if job.position == len(job.messages):
                self._jobs.popleft()
                self.connection.write()
            if self.held is not None:
                return

    def _fitting(self, job: _Job, most: int) -> int:
        """Return how many of a job's next messages may be sent; at least one."""
        if self._suspects.careful:
            return 1
        messages, size = self._wire
        count = 0
        for message in job.messages[job.position : job.position + most]:
            if count and not self._window.has_room(messages + count, size):
                break
            count += 1
            size += len(message or b"")
        return count

    def _hand_over(self, topic: str, messages: Sequence[bytes | None]) -> None:
        largest = self.connection.largest(topic)
        good: list[bytes] = []
        for number, message in enumerate(messages, self.flight.hand_over(len(messages))):
            if message is None:
                self._give_up(number, "sign")
            elif len(message) > largest < TINY:
                self.held = f"it takes no packet above {self.connection.maximum_packet} bytes"
                break
            elif len(message) > largest:
                self._set_aside(
                    number, topic, message, "too_large", f"it takes no packet above {largest} bytes"
                )
            elif (reason := self._suspects.found(message)) is not None:
                self._set_aside(number, topic, message, "refused", reason)
            elif self._suspects.waits(message):
                self._waiting.append((number, topic, message))
            else:
                self._take_aboard(number, topic, message, good)
        if good:
            self.connection.publish_all(topic, good)

    def _take_aboard(self, number: int, topic: str, message: bytes, good: list[bytes]) -> None:
        """Publish a message at QoS 1; at QoS 0, append it to ``good``."""
        for counts in (self._wire, self._unmarked):
            counts[0] += 1
            counts[1] += len(message)
        self._aboard.append((number, message))
        if self.qos:
            mid = self.connection.publish(topic, message)
            self._numbers[mid] = number, len(message), time.monotonic()
        else:
            good.append(message)

    def _try_again(self) -> None:
        """Send a suspected message alone, now that the broker has accepted others."""
        number, topic, message = self._waiting.pop(0)
        self._suspects.last_chance(message)
        good: list[bytes] = []
        self._take_aboard(number, topic, message, good)
        if good:
            self.connection.publish_all(topic, good)

    def _give_up(self, number: int, reason: str) -> None:
        self._metrics.failed(reason)
        self.flight.resolve(number, sent=False)

    def _set_aside(self, number: int, topic: str, message: bytes, failure: str, reason: str) -> None:
        self._backlog.set_aside(topic, message, reason)
        self._limited.error(
            "new name set aside, the MQTT broker does not take it", reason=reason, bytes=len(message)
        )
        self._give_up(number, failure)

    def _ask(self) -> None:
        """Send a ping after the messages handed over, if its answer can confirm any."""
        messages, size = self._unmarked
        if self.qos or not messages or len(self._marks) >= _PINGS:
            return
        now = time.monotonic()
        if self._room and size < self._window.part and now - self._pinged < PING_EVERY:
            return
        self._marks.append(Mark(self.connection.ping(), messages, size, self._wire[1], now))
        self._unmarked = [0, 0]
        self._pinged = now

    def _patience(self) -> float:
        if self.connection.congested:
            return _IDLE
        if self._jobs and self._jobs[0].ready and self._room and not self._done_here:
            return 0.0
        if not self.qos and self._unmarked[0] and len(self._marks) < _PINGS:
            return max(0.0, self._pinged + PING_EVERY - time.monotonic())
        return _IDLE

    def _settle(self) -> None:
        """Process the broker's confirmations."""
        connection = self.connection
        now = time.monotonic()
        while self._marks and connection.pongs >= self._marks[0].ping:
            mark = self._marks.popleft()
            self._arrived(mark.messages, mark.size)
            numbers = [self._aboard.popleft()[0] for _ in range(mark.messages)]
            if self._waiting:
                for number in numbers:
                    self.flight.resolve(number)
            else:
                self.flight.resolve_before(numbers[-1] + 1)
            self._window.confirmed(mark.size, mark.on_wire, mark.sent, now)
            self._metrics.round_trip(now - mark.sent)
        while connection.confirmations:
            self._settle_one(connection.confirmations.popleft(), now, last=not connection.confirmations)
        while self.qos and self._aboard and self.flight.is_resolved(self._aboard[0][0]):
            self._aboard.popleft()
        progress = self.flight.progress()
        if progress is not None:
            self._backlog.acknowledge(
                progress.finished, progress.partial, sent=progress.sent, failed=progress.failed
            )
            self.sent += progress.sent
            if progress.sent:
                self._metrics.succeeded()

    def _settle_one(self, word: Confirmation, now: float, *, last: bool) -> None:
        """Process a confirmation of QoS 1."""
        if word.mid not in self._numbers:
            return
        number, size, began = self._numbers.pop(word.mid)
        if word.refused is None:
            self._arrived(1, size)
            self.flight.resolve(number)
            if last:
                self._window.confirmed(size, self._wire[1] + size, began, now)
                self._metrics.round_trip(now - began)
            return
        message = next(message for n, message in self._aboard if n == number)
        self._wire[0] -= 1
        self._wire[1] -= size
        if word.code in OF_THE_MESSAGE:
            self._set_aside(number, self._topic, message, "refused", word.refused)
        elif word.code in PERHAPS_OF_THE_MESSAGE:
            # Shows as much as a connection that ended with this message alone on the wire.
            self.held, self.blamed = word.refused, not self._suspects.lost([message], word.refused)
        else:
            self.held = word.refused

    def _arrived(self, messages: int, size: int) -> None:
        """Record confirmed messages."""
        self._wire[0] -= messages
        self._wire[1] -= size
        self._taken += messages
        self._suspects.confirmed(messages)


__all__ = ["PING_EVERY", "SLICE", "WINDOW", "Control", "Session"]
