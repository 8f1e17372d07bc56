"""The declaration of the keys: every key of the Go daemon is there, with its name and default."""

import dataclasses

import pytest

from edm.config.key import MASK, Key
from edm.config.schema import FLAG_KEYS, KEYS, Settings
from edm.config.values import given_bytes

# Name, default, whether SIGHUP applies it; as the Go daemon has them.
GO_KEYS = [
    ("cryptopan-key", "", True),
    ("cryptopan-key-salt", "edm-kdf-salt-val", True),
    ("well-known-domains-file", "well-known-domains.dawg", True),
    ("ignored-client-ips-file", "", True),
    ("ignored-question-names-file", "", True),
    ("data-dir", "/var/lib/dnstapir/edm", False),
    ("minimiser-workers", 1, False),
    ("input-unix", "", False),
    ("input-tcp", "", False),
    ("input-tls", "", False),
    ("input-tls-cert-file", "", True),
    ("input-tls-key-file", "", True),
    ("input-tls-client-ca-file", "", True),
    ("disable-session-files", False, True),
    ("disable-histogram-sender", False, True),
    ("disable-mqtt", False, False),
    ("disable-mqtt-filequeue", False, False),
    ("enable-manual-parquet-rotation", False, False),
    ("pebble-sync", False, True),
    ("mqtt-signing-key-file", "edm-mqtt-signer-key.pem", True),
    ("mqtt-client-key-file", "edm-mqtt-client-key.pem", True),
    ("mqtt-client-cert-file", "edm-mqtt-client.pem", True),
    ("mqtt-server", "127.0.0.1:8883", False),
    ("mqtt-ca-file", "", True),
    ("mqtt-keepalive", 30, False),
    ("mqtt-sign-workers", 0, False),
    ("qname-seen-entries", 10_000_000, False),
    ("cryptopan-address-entries", 10_000_000, False),
    ("newqname-buffer", 1000, False),
    ("histogram-hll-explicit-threshold", 20, False),
    ("http-ca-file", "", True),
    ("http-signing-key-file", "edm-http-signer-key.pem", True),
    ("http-client-key-file", "edm-http-client-key.pem", True),
    ("http-client-cert-file", "edm-http-client.pem", True),
    ("http-url", "https://127.0.0.1:8443", False),
    ("debug", False, False),
    ("debug-dnstap-filename", "", False),
    ("debug-enable-blockprofiling", False, False),
    ("debug-enable-mutexprofiling", False, False),
]


# The Go daemon reads these at its start only; here no renewal of anything needs a restart.
@pytest.mark.parametrize(("name", "default", "reloadable"), GO_KEYS)
def test_keys_of_the_go_daemon(name: str, default: object, reloadable: bool) -> None:
    key = KEYS[name]
    assert key.default == default
    assert type(key.default) is type(default)
    assert (key.reload != "restart") is reloadable


def test_reload_of_the_domain_list_waits_for_the_rotation() -> None:
    assert [k.name for k in KEYS.values() if k.reload == "rotation"] == ["well-known-domains-file"]


def test_only_one_key_has_no_flag() -> None:
    assert set(KEYS) - set(FLAG_KEYS) == {"mqtt-sign-workers"}


def test_names() -> None:
    key = KEYS["input-tls-client-ca-file"]
    assert key.attribute == "input_tls_client_ca_file"
    assert key.variable == "DNSTAPIR_EDM_INPUT_TLS_CLIENT_CA_FILE"
    assert key.flag == "--input-tls-client-ca-file"
    assert [f.name for f in dataclasses.fields(Settings)] == [k.attribute for k in KEYS.values()]


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)
def test_every_default_passes_its_own_checks(key: Key) -> None:
    assert key.accept(key.default) == key.default
    assert key.range_reason(key.default) is None
    assert key.parse(str(key.default).lower() if key.kind == "bool" else str(key.default)) == key.default
    assert key.help.endswith(".")


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    settings = Settings(cryptopan_key="Tr0ub4dor", cryptopan_key_salt="NaClNaCl")
    for text in (repr(settings), str(settings), f"{settings}"):
        assert "Tr0ub4dor" not in text
        assert "NaClNaCl" not in text
        assert f"cryptopan_key={MASK}" in text
        assert "mqtt_keepalive=30" in text


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().debug = True  # type: ignore[misc]


def test_zero_is_resolved() -> None:
    assert Settings(minimiser_workers=0).workers >= 1
    assert Settings(minimiser_workers=3).workers == 3
    assert Settings().sign_workers >= 1
    assert Settings(mqtt_sign_workers=2).sign_workers == 2
    assert Settings().seen_store_entries == 100_000_000
    assert Settings(qname_seen_store_entries=5).seen_store_entries == 5


def test_secrets_as_bytes() -> None:
    settings = Settings(
        cryptopan_key="nyckel-å", cryptopan_key_salt=b"\xff12345678".decode("utf-8", "surrogateescape")
    )
    assert given_bytes(settings.cryptopan_key) == "nyckel-å".encode()
    assert given_bytes(settings.cryptopan_key_salt) == b"\xff12345678"
