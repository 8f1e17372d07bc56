"""Sinks: they take events or finished files away. The daemon controls their life cycle, which is the same for all.

    made ──> start ──> put ... put ──> stop
                 └──── reload ────┘

- **start** checks what the operator gave (keys, certificates, addresses), adds the sink's metrics, and begins. The
  receiver need not be there.
- **put** hands something over and never waits. A new name's event is handed over by :meth:`EventSink.put`. A finished
  file is handed over by its final name: a sink of files finds it in its folder, the outbox.
- **acknowledge**: a sink says when something is safe, be it with the receiver or on disk. For events that is
  ``EventBlock.save_names``, for a file moving it out of the folder.
- **rewind** needs no call: what was not acknowledged comes again by itself. A name that was not saved is new again when
  it is asked for again, or after the next start; a file that was not moved is found again by the next look.
- **reload** takes over what may change in a running process, or raises and goes on as before.
- **stop** ends: nothing is put any more. What is queued gets a number of seconds; the rest is kept, or counted as lost.

Why nothing is lost: an engine forgets an event or a file only when it was acknowledged, and that is the last
thing the sink does with it. A sink that is killed at any moment may deliver once more, but never less than once.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from edm.config import Config
from edm.output.budget import Queue
from edm.stages.new_qname.events import EventBlock


class Sink(Protocol):
    """Takes something away from the engine. The daemon calls it from one thread at a time.

    Attributes
    ----------
    part : str
        The name of what :meth:`reload` takes over, in the outcome of a reload and in ``edm_reloads_total``.
    section : str
        The name of what :meth:`status` tells, in ``/api/status``.
    """

    part: str
    section: str

    def start(self) -> None:
        """Check, read and open what is needed, and begin.

        Raises
        ------
        EdmError
            Something cannot be used. :meth:`stop` is called nevertheless.
        """

    def reload(self, config: Config) -> bool | None:
        """Take over what may change at run time; return False if there is nothing, since the sink is switched off.

        Raises
        ------
        EdmError
            It cannot be used; what was in use stays in use.
        """

    def stop(self, grace: float) -> None:
        """Deliver what is queued, within ``grace`` seconds, and end; also if :meth:`start` failed or was never
        called.
        """

    def status(self) -> dict[str, Any]:
        """Return what an operator wants to see, as JSON can hold it: how much waits, what was the last error.

        Any thread may ask at any time after :meth:`start`. It must be quick and must not block.
        """

    def certificates(self) -> list[tuple[str, float]]:
        """Return what each certificate of the sink is for, and when it ends, in seconds since 1970."""


class EventTaker(Protocol):
    """What takes the events of new names from the workers."""

    def put(self, block: EventBlock) -> tuple[int, int]:
        """Take events, without waiting; any thread may call it.

        The caller that takes a block calls its ``save_names`` once the events are safe, and not before: from
        then on these names are not new any more.

        Returns
        -------
        tuple[int, int]
            How many events were taken, and how many discarded.
        """


class EventSink(Sink, EventTaker, Protocol):
    """A sink of the events of new names. There is one at most: it alone decides when a name is saved."""

    @property
    def names(self) -> bytes:
        """Names whose events are safe, but which may not have been saved before the last run was killed.

        A record as :func:`edm.stages.new_qname.seen.unsaved.to_record` makes it; empty if there are none.
        """

    @property
    def stored(self) -> Queue | None:
        """The queue on disk, from which the disk budget may take room; ``None`` if nothing does."""


class Sinks(NamedTuple):
    """The sinks of one daemon: that of the events, if there is one, and the others."""

    events: EventSink | None
    others: tuple[Sink, ...] = ()

    def in_order(self) -> tuple[Sink, ...]:
        """Return all sinks in the order in which they are started; they are stopped in the opposite one."""
        return self.others if self.events is None else (*self.others, self.events)


__all__ = ["EventSink", "EventTaker", "Sink", "Sinks"]
