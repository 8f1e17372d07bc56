"""Made-up streams: the same each time, with the properties asked for, and readable by other libraries."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import dns.message
import numpy as np
import pytest
from benchmarks.streams import (
    CLIENT_QUERY,
    CLIENT_RESPONSE,
    Parameters,
    Stream,
    frames_of,
    from_capture,
    generate,
    message_types,
    renew,
    well_known_words,
)

from edm.stages.domains.dawg.dawg import Dawg
from edm.stages.domains.dawg.writer import write_dawg
from edm.stages.domains.table.table import DomainTable
from oracles import dnstap_frame, dnstap_pb2

SMALL = Parameters(frames=3000, clients=300, names=500, other_names=200, novelty_share=0.05)


@pytest.fixture(scope="module")
def responses() -> Stream:
    return generate(SMALL)


def decoded(stream: Stream) -> list[object]:
    kind = dnstap_pb2.dnstap_class()
    return [kind.FromString(bytes(frame[4:])).message for frame in frames_of(stream)]


def question_names(stream: Stream) -> list[str]:
    wires = [m.response_message or m.query_message for m in decoded(stream)]
    return [dns.message.from_wire(wire).question[0].name.to_text() for wire in wires]


def test_the_same_parameters_give_the_same_stream(responses: Stream) -> None:
    again = generate(SMALL)
    assert np.array_equal(responses.data, again.data)
    assert np.array_equal(responses.novel, again.novel)
    other = generate(dataclasses.replace(SMALL, seed=2))
    assert not np.array_equal(responses.data[: len(other.data)], other.data[: len(responses.data)])


def test_frames_fill_the_stream_and_follow_one_another(responses: Stream) -> None:
    frames = frames_of(responses)
    assert len(frames) == responses.frames == responses.responses == SMALL.frames
    assert sum(map(len, frames)) == len(responses.data)
    assert set(message_types(responses.data, responses.frames).tolist()) == {CLIENT_RESPONSE}


def test_fields_are_what_they_should_be(responses: Stream) -> None:
    messages = decoded(responses)
    assert {len(m.query_address) for m in messages} == {4, 16}
    assert all((m.socket_family == 2) == (len(m.query_address) == 16) for m in messages)
    assert all(1 << 14 <= m.query_port < 1 << 16 for m in messages)
    assert {m.response_port for m in messages} == {53}
    assert {m.query_time_sec for m in messages} == {m.response_time_sec for m in messages} == {1_800_000_000}
    assert all(m.response_time_nsec < 1_000_000_000 for m in messages)
    assert len({m.query_address for m in messages}) <= SMALL.clients
    answers = [dns.message.from_wire(m.response_message) for m in messages]
    assert {message.rcode() for message in answers} == {0, 3}
    assert any(message.answer for message in answers)


def test_shares_of_known_and_never_seen_names(responses: Stream) -> None:
    table = DomainTable.build(Dawg.from_bytes(write_dawg(well_known_words(SMALL.names))))
    names = question_names(responses)[::3]
    kinds = Counter(table.match(name)[1] for name in names)
    assert (kinds[1] + kinds[2]) / len(names) == pytest.approx(SMALL.known_share, abs=0.05)
    assert kinds[1] > 100
    assert kinds[2] > 100
    assert len(responses.novel) / responses.frames == pytest.approx(SMALL.novelty_share, abs=0.02)


def test_never_seen_names_differ_from_each_other_and_from_pass_to_pass(responses: Stream) -> None:
    def split(of: Stream) -> tuple[set[str], set[str]]:
        names = {name.lower() for name in question_names(of)}
        novel = {name for name in names if name.split(".")[1].startswith("x")}
        return novel, names - novel

    _, others = split(responses)
    stream = dataclasses.replace(responses, data=responses.data.copy())
    seen: set[str] = set()
    for number in (0, 1, 31, 32, 1 << 19):
        renew(stream.data, stream.novel, number)
        names, rest = split(stream)
        assert len(names) == len(stream.novel)
        assert not names & seen
        assert rest == others
        seen |= names


def test_queries_come_before_their_responses() -> None:
    stream = generate(dataclasses.replace(SMALL, frames=1000, queries=True))
    assert stream.frames == 1000
    assert stream.responses == 500
    messages = decoded(stream)
    for query, response in zip(messages[::2], messages[1::2], strict=True):
        assert (query.type, response.type) == (CLIENT_QUERY, CLIENT_RESPONSE)
        assert query.query_address == response.query_address
        assert query.query_port == response.query_port
        assert query.query_message[:2] == response.response_message[:2]
        asked, answered = (
            dns.message.from_wire(query.query_message),
            dns.message.from_wire(response.response_message),
        )
        assert asked.question == answered.question
        assert not query.response_message
        assert not response.query_message


def test_popularity_is_skewed_as_asked() -> None:
    flat = Counter(question_names(generate(dataclasses.replace(SMALL, skew=0.0))))
    steep = Counter(question_names(generate(dataclasses.replace(SMALL, skew=1.2))))
    assert steep.most_common(1)[0][1] > 5 * flat.most_common(1)[0][1]


def test_padding_makes_messages_longer() -> None:
    parameters = dataclasses.replace(SMALL, frames=200)
    plain, padded = generate(parameters), generate(dataclasses.replace(parameters, padding=500))
    assert len(padded.data) - len(plain.data) >= 200 * 500
    assert all(len(dns.message.from_wire(m.response_message).options) == 1 for m in decoded(padded))


def test_resembles_the_capture() -> None:
    for queries, size in ((True, 134), (False, 140)):
        stream = generate(Parameters(frames=20_000, queries=queries))
        assert len(stream.data) / stream.frames == pytest.approx(size, abs=5)


def test_responses_of_a_capture() -> None:
    stream = from_capture("dnsdist", queries=False)
    assert stream.frames == stream.responses == 40_000
    for frame in frames_of(stream)[::400]:
        assert dnstap_frame.decode(bytes(frame[4:])) == dnstap_pb2.decode(bytes(frame[4:]))
    kinds = message_types(from_capture("dnsdist").data, 80_000)
    assert Counter(kinds.tolist()) == {CLIENT_QUERY: 40_000, CLIENT_RESPONSE: 40_000}


def test_words_of_a_list_are_names_and_all_different() -> None:
    words = well_known_words(5000)
    assert len(set(words)) == 5000
    assert sum(word.startswith(".") for word in words) == 2500
    table = DomainTable.build(Dawg.from_bytes(write_dawg(words)))
    assert table.entries == 5000


def test_saved_and_loaded(responses: Stream, tmp_path: Path) -> None:
    again = Stream.load(responses.save(tmp_path / "stream"))
    assert np.array_equal(again.data, responses.data)
    assert np.array_equal(again.novel, responses.novel)
    assert (again.frames, again.responses) == (responses.frames, responses.responses)
