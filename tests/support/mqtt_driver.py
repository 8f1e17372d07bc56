"""Sends events out from a process of its own that a test can kill.

Started as a program with the settings and the data directory, it obeys the lines on its standard input:
``put FILE START STOP`` (lines of a file, as events), ``metrics``, ``stop GRACE``. It answers each with a line of
JSON: the metrics.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from edm.config import Config
from edm.observe import logs
from edm.observe.metrics import Metrics
from edm.stages.new_qname.queue import EventQueue
from edm.tapir.events.outgoing import EventsOut
from support.events import block_of
from support.processes import PATIENCE, end_child, find, wait_until

_BLOCK = 200
_NAMES = (
    "connected",
    "damaged_total",
    "disk_bytes",
    "disk_events",
    "imported_total",
    "last_success_timestamp_seconds",
    "loaded_events",
    "memory_events",
    "queued_total",
    "round_trip_seconds_count",
    "sent_total",
    "signed_total",
    "unconfirmed_total",
)


class Driver:
    """The test's side: events out in a child process."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.output = folder / "driver.log"
        path = os.pathsep.join(entry for entry in sys.path if entry)
        guard = find("setpriv")
        words = [guard, "--pdeathsig", "KILL"] if guard else []
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*words, sys.executable, __file__, json.dumps(settings), str(folder / "data")],
                stdout=subprocess.PIPE,
                stderr=output,
                stdin=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
            )

    def ask(self, command: str) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"no answer to {command}:\n{self.log()}"
        metrics: dict[str, float] = json.loads(answer)
        balance = metrics["loaded_events"] + metrics["queued_total"]
        gone = sum(metrics[name] for name in ("sent_total", "damaged_total", "failed", "dropped"))
        # Answered from a moving target: only what is at rest must balance.
        if metrics["at_rest"]:
            assert balance == gone + metrics["disk_events"] + metrics["memory_events"], metrics
        return metrics

    def put(self, file: Path, start: int, stop: int) -> dict[str, float]:
        return self.ask(f"put {file} {start} {stop}")

    def wait(self, name: str, value: float, patience: float = PATIENCE) -> dict[str, float]:
        """Wait until a metric has reached a value."""
        last: dict[str, float] = {}

        def reached() -> bool:
            last.update(self.ask("metrics"))
            return last[name] >= value

        wait_until(reached, lambda: f"{name} >= {value}: {last}\n{self.log()[-3000:]}", patience)
        return last

    def stop(self, grace: float = 10.0) -> dict[str, float]:
        metrics = self.ask(f"stop {grace}")
        assert self.process.wait(30) == 0, self.log()
        return metrics

    def kill(self) -> None:
        """End it as the kernel's memory killer would."""
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        return self.output.read_text(errors="replace")

    def close(self) -> None:
        end_child(self.process)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def _metrics(metrics: Metrics, *, at_rest: bool) -> str:
    values = {name: metrics.value(f"edm_mqtt_{name}") or 0.0 for name in _NAMES}
    values["failed"] = sum(
        metrics.value("edm_mqtt_failed_total", reason=r) or 0 for r in ("sign", "too_large", "refused")
    )
    values["dropped"] = sum(
        metrics.value("edm_mqtt_dropped_total", reason=r) or 0
        for r in ("queue_full", "memory_full", "shutdown")
    )
    for fate in ("queued", "sent", "failed", "dropped", "damaged"):
        values[f"lifetime_{fate}"] = metrics.value("edm_mqtt_lifetime_events", fate=fate) or 0.0
    return json.dumps({**values, "at_rest": at_rest})


def main() -> None:
    """Obey the lines on standard input."""
    sys.setswitchinterval(1e-4)
    logs.configure("json")
    settings, data = json.loads(sys.argv[1]), Path(sys.argv[2])
    metrics, queue = Metrics(), EventQueue(1_000_000)
    out = EventsOut(Config(**settings), queue, data, metrics)
    out.start()
    for line in sys.stdin:
        words = line.split()
        at_rest = words[0] == "stop"
        if words[0] == "put":
            events = Path(words[1]).read_bytes().splitlines()[int(words[2]) : int(words[3])]
            for first in range(0, len(events), _BLOCK):
                queue.put(block_of(events[first : first + _BLOCK]))
        elif words[0] == "reload":
            out.reload(Config(**json.loads(line.partition(" ")[2])))
        elif at_rest:
            queue.close()
            out.stop(float(words[1]))
        print(_metrics(metrics, at_rest=at_rest), flush=True)
        if at_rest:
            return


if __name__ == "__main__":
    main()
