"""Senders: series by type and identity are bounded and escaped; a sender that counts twice is reported once."""

from __future__ import annotations

import numpy as np
import pytest
from structlog.testing import capture_logs

from edm.config.message_types import MESSAGE_TYPES, parse_message_types
from edm.observe.metrics import Metrics
from edm.observe.senders import IDENTITIES
from edm.stages.dnstap import senders as kernel

ALL = np.ones(len(MESSAGE_TYPES), np.uint8)


def frames(*types: str) -> np.ndarray:
    counts = np.zeros(len(MESSAGE_TYPES), np.int64)
    for name in types:
        counts[MESSAGE_TYPES.index(name)] += 1
    return counts


class Worker:
    """Counts as a worker does: in rows of its own by identity, and in the last one."""

    def __init__(self, metrics: Metrics, wanted: np.ndarray = ALL) -> None:
        self.counts = np.zeros((kernel.IDENTITIES + 1, kernel.N_TYPES), np.int64)
        self._senders = metrics.senders
        self._identities: list[bytes] = []
        self._wanted = wanted

    def add(self, identity: bytes | None, types: np.ndarray) -> None:
        if identity not in self._identities and identity is not None:
            if len(self._identities) < kernel.IDENTITIES:
                self._identities.append(identity)
            else:
                identity = None
        self.counts[-1 if identity is None else self._identities.index(identity)] += types
        self._senders.watch(self.counts, self._identities, self._wanted)


def test_the_parts_agree_on_their_sizes() -> None:
    assert len(MESSAGE_TYPES) == kernel.N_TYPES
    assert IDENTITIES == kernel.IDENTITIES


def test_series_are_bounded_and_escaped() -> None:
    metrics = Metrics()
    worker = Worker(metrics)
    for number in range(IDENTITIES + 100):
        worker.add(b"\x1b%d\n" % number, frames("CLIENT_RESPONSE"))
    worker.add(None, frames("CLIENT_QUERY"))
    text = metrics.render()[0].decode()
    assert text.count("edm_frames_by_identity_total{") == IDENTITIES + 1
    assert "\x1b" not in text
    assert metrics.value("edm_frames_by_identity_total", identity="(other)") == 101
    assert metrics.value("edm_frames_by_message_type_total", type="CLIENT_RESPONSE") == IDENTITIES + 100
    assert metrics.value("edm_frames_by_message_type_total", type="CLIENT_QUERY") == 1


def test_workers_share_the_series_and_their_bound() -> None:
    metrics = Metrics()
    one, another = Worker(metrics), Worker(metrics)
    for number in range(IDENTITIES):
        one.add(b"%d" % number, frames("CLIENT_RESPONSE"))
    for number in range(IDENTITIES // 2, IDENTITIES + 8):
        another.add(b"%d" % number, frames("CLIENT_RESPONSE", "CLIENT_QUERY"))
    assert metrics.value("edm_frames_by_identity_total", identity="0") == 1
    assert metrics.value("edm_frames_by_identity_total", identity="31") == 3
    assert metrics.value("edm_frames_by_identity_total", identity="(other)") == 16
    assert metrics.value("edm_frames_by_message_type_total", type="CLIENT_QUERY") == 24


def test_what_is_counted_later_shows_without_being_told() -> None:
    metrics = Metrics()
    worker = Worker(metrics)
    worker.add(b"one", frames("CLIENT_RESPONSE"))
    worker.counts[0] += frames("CLIENT_RESPONSE")
    assert metrics.value("edm_frames_by_identity_total", identity="one") == 2


@pytest.mark.parametrize(
    ("types", "wanted", "warned"),
    [
        (("CLIENT_RESPONSE", "RESOLVER_RESPONSE"), ALL, True),
        (("AUTH_RESPONSE", "FORWARDER_RESPONSE"), ALL, True),
        (("CLIENT_RESPONSE", "AUTH_RESPONSE"), ALL, False),  # BIND: one or the other for each answer
        (("CLIENT_RESPONSE", "CLIENT_QUERY", "RESOLVER_QUERY"), ALL, False),
        (("CLIENT_RESPONSE", "RESOLVER_RESPONSE"), frames("CLIENT_RESPONSE").astype(np.uint8), False),
    ],
)
def test_warns_once_of_answers_that_count_twice(
    types: tuple[str, ...], wanted: np.ndarray, warned: bool
) -> None:
    metrics = Metrics()
    with capture_logs() as log:
        workers = [Worker(metrics, wanted) for _ in range(2)]
        for turn in range(3):
            for number, name in enumerate(types):
                workers[(turn + number) % 2].add(b"one", frames(name))
                workers[0].add(b"another", frames("CLIENT_RESPONSE"))
    assert [entry["identity"] for entry in log] == ["one"] * warned
    if warned:
        assert "input-message-types" in log[0]["hint"]


def test_two_senders_of_different_kinds_are_no_reason_to_warn() -> None:
    with capture_logs() as log:
        worker = Worker(Metrics())
        worker.add(b"a", frames("CLIENT_RESPONSE"))
        worker.add(b"b", frames("RESOLVER_RESPONSE"))
    assert log == []


def test_names_of_types() -> None:
    assert parse_message_types("") == []
    assert parse_message_types("client_response, AUTH_RESPONSE,CLIENT_RESPONSE") == [2, 6]
    for wrong in ("CLIENT_QUERY", "6", "all", "OTHER"):
        with pytest.raises(ValueError, match="CLIENT_RESPONSE"):
            parse_message_types(wrong)
