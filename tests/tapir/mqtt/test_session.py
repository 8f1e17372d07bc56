"""A session on a connection, with a script in the place of the broker."""

from __future__ import annotations

import itertools
import zlib
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edm.observe.metrics import Metrics
from edm.tapir.events.backlog import Backlog
from edm.tapir.events.chunks import Chunk, chunk_of_messages, chunks_of
from edm.tapir.events.metrics import EventsMetrics
from edm.tapir.mqtt import session as module
from edm.tapir.mqtt.mqtt import Confirmation
from edm.tapir.mqtt.session import WINDOW, Session
from edm.tapir.mqtt.suspects import Suspects
from support.events import block_of, payload, payloads

FIRST = 30
"""So many of these messages go into the window at first."""
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

    def __init__(
        self, backlog: Backlog, qos: int = 0, pipeline: int = 4, suspects: Suspects | None = None
    ) -> None:
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
            suspects,
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

    def confirm_all(self) -> None:
        """Let the broker confirm everything that was published."""
        self.connection.pong()
        known = self.session._numbers
        self.connection.confirmations.extend(Confirmation(mid, None) for mid in sorted(known))

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


def test_the_window_grows_from_small_by_what_is_confirmed(
    backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PING_EVERY", 0.0)
    setting = Setting(backlog)
    setting.put(0, 9000)
    setting.steps(50)
    assert len(setting.sent) == FIRST
    assert setting.connection.patience[-1] > 0
    setting.connection.pong()
    setting.steps(50)
    # What was sent with little else on the wire tells nothing; the rest of the first window doubles it at most.
    assert FIRST * 3 / 2 < len(setting.sent) - FIRST <= 2 * FIRST + 1
    most = 0
    for _ in range(400):
        setting.connection.pong()
        setting.steps(1)
        most = max(most, setting.session.unconfirmed)
    setting.connection.pong()
    setting.steps(1)
    assert setting.sent == payloads(0, 9000)
    assert most <= WINDOW[0]
    assert backlog.sent == 9000
    assert backlog.disk_events == 0


def test_at_most_so_many_messages_are_on_the_wire(backlog: Backlog) -> None:
    setting = Setting(backlog)
    setting.put(0, 3000)
    setting.session._window.size = 1e9
    setting.steps(200)
    assert len(setting.sent) == WINDOW[0]
    # A ping behind every part of it, not one behind all.
    assert len(setting.connection.pings) > 1


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
    assert confirmed == FIRST
    first.steps(3)
    backlog.rewind()
    second = Setting(backlog)
    second.steps(3)
    assert second.sent == payloads(confirmed, confirmed + FIRST)


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


def test_a_message_too_large_for_the_broker_is_set_aside(backlog: Backlog) -> None:
    setting = Setting(backlog)
    setting.connection.maximum_packet = 5000
    backlog.put(list(chunks_of([block_of([payload(0), payload(1, 5000), payload(2)])])))
    with capture_logs() as logs:
        setting.steps(2)
    assert setting.sent == [payload(0), payload(2)]
    assert setting.failed("too_large") == 1
    assert "set aside" in logs[0]["event"]
    setting.connection.pong()
    setting.steps(1)
    assert (backlog.sent, backlog.failed, backlog.disk_events) == (2, 1, 0)
    assert kept(backlog) == [
        ("not taken by the broker: it takes no packet above 5000 bytes", payload(1, 5000))
    ]


def test_a_tiny_packet_size_gives_up_no_event(backlog: Backlog) -> None:
    setting = Setting(backlog)
    setting.connection.maximum_packet = 300
    backlog.put(list(chunks_of([block_of([payload(0), payload(1, 300), payload(2)])])))
    setting.steps(5)
    assert setting.session.held == "it takes no packet above 300 bytes"
    assert setting.sent == [payload(0)]
    assert not setting.session._over()
    setting.connection.pong()
    setting.steps(1)
    # What was sent before is confirmed first, or it would be sent again with each try.
    assert setting.session._over()
    assert (backlog.sent, backlog.failed, backlog.disk_events) == (1, 0, 2)


def kept(backlog: Backlog) -> list[tuple[str, bytes]]:
    """Return reason and message of what was set aside, as it stands in the file."""
    file = backlog._disk.file
    assert file is not None
    rows = file._db.execute("SELECT reason, topic, body FROM damaged ORDER BY rowid").fetchall()
    found = []
    for reason, topic, body in rows:
        (message,) = Chunk.decode(body, zlib.crc32(body), topic, 0).messages(0, 1)
        found.append((reason, message.removeprefix(b"signed ")))
    return found


def lose(setting: Setting, suspects: Suspects) -> bool:
    """Let the broker end the connection; returns whether it is held to take nothing."""
    verdict = suspects.lost(setting.session.on_wire(), "played")
    setting.backlog.rewind()
    return verdict


@pytest.mark.parametrize("qos", [0, 1])
def test_an_event_that_ends_connections_is_found_and_set_aside(backlog: Backlog, qos: int) -> None:
    bad = {payload(40), payload(41), payload(70)}
    backlog.put(list(chunks_of([block_of(payloads(0, 100))])))
    suspects = Suspects()
    lost = 0
    for _ in range(40):
        setting = Setting(backlog, qos, suspects=suspects)
        for _ in range(200):
            if bad & set(setting.sent):
                break
            setting.session.step()
            if not bad & set(setting.sent):
                setting.confirm_all()
        else:
            break
        lost += 1
        assert not lose(setting, suspects)
    assert (backlog.sent, backlog.failed, backlog.disk_events) == (97, 3, 0)
    assert kept(backlog) == [("not taken by the broker: played", event) for event in sorted(bad)]
    # The first loss tells no more than that it is one of many; then three for each event, and its last chance.
    assert lost <= 4 * len(bad) + 3
    assert suspects.careful == 0


def test_a_broker_that_ends_the_connection_at_every_event_makes_no_event_go(backlog: Backlog) -> None:
    backlog.put(list(chunks_of([block_of(payloads(0, 100))])))
    suspects = Suspects()
    verdicts = []
    for _ in range(60):
        setting = Setting(backlog, suspects=suspects)
        setting.steps(3)
        assert setting.sent
        verdicts.append(lose(setting, suspects))
    assert any(verdicts)
    assert (backlog.sent, backlog.failed, backlog.disk_events) == (0, 0, 100)
    # And when it thinks better of it, everything arrives.
    setting = Setting(backlog, suspects=suspects)
    for _ in range(300):
        setting.session.step()
        setting.confirm_all()
    assert (backlog.sent, backlog.failed, backlog.disk_events) == (100, 0, 0)


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
    words.extend([Confirmation(1, None), Confirmation(3, "Payload format invalid", 0x99)])
    with capture_logs() as logs:
        setting.session._settle()
    assert (backlog.sent, backlog.failed, backlog.disk_events) == (2, 1, 7)
    assert logs[0]["reason"] == "Payload format invalid"
    assert setting.failed("refused") == 1
    assert kept(backlog) == [("not taken by the broker: Payload format invalid", payload(2))]
    backlog.rewind()
    again = Setting(backlog, qos=1)
    again.steps(2)
    assert again.sent == payloads(3, 10)


@pytest.mark.parametrize(
    ("code", "word"), [(0x87, "Not authorized"), (0x97, "Quota exceeded"), (0x90, "Topic")]
)
def test_a_refusal_that_is_not_the_events_fault_keeps_it(backlog: Backlog, code: int, word: str) -> None:
    setting = Setting(backlog, qos=1)
    setting.put(0, 10)
    setting.steps(2)
    words = setting.connection.confirmations
    words.extend([Confirmation(1, None), Confirmation(2, word, code)])
    setting.session._settle()
    assert (setting.session.held, setting.session.blamed) == (word, False)
    assert not setting.session._over()
    words.extend(Confirmation(mid, word, code) for mid in range(3, 11))
    setting.session._settle()
    assert setting.session._over()
    assert (backlog.sent, backlog.failed, backlog.disk_events) == (1, 0, 9)


def test_a_new_name_of_ours_takes_another_connection(backlog: Backlog) -> None:
    setting = Setting(backlog)
    setting.put(0, 10)
    setting.steps(2)
    setting.session._outdated = lambda: True
    setting.put(10, 20)
    setting.steps(2)
    assert not setting.session._over()
    assert setting.sent == payloads(0, 10)
    setting.connection.pong()
    setting.steps(1)
    assert setting.session._over()
    assert backlog.disk_events == 10


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
    assert len(setting.sent) == FIRST
    setting.control.stopping = True
    turns = itertools.count()

    def turn(_timeout: float, _waker: Any) -> None:
        if next(turns) == 5:
            setting.connection.pong()

    setting.connection.turn = turn  # type: ignore[method-assign]
    setting.session.run()
    assert len(setting.sent) == FIRST
    assert (backlog.sent, backlog.disk_events) == (FIRST, 200 - FIRST)


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
