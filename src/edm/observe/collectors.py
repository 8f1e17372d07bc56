"""Collectors: they turn numbers that are added in bulk, or that belong to another user, into samples at a scrape."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from edm.kernel.columns import (
    CLIENT_ADDRESS_INVALID,
    CLIENT_IGNORED,
    DNS_PARSE_ERROR,
    EMPTY_QUESTION,
    INVALID_NAME,
    N_FATES,
    QUESTION_IGNORED,
    UNDECODABLE,
    I64Array,
)
from edm.observe.ledger import FATE_NAMES

_FATE_COUNTERS = (
    ("edm_ignored_dns_parse_error_total", DNS_PARSE_ERROR, "Frames whose DNS message could not be parsed"),
    ("edm_ignored_client_ip_error_total", CLIENT_ADDRESS_INVALID, "Frames with an unusable client address"),
    ("edm_ignored_client_ip_total", CLIENT_IGNORED, "Frames from an ignored client"),
    ("edm_ignored_empty_question_section_total", EMPTY_QUESTION, "Frames without a question"),
    ("edm_ignored_invalid_question_name_total", INVALID_NAME, "Frames with an invalid question name"),
    ("edm_ignored_question_name_total", QUESTION_IGNORED, "Frames asking for an ignored name"),
    ("edm_undecodable_frames_total", UNDECODABLE, "Frames that are no dnstap message"),
)


class Totals(Collector):
    """Numbers added in bulk and turned into samples at scrape time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.fates: I64Array = np.zeros(N_FATES, np.int64)
        self.plain: dict[str, int] = {}
        self.help: dict[str, str] = {}

    def declare(self, name: str, documentation: str) -> None:
        """Add a total, 0 for now."""
        self.plain[name] = 0
        self.help[name] = documentation

    def add(self, amounts: Mapping[str, int]) -> None:
        """Add to totals by name."""
        with self.lock:
            for name, amount in amounts.items():
                self.plain[name] += amount

    def collect(self) -> Iterator[Metric]:
        """Yield the samples; see :class:`prometheus_client.registry.Collector`."""
        with self.lock:
            fates: list[int] = self.fates.tolist()
            plain = dict(self.plain)
        for name, value in plain.items():
            yield CounterMetricFamily(name, self.help[name], value=value)
        yield CounterMetricFamily(
            "edm_processed_dnstap_total", "Frames taken from the input, whatever their fate", value=sum(fates)
        )
        for name, fate, documentation in _FATE_COUNTERS:
            yield CounterMetricFamily(name, documentation, value=fates[fate])
        by_fate = CounterMetricFamily(
            "edm_frames_total", "Frames by what became of them; pending must stay 0", labels=["fate"]
        )
        for fate_name, value in zip(FATE_NAMES, fates, strict=True):
            by_fate.add_metric([fate_name], value)
        yield by_fate

    def describe(self) -> Iterable[Metric]:
        """Return what is collected, for the registry."""
        return list(self.collect())  # so that the registry can refuse a second metric with the same name


class Callback(Collector):
    """A gauge or counter whose owner is asked for the value at scrape time.

    If the owner fails (it may be stopping), only this sample is missing and the scrape goes on.
    """

    def __init__(
        self, family: type[Any], name: str, documentation: str, function: Callable[[], float]
    ) -> None:
        self.family = family
        self.name = name
        self.documentation = documentation
        self.function: Callable[[], float] = function

    def collect(self) -> Iterator[Metric]:
        """Yield the samples; see :class:`prometheus_client.registry.Collector`."""
        try:
            value = float(self.function())
        except Exception:  # a scrape must not fail with the owner
            return
        yield self.family(self.name, self.documentation, value=value)

    def describe(self) -> Iterable[Metric]:
        """Return what is collected, for the registry."""
        return [self.family(self.name, self.documentation)]


class Table(Callback):
    """The same with labels: the owner returns all samples at once."""

    def __init__(
        self,
        family: type[Any],
        name: str,
        documentation: str,
        labels: Sequence[str],
        function: Callable[[], Iterable[tuple[Sequence[str], float]]],
    ) -> None:
        super().__init__(family, name, documentation, float)
        self.labels = labels
        self.rows = function

    def collect(self) -> Iterator[Metric]:
        """Yield the samples; see :class:`prometheus_client.registry.Collector`."""
        family = self.family(self.name, self.documentation, labels=self.labels)
        try:
            for labels, value in self.rows():
                family.add_metric(labels, float(value))
        except Exception:
            return
        yield family


__all__ = ["Callback", "Table", "Totals"]
