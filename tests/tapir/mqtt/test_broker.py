from __future__ import annotations

import pytest

from edm.errors import ConfigError
from edm.tapir.mqtt.broker import Broker


@pytest.mark.parametrize(
    ("server", "host", "port", "tls", "path"),
    [
        ("127.0.0.1:8883", "127.0.0.1", 8883, True, None),
        ("mqtt://broker:1883", "broker", 1883, False, None),
        ("tcp://broker:1883", "broker", 1883, False, None),
        ("ssl://broker:1", "broker", 1, True, None),
        ("TLS://Broker.Example:8883", "broker.example", 8883, True, None),
        ("mqtts://[2001:db8::1]:8883", "2001:db8::1", 8883, True, None),
        ("mqtt+ssl://broker:1", "broker", 1, True, None),
        ("tcps://broker:1", "broker", 1, True, None),
        ("ws://broker/mqtt", "broker", 80, False, "/mqtt"),
        ("wss://broker", "broker", 443, True, "/"),
        ("wss://broker:9001/a/b?c=d", "broker", 9001, True, "/a/b?c=d"),
        ("broker", "broker", 8883, True, None),
        ("broker:", "broker", 8883, True, None),
        ("mqtts://broker", "broker", 8883, True, None),
        ("tls://[2001:db8::1]", "2001:db8::1", 8883, True, None),
        ("mqtt://broker", "broker", 1883, False, None),
        ("tcp://broker/", "broker", 1883, False, None),
    ],
)
def test_servers(server: str, host: str, port: int, tls: bool, path: str | None) -> None:
    broker = Broker.parse(server)
    assert (broker.host, broker.port, broker.tls, broker.websocket_path) == (host, port, tls, path)


def test_a_password_is_not_shown() -> None:
    assert Broker.parse("mqtts://user:secret@broker:1").url == "mqtts://broker:1"


@pytest.mark.parametrize(
    "server",
    [
        "http://broker",
        "tls://",
        "tls://:8883",
        "tls://b:x",
        "tls://b:70000",
        "tls://[::1",
        "tls://b:0",
        f"tls://{'x' * 64}",
        "b..c",
    ],
)
def test_unusable_servers(server: str) -> None:
    with pytest.raises(ConfigError, match="mqtt-server"):
        Broker.parse(server)
