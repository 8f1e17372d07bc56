"""The sinks that a configuration asks for, the disk budget, and the list of reloadable parts."""

from __future__ import annotations

from collections.abc import Callable

from edm.config import Config
from edm.engine import Engine
from edm.input.source import Source
from edm.observe.access import Access
from edm.output.budget import DiskBudget, Limits
from edm.output.new_name_file import NewNameFiles
from edm.output.new_name_sink import NewNamesToFiles
from edm.output.sink import EventSink, Sinks
from edm.tapir.events.outgoing import EventsOut
from edm.tapir.upload.upload import Uploader


def make_sinks(config: Config, engine: Engine) -> Sinks:
    """Make the sinks of a daemon; a new output gets a line here (docs/seams/sink.md).

    New names become events if there is any sink of events.
    """
    events: EventSink | None = None
    files = _make_new_name_files(config, engine) if config.new_qname_file else None
    if not config.disable_mqtt:
        events = EventsOut(config, engine.event_queue, engine.data.root, engine.metrics, files)
    elif files is not None:
        events = NewNamesToFiles(engine.event_queue, files, engine.metrics)
    # There is always an uploader, because a reload may switch it on.
    return Sinks(events, (Uploader(config, engine.data, engine.metrics),))


def _make_new_name_files(config: Config, engine: Engine) -> NewNameFiles:
    engine.interval_ended = engine.event_queue.end_interval
    start_us = engine.cell.current.interval.start_us
    return NewNameFiles(engine.data, engine.metrics, config.histogram_pending_bytes, start_us)


def make_budget(config: Config, engine: Engine, sinks: Sinks) -> DiskBudget:
    """Make the disk budget for all stored files; from now on it decides whether session rows are stored."""
    budget = DiskBudget(
        engine.data,
        engine.metrics,
        _limits(config),
        engine.session_writer,
        sinks.events.stored if sinks.events is not None else None,
        engine.seen,
    )
    engine.session_writer.admit = budget.admit
    return budget


def reloadable(
    config: Config, engine: Engine, sinks: Sinks, budget: DiskBudget, source: Source, access: Access
) -> dict[str, Callable[[Config], bool | None]]:
    """Return the functions that apply a new configuration to the parts outside the engine, by name, in order."""
    parts: dict[str, Callable[[Config], bool | None]] = {
        "disk_budget": lambda new: budget.reload(_limits(new))
    }
    parts |= {sink.part: sink.reload for sink in sinks.in_order()}
    if config.input_tls:
        parts["input_tls_certificate"] = source.reload
    if access.configured:
        parts[access.part] = access.reload
    if config.debug_dnstap_filename:
        # The name of the file stays: a new one needs a restart.
        parts["debug_file"] = lambda _: engine.reopen_debug_file()
    return parts


def _limits(config: Config) -> Limits:
    return Limits(config.disk_budget_bytes, config.disk_min_free_bytes)


__all__ = ["make_budget", "make_sinks", "reloadable"]
