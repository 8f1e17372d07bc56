"""What a worker sees for the length of one batch."""

from __future__ import annotations

from dataclasses import dataclass

from edm.config import Config
from edm.rotation.interval import Interval
from edm.stages.clients import ClientPrefixes
from edm.stages.domains.table.table import DomainTable
from edm.stages.pseudonyms.contract import Pseudonyms


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything reloadable, and the interval that is being filled.

    ``ignored_names`` is ``None`` when no question name is ignored. The histogram rows of ``interval`` are
    counted per index of ``well_known``, so these two only change together.
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
