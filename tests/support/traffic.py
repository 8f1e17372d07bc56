"""DNS traffic for the end-to-end tests, and the expected counts, from the files that dnsperf reads."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edm.stages.domains.dawg.writer import write_dawg
from support.processes import end_child
from support.servers import finish_dnsperf, start_dnsperf

EXACT = (
    *(f"www.known-{i}.example." for i in range(8)),
    "www.refused.example.",
    "www.fail.example.",
)
SUFFIXES = (".suffix-0.example.", ".suffix-1.example.", ".deep.suffix-0.example.")
WELL_KNOWN = (*EXACT, *SUFFIXES)
IGNORED_NAMES = ("ignored.example.", ".ignored-zone.example.")
IGNORED_CLIENT = "127.0.0.9"

REFUSED = ("refused.example.",)
FAIL = ("fail.example.",)
"""Domains for which dnsdist answers SERVFAIL; unbound alone says that nothing is there."""

RECORDS = (
    *(f"www.known-{i}.example. A 192.0.2.{i}" for i in range(6)),
    *(f"www.known-{i}.example. AAAA 2001:db8::{i}" for i in range(3)),
    "www.known-0.example. MX 10 mail.known-0.example.",
    *(f"host-{i}.suffix-{j}.example. A 192.0.2.1{i}" for i in range(3) for j in range(2)),
    *(f"a.deep.suffix-0.example. {kind}" for kind in ("A 192.0.2.30", "NS ns.other.example.")),
    "ignored.example. A 192.0.2.40",
    *(f"host-{i}.other.example. A 198.51.100.{i}" for i in range(0, 40, 2)),
    'one.two.three.four.five.six.seven.eight.nine.other.example. TXT "deep"',
)

NAMES = (
    *EXACT,
    "WWW.Known-1.Example.",
    *(f"host-{i}.suffix-{j}.example." for i in range(5) for j in range(2)),
    "suffix-0.example.",  # a suffix entry does not match the name itself
    "a.deep.suffix-0.example.",
    "x.A.Deep.suffix-0.example.",
    *IGNORED_NAMES[:1],
    "www.ignored-zone.example.",
    *(f"host-{i}.other.example." for i in range(40)),
    *(f"Host-{i}.Other.EXAMPLE." for i in range(4)),
    "one.two.three.four.five.six.seven.eight.nine.other.example.",
    "any.refused.example.",
    "any.fail.example.",
    "example.",
    ".",
)

TYPES = {"A": 1, "AAAA": 28, "MX": 15, "NS": 2, "TXT": 16, "SOA": 6, "SRV": 33}
COUNTED = {"A": "a_count", "AAAA": "aaaa_count", "MX": "mx_count", "NS": "ns_count"}
RCODES = {"NOERROR": (0, "ok_count"), "NXDOMAIN": (3, "nx_count"), "SERVFAIL": (2, "fail_count")}
RCODES |= {"REFUSED": (5, "other_rcode_count")}
PROTOCOLS = {"udp": 1, "tcp": 2}


def labels_of(name: str) -> tuple[str | None, ...]:
    """Return label0..label9 of a name or of a word of a domain list: the last label first."""
    labels: list[str | None] = [*re.split(r"(?<!\\)\.", name[:-1])][::-1] if name != "." else []
    if len(labels) > 10:
        labels[9:] = [".".join(str(label) for label in labels[9:])]
    return (*labels, *[None] * (10 - len(labels)))


def word_for(name: str, words: Iterable[str]) -> str | None:
    """Return the entry of a domain list that a name falls under: itself, or else the longest suffix."""
    name = name.lower()
    among = set(words)
    rest = [name, *(name[i:] for i, c in enumerate(name[:-1]) if c == "." and i)]
    return next((candidate for candidate in rest if candidate in among), None)


def _existing() -> set[str]:
    owners = {record.split()[0] for record in RECORDS}
    return {"."} | {owner[i:] for owner in owners for i in range(len(owner)) if i == 0 or owner[i - 1] == "."}


EXISTING = _existing()


def _under(name: str, domains: Iterable[str]) -> bool:
    return any(name == domain or name.endswith("." + domain) for domain in domains)


def answer(name: str, *, dnsdist: bool = False) -> str:
    """Return the RCODE with which the servers answer: unbound, or dnsdist in front of it."""
    name = name.lower()
    if dnsdist and _under(name, FAIL):
        return "SERVFAIL"
    if _under(name, REFUSED):
        return "REFUSED"
    return "NOERROR" if name in EXISTING else "NXDOMAIN"


@dataclass(frozen=True)
class Asker:
    """One dnsperf: its own address, transport, and file of questions."""

    client: str
    mode: str
    query_file: Path

    @property
    def server(self) -> str:
        return "::1" if ":" in self.client else "127.0.0.1"

    def questions(self) -> list[tuple[str, str]]:
        """Read the questions back from the file: names and types."""
        return [
            (name, kind) for name, kind in (line.split() for line in self.query_file.read_text().splitlines())
        ]


def make_askers(
    folder: Path, clients: Sequence[tuple[str, str]], questions: int, *, seed: int = 1
) -> list[Asker]:
    """Write a file of random questions for each client, which is an address and ``udp`` or ``tcp``."""
    chance = random.Random(seed)
    askers = []
    for number, (client, mode) in enumerate(clients):
        # Every name once, so that what must come out does not hang on the seed.
        names = [*NAMES, *chance.choices(NAMES, k=max(0, questions - len(NAMES)))]
        chance.shuffle(names)
        path = folder / f"questions-{number}"
        path.write_text("".join(f"{name} {chance.choice(list(TYPES))}\n" for name in names))
        askers.append(Asker(client, mode, path))
    return askers


def ask(askers: Iterable[Asker], port: int) -> Counter[str]:
    """Let all ask at the same time; return the answers by RCODE as dnsperf has counted them."""
    with contextlib.ExitStack() as stack:
        running = []
        for asker in askers:
            process = start_dnsperf(
                asker.query_file, port, server=asker.server, client=asker.client, mode=asker.mode
            )
            stack.callback(end_child, process)
            running.append(process)
        rcodes: Counter[str] = Counter()
        for process in running:
            rcodes.update(finish_dnsperf(process).rcodes)
    return rcodes


@dataclass
class Expected:
    """What must come out, added up from questions.

    Attributes
    ----------
    histogram : counts by word of the domain list
    clients : the clients of each word
    sessions : rows, each (name, client, protocol number, type, RCODE)
    fates : frames by fate
    rcodes : answers by mnemonic, as dnsperf reports them
    names : names that may be new, in the form in which they are remembered
    """

    histogram: dict[str, Counter[str]] = field(default_factory=dict)
    clients: dict[str, set[str]] = field(default_factory=dict)
    sessions: Counter[tuple[str, str, int, int, int]] = field(default_factory=Counter)
    fates: Counter[str] = field(default_factory=Counter)
    rcodes: Counter[str] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)

    @property
    def frames(self) -> int:
        return self.fates.total()

    def add(self, name: str, kind: str, client: str, mode: str, rcode: str) -> None:
        """Add one question and its answer."""
        self.rcodes[rcode] += 1
        self.fates["query"] += 1
        if client == IGNORED_CLIENT:
            self.fates["client_ignored"] += 1
        elif word_for(name, IGNORED_NAMES) is not None:
            self.fates["question_ignored"] += 1
        elif (word := word_for(name, WELL_KNOWN)) is not None:
            self.fates["well_known"] += 1
            row = self.histogram.setdefault(word, Counter())
            row[COUNTED.get(kind, "other_type_count")] += 1
            row[RCODES[rcode][1]] += 1
            self.clients.setdefault(word, set()).add(client)
        else:
            self.fates["session"] += 1
            self.names.add(name.lower())
            self.sessions[name, client, PROTOCOLS[mode], TYPES[kind], RCODES[rcode][0]] += 1

    def add_unbound(self, askers: Iterable[Asker]) -> Expected:
        """Add what unbound says when the askers ask it."""
        for asker in askers:
            for name, kind in asker.questions():
                self.add(name, kind, asker.client, asker.mode, answer(name))
        return self

    def add_dnsdist(self, askers: Iterable[Asker]) -> Expected:
        """Add what dnsdist says when the askers ask it."""
        for asker in askers:
            for name, kind in asker.questions():
                self.add(name, kind, asker.client, asker.mode, answer(name, dnsdist=True))
        return self

    def add_behind_dnsdist(self, askers: Iterable[Asker]) -> Expected:
        """Add what unbound says when the askers ask dnsdist, which asks unbound from its own address."""
        for asker in askers:
            for name, kind in asker.questions():
                if answer(name, dnsdist=True) != "SERVFAIL":
                    self.add(name, kind, "127.0.0.1", asker.mode, answer(name))
        return self

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield the rows of the histogram, but for the start time."""
        numbers = [*COUNTED.values(), "other_type_count", "non_in_count", *(c for _, c in RCODES.values())]
        for word in sorted(self.histogram):
            versions = Counter(ipaddress.ip_address(client).version for client in self.clients[word])
            yield {
                **{f"label{i}": label for i, label in enumerate(labels_of(word))},
                **{number: self.histogram[word][number] for number in numbers},
                "edm_status_bits": 2 if word.startswith(".") else 1,
                "v4client_count": versions[4],
                "v6client_count": versions[6],
                "v4client_count_hll": None,  # up to 20 clients are counted, not estimated
                "v6client_count_hll": None,
            }


def write_lists(folder: Path) -> dict[str, Any]:
    """Write the domain lists and the ignored clients; return the settings that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "well_known_domains_file": write_dawg(WELL_KNOWN),
        "ignored_question_names_file": write_dawg(IGNORED_NAMES),
        "ignored_client_ips_file": f"# a comment\n{IGNORED_CLIENT}/32\n".encode(),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in files}
