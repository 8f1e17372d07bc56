"""What a benchmark gives back, and medians."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes
    ----------
    name : str
        Stays the same from run to run, so that runs can be compared.
    cpu : float
        CPU seconds per frame (or whatever the name says is counted); 0 if there is none to tell.
    rate : float
        Frames a second end to end; 0 if only CPU time was measured.
    of_capture_cpu : float
        ``cpu`` as a multiple of what ``fstrm_capture`` spends on the same stream in the same rounds; 0 unknown.
    of_capture_rate : float
        ``rate`` as a part of what ``fstrm_capture`` takes from the same sender; 0 if unknown.
    note : str
        What else is to be told, as text.
    extra : dict
        What else was measured, by name.
    """

    name: str
    cpu: float = 0.0
    rate: float = 0.0
    of_capture_cpu: float = 0.0
    of_capture_rate: float = 0.0
    note: str = ""
    extra: dict[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return asdict(self)


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)
