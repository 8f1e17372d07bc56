from __future__ import annotations

import pytest

from edm.config import load
from edm.errors import ConfigError, EdmError
from edm.masking import mask_passwords
from edm.observe.privacy import PrivacyFilter
from edm.observe.profiles import command_line
from edm.tapir.mqtt.broker import Broker


@pytest.mark.parametrize(
    "text",
    [
        "https://user:{}@core.example/x",
        "tls://{}@core.example:8883",
        "cannot reach https://user:{}@core.example: no route",
        "https://user:a@{}@core.example",
        "https://user:a/{}@core.example",
        "'https://user:my {} @core.example'",
        "https://us er:{}@core.example https://user:{}@core.example",
        "user:{}@core.example:8883",
        "https://core.example/x?a=1&password={}&b=2",
        "https://core.example/x?token={}",
        "wss://core.example/mqtt?Secret={}#x",
    ],
)
def test_passwords_are_masked(text: str) -> None:
    shown = mask_passwords(text.format("hunter2", "hunter2"))
    assert "hunter2" not in shown
    assert "core.example" in shown


@pytest.mark.parametrize(
    "text",
    [
        "https://core.example:8443/x", "mail admin@example.net", "https://core.example/x?a=1",
        "cannot reach https://core.example:8443: see admin at example.net", "[::1]:2112", "a: b@c", "",
    ],
)  # fmt: skip
def test_what_holds_no_password_stays(text: str) -> None:
    assert mask_passwords(text) == text


def test_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://user:hunter2@core.example"
    assert "hunter2" not in str(EdmError(f"{url}: no answer"))
    error = ConfigError(f"http-url: {url}", "user:hunter2@core.example")
    assert "hunter2" not in str(error) + repr(error.violations)
    event = PrivacyFilter()(None, "", {"event": f"at {url}", "url": url, "server": url, "more": {"x": [url]}})
    assert "hunter2" not in repr(event)
    assert "hunter2" not in command_line(
        ["edm", "run", f"--http-url={url}", "--mqtt-server", "u:hunter2@h:1"]
    )
    with pytest.raises(ConfigError) as caught:
        Broker.parse("mqtts://user:hunter2@host:99999")
    assert "hunter2" not in str(caught.value)


def test_configuration_that_is_shown_or_refused() -> None:
    flags = {
        "cryptopan-key": "k", "input-unix": "/run/x", "disable-mqtt": "true", "disable-histogram-sender": "true",
        "http-url": "https://user:hunter2@h", "mqtt-server": "user:hunter2@h:1",
    }  # fmt: skip
    config = load(None, flags, {}, purpose="minimise")
    assert "hunter2" not in repr(config) + repr(config.shown())
    with pytest.raises(ConfigError) as caught:
        load(None, {**flags, "disable-histogram-sender": "false", "http-url": "ftp://user:hunter2@h"}, {})
    assert "hunter2" not in str(caught.value)
