"""The snapshot: the state that a worker uses for one batch."""

from __future__ import annotations

from dataclasses import dataclass

from edm.config import Config
from edm.rotation.interval import Interval
from edm.stages.clients import ClientPrefixes
from edm.stages.domains.table.table import DomainTable
from edm.stages.pseudonyms.contract import Pseudonyms


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything reloadable, and the interval being filled.

    ``ignored_names`` is ``None`` when no question name is ignored. The histogram of ``interval`` counts by index into
    ``well_known``, so ``well_known`` only changes together with ``interval``. ``sessions`` and ``events`` tell
    whether session rows and events of new names are made.
    """

    generation: int
    config: Config
    pseudonyms: Pseudonyms
    clients: ClientPrefixes
    ignored_names: DomainTable | None
    well_known: DomainTable
    interval: Interval
    sessions: bool
    events: bool
