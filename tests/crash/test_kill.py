"""The daemon is killed at random moments under full load, again and again, over the same data directory.

``EDM_CRASH_KILLS`` sets how often (12), ``EDM_CRASH_SEED`` what chance decides (1), ``EDM_CRASH_REPORT`` a file for
the figures.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crash.campaign import MANNERS, Campaign
from edm.jit import JIT_DISABLED

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(JIT_DISABLED, reason="the daemon is tested with JIT"),
]

KILLS = int(os.environ.get("EDM_CRASH_KILLS", "12"))
SEED = int(os.environ.get("EDM_CRASH_SEED", "1"))
REPORT = os.environ.get("EDM_CRASH_REPORT", "")


def test_kills_under_load(tmp_path: Path, sockets: Path) -> None:
    """After each kill the files are whole, no row and no event comes twice, and the next start goes on at once."""
    with Campaign(tmp_path, sockets, SEED) as campaign:
        campaign.warm_up()
        for number in range(KILLS):
            manner = MANNERS[number % len(MANNERS)]
            print(f"kill {number} (seed {SEED}): {manner}")
            campaign.round(manner)
        campaign.finish()
        figures = campaign.figures.summary() | {"events_reported_after_all": campaign.recovered}
    text = json.dumps(figures, indent=2)
    print(text)
    if REPORT:
        Path(REPORT).write_text(text + "\n")
    assert sum(figures["kills"].values()) == KILLS
    assert figures["session_files"] > KILLS / 4
    assert figures["histogram_files"] > KILLS / 4
    assert figures["events"] > 100 * KILLS
