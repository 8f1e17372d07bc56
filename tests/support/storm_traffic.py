"""Traffic for the storm: every output shows which frame it comes from.

Every connection sends a prebuilt stream of ``FRAMES`` frames over and over, in large writes. A frame's
place in the stream stands in its response time as microseconds, the pass as seconds, the connection in the
server identity. All else about a frame follows from these three, so a session row is checked against the
frame it claims to be, and a frame that is missing is noticed.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edm.captures.replay import Sender, connect
from oracles import dnstap_pb2
from support.processes import start_child

FRAMES = 16384
"""Frames of a pass."""

BASE = 1_700_000_000
"""Response time of pass 0, seconds since 1970: five bytes as a varint, as are all that follow."""

WRITE = 1 << 20

PLAIN, KNOWN, NAMED, CLIENT, NOVEL, QUERY, GARBAGE, BROKEN, EMPTY = range(9)
"""What kind of frame: always a session row; on some lists of well-known domains; its name ignored at times; its
client ignored at times; a name of its own; a query; no protobuf; no whole DNS message; no question."""

COLLECTED = (PLAIN, KNOWN, NAMED, CLIENT, NOVEL)
"""Kinds that can become session rows."""

VARIANTS = 4
"""Different lists of well-known domains."""

CLIENT_SETS = 8
NAME_SETS = 5

TYPES = (1, 28, 15, 2, 16)
RCODES = (0, 3, 2, 5)


@dataclasses.dataclass(frozen=True)
class Template:
    """A frame but for connection, pass and place.

    Attributes
    ----------
    kind : see above
    name : labels of the question name, the first first
    word : the entry of the lists that have it; empty for kinds other than KNOWN
    subset : which lists: variant of the well-known domains (-1: all), set of ignored clients or names
    client, server : addresses
    qtype, rcode : of the answer
    """

    kind: int
    name: tuple[str, ...]
    client: bytes
    server: bytes
    qtype: int = 1
    rcode: int = 0
    word: str = ""
    subset: int = -1


def address(number: int, *, ipv6: bool, network: int = 0) -> bytes:
    """Return an address of the ranges for documentation and benchmarks."""
    if ipv6:
        return bytes.fromhex("20010db8") + struct.pack(">HHQ", network, number * 257, number * 0x1234567)
    return bytes([198, 18 + (network & 1), number, 7 * number % 251])


CLEAN = [address(number, ipv6=number % 3 == 2) for number in range(1, 19)]
"""Clients that are never ignored."""

IGNORED = [address(100 + number, ipv6=number >= CLIENT_SETS) for number in range(2 * CLIENT_SETS)]
"""Clients of which each list ignores two: number ``n`` is in set ``n % CLIENT_SETS``."""

SERVERS = [address(number, ipv6=number >= 3, network=1) for number in range(5)]


def _server_for(client: bytes, number: int) -> bytes:
    return SERVERS[number % 3] if len(client) == 4 else SERVERS[3 + number % 2]


def known_words(variant: int) -> list[str]:
    """Return the words of one variant of the list that are asked for; variant -1: those of all variants."""
    zone = "all" if variant < 0 else f"v{variant}"
    count = 4 if variant < 0 else 2
    exact = [f"k{number}.{zone}.storm.test." for number in range(count)]
    return [*exact, *(f".s{number}.{zone}.storm.test." for number in range(count))]


def known_list(variant: int) -> list[str]:
    """Return a whole list. Words that nobody asks for shift the indexes, differently in each variant."""
    filler = [f"{dot}a{number}.fill.test." for number in range(5 + 3 * variant) for dot in ("", ".")]
    return [*known_words(-1), *known_words(variant), *filler]


def ignored_list(subset: int) -> list[str]:
    """Return the words of a list of ignored question names."""
    return [f"i{subset}.named.storm.test.", f".z{subset}.named.storm.test.", "never.asked.test."]


def client_list(subset: int) -> str:
    """Return a file of ignored clients."""
    lines = ["# the storm's", "192.0.2.0/24"]
    for client in IGNORED[subset::CLIENT_SETS]:
        family = socket.AF_INET if len(client) == 4 else socket.AF_INET6
        lines.append(f"{socket.inet_ntop(family, client)}/{8 * len(client)}")
    return "\n".join(lines) + "\n"


def _labels(word: str) -> tuple[str, ...]:
    return tuple(f"x{word}"[:-1].split(".") if word.startswith(".") else word[:-1].split("."))


def templates() -> list[Template]:
    """Return all templates."""
    found = []
    for number, client in enumerate(CLEAN):
        for name in range(4):
            found.append(
                Template(
                    PLAIN,
                    (f"p{name}", "plain", "storm", "test"),
                    client,
                    _server_for(client, number + name),
                    TYPES[(number + name) % 5],
                    RCODES[name],
                )
            )
        found.append(
            Template(NOVEL, ("n" + 12 * "0", "novel", "storm", "test"), client, _server_for(client, number))
        )
    words = [(word, variant) for variant in range(-1, VARIANTS) for word in known_words(variant)]
    for number, (word, variant) in enumerate(words):
        for client in CLEAN[number % 5 :: 5]:
            # A word's answers have one type and one code, so that a count under another word shows.
            qtype, rcode = TYPES[number % 5], RCODES[number % 4]
            found.append(
                Template(
                    KNOWN,
                    _labels(word),
                    client,
                    _server_for(client, number),
                    qtype,
                    rcode,
                    word=word,
                    subset=variant,
                )
            )
    for subset in range(NAME_SETS):
        for number, word in enumerate(ignored_list(subset)[:2]):
            client = CLEAN[2 * subset + number]
            found.append(
                Template(NAMED, _labels(word), client, _server_for(client, subset), 28, 3, subset=subset)
            )
    for number, client in enumerate(IGNORED):
        name = (f"c{number % 3}", "client", "storm", "test")
        server = _server_for(client, number)
        found.append(Template(CLIENT, name, client, server, 1, 0, subset=number % CLIENT_SETS))
    for kind in (QUERY, GARBAGE, BROKEN, EMPTY):
        found.append(Template(kind, ("other", "storm", "test"), CLEAN[kind], _server_for(CLEAN[kind], 0)))
    return found


SHARES = {
    PLAIN: 0.0,  # besides, every fourth frame is one
    KNOWN: 0.66,
    NAMED: 0.07,
    CLIENT: 0.08,
    NOVEL: 0.01,
    QUERY: 0.15,
    GARBAGE: 0.01,
    BROKEN: 0.01,
    EMPTY: 0.01,
}
PLAIN_EVERY = 4


def message(template: Template, number: int) -> bytes:
    """Return the DNS message of a template; its ID is the template's number."""
    name = b"".join(bytes([len(label)]) + label.encode() for label in template.name) + b"\0"
    question = b"" if template.kind == EMPTY else name + struct.pack(">HH", template.qtype, 1)
    header = struct.pack(">HHHHHH", number, 0x8180 | template.rcode, int(bool(question)), 0, 0, 0)
    whole = header + question
    return whole[:14] if template.kind == BROKEN else whole


def frame(template: Template, number: int, identity: bytes) -> bytes:
    """Return the frame of a template, sent in pass 0 at place 0."""
    if template.kind == GARBAGE:
        return b"\xff" * 40
    query = template.kind == QUERY
    fields: dict[str, Any] = {
        "type": 5 if query else 6,
        "socket_family": 1 if len(template.client) == 4 else 2,
        "socket_protocol": 1 + number % 2,
        "query_address": template.client,
        "response_address": template.server,
        "query_port": 20000 + number,
        "response_port": 53,
        "response_time_sec": BASE,
        "response_time_nsec": 0,
        "query_message" if query else "response_message": message(template, number),
    }
    kind = dnstap_pb2.dnstap_class()
    result: bytes = kind(type=1, identity=identity, message=fields).SerializeToString()
    return result


SECONDS = b"\x60" + bytes([BASE & 0x7F | 0x80, BASE >> 7 & 0x7F | 0x80, BASE >> 14 & 0x7F | 0x80,
                           BASE >> 21 & 0x7F | 0x80, BASE >> 28])  # fmt: skip
"""Field response_time_sec of pass 0; the field response_time_nsec, tag and four bytes, follows."""


def identity(connection: int) -> bytes:
    """Return the server identity of a connection."""
    return b"storm-%d" % connection


class Plan:
    """What each connection sends; the same for a connection in plans for more or fewer of them.

    Attributes
    ----------
    templates : list of Template
    order : int16[connections, FRAMES]
        Number of the template at each place.
    """

    def __init__(self, connections: int) -> None:
        self.templates = templates()
        self.connections = connections
        kinds = np.array([template.kind for template in self.templates])
        shares = np.array([SHARES[kind] / np.count_nonzero(kinds == kind) for kind in kinds.tolist()])
        plain = np.flatnonzero(kinds == PLAIN)
        rng = np.random.default_rng(1)
        self.order = np.empty((connections, FRAMES), np.int16)
        for order in self.order:
            order[:] = rng.choice(len(kinds), FRAMES, p=shares / shares.sum())
            order[::PLAIN_EVERY] = rng.choice(plain, FRAMES // PLAIN_EVERY)

    @cached_property
    def kinds(self) -> npt.NDArray[np.int8]:
        """Kind of each template."""
        return np.array([template.kind for template in self.templates], np.int8)

    @cached_property
    def per_pass(self) -> npt.NDArray[np.int64]:
        """Frames of each connection and template in a pass."""
        return np.array([np.bincount(order, minlength=len(self.templates)) for order in self.order])

    def stream(self, connection: int) -> Stream:
        """Build the stream of a connection."""
        return Stream(self, connection)


class Stream:
    """The frames of a connection, behind their length words, for one pass after the other."""

    def __init__(self, plan: Plan, connection: int) -> None:
        frames = [
            frame(template, number, identity(connection)) for number, template in enumerate(plan.templates)
        ]
        whole = [struct.pack(">I", len(one)) + one for one in frames]
        order = plan.order[connection]
        self.data = np.frombuffer(bytearray(b"".join([whole[number] for number in order])), np.uint8)
        starts = np.concatenate([[0], np.cumsum([len(whole[number]) for number in order])[:-1]])
        # -1 for frames that have no such field.
        seconds = np.array([one.find(SECONDS) for one in whole])[order]
        label = np.array([one.find(b"\x0dn" + 12 * b"0") for one in whole])[order]
        places = np.arange(FRAMES)
        timed = seconds >= 0
        self._seconds = starts[timed] + seconds[timed] + 1
        nanoseconds = (places[timed] * 1000).astype("<u4").view(np.uint8).reshape(-1, 4)
        for k in range(4):
            self.data[self._seconds + 6 + k] = nanoseconds[:, k]
        novel = label >= 0
        self._label = starts[novel] + label[novel] + 2
        self._put_digits(self._label, connection, 2)
        self._put_digits(self._label + 7, places[novel], 5)

    def _put_digits(
        self, where: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64] | int, digits: int
    ) -> None:
        for k in range(digits):
            self.data[where + k] = 48 + numbers // 10 ** (digits - 1 - k) % 10

    def renew(self, number: int) -> None:
        """Make all frames those of pass ``number``."""
        for k in range(5):
            septet = BASE + number >> 7 * k & 0x7F
            self.data[self._seconds + k] = septet | (0x80 if k < 4 else 0)
        self._put_digits(self._label + 2, number, 5)


def novel_label(connection: int, number: int, place: int) -> str:
    """Return the first label of a name of its own."""
    return f"n{connection:02d}{number:05d}{place:05d}"


# The sender process


@dataclasses.dataclass(frozen=True)
class Job:
    """What to send: the connections ``first`` to ``last - 1`` of a plan for ``last``, all at once."""

    unix: str
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Sent:
    """For each connection, when each of its passes began: wall clock, seconds since 1970."""

    passes: list[list[float]]

    @property
    def frames(self) -> int:
        """All frames sent."""
        return FRAMES * sum(map(len, self.passes))


def start_sender(job: Job) -> subprocess.Popen[bytes]:
    """Start a process that sends until :func:`finish_sender`."""
    command = [sys.executable, "-m", "support.storm_traffic", json.dumps(dataclasses.asdict(job))]
    return start_child(command, stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parent.parent)


def finish_sender(process: subprocess.Popen[bytes], patience: float = 120.0) -> Sent:
    """Let a sender end its passes; the daemon has read everything then."""
    process.terminate()
    out, _ = process.communicate(timeout=patience)
    assert process.returncode == 0, "the sender failed"
    return Sent(json.loads(out))


def _send(job: Job) -> list[list[float]]:
    plan = Plan(job.last)
    streams = [plan.stream(connection) for connection in range(job.first, job.last)]
    passes: list[list[float]] = [[] for _ in streams]
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    failures: list[BaseException] = []

    def serve(stream: Stream, begun: list[float]) -> None:
        try:
            view = stream.data.data
            with connect(unix=job.unix) as sock:
                sender = Sender(sock)
                while not over.is_set():
                    stream.renew(len(begun))
                    begun.append(time.time())
                    for position in range(0, len(view), WRITE):
                        sender.send(view[position : position + WRITE])
                sender.finish()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=serve, args=pair) for pair in zip(streams, passes, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return passes


if __name__ == "__main__":
    print(json.dumps(_send(Job(**json.loads(sys.argv[1])))))
