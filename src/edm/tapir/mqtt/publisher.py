"""The publisher: keeps a connection to the broker and sends what the backlog holds, whatever the broker does."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from edm.observe.logs import RateLimited
from edm.tapir.events.backlog import Backlog
from edm.tapir.events.metrics import EventsMetrics
from edm.tapir.keys.jws import JwsSigner
from edm.tapir.mqtt.broker import Broker
from edm.tapir.mqtt.mqtt import ConnectError, Connection, Waker
from edm.tapir.mqtt.session import Session

BACKOFF_FIRST, BACKOFF_MOST = 0.25, 10.0
STABLE = 10.0
"""A connection that lasted so long was a good one, and the next attempt comes soon."""


class Backoff:
    """Delays between attempts to connect: doubling, at most :data:`BACKOFF_MOST` seconds, with some chance."""

    def __init__(self) -> None:
        self._next = BACKOFF_FIRST

    def delay(self) -> float:
        """Return the next delay in seconds."""
        delay = self._next
        self._next = min(2 * delay, BACKOFF_MOST)
        return delay * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin with the shortest delay again."""
        self._next = BACKOFF_FIRST


class Publisher:
    """A thread that keeps a connection to the broker and sends what the backlog holds.

    Parameters
    ----------
    backlog : Backlog
    signer : JwsSigner
    broker : Broker
        For messages.
    connect : callable
        Makes an unopened connection.
    topic : str
    qos : int
    sign_workers : int
        Threads that sign.
    metrics : EventsMetrics
    """

    def __init__(
        self,
        backlog: Backlog,
        signer: JwsSigner,
        broker: Broker,
        connect: Callable[[], Connection],
        topic: str,
        qos: int,
        sign_workers: int,
        metrics: EventsMetrics,
    ) -> None:
        self._backlog = backlog
        self._signer = signer
        self._broker = broker
        self._connect = connect
        self._topic = topic
        self._qos = qos
        self._workers = sign_workers
        self._metrics = metrics
        self._log = structlog.get_logger()
        self._limited = RateLimited(self._log)
        self._waker = Waker()
        self._stop = threading.Event()
        self._deadline = 0.0
        self._drain = False
        self._pool = ThreadPoolExecutor(sign_workers, "edm-mqtt-sign")
        self._thread = threading.Thread(target=self._run, name="edm-mqtt", daemon=True)
        self.connected = False

    def start(self) -> None:
        """Start the thread; the first attempt to connect is made at once."""
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something new in the backlog."""
        self._waker.wake()

    def stop(self, grace: float) -> bool:
        """Finish what is on the wire, and what is only in memory, within ``grace`` seconds.

        Returns whether the thread has ended.
        """
        self._deadline = time.monotonic() + grace
        self._drain = self._backlog.memory_events > 0
        self._stop.set()
        self._waker.wake()
        self._thread.join(grace + 1.5)
        ended = not self._thread.is_alive()
        self._pool.shutdown(wait=ended, cancel_futures=True)
        if ended:
            self._waker.close()
        return ended

    @property
    def stopping(self) -> bool:
        """See :class:`Control`."""
        return self._stop.is_set()

    @property
    def draining(self) -> bool:
        """See :class:`Control`."""
        return self._drain

    @property
    def expired(self) -> bool:
        """See :class:`Control`."""
        return self._stop.is_set() and time.monotonic() >= self._deadline

    def _over(self) -> bool:
        return self.stopping and (not self.draining or self.expired or self._backlog.memory_events == 0)

    def _run(self) -> None:
        backoff = Backoff()
        while not self._over():
            began = time.monotonic()
            try:
                sent = self._serve()
            except Exception:  # a broker that talks nonsense must not end the sending for good
                self._log.exception("connection to the MQTT broker failed")
                sent = 0
            if sent or time.monotonic() - began > STABLE:
                backoff.reset()
            if not self._over():
                self._pause(backoff.delay())

    def _pause(self, delay: float) -> None:
        if self._stop.is_set():
            time.sleep(min(delay, max(0.0, self._deadline - time.monotonic())))
        else:
            self._stop.wait(delay)

    def _serve(self) -> int:
        """Connect and serve one connection to its end; returns how many messages were sent."""
        connection = self._connect()
        session = Session(
            connection,
            self._backlog,
            lambda payloads: self._pool.submit(self._sign, payloads),
            self._topic,
            self._qos,
            self._metrics,
            self._waker,
            self,
            2 * self._workers + 2,
        )
        try:
            connection.open()
            if not session.greet():
                raise ConnectError(connection.lost or "stopping")
            self.connected = True
            self._metrics.connects("ok")
            self._log.info("connected to the MQTT broker", server=self._broker.url)
            session.run()
        except ConnectError as error:
            self._metrics.connects("refused" if connection.refused else "error")
            self._limited.error(
                "cannot connect to the MQTT broker", server=self._broker.url, reason=str(error)
            )
            return 0
        finally:
            reason = connection.lost
            self.connected = False
            connection.close()
            self._metrics.unconfirmed(session.flight.unresolved)
            self._backlog.rewind()
        if reason is not None:
            self._limited.warning(
                "connection to the MQTT broker lost", server=self._broker.url, reason=reason
            )
        return session.sent

    def _sign(self, payloads: list[bytes]) -> list[bytes | None]:
        messages = self._signer.sign_all(payloads)
        self._metrics.signed(sum(message is not None for message in messages))
        return messages


__all__ = ["BACKOFF_FIRST", "BACKOFF_MOST", "Backoff", "Publisher"]
