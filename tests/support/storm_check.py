"""Checks the state after a storm, from the outputs alone.

The outputs are the Parquet files with the ledgers in their footers, the metrics at the end, and when the log reported
each reload. Each ``check_...`` method states one claim and fails if it does not hold.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edm.engine import SESSION_ROWS
from support import storm_traffic as traffic
from support.storm import least_generations
from support.storm_outputs import ABSENT, Ints, Outputs
from support.storm_traffic import FRAMES

COUNTS = {1: "a_count", 28: "aaaa_count", 15: "mx_count", 2: "ns_count", 16: "other_type_count"}
CODES = {0: "ok_count", 3: "nx_count", 2: "fail_count", 5: "other_rcode_count"}
COUNTERS = [*COUNTS.values(), "non_in_count", *CODES.values()]


class Outcome(Outputs):
    """What a storm's outputs prove."""

    # What was sent

    def sent_of(self, *kinds: int) -> int:
        """Return how many frames of some kinds were sent."""
        return int(self._sent_by_template[np.isin(self.plan.kinds, kinds)].sum())

    @cached_property
    def _sent_by_template(self) -> Ints:
        passes = np.array([len(begun) for begun in self.sent.passes])
        return (self.plan.per_pass * passes[:, None]).sum(axis=0)

    @cached_property
    def _rows_by_template(self) -> Ints:
        return np.bincount(self._templates, minlength=len(self.plan.templates))

    @cached_property
    def _templates(self) -> Ints:
        return self.plan.order[self.connection, self.sequence % FRAMES].astype(np.int64)

    def fates(self) -> Counter[str]:
        """Return the sum of the ledgers of all intervals."""
        total: Counter[str] = Counter()
        for interval in self.intervals:
            total.update(interval.ledger)
        return total

    # Claims

    def check_ledger(self) -> None:
        """Every frame has exactly one fate, over all intervals and reloads, and the files say the same."""
        fates = self.fates()
        none: frozenset[tuple[str, str]] = frozenset()
        assert (
            fates.pop("frames_received")
            == self.sent.frames
            == self.metrics["edm_frames_received_total", none]
        )
        for name in ("frames_oversized", "pending", "imbalance"):
            assert fates.pop(name) == 0, name
        for name, count in fates.items():
            assert self.metrics.get(("edm_frames_total", frozenset({("fate", name)})), 0) == count, name
        assert fates.total() == self.sent.frames
        assert self.metrics.get(("edm_ledger_intervals_total", frozenset({("result", "imbalance")})), 0) == 0
        assert self.metrics.get(("edm_session_rows_shed_total", none), 0) == 0
        # Fates that no reload changes are exact.
        assert fates["query"] == self.sent_of(traffic.QUERY)
        assert fates["undecodable"] == self.sent_of(traffic.GARBAGE)
        assert fates["dns_parse_error"] == self.sent_of(traffic.BROKEN)
        assert fates["empty_question"] == self.sent_of(traffic.EMPTY)
        for interval in self.intervals:
            assert interval.rows == interval.ledger["session"], interval.start
            assert interval.shed == 0

    def check_no_row_twice(self) -> None:
        """No frame became two rows, and none that has another fate became one."""
        key = self.connection << 48 | self.sequence
        assert len(np.unique(key)) == len(key)
        assert np.isin(self.plan.kinds[self._templates], traffic.COLLECTED).all()

    def check_histograms(self) -> None:
        """Every count belongs to a name of the table it was looked up in, and none is lost."""
        counted: Counter[str] = Counter()
        profile = {one.word: one for one in self.plan.templates if one.kind == traffic.KNOWN}
        clients: dict[str, set[bytes]] = {}
        for one in self.plan.templates:
            if one.kind == traffic.KNOWN:
                clients.setdefault(one.word, set()).add(one.client)
        for interval in self.intervals:
            assert interval.variant is None or interval.variant in range(traffic.VARIANTS)
            total = 0
            for word, row in interval.words.items():
                one = profile[word]
                count = row[COUNTS[one.qtype]]
                right = {COUNTS[one.qtype]: count, CODES[one.rcode]: count}
                assert {name: row[name] for name in COUNTERS if row[name]} == right, (word, row)
                assert row["edm_status_bits"] == (2 if word.startswith(".") else 1), word
                ipv4 = sum(len(client) == 4 for client in clients[word])
                assert row["v4client_count"] <= ipv4, word
                assert row["v6client_count"] <= len(clients[word]) - ipv4, word
                counted[word] += count
                total += count
            assert total == interval.ledger["well_known"], interval.start
        self._check_names(counted)

    def _check_names(self, counted: Counter[str]) -> None:
        """Names: sent = counted + session rows + what is missing because sessions were off; and so in total."""
        missing = self._sent_by_template - self._rows_by_template
        off = missing.copy()
        for word in counted:
            off[[one.word == word for one in self.plan.templates]] = 0
        known = Counter[str]()
        for one, count in zip(self.plan.templates, missing.tolist(), strict=True):
            if one.kind == traffic.KNOWN:
                known[one.word] += count
        unexplained = {word: known[word] - counted[word] for word in known}
        fates = self.fates()
        if not any(not generation.sessions for generation in self.storm.generations):
            assert set(unexplained.values()) == {0}, unexplained
            assert fates["session_off"] == 0
        assert min(unexplained.values()) >= 0, unexplained
        kinds = self.plan.kinds
        assert fates["client_ignored"] <= missing[kinds == traffic.CLIENT].sum()
        assert fates["question_ignored"] <= missing[kinds == traffic.NAMED].sum()
        explained = ("client_ignored", "question_ignored", "well_known", "session_off")
        of_rows = int(missing[np.isin(kinds, traffic.COLLECTED)].sum())
        assert of_rows == sum(fates[name] for name in explained)

    def check_rows_fit_their_generation(self) -> None:
        """A batch is wholly under one generation: with its key come its ignored lists and its switch."""
        templates, generation = self._templates, self.generation
        kinds, subset = self.plan.kinds[templates], self._subsets[templates]
        assert not ((kinds == traffic.CLIENT) & (subset == generation % traffic.CLIENT_SETS)).any()
        assert not ((kinds == traffic.NAMED) & (subset == generation % traffic.NAME_SETS)).any()
        sessions = np.array([one.sessions for one in self.storm.generations])
        assert sessions[generation].all()
        known = kinds == traffic.KNOWN
        for interval in self.intervals:
            rows = slice(interval.first_row, interval.first_row + interval.rows)
            found = {self.plan.templates[one].word for one in np.unique(templates[rows][known[rows]])}
            assert not found & set(interval.words), (
                "a name both in the histogram and in the rows of one interval"
            )
            assert not found & set(traffic.known_words(-1)), "a name of all lists was not recognised"

    @cached_property
    def _subsets(self) -> Ints:
        return np.array([one.subset for one in self.plan.templates])

    def check_reported_reloads_hold(self) -> None:
        """A frame sent after a reload was reported is not under an older generation, with any number of workers."""
        bounds = least_generations(self.storm)
        reported = np.array([when for when, _ in bounds])
        least = np.array([number for _, number in bounds])
        assert len(bounds) > 3
        checked = 0
        for connection, begun in enumerate(self.sent.passes):
            index = np.searchsorted(reported, np.array(begun)) - 1
            floor = np.where(index < 0, 0, least[np.maximum(index, 0)])
            rows = np.flatnonzero(self.connection == connection)
            assert (self.generation[rows] >= floor[self.sequence[rows] // FRAMES]).all()
            checked += len(np.unique(floor))
        assert checked > 3, "the passes were too long to tell one reload from the other"

    def check_batches_never_go_back(self, workers: int) -> None:
        """Within the rows that a worker hands over together the key never goes back to an older one.

        A file holds such parts one behind the other: any number with at least ``SESSION_ROWS`` rows, at the end one
        shorter for each worker. So the key goes back from one row to the next at those seams only.
        """
        for interval in self.intervals:
            rows = self.generation[interval.first_row : interval.first_row + interval.rows]
            back = np.flatnonzero(np.diff(rows) < 0) + 1
            seams = np.diff(np.concatenate([[0], back]))[: max(0, len(back) - workers)]
            assert (seams >= SESSION_ROWS).all(), interval.start

    def check_one_worker_never_goes_back(self) -> None:
        """All rows are in the order of arrival, and no key comes back, over all files."""
        assert (np.diff(self.generation) >= 0).all(), "a row under an old key behind one under a new key"
        for connection in range(self.plan.connections):
            assert (np.diff(self.sequence[self.connection == connection]) > 0).all()

    def check_every_missing_row_has_its_reason(self) -> None:
        """With one worker: a frame without a row was ignored, counted, or switched off, by the generation in force.

        Which that is, its neighbours tell: every fourth frame has a row under any lists, so long as
        sessions are collected.
        """
        interval_of = np.empty(len(self.sequence), np.int64)
        for number, interval in enumerate(self.intervals):
            interval_of[interval.first_row : interval.first_row + interval.rows] = number
        for connection, begun in enumerate(self.sent.passes):
            rows = self.connection == connection
            frames = len(begun) * FRAMES
            generation = np.full(frames, ABSENT)
            generation[self.sequence[rows]] = self.generation[rows]
            interval = np.full(frames, ABSENT)
            interval[self.sequence[rows]] = interval_of[rows]
            self._check_reasons(connection, generation, interval)

    def _check_reasons(self, connection: int, generation: Ints, interval: Ints) -> None:
        templates = np.tile(self.plan.order[connection].astype(np.int64), len(generation) // FRAMES)
        kinds = self.plan.kinds[templates]
        wanted = np.flatnonzero(np.isin(kinds, traffic.COLLECTED) & (generation == ABSENT))
        present = np.flatnonzero(generation != ABSENT)
        after = np.searchsorted(present, wanted)
        inner = (after > 0) & (after < len(present))
        wanted, after = wanted[inner], after[inner]
        before_frame, after_frame = present[after - 1], present[after]
        low, high = generation[before_frame], generation[after_frame]
        first, last = interval[before_frame], interval[after_frame]
        reasons = np.zeros(len(wanted), bool)
        # Few stretches: Python for each, NumPy within.
        stretches, of = np.unique(np.stack([low, high, first, last]), axis=1, return_inverse=True)
        order = np.argsort(of.ravel(), kind="stable")
        ends = np.searchsorted(of.ravel()[order], np.arange(stretches.shape[1] + 1))
        for number, stretch in enumerate(stretches.T.tolist()):
            here = order[ends[number] : ends[number + 1]]
            reasons[here] = self._has_reason(templates[wanted[here]], *stretch)
        lost = wanted[~reasons]
        assert not len(lost), f"{len(lost)} frames without a reason, the first: {lost[:5]} on {connection}"

    def _has_reason(
        self, templates: Ints, low: int, high: int, first: int, last: int
    ) -> npt.NDArray[np.bool_]:
        generations = self.storm.generations[low : high + 1]
        if any(not one.sessions for one in generations):
            return np.ones(len(templates), bool)
        kinds, subset = self.plan.kinds[templates], self._subsets[templates]
        variants = {one.variant for one in self.intervals[first : last + 1]}
        known = np.isin(subset, [-1, *(one for one in variants if one is not None)]) | (None in variants)
        return (
            (kinds == traffic.CLIENT) & np.isin(subset, [one.clients for one in generations])
            | (kinds == traffic.NAMED) & np.isin(subset, [one.names for one in generations])
            | (kinds == traffic.KNOWN) & known
        )

    def check_seen_names(self) -> None:
        """Each name that is not well known was remembered exactly once."""
        rows = self._rows_by_template
        names = {
            one.name
            for one, count in zip(self.plan.templates, rows.tolist(), strict=True)
            if count and one.kind != traffic.NOVEL
        }
        expected = len(names) + self.sent_of(traffic.NOVEL)
        assert self.metrics["edm_seen_names", frozenset()] == expected
