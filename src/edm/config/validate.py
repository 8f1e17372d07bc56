"""The rules that the values in effect must satisfy together; those for single values are in the schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from edm.config.address import is_loopback, parse_address
from edm.config.schema import KEYS, SALT_MIN, Settings
from edm.config.values import given_bytes

Purpose: TypeAlias = Literal["daemon", "minimise"]
"""What the configuration is for: the daemon, or minimising files, which needs no input and no Core."""

INPUTS = ("input-unix", "input-tcp", "input-tls")
MQTT_SCHEMES = frozenset(("mqtt", "tcp", "ssl", "tls", "mqtts", "mqtt+ssl", "tcps", "ws", "wss"))
FRAME_HEADER = 4
"""Bytes of the length that precedes a frame in a block."""

SECRET_MIN = 16
"""A secret with fewer bytes than this is called easy to guess. The key that is derived from it has 32."""
SECRET_DIFFERENT = 5
PLACEHOLDERS = frozenset(
    f"{my}{word}"
    for my in ("", "my", "your", "the", "some", "a")
    for word in ("secret", "key", "secretkey", "password", "cryptopankey", "secrethere", "keyhere")
) | {
    "key1",
    "changeme",
    "changethis",
    "replaceme",
    "replacethis",
    "placeholder",
    "example",
    "test",
    "todo",
    "xxx",
}
"""Placeholders for a secret in example configurations, also the Go daemon's; in lower case, without - and _."""

Violation: TypeAlias = tuple[str, str]
"""Name of the key, and the reason."""


def _needed(settings: Settings, names: tuple[str, ...], condition: str = "") -> Iterator[Violation]:
    for name in names:
        if getattr(settings, KEYS[name].attribute) == "":
            yield name, f"must not be empty{condition}"


def _input(settings: Settings) -> Iterator[Violation]:
    used = [name for name in INPUTS if getattr(settings, KEYS[name].attribute)]
    if not used:
        yield INPUTS[0], f"exactly one of {', '.join(INPUTS)} must be set, none is"
    for name in used[1:]:
        yield name, f"exactly one of {', '.join(INPUTS)} must be set, {used[0]} is set as well"
    if settings.input_tls:
        yield from _needed(settings, ("input-tls-cert-file", "input-tls-key-file"), " with input-tls")


def server_url(server: str) -> str:
    """Return ``mqtt-server`` as a URL: without a scheme it means TLS."""
    return server if "://" in server else "tls://" + server


def _url_reason(url: str, schemes: frozenset[str]) -> str | None:
    if any(c <= " " or c == "\x7f" for c in url):
        return "is not a usable URL: it contains a space or a control character"
    try:
        parts = urlsplit(url)
        _ = parts.port  # reading the port checks it
    except ValueError as error:
        return f"is not a usable URL: {error}"
    if parts.scheme.lower() not in schemes:
        return f"must be a URL with one of the schemes {', '.join(sorted(schemes))}"
    return None if parts.hostname else "must name a host"


def _mqtt(settings: Settings) -> Iterator[Violation]:
    condition = " unless disable-mqtt is true"
    names = ("mqtt-signing-key-file", "mqtt-client-key-file", "mqtt-client-cert-file", "mqtt-server")
    yield from _needed(settings, names, condition)
    if settings.mqtt_server and (reason := _url_reason(server_url(settings.mqtt_server), MQTT_SCHEMES)):
        yield "mqtt-server", reason
    if settings.mqtt_keepalive == 0:
        yield "mqtt-keepalive", f"must not be 0{condition}"


def _http(settings: Settings) -> Iterator[Violation]:
    names = ("http-signing-key-file", "http-client-key-file", "http-client-cert-file", "http-url")
    yield from _needed(settings, names, " unless disable-histogram-sender is true")
    if settings.http_url and (reason := _url_reason(settings.http_url, frozenset(("http", "https")))):
        yield "http-url", reason


def _observation(settings: Settings) -> Iterator[Violation]:
    pair = ("metrics-tls-cert-file", "metrics-tls-key-file")
    if settings.metrics_tls_cert_file or settings.metrics_tls_key_file or settings.metrics_tls_client_ca_file:
        yield from _needed(settings, pair, " with the other settings of metrics-tls")
    known = settings.metrics_tls_client_ca_file or settings.metrics_token_file
    if _is_open(settings.metrics_address) and not (settings.metrics_tls_cert_file and known):
        yield (
            "metrics-address",
            "others than this machine could read it: listen on 127.0.0.1, or set metrics-tls-cert-file, "
            "metrics-tls-key-file, and one of metrics-token-file and metrics-tls-client-ca-file",
        )
    if _is_open(settings.debug_address):
        yield "debug-address", "others than this machine could read it: listen on 127.0.0.1"


def _is_open(address: str) -> bool:
    try:
        return bool(address) and not is_loopback(parse_address(address).host)
    except ValueError:
        return False  # said by the check of the value


def violations(settings: Settings, purpose: Purpose) -> Iterator[Violation]:
    """Yield every rule that ``settings`` break for ``purpose``, as key and reason; secrets are not quoted."""
    for key in KEYS.values():
        if reason := key.range_reason(getattr(settings, key.attribute)):
            yield key.name, f"{reason} (found {getattr(settings, key.attribute)})"
    yield from _needed(
        settings, ("cryptopan-key", "cryptopan-key-salt", "well-known-domains-file", "data-dir")
    )
    if 0 < len(given_bytes(settings.cryptopan_key_salt)) < SALT_MIN:
        yield "cryptopan-key-salt", f"must be at least {SALT_MIN} bytes long"
    if settings.block_size < settings.max_frame_size + FRAME_HEADER:
        yield "block-size", f"must be at least max-frame-size + {FRAME_HEADER}"
    if purpose == "minimise":
        return
    yield from _input(settings)
    yield from _observation(settings)
    if not settings.disable_mqtt:
        yield from _mqtt(settings)
    if not settings.disable_histogram_sender:
        yield from _http(settings)


def _guessable(settings: Settings) -> Iterator[str]:
    """Yield why the secret does not hide addresses; the secret is not quoted."""
    secret = settings.cryptopan_key
    if secret.strip("<>[]{}$ ").lower().replace("-", "").replace("_", "") in PLACEHOLDERS:
        yield "cryptopan-key is a placeholder from an example: whoever guesses it can undo all pseudonyms"
    elif 0 < len(given_bytes(secret)) < SECRET_MIN or len(set(secret)) < SECRET_DIFFERENT <= len(secret):
        yield (
            f"cryptopan-key is easy to guess, and whoever guesses it can undo all pseudonyms: at least {SECRET_MIN} "
            'bytes at random are safe, as "edm init" makes them'
        )


def warnings(settings: Settings) -> Iterator[str]:
    """Yield a line for each thing about ``settings`` that is unusual but no reason to refuse them."""
    yield from _guessable(settings)
    for name in ("debug-enable-blockprofiling", "debug-enable-mutexprofiling"):
        if getattr(settings, KEYS[name].attribute):
            yield f"{name} is accepted for compatibility but has no effect; profiles are at debug-address"
    if settings.debug_dnstap_filename:
        yield "debug-dnstap-filename is set: the file will hold the true addresses of clients"
    if not settings.disable_mqtt and "@" in _authority(settings.mqtt_server):
        yield "mqtt-server holds a user or password, which is not used: the client certificate tells who we are"


def _authority(server: str) -> str:
    try:
        return urlsplit(server_url(server)).netloc
    except ValueError:
        return ""


__all__ = ["INPUTS", "MQTT_SCHEMES", "Purpose", "Violation", "server_url", "violations", "warnings"]
