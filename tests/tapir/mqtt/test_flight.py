from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edm.tapir.mqtt.flight import Flight


def test_progress_through_entries() -> None:
    flight = Flight()
    flight.add(7, 3, 1)
    flight.add(9, 2, 0)
    assert [flight.hand_over() for _ in range(4)] == [0, 1, 2, 3]
    assert flight.progress() is None
    flight.resolve_before(1)
    progress = flight.progress()
    assert progress is not None
    assert (progress.finished, progress.partial, progress.sent) == ([], (7, 2), 1)
    flight.resolve_before(3)
    progress = flight.progress()
    assert progress is not None
    assert (progress.finished, progress.partial, progress.sent) == ([7], (9, 1), 2)
    assert flight.unresolved == 1
    flight.resolve(3, sent=False)
    progress = flight.progress()
    assert progress is not None
    assert (progress.finished, progress.partial, progress.sent, progress.failed) == ([9], None, 0, 1)
    assert flight.progress() is None


def test_a_failure_behind_the_last_ping_is_reported_with_it() -> None:
    flight = Flight()
    flight.add(1, 2, 0)
    flight.hand_over()
    flight.resolve(flight.hand_over(), sent=False)
    assert flight.unresolved == 1
    flight.resolve_before(1)
    progress = flight.progress()
    assert progress is not None
    assert (progress.finished, progress.sent, progress.failed) == ([1], 1, 1)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_any_order_of_confirmations(sizes: list[int], random: object) -> None:
    flight = Flight()
    owner: list[int] = []
    for entry, size in enumerate(sizes):
        flight.add(entry, size, 0)
        owner += [entry] * size
    numbers = [flight.hand_over() for _ in owner]
    random.shuffle(numbers)  # type: ignore[attr-defined]
    resolved: set[int] = set()
    finished: list[int] = []
    sent = 0
    for number in numbers:
        flight.resolve(number)
        flight.resolve(number)  # a second word on the same message changes nothing
        resolved.add(number)
        assert flight.unresolved == len(owner) - len(resolved)
        prefix = next((n for n in range(len(owner)) if n not in resolved), len(owner))
        progress = flight.progress()
        if progress is None:
            continue
        sent += progress.sent
        assert sent == prefix
        finished += progress.finished
        assert finished == [e for e in range(len(sizes)) if sum(sizes[: e + 1]) <= prefix]
        if progress.partial is not None:
            entry, done = progress.partial
            assert entry == owner[prefix]
            assert done == prefix - sum(sizes[:entry])
    assert finished == list(range(len(sizes)))
