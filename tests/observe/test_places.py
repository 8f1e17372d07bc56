from __future__ import annotations

import pytest

from edm.observe.places import Places, peer_of


class Guest:
    def __init__(self, peer: str, answered: bool = False, waiting: bool = True) -> None:
        self.peer = peer
        self.answered = answered
        self.waiting = waiting
        self.displaced = False

    def displace(self) -> None:
        self.displaced = True


def enter(places: Places, *guests: Guest) -> list[bool]:
    let_in = []
    for guest in guests:
        room, _ = places.make_room(guest.peer)
        let_in.append(room)
        if room:
            places.take(guest)
    return let_in


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("odd", "odd"),
    ],
)
def test_peer(host: str, peer: str) -> None:
    assert peer_of(host) == peer


def test_the_oldest_that_waits_gives_way_to_one_of_the_same_peer() -> None:
    places = Places(most=10, by_peer=3, reserved=0)
    guests = [Guest("a") for _ in range(4)]
    assert enter(places, *guests) == [True] * 4
    assert [guest.displaced for guest in guests] == [True, False, False, False]


def test_whose_request_is_answered_keeps_the_place() -> None:
    places = Places(most=10, by_peer=2, reserved=0)
    busy = [Guest("a", waiting=False), Guest("a", waiting=False)]
    assert enter(places, *busy, Guest("a"), Guest("b")) == [True, True, False, True]
    places.leave(busy[0])
    places.leave(busy[0])  # an end is told more than once
    assert enter(places, Guest("a")) == [True]


def test_when_all_is_full_the_greediest_peer_gives_way_first() -> None:
    places = Places(most=4, by_peer=3, reserved=0)
    single, greedy = Guest("a"), [Guest("b"), Guest("b"), Guest("b")]
    assert enter(places, single, *greedy, Guest("c")) == [True] * 5
    assert not single.displaced
    assert [guest.displaced for guest in greedy] == [True, False, False]


def test_connections_between_two_requests_give_way_last() -> None:
    places = Places(most=2, by_peer=2, reserved=0)
    resting, half = Guest("a", answered=True), Guest("b")
    assert enter(places, resting, half, Guest("c"), Guest("c")) == [True] * 4
    assert half.displaced
    assert not resting.displaced


def test_strangers_leave_places_to_peers_that_behaved() -> None:
    places = Places(most=8, by_peer=4, reserved=2)
    places.behaved("good")
    strangers = [Guest(f"s{n}", waiting=False) for n in range(7)]
    assert enter(places, *strangers) == [True] * 6 + [False]
    good = [Guest("good", waiting=False), Guest("good", waiting=False), Guest("good")]
    assert enter(places, *good) == [True, True, False]


def test_strangers_cannot_displace_peers_that_behaved_and_who_misbehaves_is_a_stranger() -> None:
    places = Places(most=4, by_peer=4, reserved=1)
    places.behaved("good")
    good = [Guest("good") for _ in range(4)]
    enter(places, *good)
    assert enter(places, Guest("s")) == [False]
    places.misbehaved("good")
    assert enter(places, Guest("s")) == [True]


def test_memory_of_peers_is_bounded() -> None:
    places = Places()
    for n in range(10_000):
        places.behaved(str(n))
    assert len(places._known) == 256
