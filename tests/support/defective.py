"""The program with a defect: ``python -m support.defective NAME ARGUMENT...`` runs ``edm ARGUMENT...`` with it."""

from __future__ import annotations

import sys
from typing import Any

from edm import pipeline
from edm.cli.main import main
from edm.output import session_writer
from edm.stages.histogram.accumulators import Accumulators
from edm.startup import warmup


def _fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a defect made for a test")


def _decode() -> None:
    """Every batch fails before its frames are decoded."""
    pipeline.decode_frames = _fail  # type: ignore[assignment]


def _ledger() -> None:
    """The frames of every batch are counted twice."""
    settle = pipeline.Pipeline._account

    def twice(self: pipeline.Pipeline, interval: Any, *rest: Any) -> None:
        settle(self, interval, *rest)
        settle(self, interval, *rest)

    pipeline.Pipeline._account = twice  # type: ignore[method-assign]


def _settle() -> None:
    """What is new cannot be told."""
    pipeline.Pipeline.settle = _fail  # type: ignore[method-assign]


def _histogram() -> None:
    """No histogram can be made."""
    Accumulators.to_batches = _fail  # type: ignore[method-assign]


def _session() -> None:
    """No session file can be opened."""
    session_writer.SessionFile = _fail  # type: ignore[misc, assignment]


DEFECTS = {
    "decode": _decode,
    "ledger": _ledger,
    "settle": _settle,
    "histogram": _histogram,
    "session": _session,
}

if __name__ == "__main__":
    # The defect comes when all has been seen to work.
    warmup.warm_up()
    warmup.warm_up = lambda *_: None
    DEFECTS[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
