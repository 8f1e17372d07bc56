"""The daemon is killed at random times under full load, repeatedly, with the same data directory.

``EDM_CRASH_KILLS`` sets how often (12), ``EDM_CRASH_SEED`` what chance decides (1), ``EDM_CRASH_REPORT`` a file for
the figures.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from pathlib import Path

import pytest

from crash.campaign import MANNERS, Campaign
from crash.inspection import Remains
from crash.traffic import FRAMES, KNOWN, Traffic
from edm.captures.replay import Sender, connect
from edm.stages.domains.dawg.writer import write_dawg
from support.daemon import Daemon
from support.long_runs import MARKS, report

pytestmark = MARKS

KILLS = int(os.environ.get("EDM_CRASH_KILLS", "12"))
SEED = int(os.environ.get("EDM_CRASH_SEED", "1"))


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
    report(figures, "EDM_CRASH_REPORT")
    assert sum(figures["kills"].values()) == KILLS
    assert figures["session_files"] > KILLS / 4
    assert figures["histogram_files"] > KILLS / 4
    assert figures["events"] > 100 * KILLS


@pytest.mark.skipif(KILLS < 60, reason="compiles all kernels, which takes a minute of processor time")
def test_kills_while_the_kernels_are_compiled(tmp_path: Path, sockets: Path) -> None:
    """What was compiled before a kill is whole; the next start goes on with the rest."""
    chance = random.Random(SEED)
    (tmp_path / "known.dawg").write_bytes(write_dawg([KNOWN]))
    daemon = Daemon(
        tmp_path / "edm",
        environment={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kernels")},
        input_unix=sockets / "dnstap",
        well_known_domains_file=tmp_path / "known.dawg",
    )
    with contextlib.ExitStack() as stack:
        stack.push(lambda kind, error, trace: daemon.__exit__(kind, error, trace))
        for _ in range(4):
            daemon.start(wait=False)
            daemon.wait_for_log(
                "compiling kernels, once for this version on this machine; this takes about 20 seconds"
            )
            time.sleep(chance.uniform(0.0, 6.0))
            daemon.kill()
        daemon.start()
        assert daemon.messages("kernels are compiled")
        with connect(unix=str(sockets / "dnstap")) as sock:
            sender = Sender(sock)
            sender.send(Traffic().part(0).wire.data)
            sender.finish()
        daemon.wait_for_metric("edm_processed_dnstap_total", FRAMES)
        daemon.rotate()
        assert daemon.stop() == 0
        assert daemon.errors() == []
    assert Remains(daemon.data, set()).sessions[0].numbers.size == FRAMES * 3 // 4
