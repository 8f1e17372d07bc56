"""Sends events from the workers' queue to the broker, after storing them on disk."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import structlog

from edm.config import Config
from edm.errors import EdmError, KeyFileError
from edm.files.renewable import Renewable
from edm.observe.faults import DEFECT
from edm.observe.metrics import Metrics
from edm.observe.privacy import told
from edm.output.new_name_file import NewNameFiles
from edm.stages.new_qname.events import EventBlock
from edm.stages.new_qname.queue import EventQueue
from edm.stages.new_qname.seen.unsaved import to_record
from edm.tapir.events.backlog import Backlog
from edm.tapir.events.chunks import CHUNK_BYTES, chunks_of
from edm.tapir.events.go_queue import GoQueue
from edm.tapir.events.metrics import EventsMetrics
from edm.tapir.events.queue_file import FILE_NAME
from edm.tapir.keys.certificates import ClientCertificate
from edm.tapir.keys.jwk import SigningKey, load_signing_key
from edm.tapir.keys.jws import JwsSigner
from edm.tapir.mqtt.broker import Broker
from edm.tapir.mqtt.mqtt import Connection
from edm.tapir.mqtt.publisher import Identity, Publisher

CHORES = 1.0
"""Seconds between two looks at what is due from time to time."""

GATHER = 0.2
"""Seconds for which events are collected before they are stored. A transaction costs the same for one event as for
hundreds, and takes CPU time from the workers."""

LEAST_GRACE = 1.0
"""Seconds that a stop takes at least, if it has to, to store what the workers found last."""

_BATCH_BYTES = 1024 * 1024
"""Payload stored in one transaction. A larger batch is hardly faster, and a killed process forgets all of it."""
_CERTIFICATE_CHORE = 60.0


class EventsOut:
    """Sends new_qname events to Core: the sink of the events (:class:`edm.output.sink.EventSink`).

    Payloads are stored unsigned and signed when they are sent, so a key that was replaced in between signs what
    has waited. Each event is sent at least once: it leaves the disk when the broker is known to have it.

    Parameters
    ----------
    config : Config
    event_queue : EventQueue
        What the workers fill. It must be closed before :meth:`stop`.
    data_root : Path
        The data directory; the queue is in ``mqtt`` below it.
    metrics : Metrics
    files : NewNameFiles, optional
        Files that get the events, too. An event is written there before it is stored for sending, so that none is
        known as stored that is in no file.
    """

    part = "mqtt_client_certificate"
    section = "events"

    def __init__(
        self,
        config: Config,
        event_queue: EventQueue,
        data_root: Path,
        metrics: Metrics,
        files: NewNameFiles | None = None,
    ) -> None:
        self._config = config
        self._events = event_queue
        self._folder = data_root / "mqtt"
        self._metrics = metrics
        self._files = files
        self._log = structlog.get_logger()
        self._started = False

    def start(self) -> None:
        """Load key and certificates, open the queue, start the threads. The broker need not be there.

        Raises
        ------
        EdmError
            The key, a certificate, the name of the broker or the queue file cannot be used.
        """
        config = self._config
        if self._files is not None:
            self._files.check()
        self._key = Renewable(
            "mqtt_signing_key", config, lambda c: [c.mqtt_signing_key_file], _Signing().load
        )
        self.certificate = ClientCertificate("mqtt", config)
        self._broker = broker = Broker.parse(config.mqtt_server)
        if any(os.environ.get(name) for name in ("all_proxy", "ALL_PROXY")):
            self._log.warning("all_proxy is set, but the connection to the MQTT broker does not use a proxy")
        in_memory = config.disable_mqtt_filequeue
        self.backlog = Backlog(None if in_memory else self._folder / FILE_NAME, config.mqtt_queue_bytes)
        self._imports = None if in_memory else GoQueue(self._folder / "queue", self.backlog)
        metrics = EventsMetrics(self._metrics)

        def connect(client_id: str) -> Connection:
            self._look_at_files()
            context = self.certificate.context if broker.tls else None
            return Connection(broker, client_id, config.mqtt_keepalive, context)

        self.publisher = Publisher(
            self.backlog,
            lambda: self._key.value,
            broker,
            connect,
            config.mqtt_qos,
            config.sign_workers,
            metrics,
        )
        self.backlog.on_put = self.publisher.wake
        metrics.watch(self.backlog, lambda: self.publisher.connected)
        self.certificate.add_metrics(self._metrics)
        self._mover = threading.Thread(target=self._move, name="edm-mqtt-queue", daemon=True)
        if self.backlog.loaded:
            self._log.info("unsent new names of an earlier run found", events=self.backlog.loaded)
        self._started = True
        self._mover.start()
        self.publisher.start()

    def put(self, block: EventBlock) -> tuple[int, int]:
        """Take events into the queue in memory; see :class:`edm.output.sink.EventTaker`."""
        return self._events.put(block)

    @property
    def names(self) -> bytes:
        """Names of the last events of an earlier run; see :class:`edm.output.sink.EventSink`."""
        return self.backlog.names

    @property
    def stored(self) -> Backlog:
        """The events on disk."""
        return self.backlog

    def reload(self, config: Config) -> None:
        """Read the signing key again, and client certificate and authorities for the next connection.

        A broker that takes nothing is tried again at once.

        Raises
        ------
        EdmError
            Something cannot be used; what it would replace stays.
        """
        problems = []
        for part in (self._key, self.certificate):
            try:
                part.reload(config)
            except EdmError as error:
                problems.append(str(error))
        self.publisher.hurry()
        if problems:
            raise KeyFileError("; ".join(problems))

    def status(self) -> dict[str, Any]:
        """Tell of connection, queue and last error; see :class:`edm.output.sink.Sink`."""
        backlog, totals = self.backlog, self.backlog.totals
        return {
            "enabled": True,
            "connected": self.publisher.connected,
            "broker": f"{self._broker.host}:{self._broker.port}",
            "memory": self._events.events + backlog.memory_events,
            "disk": backlog.disk_events,
            "disk_bytes": backlog.disk_bytes,
            "disk_bound_bytes": self._config.mqtt_queue_bytes,
            "sent": backlog.sent,
            "set_aside": backlog.failed,
            "lost": int(totals.get("dropped", 0)) + backlog.damaged,
            "last_error": told(self.publisher.last_error),
        }

    def certificates(self) -> list[tuple[str, float]]:
        """Return when the client certificate ends; see :class:`edm.output.sink.Sink`."""
        return [("MQTT client", self.certificate.not_after)]

    def _look_at_files(self) -> None:
        """Load keys and certificates that were renewed on disk."""
        self._key.refresh()
        self.certificate.refresh()

    def stop(self, grace: float) -> None:
        """Store what the event queue still holds, finish what is on the wire, close the connection.

        Without a disk queue, queued events are sent as far as ``grace`` seconds allow; the rest is lost and counted.
        Storing gets a second at least.
        """
        if not self._started:
            return
        grace = max(grace, LEAST_GRACE)
        end = time.monotonic() + grace
        self._mover.join(grace)
        if not self.publisher.stop(max(0.1, end - time.monotonic())):
            self._log.warning("the MQTT connection did not end in time")
        waiting = self.backlog.disk_events
        lost = self.backlog.close()
        if lost:
            self._log.error("new names lost at shutdown, for want of a broker and a disk queue", events=lost)
        self._log.info("sending new names stopped", sent=self.backlog.sent, waiting_on_disk=waiting)

    def _move(self) -> None:
        """Move events from the queue in memory to the backlog until the queue is closed and empty."""
        size = max(4096, min(CHUNK_BYTES, self._config.mqtt_queue_bytes // 8))
        batch = min(_BATCH_BYTES, self._config.mqtt_queue_bytes // 4)
        chore_at = certificate_at = 0.0
        while not self._events.finished:
            now = time.monotonic()
            if now >= chore_at:
                chore_at = now + CHORES
                self.backlog.maintain()
                if self._files is not None:
                    self._files.maintain()
            if now >= certificate_at:
                certificate_at = now + _CERTIFICATE_CHORE
                self._look_at_files()
                self.certificate.warn_if_expiring()
            try:
                importing = self._import()
                self._move_some(0.0 if importing else CHORES, size, batch)
            except Exception:  # a defect must not stop the thread
                self._metrics.faults.report(DEFECT)
                self._log.exception("new names could not be moved to the queue")
                time.sleep(CHORES)
        if self._files is not None:
            self._files.close()

    def _import(self) -> bool:
        if self._imports is None or not self._imports.pending:
            return False
        return self._imports.take_over()

    def _move_some(self, timeout: float, chunk_bytes: int, batch_bytes: int) -> None:
        block = self._events.get(timeout)
        if block is None:
            return
        self._events.gather(GATHER)
        blocks, size = [block], len(block.payloads)
        while size < batch_bytes and (block := self._events.get(0.0)) is not None:
            blocks.append(block)
            size += len(block.payloads)
        if self._files is not None:
            self._files.write(blocks, save=False)
            blocks = [block for block in blocks if len(block)]
            if not blocks:
                return  # only an interval has ended
        chunks = list(chunks_of(blocks, most_bytes=chunk_bytes))
        # Events first, then their names. A kill in between would have the names reported again, although
        # their events are stored: so the same transaction takes a record of the names, for the next start.
        chunks[0].names = to_record([block.unsaved for block in blocks if block.unsaved is not None])

        def save_names() -> None:
            for block in blocks:
                block.save_names()

        self.backlog.put(chunks, stored=save_names)


def topic_of(key: SigningKey) -> str:
    """Return the topic for the new names of the site that ``key`` names.

    Raises
    ------
    KeyFileError
        Its ID cannot be part of a topic.
    """
    if any(c in key.kid for c in "+#\0") or len(key.kid.encode()) > 60_000:
        raise KeyFileError(f"mqtt-signing-key-file: {key.path}: its key ID cannot be part of an MQTT topic")
    return f"events/up/{key.kid}/new_qname"


class _Signing:
    """Loads the signing key and what follows from it. At the start a public key will do, as with the Go daemon."""

    def __init__(self) -> None:
        self._private = False

    def load(self, config: Config) -> Identity:
        key = load_signing_key("mqtt-signing-key-file", config.mqtt_signing_key_file, private=self._private)
        topic = topic_of(key)
        # A reload must not replace a key that signs by one that cannot: each event would be given up.
        self._private = key.private is not None
        return Identity(JwsSigner(key), f"{key.kid}-edm", topic)


__all__ = ["CHORES", "EventsOut", "topic_of"]
