"""Records what a real daemon exports while a fault is injected, as unit tests of the alert rules for promtool.

``python -m support.alert_recordings FILE`` makes ``packaging/prometheus/edm-alerts.test.yml``. A scrape comes each half
second and stands for a minute: seconds and times are stretched by as much, counts are left as they are.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from edm.captures.replay import Sender, connect
from edm.stages.domains.dawg.writer import write_dawg
from support import storm_traffic, upload_site
from support.daemon import Daemon
from support.mosquitto import Mosquitto
from support.pki import signing_jwk, write_jwk
from support.processes import start_child
from support.receiver import Receiver

RULES = Path(__file__).resolve().parents[2] / "packaging" / "prometheus" / "edm-alerts.yml"
STEP, MINUTES, FAULT = 0.5, 20, 5
INSTANCE = "edm"

Key = tuple[str, frozenset[tuple[str, str]]]


def _frame(kind: int) -> tuple[bytes, storm_traffic.Template]:
    templates = storm_traffic.templates()
    number = next(i for i, each in enumerate(templates) if each.kind == kind)
    frame = storm_traffic.frame(templates[number], number, b"recorded")
    return struct.pack(">I", len(frame)) + frame, templates[number]


def novel(first: int, count: int) -> bytes:
    """Return frames with names that are new, with their lengths."""
    one, template = _frame(storm_traffic.NOVEL)
    old = template.name[0].encode()
    return b"".join(one.replace(old, b"n%012d" % i) for i in range(first, first + count))


class _Heard:
    """A log that takes a line only while somebody listens."""

    def __init__(self, log: list[dict[str, Any]], listening: threading.Event) -> None:
        self._log = log
        self._listening = listening

    def append(self, entry: dict[str, Any]) -> None:
        self._listening.wait()
        self._log.append(entry)


class _Daemon(Daemon):
    """A daemon whose log may remain unread for a while."""

    listening: threading.Event

    def _read_log(self, process: subprocess.Popen[bytes], log: list[dict[str, Any]]) -> None:
        super()._read_log(process, _Heard(log, self.listening))  # type: ignore[arg-type]


class World:
    """A daemon with broker and receiver, that gets a little traffic each minute."""

    def __init__(self, folder: Path, lifetime: float = 90, **settings: Any) -> None:
        self.folder = folder
        self.site = upload_site.Site(folder / "http")
        self.site.renew_client(days=lifetime)
        self.broker = Mosquitto(folder / "broker", None)
        self.receiver = Receiver(self.site.public_keys, self.site.folder)
        self.known = folder / "known.dawg"
        self.known.write_bytes(write_dawg(["p0.plain.storm.test."]))
        write_jwk(folder / "signer.jwk", signing_jwk())
        http = self.site.folder
        self.socket = Path(tempfile.mkdtemp(prefix="edm-")) / "dnstap"
        self.daemon = _Daemon(
            folder / "edm",
            **{
                "input_unix": self.socket,
                "minimiser_workers": 1,
                "well_known_domains_file": self.known,
                "disable_mqtt": False,
                "mqtt_server": self.broker.url,
                "mqtt_signing_key_file": folder / "signer.jwk",
                "mqtt_client_cert_file": http / "client.pem",
                "mqtt_client_key_file": http / "client-key.pem",
                "disable_histogram_sender": False,
                "http_url": self.receiver.url,
                "http_signing_key_file": http / "signer.jwk",
                "http_client_key_file": http / "client-key.pem",
                "http_client_cert_file": http / "client.pem",
                "http_ca_file": http / "ca.pem",
                **settings,
            },
        )
        self.daemon.listening = threading.Event()
        self.daemon.listening.set()
        self.over = threading.Event()
        self.new = 1
        self.sender: Sender | None = None
        self._usual = novel(0, 20) + 20 * _frame(storm_traffic.PLAIN)[0]

    def send(self, frames: bytes) -> None:
        """Send over the one connection."""
        if self.sender is None:
            self._connection = connect(unix=str(self.socket))
            self.sender = Sender(self._connection)
        self.sender.send(frames)

    def usual(self) -> None:
        """A minute of ordinary traffic: one new name among forty, then the rotation."""
        self.new += 1
        self.send(self._usual + novel(1000 + self.new, 1))
        self.rotate()

    def rotate(self) -> None:
        self.daemon.http("POST", "/debug/rotate-parquet")

    @contextlib.contextmanager
    def running(self, defect: str) -> Iterator[None]:
        def with_a_defect(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
            at = command.index("edm.cli.main")
            return start_child([*command[:at], "support.defective", defect, *command[at + 1 :]], **options)

        patch = (
            mock.patch("support.daemon.start_child", with_a_defect) if defect else contextlib.nullcontext()
        )
        with self.broker, self.receiver, patch, self.daemon:
            try:
                yield
            finally:
                self.over.set()
                self.daemon.listening.set()
                if self.sender is not None:
                    self._connection.close()
                shutil.rmtree(self.socket.parent, ignore_errors=True)


# Faults: each is called once, and returns what happens in each later minute.

Minute = Callable[[], None]


def no_fault(world: World) -> Minute:
    return world.usual


def killed(world: World) -> Minute:
    world.daemon.kill()
    return lambda: None


def silent(world: World) -> Minute:
    return world.rotate


def broker_away(world: World) -> Minute:
    world.broker.kill()
    return world.usual


def receiver_away(world: World) -> Minute:
    world.receiver.__exit__(None, None, None)
    return world.usual


def broken_list(world: World) -> Minute:
    world.known.write_bytes(b"no list")
    world.daemon.process.send_signal(signal.SIGHUP)
    return world.usual


def nobody_reads(world: World) -> Minute:
    world.daemon.listening.clear()
    wrong = "".join(f"no-key-{number} = 1\n" for number in range(20_000))
    with world.daemon.config.open("a") as file:
        file.write(wrong)  # each is a line in the log

    def minute() -> None:
        world.daemon.process.send_signal(signal.SIGHUP)
        world.usual()

    return minute


def folder_gone(world: World) -> Minute:
    for folder in ("outbox", "histograms"):
        for path in sorted(world.daemon.data.rglob(folder)):
            path.rename(path.with_name(folder + "-gone"))
            path.touch()  # no folder: nothing can be made in it
    return world.usual


def flood(world: World) -> Minute:
    def minute() -> None:
        world.new += 3000
        world.send(novel(10**6 + world.new, 3000))
        world.rotate()

    return minute


def storm(world: World) -> Minute:
    frames = novel(0, 40) * 2500

    def send() -> None:
        with contextlib.suppress(OSError):  # the daemon ends first
            while not world.over.is_set():
                world.send(frames)

    threading.Thread(target=send, daemon=True).start()
    return world.rotate


@dataclass(frozen=True)
class Scenario:
    """A fault, and the alerts that must fire, each with its labels."""

    fault: Callable[[World], Minute]
    fires: dict[str, dict[str, str]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    defect: str = ""
    lifetime: float = 90
    from_start: bool = False
    minutes: int = MINUTES


_USES = "MQTT client", "HTTP client"
SCENARIOS = {
    "good day": Scenario(no_fault, minutes=40),
    "killed": Scenario(killed, {"EdmDown": {"job": "edm"}}),
    "silent sender": Scenario(silent, {"EdmSenderSilent": {}}),
    "broker away": Scenario(broker_away, {"EdmBrokerAway": {}}, minutes=14),
    "receiver away": Scenario(receiver_away, {"EdmUploadsFailing": {}}, minutes=30),
    "broken list": Scenario(broken_list, {"EdmReloadFailed": {"part": "well_known_domains"}}, minutes=10),
    "log unread": Scenario(nobody_reads, {"EdmLogLinesDropped": {}}),
    "folder gone": Scenario(folder_gone, {"EdmIntervalLate": {}}),
    "flood": Scenario(flood, {"EdmNewNameFlood": {}}),
    "storm": Scenario(storm, {"EdmWorkerSaturated": {}}),
    "small disk": Scenario(
        no_fault,
        {"EdmDiskShedding": {}, "EdmDiskFull": {}, "EdmNotReady": {}},
        {"disk_budget_bytes": 1},
        from_start=True,
    ),
    "batches fail": Scenario(no_fault, {"EdmFramesLost": {}}, defect="decode", from_start=True),
    "ledger": Scenario(no_fault, {"EdmLedgerImbalance": {}}, defect="ledger", from_start=True),
    "certificate, 10 days": Scenario(no_fault, {"EdmCertificateExpiring": {}}, lifetime=10, from_start=True),
    "certificate, 2 days": Scenario(no_fault, {"EdmCertificateExpiresSoon": {}}, lifetime=2, from_start=True),
}


# Recording


def record(scenario: Scenario, folder: Path) -> list[dict[Key, float] | None]:
    """Run a scenario; return a scrape for each minute, None where there was no answer."""
    world = World(folder, scenario.lifetime, **scenario.settings)
    wanted = set(re.findall(r"\bedm_\w+", RULES.read_text()))
    scrapes: list[dict[Key, float] | None] = []
    times: list[float] = []
    with world.running(scenario.defect):
        minute: Minute = world.usual
        for number in range(scenario.minutes):
            began = time.monotonic()
            if number == FAULT:
                minute = scenario.fault(world)
            minute()
            time.sleep(max(0.0, began + STEP - time.monotonic()))  # the pace of the recording
            times.append(time.time())
            try:
                metrics = world.daemon.metrics()
            except OSError:
                scrapes.append(None)
                continue
            scrapes.append({key: value for key, value in metrics.items() if key[0] in wanted})
    return stretched(scrapes, times)


def stretched(scrapes: list[dict[Key, float] | None], times: list[float]) -> list[dict[Key, float] | None]:
    """Return the scrapes as if they came a minute apart, the first at time 0."""

    def when(moment: float) -> float:
        for number in range(1, len(times)):
            if moment <= times[number]:
                before, after = times[number - 1], times[number]
                return 60 * (number - 1 + (moment - before) / (after - before))
        return 60.0 * (len(times) - 1)

    found: list[dict[Key, float] | None] = []
    for number, scrape in enumerate(scrapes):
        result = None if scrape is None else dict(scrape)
        for key in result or ():
            assert result is not None
            assert scrape is not None
            if key[0].endswith("_timestamp_seconds"):
                result[key] = when(scrape[key])
            elif key[0].endswith("_seconds_total"):
                before, last = (scrapes[number - 1] or {}, found[number - 1] or {}) if number else ({}, {})
                factor = 60 / (times[number] - times[number - 1]) if number else 1.0
                result[key] = last.get(key, 0.0) + factor * (scrape[key] - before.get(key, scrape[key]))
        found.append(result)
    return found


def notation(values: list[float | None]) -> str:
    """Return values as promtool writes them: runs of the same step as ``a+bxn``, ``_`` for none."""
    words: list[str] = []
    at = 0
    rounded = [None if value is None else round(value, 2) for value in values]
    while at < len(rounded):
        value = rounded[at]
        if value is None:
            words.append("_")
            at += 1
            continue
        end = at + 1
        following = rounded[end] if end < len(rounded) else None
        step = 0.0 if following is None else round(following - value, 2)
        while end < len(rounded):
            this, last = rounded[end], rounded[end - 1]
            if this is None or last is None or round(this - last, 2) != step:
                break
            end += 1
        if end - at < 3:
            end = at + 1
        words.append(f"{value:.12g}{step:+.12g}x{end - at - 1}" if end - at > 1 else f"{value:.12g}")
        at = end
    return " ".join(words)


def series(scrapes: list[dict[Key, float] | None]) -> list[dict[str, str]]:
    """Return promtool's input series."""
    up: list[float | None] = [0.0 if scrape is None else 1.0 for scrape in scrapes]
    found = [{"series": f'up{{job="edm",instance="{INSTANCE}"}}', "values": notation(up)}]
    keys = {key for scrape in scrapes for key in scrape or ()}
    for name, labels in sorted(keys, key=lambda key: (key[0], sorted(key[1]))):
        text = ",".join(f"{label}={json.dumps(value)}" for label, value in sorted(labels))
        values = [None if scrape is None else scrape.get((name, labels)) for scrape in scrapes]
        head = f'job="edm",instance="{INSTANCE}"' + ("," + text if text else "")
        found.append({"series": f"{name}{{{head}}}", "values": notation(values)})
    return found


# Expectations


def rules() -> dict[str, tuple[str, dict[str, str]]]:
    """Return severity and annotations of each alert."""
    found = {}
    for part in RULES.read_text().split("- alert: ")[1:]:
        texts = dict(re.findall(r'^ +(severity|summary|description|runbook): "?(.*?)"?$', part, re.M))
        found[part.split("\n")[0]] = (texts.pop("severity"), texts)
    return found


def case(name: str, scrapes: list[dict[Key, float] | None]) -> dict[str, Any]:
    """Return promtool's test of one recording."""
    scenario = SCENARIOS[name]
    checks = []
    known = rules()

    def check(minute: int, alert: str, labels: list[dict[str, str]]) -> None:
        severity, annotations = known[alert]
        fired = [
            {
                "exp_labels": {"instance": INSTANCE, "severity": severity, **each},
                "exp_annotations": annotations,
            }
            for each in labels
        ]
        checks.append({"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": fired})

    for alert, labels in scenario.fires.items():
        each = [{"use": use} for use in _USES] if alert.startswith("EdmCertificate") else [labels]
        check(scenario.minutes - 1, alert, each)
        if not scenario.from_start:
            check(FAULT - 1, alert, [])
    if not scenario.fires:
        for alert in known:
            for minute in (FAULT, scenario.minutes // 2, scenario.minutes - 1):
                check(minute, alert, [])
    return {"name": name, "interval": "1m", "input_series": series(scrapes), "alert_rule_test": checks}


def hand_made() -> dict[str, Any]:
    """Return the one test that is no recording: a queue that is too full takes more memory than a test may."""
    known = "EdmNewNamesDiscarded"
    severity, annotations = rules()[known]
    labels = {"instance": INSTANCE, "severity": severity}
    values = {
        "series": f'edm_new_qname_discarded_total{{job="edm",instance="{INSTANCE}"}}',
        "values": "0+0x4 7+5x14",
    }
    fires = {"exp_labels": labels, "exp_annotations": annotations}
    checks = [
        {"eval_time": "4m", "alertname": known, "exp_alerts": []},
        {"eval_time": "19m", "alertname": known, "exp_alerts": [fires]},
    ]
    return {
        "name": "made by hand: discards",
        "interval": "1m",
        "input_series": [values],
        "alert_rule_test": checks,
    }


def document(cases: list[dict[str, Any]], rule_file: str) -> str:
    """Return a test file for promtool."""
    head = "# Recordings of a real daemon: python -m support.alert_recordings THIS-FILE (in tests/) makes them anew.\n"
    lines = [head + f'{{"rule_files": {json.dumps([rule_file])}, "evaluation_interval": "1m", "tests": [']
    for number, each in enumerate(cases):
        lines.append((", " if number else "") + f'{{"name": {json.dumps(each["name"])}, "interval": "1m",')
        for part in ("input_series", "alert_rule_test"):
            rows = ",\n  ".join(json.dumps(row) for row in each[part])
            lines.append(f' "{part}": [\n  {rows}]' + ("," if part == "input_series" else "}"))
    return "\n".join([*lines, "]}"]) + "\n"


def record_case(name: str, folder: Path) -> dict[str, Any]:
    """Record a scenario of :data:`SCENARIOS`; return promtool's test of it."""
    return case(name, record(SCENARIOS[name], folder))


def main() -> None:
    """Record all scenarios, or those that are named."""
    cases = []
    for name in sys.argv[2:] or SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="edm-") as folder:
            cases.append(record_case(name, Path(folder)))
        print("recorded", name, flush=True)
    Path(sys.argv[1]).write_text(document([*cases, hand_made()], RULES.name))


if __name__ == "__main__":
    main()
