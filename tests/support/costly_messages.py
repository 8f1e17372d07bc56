"""Small DNS messages and dnstap frames that would cost a careless reader much work.

All are valid by the rules of the Go daemon, so they must be taken, and taken quickly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from oracles.dns_generator import header, record

LINKS = 125
"""Pointers of the longest chain that one more pointer may lead to."""

_TAIL = b"\0\1\0\1"


CARRIER = 3 * 64 + 1 + len(_TAIL)
"""Bytes of a question in whose labels names stand."""


def chain(at: int, links: int = LINKS) -> tuple[bytes, list[int]]:
    """Return questions, at ``at`` in the message, in whose labels a chain of names stands, and where each begins.

    Each name is one label and a pointer back to the next name; the last is two labels and the root. The first of 126
    names, one behind each of 125 pointers, has 127 labels.
    """
    # 12 names of up to 5 bytes to a label of 63, three labels to a question.
    places: list[int] = []
    end = at
    while len(places) < links + 1:
        places += [end + 64 * label + 1 + 5 * k for label in range(3) for k in range(12)]
        end += CARRIER
    places = places[: links + 1][::-1]
    body = bytearray(((b"\x3f" + b"x" * 63) * 3 + b"\0" + _TAIL) * ((end - at) // CARRIER))
    for place, following in itertools.pairwise(places):
        body[place - at : place - at + 4] = b"\1a" + _pointer(following)
    body[places[-1] - at : places[-1] - at + 5] = b"\1b\1c\0"
    return bytes(body), places


def _questions(size: int, names: Callable[[list[int], int], bytes], *, own: int = 0) -> bytes:
    body, places = chain(12)
    count = (size - 12 - len(body)) // (own + 6)
    more = b"".join(names(places, number) + _TAIL for number in range(count))
    return header(len(body) // CARRIER + count) + body + more


def _pointer(place: int) -> bytes:
    return (0xC000 | place).to_bytes(2, "big")


def same_question(size: int) -> bytes:
    """Return a message whose questions all are one pointer, to the longest name there is."""
    return _questions(size, lambda places, _: _pointer(places[0]))


def pointer_questions(size: int) -> bytes:
    """Return a message of questions that are a pointer each, to names of the chain in turn."""
    return _questions(size, lambda places, number: _pointer(places[number % len(places)]))


def own_label_questions(size: int) -> bytes:
    """Return a message of questions that all differ in their first label and have the longest name behind it."""
    return _questions(
        size, lambda places, number: b"\2" + number.to_bytes(2, "big") + _pointer(places[2]), own=3
    )


def _records(size: int, one: Callable[[int], bytes]) -> bytes:
    body, places = chain(12)
    made = one(places[0])
    count = min((size - 12 - len(body)) // len(made), 65535)
    return header(len(body) // CARRIER, count) + body + made * count


def hip_records(size: int) -> bytes:
    """Return a message of HIP records (RFC 8005) that hold pointers and nothing else."""
    return _records(size, lambda place: record(55, bytes(4) + _pointer(place) * min(30000, size // 4)))


def soa_records(size: int) -> bytes:
    """Return a message of SOA records: an owner and two more names in 16 bytes."""
    return _records(size, lambda place: record(6, _pointer(place) * 2, owner=_pointer(place)))


def owners(size: int) -> bytes:
    """Return a message of records without RDATA whose owners are pointers to the longest name."""
    return _records(size, lambda place: record(1, b"", owner=_pointer(place)))


def ordinary(size: int) -> bytes:
    """Return a message of ordinary records, for comparison: names as servers compress them."""
    question = b"\3www\7example\3com\0" + _TAIL
    made = record(5, b"\4edge\xc0\x10", owner=b"\3www\xc0\x10")
    return header(1, min(size // len(made), 65535)) + question + made * (size // len(made))


MESSAGES: dict[str, Callable[[int], bytes]] = {
    "same question": same_question,
    "pointer questions": pointer_questions,
    "own labels": own_label_questions,
    "HIP": hip_records,
    "SOA": soa_records,
    "owners": owners,
}
"""Makers of costly messages of about so many bytes."""


def _pointer_chain(at: int, pointers: int) -> bytes:
    # In the labels of questions: each pointer leads to the one before, the first to a root.
    body = b""
    place = 0
    while pointers > 0:
        label = b""
        for _ in range(min(pointers, 31)):
            here = at + len(body) + 1 + len(label)
            label += b"\0\0" if place == 0 else _pointer(place)
            place = here
        pointers -= 31
        body += b"\x3f" + label + b"x" * (63 - len(label)) + b"\0" + _TAIL
    return body


def endless_chains(size: int) -> bytes:
    """Return a message of questions that lead into a chain of thousands of pointers: not valid."""
    body = _pointer_chain(12, min(size // 5, 6000))
    last = 12 + len(body) - 4 - 1 - 3
    count = (size - len(body)) // 6
    return header(len(body) // 68 + count) + body + (_pointer(last) + _TAIL) * count


def failing_rdata(size: int) -> bytes:
    """Return a message of MX records whose names are each cut off behind a long chain: not valid."""
    body, places = chain(12)
    made = record(15, b"\0\1" + _pointer(places[0]) + b"x", owner=b"\0")
    count = (size - len(body)) // len(made)
    return header(len(body) // CARRIER, count) + body + made * count


NOT_VALID: dict[str, Callable[[int], bytes]] = {
    "endless chains": endless_chains,
    "failing RDATA": failing_rdata,
}
"""Makers of messages that are refused by the kernels, but of which the debug file shows what it can."""
