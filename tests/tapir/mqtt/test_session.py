"""What a session does on a connection, with the broker played by a script."""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edm.observe.metrics import Metrics
from edm.tapir.events.backlog import Backlog
from edm.tapir.events.chunks import chunk_of_messages, chunks_of
from edm.tapir.events.metrics import EventsMetrics
from edm.tapir.mqtt import session as module
from edm.tapir.mqtt.mqtt import Confirmation
from edm.tapir.mqtt.session import WINDOW, Session
from support.events import block_of, payload, payloads

TOPIC = "events/up/site/new_qname"


class PlayedConnection:
    """Takes what is published; the test says what the broker has confirmed."""

    def __init__(self) -> None:
        self.established = True
        self.lost: str | None = None
        self.refused = False
        self.receive_maximum = 65535
        self.maximum_qos = 2
        self.maximum_packet = 1 << 28
        self.confirmations: deque[Confirmation] = deque()
        self.congested = False
        self.pongs = 0
        self.pings: list[int] = []
        self.published: list[tuple[str, bytes, int]] = []
        self.patience: list[float] = []
        self._mids = itertools.count(1)

    def publish(self, topic: str, message: bytes) -> int:
        self.published.append((topic, message, 1))
        return next(self._mids)

    def publish_all(self, topic: str, messages: list[bytes]) -> None:
        self.published += [(topic, message, 0) for message in messages]

    def largest(self, topic: str) -> int:
        return self.maximum_packet

    def ping(self) -> int:
        self.pings.append(len(self.published))
        return len(self.pings)

    def write(self) -> None:
        pass

    def turn(self, timeout: float, waker: Any) -> None:
        self.patience.append(timeout)

    def pong(self) -> None:
        self.pongs = len(self.pings)


class Control:
    stopping = False
    draining = False
    expired = False


class Setting:
    """A session with everything around it."""

    def __init__(self, backlog: Backlog, qos: int = 0, pipeline: int = 4) -> None:
        self.backlog = backlog
        self.connection = PlayedConnection()
        self.control = Control()
        self.metrics = Metrics()
        self.session = Session(
            self.connection,  # type: ignore[arg-type]
            backlog,
            self.sign,
            TOPIC,
            qos,
            EventsMetrics(self.metrics),
            None,  # type: ignore[arg-type]
            self.control,
            pipeline,
        )

    def sign(self, events: list[bytes]) -> Future[list[bytes | None]]:
        future: Future[list[bytes | None]] = Future()
        future.set_running_or_notify_cancel()
        waker = Waker()
        self.session._waker = waker  # type: ignore[assignment]
        future.set_result([None if b"unsignable" in event else b"signed " + event for event in events])
        return future

    def put(self, first: int, stop: int) -> None:
        self.backlog.put(list(chunks_of([block_of(payloads(first, stop))])))

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.session.step()

    @property
    def sent(self) -> list[bytes]:
        return [message.removeprefix(b"signed ") for _, message, _ in self.connection.published]

    def failed(self, reason: str) -> float | None:
        return self.metrics.value("edm_mqtt_failed_total", reason=reason)


class Waker:
    def wake(self) -> None:
        pass


@pytest.fixture
def backlog(tmp_path: Path) -> Any:
    made = Backlog(tmp_path / "queue.sqlite3", 1 << 30)
    yield made
    made.close()


def test_messages_leave_the_disk_when_a_ping_behind_them_is_answered(backlog: Backlog) -> None:
    setting = Setting(backlog)
    setting.put(0, 10)
    setting.steps(2)
    assert setting.sent == payloads(0, 10)
    assert {(topic, qos) for topic, _, qos in setting.connection.published} == {(TOPIC, 0)}
    assert setting.connection.pings == [10]
    assert backlog.disk_events == 10
    setting.connection.pong()
    setting.put(10, 15)
    setting.steps(1)
    assert backlog.disk_events == 5
    assert backlog.sent == setting.session.sent == 10
    assert setting.metrics.value("edm_mqtt_round_trip_seconds_count") == 1
    assert setting.metrics.value("edm_mqtt_last_success_timestamp_seconds", **{}) > 0  # type: ignore[operator]


def test_an_answer_to_an_older_ping_confirms_nothing_newer(backlog: Backlog) -> None:
    setting = Setting(backlog)
    setting.put(0, 10)
    setting.connection.pings = [0]  # one that the library has sent by itself
    setting.steps(2)
    assert setting.connection.pings == [0, 10]
    setting.connection.pongs = 1
    setting.steps(1)
    assert backlog.sent == 0
    setting.connection.pongs = 2
    setting.steps(1)
    assert backlog.sent == 10


def test_the_window_bounds_what_is_unconfirmed(backlog: Backlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_EVERY", 0.0)
    setting = Setting(backlog)
    setting.put(0, 3000)
    setting.steps(200)
    assert len(setting.sent) == WINDOW[0]
    assert setting.connection.patience[-1] > 0
    for _ in range(100):
        setting.connection.pong()
        setting.steps(1)
    setting.connection.pong()
    setting.steps(1)
    assert setting.sent == payloads(0, 3000)
    assert backlog.sent == 3000
    assert backlog.disk_events == 0


def test_a_congested_connection_gets_no_more(backlog: Backlog) -> None:
    setting = Setting(backlog)
    setting.put(0, 500)
    setting.connection.congested = True
    setting.steps(5)
    assert setting.sent == []
    assert setting.connection.patience[-1] > 0


def test_after_a_lost_connection_everything_unconfirmed_is_sent_again(backlog: Backlog) -> None:
    first = Setting(backlog)
    first.put(0, 100)
    first.steps(1)
    first.connection.pong()
    first.steps(1)
    confirmed = backlog.sent
    assert confirmed == 64
    first.steps(3)
    backlog.rewind()
    second = Setting(backlog)
    second.steps(3)
    assert second.sent == payloads(confirmed, 100)


def test_a_failed_signature_is_counted_and_leaves_the_queue(backlog: Backlog) -> None:
    setting = Setting(backlog)
    events = [payload(0), b"unsignable", payload(1), b"unsignable"]
    backlog.put(list(chunks_of([block_of(events)])))
    setting.steps(2)
    assert setting.sent == payloads(0, 2)
    setting.connection.pong()
    setting.steps(1)
    assert (backlog.sent, backlog.failed, backlog.disk_events) == (2, 2, 0)
    assert setting.failed("sign") == 2


def test_if_nothing_can_be_signed_the_queue_empties_all_the_same(backlog: Backlog) -> None:
    setting = Setting(backlog)
    backlog.put(list(chunks_of([block_of([b"unsignable"] * 300)])))
    setting.steps(20)
    assert (backlog.failed, backlog.disk_events) == (300, 0)
    assert setting.connection.pings == []


def test_messages_too_large_for_the_broker(backlog: Backlog) -> None:
    setting = Setting(backlog)
    setting.connection.maximum_packet = 300
    backlog.put(list(chunks_of([block_of([payload(0), payload(1, 300), payload(2)])])))
    with capture_logs() as logs:
        setting.steps(2)
    assert setting.sent == [payload(0), payload(2)]
    assert setting.failed("too_large") == 1
    assert "too large" in logs[0]["event"]


def test_finished_messages_go_to_their_own_topic_unsigned(backlog: Backlog) -> None:
    setting = Setting(backlog)
    setting.put(0, 2)
    backlog.put([chunk_of_messages([b"m1", b"m2"], "events/up/old/new_qname")])
    setting.put(2, 3)
    setting.steps(10)
    assert setting.connection.published == [
        (TOPIC, b"signed " + payload(0), 0),
        (TOPIC, b"signed " + payload(1), 0),
        ("events/up/old/new_qname", b"m1", 0),
        ("events/up/old/new_qname", b"m2", 0),
        (TOPIC, b"signed " + payload(2), 0),
    ]


def run_until_lost(setting: Setting, steps: int) -> None:
    """Run the session's own loop, with the connection ending after so many turns."""
    turns = itertools.count()

    def turn(_timeout: float, _waker: Any) -> None:
        if next(turns) >= steps:
            setting.connection.lost = "played"

    setting.connection.turn = turn  # type: ignore[method-assign]
    setting.session.run()


def test_quality_of_service_1(backlog: Backlog) -> None:
    setting = Setting(backlog, qos=1)
    setting.put(0, 10)
    run_until_lost(setting, 2)
    setting.connection.lost = None
    assert {qos for _, _, qos in setting.connection.published} == {1}
    assert setting.connection.pings == []
    words = setting.connection.confirmations
    words.extend([Confirmation(2, None), Confirmation(99, None)])
    setting.session._settle()
    assert backlog.sent == 0  # the first is still open
    words.extend([Confirmation(1, None), Confirmation(3, "Not authorized")])
    with capture_logs() as logs:
        setting.session._settle()
    assert (backlog.sent, backlog.failed, backlog.disk_events) == (2, 1, 7)
    assert logs[0]["reason"] == "Not authorized"
    assert setting.failed("refused") == 1
    backlog.rewind()
    again = Setting(backlog, qos=1)
    again.steps(2)
    assert again.sent == payloads(3, 10)


def test_limits_of_the_broker_are_kept(backlog: Backlog) -> None:
    setting = Setting(backlog, qos=1)
    setting.connection.receive_maximum = 7
    setting.put(0, 100)
    run_until_lost(setting, 10)
    assert len(setting.sent) == 7
    backlog.rewind()
    setting = Setting(backlog, qos=1)
    setting.connection.maximum_qos = 0
    run_until_lost(setting, 3)
    assert {qos for _, _, qos in setting.connection.published} == {0}
    assert len(setting.sent) > 7


def test_stopping_waits_for_what_is_on_the_wire(backlog: Backlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_EVERY", 0.0)
    setting = Setting(backlog)
    setting.put(0, 200)
    setting.steps(1)
    assert len(setting.sent) == 64
    setting.control.stopping = True
    turns = itertools.count()

    def turn(_timeout: float, _waker: Any) -> None:
        if next(turns) == 5:
            setting.connection.pong()

    setting.connection.turn = turn  # type: ignore[method-assign]
    setting.session.run()
    assert len(setting.sent) == 64
    assert (backlog.sent, backlog.disk_events) == (64, 136)


def test_stopping_does_not_wait_for_ever(backlog: Backlog) -> None:
    setting = Setting(backlog)
    setting.put(0, 10)
    setting.steps(1)
    setting.control.stopping = setting.control.expired = True
    setting.session.run()
    assert (backlog.sent, backlog.disk_events) == (0, 10)


def test_stopping_without_a_disk_sends_what_is_in_memory() -> None:
    backlog = Backlog(None, 1 << 30)
    setting = Setting(backlog)
    setting.put(0, 200)
    setting.control.stopping = setting.control.draining = True
    setting.connection.turn = lambda *_: setting.connection.pong()  # type: ignore[method-assign]
    setting.session.run()
    assert setting.sent == payloads(0, 200)
    assert backlog.sent == 200
    assert backlog.close() == 0
