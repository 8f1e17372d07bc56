"""A real MQTT broker (mosquitto) that requires client certificates, and a subscriber that records messages."""

from __future__ import annotations

import getpass
import itertools
import ssl
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from support.pki import Authority, Pair
from support.processes import Server, free_port, listening, wait_until

_numbers = itertools.count()


class Mosquitto(Server):
    """mosquitto on a loopback port that stays the same when it is started again.

    Parameters
    ----------
    authority : Authority or None
        For TLS 1.3 with client certificates; None makes a listener without TLS.
    websocket : bool
    extra : str
        More lines for the configuration.
    """

    program = "mosquitto"

    def __init__(
        self, folder: Path, authority: Authority | None, *, websocket: bool = False, extra: str = ""
    ) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.authority = authority
        self.websocket = websocket
        self.extra = extra
        self.server = authority.server("broker") if authority else None

    @property
    def url(self) -> str:
        scheme = ("wss" if self.server else "ws") if self.websocket else ("tls" if self.server else "mqtt")
        return f"{scheme}://localhost:{self.port}"

    def command(self) -> list[str | Path]:
        config = self.folder / "mosquitto.conf"
        lines = [
            "per_listener_settings false",
            "allow_anonymous true",
            # A subscriber that is slow to read must not make the broker drop what the test counts.
            "max_queued_messages 0",
            "log_type all",
            "log_dest stderr",
            # Started by root, it would become a user who may not read the test's files.
            f"user {getpass.getuser()}",
        ]
        if self.websocket:
            # This version does not start without an ordinary listener.
            lines += [f"listener {free_port()} 127.0.0.1", f"listener {self.port} 127.0.0.1"]
            lines.append("protocol websockets")
        else:
            lines.append(f"listener {self.port} 127.0.0.1")
        if self.server is not None and self.authority is not None:
            lines += [
                f"cafile {self.authority.ca}",
                f"certfile {self.server.cert}",
                f"keyfile {self.server.key}",
                "require_certificate true",
                "use_identity_as_username true",
                "tls_version tlsv1.3",
            ]
        config.write_text("\n".join([*lines, self.extra]) + "\n")
        return ["-c", config]

    def is_up(self) -> bool:
        return listening(self.port)

    def kill(self) -> None:
        """End the broker as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


class Subscriber:
    """Subscribes to everything below ``events/`` at QoS 0 and keeps topic and payload of each message."""

    def __init__(self, broker: Mosquitto, client: Pair | None) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.qos: set[int] = set()
        self.retained = False
        self._subscribed = threading.Event()
        # It stays away when the broker dies: the test decides who listens from then on.
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            f"subscriber-{next(_numbers)}",
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        if client is not None and broker.authority is not None:
            context = ssl.create_default_context(cafile=str(broker.authority.ca))
            context.load_cert_chain(client.cert, client.key)
            self._client.tls_set_context(context)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.connect("localhost", broker.port)
        self._client.loop_start()
        wait_until(self._subscribed.is_set, "the subscriber is connected")

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        client.subscribe("events/#", 2)

    def _on_subscribe(self, *_: Any) -> None:
        self._subscribed.set()

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self.messages.append((message.topic, message.payload))
        self.qos.add(message.qos)
        self.retained |= message.retain

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
