"""The publisher: keeps a connection to the broker, reconnects after errors, and sends the backlog's events."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog

from edm.observe.logs import RateLimited
from edm.tapir.events.backlog import Backlog
from edm.tapir.events.metrics import EventsMetrics
from edm.tapir.keys.jws import JwsSigner
from edm.tapir.mqtt.broker import Broker
from edm.tapir.mqtt.mqtt import ConnectError, Connection, Waker
from edm.tapir.mqtt.session import Session
from edm.tapir.mqtt.suspects import PERHAPS_OF_THE_MESSAGE, Suspects

BACKOFF_FIRST, BACKOFF_MOST = 0.25, 10.0
"""First and longest delay in seconds before the next attempt to connect."""
SLOW_FIRST, SLOW_MOST = 5.0, 300.0
"""The same when the broker answers but accepts nothing from us."""
TAKEN_FIRST, TAKEN_MOST = 1.0, 60.0
"""The same when another client has taken our place."""
STABLE = 30.0
"""Seconds after which a connection counts as good; after its end the delays start again at the first."""
SHORT = 3
"""Number of shorter connections in a row that suggests a second client with the same ID."""

_UNSEEN = "at mqtt-qos 0 a broker cannot say what it refuses, and most drop it in silence; 1 shows it"
_TAKEN_OVER = 0x8E
_NOT_US = frozenset((0x86, 0x87, 0x8A, 0x90, 0x96, 0x97, 0x98, 0x9F))
"""Reason codes about the client, not a message (MQTT 5.0, 2.4): user, authorisation, ban, topic, rate, quota."""


class Backoff:
    """Delays between attempts to connect: doubled up to a bound, with a random part.

    Parameters
    ----------
    first, most : float
        Seconds.
    """

    def __init__(self, first: float = BACKOFF_FIRST, most: float = BACKOFF_MOST) -> None:
        self._first = first
        self._most = most
        self._next = first

    def delay(self) -> float:
        """Return the next delay in seconds."""
        delay = self._next
        self._next = min(2 * delay, self._most)
        return delay * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start again with the shortest delay."""
        self._next = self._first


@dataclass(frozen=True)
class Identity:
    """Our identity for the broker; always replaced as a whole.

    Attributes
    ----------
    signer : JwsSigner
    client_id : str
    topic : str
        Where signed events go.
    """

    signer: JwsSigner
    client_id: str
    topic: str


class Publisher:
    """A thread that keeps a connection to the broker and sends the backlog's events.

    Parameters
    ----------
    backlog : Backlog
    identity : callable
        Returns the current identity. A new key with the same name is used at once; a new name needs a new connection.
    broker : Broker
        For log messages.
    connect : callable
        Makes an unopened connection for a client ID.
    qos : int
    sign_workers : int
        Number of threads that sign.
    metrics : EventsMetrics
    """

    def __init__(
        self,
        backlog: Backlog,
        identity: Callable[[], Identity],
        broker: Broker,
        connect: Callable[[str], Connection],
        qos: int,
        sign_workers: int,
        metrics: EventsMetrics,
    ) -> None:
        self._backlog = backlog
        self._identity = identity
        self._broker = broker
        self._connect = connect
        self._qos = qos
        self._workers = sign_workers
        self._metrics = metrics
        self._log = structlog.get_logger()
        # An outage may last for days: after the first lines, one line a minute gives the count.
        self._limited = RateLimited(self._log, interval=60.0)
        self._suspects = Suspects()
        self._backoff = Backoff()
        self._slow = Backoff(SLOW_FIRST, SLOW_MOST)
        self._taken = Backoff(TAKEN_FIRST, TAKEN_MOST)
        self._short = 0
        self._waker = Waker()
        self._stop = threading.Event()
        self._hurry = threading.Event()  # ends a pause
        self._deadline = 0.0
        self._drain = False
        self._pool = ThreadPoolExecutor(sign_workers, "edm-mqtt-sign")
        self._thread = threading.Thread(target=self._run, name="edm-mqtt", daemon=True)
        self.connected = False

    def start(self) -> None:
        """Start the thread; the first attempt to connect is made at once."""
        self._thread.start()

    @property
    def last_error(self) -> tuple[float, str] | None:
        """When something last went wrong with the broker, and what; see :class:`RateLimited`."""
        return self._limited.last

    def wake(self) -> None:
        """Tell the thread that the backlog has new events."""
        self._waker.wake()

    def hurry(self) -> None:
        """Try to connect again at once, for example after the operator has corrected the cause."""
        self._hurry.set()
        self._waker.wake()

    def stop(self, grace: float) -> bool:
        """Within ``grace`` seconds, wait for unconfirmed messages and send events that are only in memory.

        Returns whether the thread has ended.
        """
        self._deadline = time.monotonic() + grace
        self._drain = self._backlog.memory_events > 0
        self._stop.set()
        self._hurry.set()
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
        while not self._over():
            delay = self._backoff
            try:
                delay = self._serve()
            except Exception:  # an invalid answer from the broker must not end the thread
                self._log.exception("connection to the MQTT broker failed")
            if not self._over():
                self._pause(delay.delay())

    def _pause(self, delay: float) -> None:
        if self._stop.is_set():
            time.sleep(min(delay, max(0.0, self._deadline - time.monotonic())))
        elif self._hurry.wait(delay) and not self._stop.is_set():
            self._hurry.clear()

    def _serve(self) -> Backoff:
        """Open one connection and serve it to its end; return the seconds to wait before the next one."""
        identity = self._identity()
        connection = self._connect(identity.client_id)
        session = self._session(connection, identity)
        began = time.monotonic()
        try:
            connection.open()
            if not session.greet():
                raise ConnectError(connection.lost or "stopping")
            self.connected = True
            self._metrics.connects("ok")
            self._limited.info("connected to the MQTT broker", server=self._broker.url, qos=session.qos)
            session.run()
        except ConnectError as error:
            self._metrics.connects("refused" if connection.refused else "error")
            self._limited.error(
                "cannot connect to the MQTT broker", server=self._broker.url, reason=str(error)
            )
            return self._slow if connection.code in _NOT_US else self._backoff
        finally:
            reason = connection.lost
            self.connected = False
            connection.close()
            self._metrics.unconfirmed(session.unconfirmed)
            self._backlog.rewind()
        return self._ended(connection, session, identity, reason, time.monotonic() - began)

    def _session(self, connection: Connection, identity: Identity) -> Session:
        def signer() -> JwsSigner:
            current = self._identity()
            return (current if current.topic == identity.topic else identity).signer

        return Session(
            connection,
            self._backlog,
            lambda payloads: self._pool.submit(self._sign, signer(), payloads),
            identity.topic,
            self._qos,
            self._metrics,
            self._waker,
            self,
            2 * self._workers + 2,
            self._suspects,
            lambda: self._identity().client_id != identity.client_id,
        )

    def _ended(
        self, connection: Connection, session: Session, identity: Identity, reason: str | None, seconds: float
    ) -> Backoff:
        """Log why a connection ended, and adapt to it; return the seconds to wait."""
        takes_nothing = False
        if session.held is not None:
            reason, takes_nothing = session.held, not session.blamed
        elif connection.code in _NOT_US:
            takes_nothing = True
        elif connection.by_peer and (connection.code is None or connection.code in PERHAPS_OF_THE_MESSAGE):
            takes_nothing = self._suspects.lost(session.on_wire(), reason or "")
        self._suspects.forget_last_chance()
        if seconds > STABLE:
            self._short = 0
            for backoff in (self._backoff, self._taken, self._slow):
                backoff.reset()
        elif connection.by_peer:
            self._short += 1
        if takes_nothing:
            told: dict[str, Any] = {"hint": _UNSEEN} if session.qos == 0 else {}
            self._limited.error(
                "the MQTT broker takes no new names, they are kept",
                server=self._broker.url,
                reason=reason,
                waiting=self._backlog.disk_events + self._backlog.memory_events,
                **told,
            )
            return self._slow
        if reason is not None:
            hint: dict[str, Any] = {}
            if self._short >= SHORT and not self._suspects.careful:
                hint = {
                    "hint": f"is there a second client with the ID {identity.client_id}, of the same key?"
                }
            self._limited.warning(
                "connection to the MQTT broker lost", server=self._broker.url, reason=reason, **hint
            )
        return self._taken if connection.code == _TAKEN_OVER else self._backoff

    def _sign(self, signer: JwsSigner, payloads: list[bytes]) -> list[bytes | None]:
        messages = signer.sign_all(payloads)
        self._metrics.signed(sum(message is not None for message in messages))
        return messages


__all__ = ["BACKOFF_FIRST", "BACKOFF_MOST", "Backoff", "Identity", "Publisher"]
