"""Rounds of starting, loading and killing a daemon, with the peers that it connects to."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import re
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from crash.inspection import Output, Queue, Remains, number_of
from crash.traffic import FRAMES, KNOWN, I64Array, Traffic, is_known, is_new
from edm.captures.replay import Sender, connect
from edm.errors import InputError, ProtocolError
from edm.stages.domains.dawg.writer import write_dawg
from support import upload_site
from support.daemon import START, Daemon
from support.gate import Gate
from support.mosquitto import Mosquitto, Subscriber
from support.pki import signing_jwk, write_jwk
from support.processes import wait_until
from support.receiver import Receiver

CHUNK = 1 << 20
MANNERS = ("load", "load", "rotation", "rotation", "stop", "start")
"""When a daemon is killed: at any time, just after asking for a rotation, while it stops, while it starts."""

HARMLESS = {
    "cannot connect to the MQTT broker",  # turned away on purpose
    "dnstap connection closed with an error",  # cut off in the middle of a frame by a stop
}


class Sending(threading.Thread):
    """A connection that sends frames at full speed from the moment it is accepted until it breaks.

    Attributes
    ----------
    parts : list of int
        Parts of which at least one byte was sent.
    last : int
        Whole frames of the last of them.
    """

    def __init__(self, path: Path, first: int, step: int) -> None:
        super().__init__(name="sending", daemon=True)
        self._path, self._next, self._step = path, first, step
        self._traffic = Traffic()
        self._over = threading.Event()
        self.parts: list[int] = []
        self.last = 0

    def run(self) -> None:
        sock = self._connect()
        if sock is None:
            return
        with sock, contextlib.suppress(OSError, ProtocolError):
            Sender(sock)
            while True:
                part = self._traffic.part(self._next)
                self.parts.append(self._next)
                self.last = 0
                self._next += self._step
                sent, view = 0, part.wire.data
                while sent < len(view):
                    sent += sock.send(view[sent : sent + CHUNK])
                    self.last = int(np.searchsorted(part.ends, sent, "right"))

    def _connect(self) -> socket.socket | None:
        while not self._over.is_set():
            with contextlib.suppress(InputError):
                return connect(unix=str(self._path))
            time.sleep(0.001)
        return None

    def end(self) -> None:
        """Wait for the end, which comes with that of the daemon."""
        self._over.set()
        self.join()

    @property
    def numbers(self) -> I64Array:
        """Numbers of the frames sent, in order."""
        parts = [np.arange(FRAMES) + part * FRAMES for part in self.parts]
        if parts:
            parts[-1] = parts[-1][: self.last]
        return np.concatenate([np.zeros(0, np.int64), *parts])


class Rotating(threading.Thread):
    """Asks for rotations, several a second, as long as the daemon answers.

    Attributes
    ----------
    asked : threading.Event
        Set when a request goes out.
    rows_written : int
        As the daemon said last: session rows in files that have their final name.
    """

    def __init__(self, daemon: Daemon, chance: random.Random) -> None:
        super().__init__(name="rotating", daemon=True)
        self._daemon, self._chance = daemon, chance
        self.asked = threading.Event()
        self.rows_written = 0
        self.rotations = 0

    def run(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
            while True:
                time.sleep(self._chance.uniform(0.05, 0.4))
                self.asked.set()
                status, _ = self._daemon.http("POST", "/debug/rotate-parquet")
                if status != 202:
                    return
                self.asked.clear()
                self.rotations += 1
                self.rows_written = int(self._daemon.metric("edm_session_rows_written_total"))


@dataclass
class Figures:
    """What was seen over all rounds."""

    kills: dict[str, int] = field(default_factory=dict)
    frames: int = 0
    session_files: int = 0
    session_rows: int = 0
    histogram_files: int = 0
    rotations: int = 0
    leftovers: int = 0
    events: int = 0
    events_in_the_gap: int = 0
    uploads: int = 0
    uploads_again: int = 0
    start_seconds: list[float] = field(default_factory=list)
    lost_seconds: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return the figures with medians and maxima instead of lists."""
        figures = dict(vars(self))
        for name in ("start_seconds", "lost_seconds"):
            values = figures.pop(name)
            if values:
                figures[name] = {"median": round(float(np.median(values)), 2), "most": round(max(values), 2)}
        return figures


class Campaign:
    """A data directory and what is done to the daemons that use it one after another.

    Parameters
    ----------
    folder, sockets : Path
        For everything, and for the Unix socket.
    seed : int
        Of all that is left to chance, but for the races that it is all about.
    """

    def __init__(self, folder: Path, sockets: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.figures = Figures()
        self._socket = sockets / "dnstap"
        self._files = upload_site.Site(folder / "http")
        self._broker = Mosquitto(folder / "broker", None)
        self._gate = Gate(self._broker.port)
        self._receiver = Receiver(self._files.public_keys, self._files.folder)
        self._known_files: set[str] = set()
        self._intervals: set[str] = set()
        self._uploaded: list[str] = []
        self._handed: set[int] = set()
        self._sent: list[I64Array] = []
        self._next_part = 0
        self._leftovers: list[Path] = []
        self._queued = 0
        (folder / "known.dawg").write_bytes(write_dawg([KNOWN]))
        write_jwk(folder / "signer.jwk", signing_jwk())
        http = self._files.folder
        self.daemon = Daemon(
            folder / "edm",
            input_unix=self._socket,
            well_known_domains_file=folder / "known.dawg",
            disable_mqtt=False,
            mqtt_server=re.sub(r"\d+$", str(self._gate.port), self._broker.url),
            mqtt_signing_key_file=folder / "signer.jwk",
            mqtt_client_cert_file=http / "client.pem",
            mqtt_client_key_file=http / "client-key.pem",
            mqtt_queue_bytes=1 << 30,
            disable_histogram_sender=False,
            http_url=self._receiver.url,
            http_signing_key_file=http / "signer.jwk",
            http_client_key_file=http / "client-key.pem",
            http_client_cert_file=http / "client.pem",
            http_ca_file=http / "ca.pem",
        )

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        with self._stack as stack:
            stack.callback(self._gate.close)
            stack.enter_context(self._broker)
            self._subscriber = Subscriber(self._broker, None)
            stack.callback(self._subscriber.close)
            stack.enter_context(self._receiver)
            # Slow enough that a kill may come while a file is under way.
            self._receiver.decide = self._decide
            stack.push(lambda kind, error, trace: self.daemon.__exit__(kind, error, trace))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _decide(self, request: Any) -> Any:
        time.sleep(0.03)
        return request.action

    # A round

    def warm_up(self) -> None:
        """Let a daemon do everything once, so that no kernel has to be compiled under the load of the rounds."""
        self._gate.open()
        daemon, part = self.daemon, Traffic().part(self._next_part)
        daemon.start()
        with connect(unix=str(self._socket)) as sock:
            sender = Sender(sock)
            sender.send(part.wire.data)
            sender.finish()
        daemon.wait_for_metric("edm_processed_dnstap_total", FRAMES, patience=START)
        assert daemon.stop() == 0
        sending = Sending(self._socket, self._next_part, 1)
        sending.parts, sending.last = [self._next_part], FRAMES
        self._next_part += 1
        self._check_log()
        self._inspect([sending], ordered=True, least=0, whole=True)

    def round(self, manner: str) -> None:
        """Start a daemon, load it, kill it, and look at what it left."""
        chance = self.chance
        workers, connections = chance.choice((1, 1, 2)), chance.choice((1, 2))
        (self._gate.open, self._gate.shut)[chance.random() < 0.3]()
        self.daemon.settings["minimiser_workers"] = workers
        sendings = [Sending(self._socket, self._next_part + k, connections) for k in range(connections)]
        for sending in sendings:
            sending.start()
        began = time.monotonic()
        self.daemon.start(wait=False)
        rotating = Rotating(self.daemon, random.Random(chance.random()))
        if manner == "start":
            time.sleep(chance.uniform(0.0, 1.6))
        else:
            self._wait_for_start(began)
            rotating.start()
            time.sleep(chance.uniform(0.05, 1.2))
        ended = self._end(manner, rotating)
        for sending in sendings:
            sending.end()
            self._next_part = max([self._next_part, *(part + connections for part in sending.parts)])
        if manner != "start":
            rotating.join()
        self.figures.kills[manner if ended is None else "stopped before"] = (
            self.figures.kills.get(manner if ended is None else "stopped before", 0) + 1
        )
        self.figures.rotations += rotating.rotations
        self._check_log()
        self._inspect(sendings, ordered=workers == 1, least=rotating.rows_written, whole=ended is not None)

    def _wait_for_start(self, began: float) -> None:
        entry = self.daemon.wait_for_log("receiving dnstap", patience=START)
        self.figures.start_seconds.append(time.monotonic() - began)
        # What was forgotten would be reported again; what is known has been handed out.
        assert entry["seen_names"] == self._queued, self.daemon.tail()
        self._check_recovery()

    def _check_recovery(self) -> None:
        removed = {
            Path(entry["filename"])
            for entry in self.daemon.messages("removed an unfinished file of an earlier run")
        }
        assert removed == set(self._leftovers)
        assert not any(path.exists() for path in self._leftovers)
        for entry in self.daemon.messages("took names over from the queue of new names"):
            self.figures.events_in_the_gap += entry["names"]
        self._leftovers = []

    def _end(self, manner: str, rotating: Rotating) -> int | None:
        """Kill the daemon; return its exit code if it had ended before."""
        if manner == "rotation":
            rotating.asked.wait(10)
            time.sleep(self.chance.uniform(0.0, 0.08))
        elif manner == "stop":
            self.daemon.process.send_signal(signal.SIGTERM)
            time.sleep(self.chance.uniform(0.0, 0.6))
        code = self.daemon.process.poll()
        self._killed_at = time.time()
        self.daemon.kill()
        return code

    def _check_log(self) -> None:
        errors = [entry for entry in self.daemon.errors() if entry["msg"] not in HARMLESS]
        assert errors == [], self.daemon.tail()
        assert not [entry for entry in self.daemon.log if "set aside" in entry["msg"]]

    # Looking at what is left

    def _inspect(self, sendings: list[Sending], *, ordered: bool, least: int, whole: bool) -> None:
        remains = Remains(self.daemon.data, self._known_files)
        numbers = [sending.numbers for sending in sendings]
        rows = np.concatenate([np.zeros(0, np.int64), *(output.numbers for output in remains.sessions)])
        counted = sum(output.counted for output in remains.histograms)
        self._check_rows(rows, numbers, ordered)
        assert len(rows) >= least, "rows are gone that had been written"
        known = sum(int(is_known(sent).sum()) for sent in numbers)
        assert counted <= known
        if whole:  # it had ended by itself: nothing that it had read may be missing
            assert remains.leftovers == []
        intervals = [output.interval for output in (*remains.sessions, *remains.histograms)]
        assert len(set(intervals)) == len(intervals)
        assert not self._intervals & set(intervals)
        self._intervals.update(intervals)
        self._leftovers += remains.leftovers
        self._sent += numbers
        figures = self.figures
        figures.frames += sum(map(len, numbers))
        figures.session_files += len(remains.sessions)
        figures.session_rows += len(rows)
        figures.histogram_files += len(remains.histograms)
        figures.leftovers += len(remains.leftovers)
        if not whole:
            self._note_loss(remains.sessions)
        self._check_events()
        self._check_uploads()

    def _check_rows(self, rows: I64Array, numbers: list[I64Array], ordered: bool) -> None:
        """Rows come from frames of this round, none twice; with one worker they are its first frames, without a gap."""
        found = np.sort(rows)
        assert (np.diff(found) > 0).all(), "a row was written twice"
        for sent in numbers:
            wanted = sent[~is_known(sent)]
            here = np.isin(wanted, found, assume_unique=True)
            found = np.setdiff1d(found, wanted, assume_unique=True)
            if ordered:
                assert here[: int(here.sum())].all(), "rows are missing between others"
        assert len(found) == 0, f"rows of frames that were not sent in this round: {found[:5]}"

    def _note_loss(self, sessions: list[Output]) -> None:
        if sessions:
            stop = max(datetime.fromisoformat(output.stop).timestamp() for output in sessions)
            self.figures.lost_seconds.append(max(0.0, self._killed_at - stop))

    def _check_events(self) -> None:
        """Every event that was ever stored is another name's, and is in the queue or has been sent."""
        queue = Queue(self.daemon.data)
        assert len(set(queue.names)) == len(queue.names), "a name was reported again"
        self._handed.update(queue.names)
        self._queued = queue.queued

        def all_arrived() -> bool:
            messages, self._subscriber.messages = self._subscriber.messages, []
            self._handed.update(number_of(payload_of(message)) for _, message in messages)
            return len(self._handed) >= queue.queued

        wait_until(
            all_arrived, lambda: f"{len(self._handed)} events arrived of {queue.queued}: was one repeated?"
        )
        assert len(self._handed) == queue.queued
        self.figures.events = queue.queued

    def _check_uploads(self) -> None:
        """Only whole files are uploaded."""
        requests, self._receiver.requests = self._receiver.requests, []
        for request in requests:
            if len(request.body) < int(dict(request.headers)["Content-Length"]):
                continue  # the daemon was killed in the middle of it
            assert request.problem is None
            self._uploaded.append(Output(request.body, "histogram").interval)
        self.figures.uploads = len(self._uploaded)
        self.figures.uploads_again = len(self._uploaded) - len(set(self._uploaded))

    # The end

    def finish(self) -> None:
        """Send every new name once more to a daemon that may live: what a kill took comes now, nothing comes twice."""
        self._gate.open()
        self.daemon.settings["minimiser_workers"] = 2
        began = time.monotonic()
        self.daemon.start(wait=False)
        self._wait_for_start(began)
        before = self._queued
        traffic = Traffic()
        names: set[int] = set()
        with connect(unix=str(self._socket)) as sock:
            sender = Sender(sock)
            for sent in self._sent:
                for part in np.unique(sent // FRAMES).tolist():
                    frames = traffic.part(part)
                    inside = sent[(sent // FRAMES == part) & is_new(sent)]
                    names.update(inside.tolist())
                    for i in (inside - frames.first).tolist():
                        sender.send(frames.wire[frames.ends[i - 1] : frames.ends[i]].tobytes())
            sender.finish()
        daemon = self.daemon
        daemon.wait_for_metric("edm_processed_dnstap_total", len(names))
        wait_until(
            lambda: not daemon.metric("edm_new_qname_ch_len") and not daemon.metric("edm_mqtt_disk_events"),
            "all events are sent",
        )
        assert daemon.metric("edm_new_qname_discarded_total") == 0
        daemon.rotate()
        wait_until(
            lambda: not list((daemon.data / "parquet/histograms/outbox").glob("*")), "everything is uploaded"
        )
        assert daemon.stop() == 0
        self._check_log()
        queue = Queue(daemon.data)
        assert queue.names == []
        self._check_events()
        # All names that were ever sent have been handed out, each once.
        assert self._handed - {-1} == names
        self._check_uploads()
        assert set(self._uploaded) == {i for i in self._intervals if i.startswith("histogram")}
        assert self.figures.uploads_again <= sum(self.figures.kills.values())
        self.recovered = self._queued - before


def payload_of(message: bytes) -> bytes:
    """Return what a signed message says."""
    payload = json.loads(message)["payload"]
    return base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
