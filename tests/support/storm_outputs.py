"""Reads the outputs of a storm: Parquet files with the ledgers in their footers.

Pseudonyms are made by the independent Crypto-PAn of ``oracles``, under every key that was ever configured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edm.stages.pseudonyms.cryptopan import derive_key
from oracles.cryptopan import CryptoPan
from support import storm_traffic as traffic
from support.daemon import HISTOGRAMS, SESSIONS
from support.storm import Storm
from support.storm_traffic import FRAMES, Plan, Sent, Template

Ints = npt.NDArray[np.int64]

LABELS = [f"label{number}" for number in range(10)]

ABSENT = -1


class Pseudonyms:
    """The pseudonyms of all addresses of the traffic under the keys of all generations.

    Parameters
    ----------
    keys : sequence of bytes
        The Crypto-PAn secret of each generation.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        addresses = [*traffic.CLEAN, *traffic.IGNORED, *traffic.SERVERS]
        self.number = {address: number for number, address in enumerate(addresses)}
        ciphers = [CryptoPan(key) for key in keys]
        results = [[cipher.bits(address) for cipher in ciphers] for address in addresses]
        # An IPv4 address as a number; of an IPv6 address the lower half.
        self.low = np.array(
            [[int.from_bytes(one[-8:], "big") for one in line] for line in results], np.uint64
        )
        self.high = np.array(
            [[int.from_bytes(one[:-8], "big") for one in line] for line in results], np.uint64
        )

    def of_rows(self, table: pa.Table, templates: Sequence[Template], template: Ints) -> Ints:
        """Return under which generation's key both addresses of each row were made; fail if not under one.

        They are looked up as a pair: where an address agrees with the pad, Crypto-PAn uses one block for several
        bits, so that among some hundred keys two may well give an IPv4 address the same pseudonym.
        """
        source = self._values(table, "source", [one.client for one in templates], template)
        dest = self._values(table, "dest", [one.server for one in templates], template)
        found = np.full(len(template), ABSENT, np.int64)
        pairs = [(self.number[one.client], self.number[one.server]) for one in templates]
        places = np.array([sorted(set(pairs)).index(pair) for pair in pairs])[template]
        mixed = _mix(source[0], dest[0])
        for place, (client, server) in enumerate(sorted(set(pairs))):
            rows = np.flatnonzero(places == place)
            known = _mix(self.low[client], self.low[server])
            assert len(np.unique(known)) == len(known), "two keys give two addresses the same pseudonyms"
            order = np.argsort(known)
            candidate = order[np.minimum(np.searchsorted(known, mixed[rows], sorter=order), len(order) - 1)]
            right = np.ones(len(rows), bool)
            for address, (low, high) in ((client, source), (server, dest)):
                right &= self.low[address, candidate] == low[rows]
                right &= self.high[address, candidate] == high[rows]
            found[rows[right]] = candidate[right]
        wrong = int(np.count_nonzero(found == ABSENT))
        assert not wrong, f"{wrong} rows whose addresses were not made under one key that was ever configured"
        return found

    def _values(
        self, table: pa.Table, side: str, addresses: list[bytes], template: Ints
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return the pseudonyms of one side as lower and upper halves; check that no other columns are filled."""
        is_ipv4 = np.array([len(address) == 4 for address in addresses])[template]
        ipv4, host, network = (table[f"{side}_{part}"] for part in ("ipv4", "ipv6_host", "ipv6_network"))
        for column, present in ((ipv4, is_ipv4), (host, ~is_ipv4), (network, ~is_ipv4)):
            assert np.array_equal(column.is_valid().to_numpy(), present), side
        return np.where(is_ipv4, _numbers(ipv4), _numbers(host)), _numbers(network)


@dataclasses.dataclass
class Interval:
    """What the files say of one interval.

    Attributes
    ----------
    start : as in the footer
    ledger : its entries that are numbers
    rows : how many session rows, and behind how many others they come
    words : histogram rows by word
    """

    start: str
    ledger: dict[str, int]
    shed: int = 0
    first_row: int = 0
    rows: int = 0
    words: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)

    @cached_property
    def variant(self) -> int | None:
        """Variant of the well-known domains that the histogram's words show; None if they are in all."""
        words = set(self.words)
        fits = [one for one in range(traffic.VARIANTS) if words <= set(traffic.known_list(one))]
        assert fits, f"words of several lists in one histogram: {sorted(words)}"
        return fits[0] if len(fits) == 1 else None


class Outputs:
    """A storm's outputs, read and joined with what was sent.

    Each row is checked, while it is read, against the frame that it claims to be: names, message, ports; and both its
    addresses must have been made under one key.

    Parameters
    ----------
    metrics : mapping
        Scraped when all frames had been worked off.

    Attributes
    ----------
    intervals : list of Interval
        In the order in which they began.
    connection, sequence, generation : int64[rows]
        Of each row in the order of the files: which connection sent the frame, as its how-manyth, and under which
        generation's key the addresses were made.
    """

    def __init__(self, storm: Storm, plan: Plan, sent: Sent, metrics: dict[Any, float]) -> None:
        self.storm = storm
        self.plan = plan
        self.sent = sent
        self.metrics = metrics
        self.pseudonyms = Pseudonyms([derive_key(one.key, one.salt) for one in storm.generations])
        self.intervals: list[Interval] = []
        self._read_files()

    # Reading

    def _read_files(self) -> None:
        found: dict[str, Interval] = {}
        rows: dict[str, Path] = {}
        for path in [*self.storm.daemon.files(SESSIONS), *self.storm.daemon.files(HISTOGRAMS)]:
            metadata = {k.decode(): v.decode() for k, v in (pq.read_metadata(path).metadata or {}).items()}
            start = metadata["edm.interval.start"]
            assert metadata["edm.ledger.closed"] == "true", path
            prefix = "edm.ledger."
            ledger = {
                key.removeprefix(prefix): int(value)
                for key, value in metadata.items()
                if key.startswith(prefix) and key != "edm.ledger.closed"
            }
            interval = found.setdefault(start, Interval(start, ledger))
            assert interval.ledger == ledger, f"the two files of an interval disagree: {path}"
            if "edm.session_rows_shed" in metadata:
                rows[start] = path
                interval.shed = int(metadata["edm.session_rows_shed"])
            else:
                interval.words = _histogram(path)
        self.intervals = [found[start] for start in sorted(found)]
        self._read_rows(rows)

    def _read_rows(self, paths: dict[str, Path]) -> None:
        parts: list[tuple[Ints, Ints, Ints]] = []
        before = 0
        for interval in self.intervals:
            interval.first_row = before
            if interval.start in paths:
                connection, sequence, generation = self._rows(pq.read_table(paths[interval.start]))
                parts.append((connection, sequence, generation))
                interval.rows = len(sequence)
                before += len(sequence)
        columns = zip(*parts, strict=True)
        self.connection, self.sequence, self.generation = (np.concatenate(column) for column in columns)

    def _rows(self, table: pa.Table) -> tuple[Ints, Ints, Ints]:
        """Check the rows of a file against the frames that they claim to be."""
        names = [traffic.identity(number) for number in range(self.plan.connections)]
        connection = _codes(table["server_id"], names)
        micros = table["response_time"].cast(pa.int64()).to_numpy() - traffic.BASE * 1_000_000
        number, place = np.divmod(micros, 1_000_000)
        passes = np.array([len(begun) for begun in self.sent.passes])
        assert ((number >= 0) & (number < passes[connection]) & (place < FRAMES)).all(), "a row of no frame"
        template = self.plan.order[connection, place].astype(np.int64)
        self._check_texts(table, connection, number, place, template)
        for column, expected in (
            ("source_port", 20000 + template),
            ("dest_port", np.full(len(template), 53)),
            ("dns_protocol", 1 + template % 2),
        ):
            assert np.array_equal(table[column].to_numpy(), expected), column
        generation = self.pseudonyms.of_rows(table, self.plan.templates, template)
        return connection, number * FRAMES + place, generation

    def _check_texts(
        self, table: pa.Table, connection: Ints, number: Ints, place: Ints, template: Ints
    ) -> None:
        novel = self.plan.kinds[template] == traffic.NOVEL
        places = zip(connection[novel].tolist(), number[novel].tolist(), place[novel].tolist(), strict=True)
        own = [traffic.novel_label(*one) for one in places]
        templates = self.plan.templates
        for level, column in enumerate(LABELS):
            texts = [one.name[-1 - level] if level < len(one.name) else None for one in templates]
            _check_texts(table[column], texts, template, novel, own if level == 3 else None)
        messages = [traffic.message(one, number) for number, one in enumerate(templates)]
        own_messages = [
            messages[one].replace(b"n" + 12 * b"0", label.encode())
            for one, label in zip(template[novel].tolist(), own, strict=True)
        ]
        _check_texts(table["response_message"], messages, template, novel, own_messages)


def _check_texts(
    column: pa.ChunkedArray,
    texts: list[Any],
    template: Ints,
    novel: npt.NDArray[np.bool_],
    own: list[Any] | None,
) -> None:
    """Check that a column holds the text of each row's template; the novel rows hold ``own``, if that is given."""
    if own is not None:
        assert column.filter(pa.array(novel)).to_pylist() == own
        column, template = column.filter(pa.array(~novel)), template[~novel]
    values = list(dict.fromkeys(texts))
    numbers = np.array([values.index(text) for text in texts])
    assert np.array_equal(_codes(column, values), numbers[template])


def _codes(column: pa.ChunkedArray, values: list[Any]) -> Ints:
    found = pc.index_in(column, pa.array(values, column.type))
    assert not found.null_count
    return found.to_numpy().astype(np.int64)


def _mix(first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return first * np.uint64(0x9E3779B97F4A7C15) + second


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    return pc.fill_null(column, 0).cast(pa.uint64()).to_numpy()


def _histogram(path: Path) -> dict[str, dict[str, int]]:
    found = {}
    for row in pq.read_table(path).to_pylist():
        labels = [row[label] for label in LABELS if row[label] is not None]
        found[".".join(reversed(labels)) + "."] = {
            name: value for name, value in row.items() if isinstance(value, int)
        }
    return found
