"""Loading: precedence, origins, and all violations reported together."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edm.config import KEYS, Config, diff, load
from edm.config.key import Key
from edm.config.schema import FLAG_KEYS
from edm.config.text import toml_value
from edm.config.values import given_bytes
from edm.errors import ConfigError

BASE = {
    "cryptopan-key": "not to be guessed",
    "input-unix": "/run/edm.sock",
    "disable-mqtt": True,
    "disable-histogram-sender": True,
}


def write(folder: Path, *, base: bool = True, raw: str = "", **values: object) -> Path:
    content = (BASE if base else {}) | {name.replace("_", "-"): value for name, value in values.items()}
    path = folder / "edm.toml"
    path.write_text("".join(f"{k} = {toml_value(v)}\n" for k, v in content.items()) + raw)
    path.chmod(0o600)
    return path


def violations(
    path: Path | None, flags: dict[str, str] | None = None, environ: dict[str, str] | None = None, **how
):
    with pytest.raises(ConfigError) as caught:
        load(path, flags or {}, environ or {}, **how)
    return [line.replace(f"{path}:", "FILE:") for line in caught.value.violations]


def test_a_small_file_is_enough(tmp_path: Path) -> None:
    cfg = load(write(tmp_path), {}, {})
    assert cfg.cryptopan_key == "not to be guessed"
    assert cfg.cryptopan_key_salt == "edm-kdf-salt-val"
    assert cfg.mqtt_keepalive == 30
    assert cfg.disable_mqtt is True
    assert cfg.origins["cryptopan-key"] == f"file {tmp_path}/edm.toml:1"
    assert cfg.origins["disable-histogram-sender"] == f"file {tmp_path}/edm.toml:4"
    assert cfg.origins["data-dir"] == "default"
    assert cfg.warnings == ()
    assert cfg.path == tmp_path / "edm.toml"
    assert set(cfg.origins) == set(KEYS)


def test_the_configuration_is_frozen(tmp_path: Path) -> None:
    cfg = load(write(tmp_path), {}, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.debug = True  # type: ignore[misc]
    with pytest.raises(TypeError):
        cfg.origins["debug"] = "flag"  # type: ignore[index]


def _values(key: Key) -> st.SearchStrategy[object]:
    if key.kind == "bool":
        return st.booleans()
    if key.name == "block-size":
        return st.integers(20 << 20, 30 << 20)
    if key.kind in ("int", "uint16"):
        low = max(key.minimum or 0, 1) if key.name != "mqtt-qos" else 0
        return st.integers(low, key.maximum or 1 << 40) if key.kind == "int" else st.integers(1, 65535)
    if key.choices:
        return st.sampled_from(key.choices)
    if key.check:
        samples = {
            "input-unix-mode": ["0660", "600"],
            "input-unix-owner": ["a:b", ":c"],
            "http-names": ["metrics.example", "a, b.example.net.,*"],
            "input-message-types": ["CLIENT_RESPONSE", "AUTH_RESPONSE, RESOLVER_RESPONSE"],
        }
        return st.sampled_from(samples.get(key.name, ["127.0.0.1:1", "[::1]:2"]))
    if key.name == "mqtt-server":
        return st.sampled_from(["h:1", "wss://h/x"])
    if key.name == "http-url":
        return st.sampled_from(["https://a", "http://b:1/c"])
    return st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=8)


@st.composite
def _scenes(draw: st.DrawFn) -> dict[str, dict[str, object]]:
    """For every key and source a value or none; the inputs are left to the file."""
    scene: dict[str, dict[str, object]] = {"file": dict(BASE), "environment": {}, "flag": {}}
    for key in FLAG_KEYS.values():
        if key.name in ("input-unix", "input-tcp", "input-tls"):
            continue
        for source in scene:
            if draw(st.integers(0, 3)) == 0:
                scene[source][key.name] = draw(_values(key))
    # Whatever was drawn for the two, the file's block is large enough for the frame.
    scene["file"]["block-size"] = 20 << 20
    for name in ("metrics-tls-cert-file", "metrics-tls-key-file"):  # one alone is an error
        scene["file"].setdefault(name, "tls.pem")
    return scene


@settings(max_examples=40)
@given(_scenes())
def test_flag_before_environment_before_file_before_default(
    tmp_path_factory: pytest.TempPathFactory, scene: dict[str, dict[str, object]]
) -> None:
    path = tmp_path_factory.mktemp("c") / "edm.toml"
    path.write_text("".join(f"{k} = {toml_value(v)}\n" for k, v in scene["file"].items()))
    texts = {
        source: {name: str(v).lower() if isinstance(v, bool) else str(v) for name, v in scene[source].items()}
        for source in ("environment", "flag")
    }
    cfg = load(path, texts["flag"], {KEYS[n].variable: v for n, v in texts["environment"].items()})
    lines = {name: i for i, name in enumerate(scene["file"], 1)}
    for key in KEYS.values():
        value, origin = key.default, "default"
        for source in ("file", "environment", "flag"):
            if key.name in scene[source]:
                value = scene[source][key.name]
                origin = f"file {path}:{lines[key.name]}" if source == "file" else source
        assert getattr(cfg, key.attribute) == value
        assert type(getattr(cfg, key.attribute)) is type(key.default)
        assert cfg.origins[key.name] == origin


def test_everything_wrong_is_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        base=False,
        raw="crypopan-key = 's3cr3t-value'\nminimiser-workers = '4'\nDEBUG = 1\nmqtt-keepalive = 70000\n"
        "pebble-sync = 1.5\ninput-tcp = 'nowhere'\n[mqtt]\nserver = 'x'\n",
    )
    assert violations(
        path,
        {"newqname-buffer": "-1", "log-format": "xml", "no-such": "1", "mqtt-sign-workers": "1"},
        {
            "DNSTAPIR_EDM_DISABLE_MQTT": "",
            "DNSTAPIR_EDM_QNAME_SEEN_ENTRIES": "08",
            "DNSTAPIR_EDM_DATA_DIR": "",
        },
    ) == [
        "FILE:1: unknown key crypopan-key (did you mean cryptopan-key?)",
        "FILE:2: minimiser-workers: must be an integer, not a string",
        "FILE:3: debug: must be a boolean, not an integer",
        "FILE:4: mqtt-keepalive: must be between 0 and 65535 (found 70000)",
        "FILE:5: pebble-sync: must be a boolean, not a float",
        "FILE:6: input-tcp: must be HOST:PORT, the port is missing (found 'nowhere')",
        "FILE:7: unknown table mqtt",
        "DNSTAPIR_EDM_DISABLE_MQTT: must be a boolean (true or false) (found '')",
        "DNSTAPIR_EDM_QNAME_SEEN_ENTRIES: must be an integer (found '08')",
        "--log-format: must be one of auto, json, text (found 'xml')",
        "unknown flag --no-such",
        "unknown flag --mqtt-sign-workers",
        "--newqname-buffer: must be at least 0 (found -1)",
        "cryptopan-key: must not be empty",
        "DNSTAPIR_EDM_DATA_DIR: must not be empty",
    ]


def test_rules_of_the_daemon(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        base=False,
        cryptopan_key_salt="",
        well_known_domains_file="",
        data_dir="",
        input_tls="127.0.0.1:1",
        input_unix="x",
        histogram_hll_explicit_threshold=0,
        cryptopan_address_entries=-1,
        mqtt_signing_key_file="",
        mqtt_client_key_file="",
        mqtt_client_cert_file="",
        mqtt_server="",
        mqtt_keepalive=0,
        http_signing_key_file="",
        http_client_key_file="",
        http_client_cert_file="",
        http_url="",
    )
    lines = {k: i for i, k in enumerate(line.split(" ")[0] for line in ["", *path.read_text().splitlines()])}
    found = violations(path)

    def empty(name: str, condition: str = "") -> str:
        return f"FILE:{lines[name]}: {name}: must not be empty{condition}"

    mqtt, http = " unless disable-mqtt is true", " unless disable-histogram-sender is true"
    assert found == [
        "FILE:7: cryptopan-address-entries: must be at least 0 (found -1)",
        "FILE:6: histogram-hll-explicit-threshold: must be between 1 and 131072 (found 0)",
        "cryptopan-key: must not be empty",
        empty("cryptopan-key-salt"),
        empty("well-known-domains-file"),
        empty("data-dir"),
        "FILE:4: input-tls: exactly one of input-unix, input-tcp, input-tls must be set, "
        "input-unix is set as well",
        "input-tls-cert-file: must not be empty with input-tls",
        "input-tls-key-file: must not be empty with input-tls",
        *(
            empty(f"mqtt-{name}", mqtt)
            for name in ("signing-key-file", "client-key-file", "client-cert-file", "server")
        ),
        f"FILE:{lines['mqtt-keepalive']}: mqtt-keepalive: must not be 0{mqtt}",
        *(
            empty(f"http-{name}", http)
            for name in ("signing-key-file", "client-key-file", "client-cert-file", "url")
        ),
    ]


def test_switched_off_core_needs_nothing(tmp_path: Path) -> None:
    load(
        write(
            tmp_path,
            mqtt_server="",
            mqtt_keepalive=0,
            mqtt_client_key_file="",
            http_url="",
            http_client_key_file="",
        ),
        {},
        {},
    )


def test_no_input(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert violations(path, {"input-unix": ""}) == [
        "--input-unix: exactly one of input-unix, input-tcp, input-tls must be set, none is"
    ]


@pytest.mark.parametrize("salt", ["1234567", "åäö1"])
def test_short_salts(tmp_path: Path, salt: str) -> None:
    (line,) = violations(write(tmp_path, cryptopan_key_salt=salt))
    assert line == "FILE:5: cryptopan-key-salt: must be at least 8 bytes long"


def test_salt_length_counts_bytes(tmp_path: Path) -> None:
    assert (
        given_bytes(load(write(tmp_path, cryptopan_key_salt="åäöå"), {}, {}).cryptopan_key_salt)
        == "åäöå".encode()
    )


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ("ftp://h:1", "must be a URL with one of the schemes"),
        ("tls://", "must name a host"),
        ("h:port", "is not a usable URL"),
        ("h 1:2", "is not a usable URL"),
    ],
)
def test_broker_addresses(tmp_path: Path, server: str, reason: str) -> None:
    (line,) = violations(write(tmp_path, disable_mqtt=False, mqtt_server=server))
    assert line.startswith("FILE:")
    assert f"mqtt-server: {reason}" in line


@pytest.mark.parametrize(
    "server", ["127.0.0.1:8883", "h", "TCP://h:1", "mqtt+ssl://[::1]:8883", "wss://h/path"]
)
def test_good_broker_addresses(tmp_path: Path, server: str) -> None:
    assert load(write(tmp_path, disable_mqtt=False, mqtt_server=server), {}, {}).mqtt_server == server


@pytest.mark.parametrize("url", ["127.0.0.1:8443", "https://", "ftp://h", "https://h:99999"])
def test_bad_upload_urls(tmp_path: Path, url: str) -> None:
    (line,) = violations(write(tmp_path, disable_histogram_sender=False, http_url=url))
    assert "http-url: " in line


def test_own_keys_are_checked(tmp_path: Path) -> None:
    assert violations(
        write(
            tmp_path,
            max_frame_size=1023,
            mqtt_qos=2,
            input_unix_mode="999",
            input_unix_owner=":",
            metrics_address="x",
        )
    ) == [
        "FILE:7: input-unix-mode: must be a file mode in octal digits, such as \"0660\" (found '999')",
        "FILE:8: input-unix-owner: must be USER:GROUP, USER or :GROUP (found ':')",
        "FILE:9: metrics-address: must be HOST:PORT, the port is missing (found 'x')",
        "FILE:5: max-frame-size: must be between 1024 and 16777216 (found 1023)",
        "FILE:6: mqtt-qos: must be between 0 and 1 (found 2)",
    ]
    assert violations(write(tmp_path, max_frame_size=1 << 20)) == [
        "block-size: must be at least max-frame-size + 4"
    ]
    cfg = load(write(tmp_path, metrics_address="", debug_address="", max_frame_size=1024), {}, {})
    assert (cfg.metrics_address, cfg.debug_address, cfg.max_frame_size) == ("", "", 1024)


def test_an_unusable_file_does_not_hide_bad_flags_nor_invent_violations(tmp_path: Path) -> None:
    path = write(tmp_path, raw="a = [")
    found = violations(path, {"minimiser-workers": "x"}, {"DNSTAPIR_EDM_DEBUG": "maybe"})
    assert [line.split(": ")[0] for line in found] == ["FILE:5", "DNSTAPIR_EDM_DEBUG", "--minimiser-workers"]
    missing = tmp_path / "missing.toml"
    assert violations(missing) == [f"configuration file {missing} does not exist"]


def test_the_default_file(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert violations(None, environ=home) == [
        f"configuration file {tmp_path}/.dnstapir-edm.toml does not exist"
    ]
    write(tmp_path).rename(tmp_path / ".dnstapir-edm.toml")
    assert load(None, {}, home).path == tmp_path / ".dnstapir-edm.toml"
    assert "HOME is not set" in violations(None)[0]


def test_keys_in_any_case_and_config_file(tmp_path: Path) -> None:
    cfg = load(
        write(tmp_path, raw="Config-File = 'other.toml'\nMQTT-Sign-WORKERS = 3\nDebug = true\n"), {}, {}
    )
    assert (cfg.mqtt_sign_workers, cfg.debug) == (3, True)


def test_odd_names_of_keys_stay_one_line(tmp_path: Path) -> None:
    raw = f'"a\\nb" = 1\n{"x" * 5000} = 2\n'
    assert violations(write(tmp_path, raw=raw)) == [
        "FILE:5: unknown key a\\nb",
        f"FILE:6: unknown key {'x' * 57}...",
    ]


def test_values_out_of_any_range(tmp_path: Path) -> None:
    assert violations(write(tmp_path, raw="newqname-buffer = 9223372036854775808\n")) == [
        "FILE:5: newqname-buffer: must fit into 64 bits (found 9223372036854775808)"
    ]
    assert violations(write(tmp_path, data_dir="a\0b")) == [
        "FILE:5: data-dir: must not contain a NUL character (found 'a\\x00b')"
    ]


def test_empty_variables_count_as_set(tmp_path: Path) -> None:
    cfg = load(write(tmp_path, ignored_client_ips_file="x"), {}, {"DNSTAPIR_EDM_IGNORED_CLIENT_IPS_FILE": ""})
    assert cfg.ignored_client_ips_file == ""
    assert cfg.origins["ignored-client-ips-file"] == "environment"


def test_a_bad_variable_is_fatal_even_if_a_flag_wins(tmp_path: Path) -> None:
    found = violations(write(tmp_path), {"debug": "true"}, {"DNSTAPIR_EDM_DEBUG": "yes"})
    assert found == ["DNSTAPIR_EDM_DEBUG: must be a boolean (true or false) (found 'yes')"]


def test_warnings(tmp_path: Path) -> None:
    path = write(tmp_path, debug_enable_blockprofiling=True)
    cfg = load(
        path,
        {"debug-enable-mutexprofiling": "1", "cryptopan-key-salt": "saltsaltsalt"},
        {
            "DNSTAPIR_EDM_DATADIR": "s3cr3t",
            "DNSTAPIR_EDM_CONFIG_FILE": "x",
            "DNSTAPIR_EDM_MQTT_SIGN_WORKERS": "1",
            "OTHER": "1",
        },
    )
    starts = [
        "DNSTAPIR_EDM_CONFIG_FILE has no effect: give the file with --config-file",
        "DNSTAPIR_EDM_DATADIR is no known setting and has no effect (did you mean DNSTAPIR_EDM_DATA_DIR?)",
        "DNSTAPIR_EDM_MQTT_SIGN_WORKERS is no known setting",
        "--cryptopan-key-salt on the command line can be read by every user",
        "debug-enable-blockprofiling is accepted",
        "debug-enable-mutexprofiling is accepted",
    ]
    assert len(cfg.warnings) == len(starts)
    for warning, start in zip(cfg.warnings, starts, strict=True):
        assert warning.startswith(start)
    path.chmod(0o644)
    assert any("can be read by every user" in w for w in load(path, {}, {}).warnings)
    assert "the true addresses" in load(write(tmp_path, debug_dnstap_filename="d.json"), {}, {}).warnings[0]


def test_a_user_in_the_url_of_the_broker_is_warned_about_and_not_shown(tmp_path: Path) -> None:
    path = write(tmp_path, disable_mqtt=False, mqtt_server="tls://me:hidden@broker:8883")
    (line,) = load(path, {}, {}).warnings
    assert line.startswith("mqtt-server holds a user or password, which is not used")
    assert "hidden" not in line


def test_minimising_files_needs_neither_input_nor_core(tmp_path: Path) -> None:
    path = write(tmp_path, base=False, cryptopan_key="k", http_url="", mqtt_server="", mqtt_keepalive=0)
    cfg = load(path, {}, {}, purpose="minimise")
    assert cfg.cryptopan_key == "k"
    assert len(violations(path)) == 4
    assert violations(path, {"cryptopan-key": ""}, purpose="minimise") == [
        "--cryptopan-key: must not be empty"
    ]


def test_minimising_files_needs_no_default_file(tmp_path: Path) -> None:
    flags = {"cryptopan-key": "k"}
    for environ in ({}, {"HOME": str(tmp_path)}):
        assert load(None, flags, environ, purpose="minimise").path is None
    write(tmp_path, debug=True).rename(tmp_path / ".dnstapir-edm.toml")
    assert load(None, flags, {"HOME": str(tmp_path)}, purpose="minimise").debug is True
    assert violations(tmp_path / "none", flags, purpose="minimise") == [
        f"configuration file {tmp_path}/none does not exist"
    ]


def test_diff(tmp_path: Path) -> None:
    old = load(write(tmp_path), {}, {})
    assert diff(old, old) == ((), ())
    new = load(
        write(tmp_path, data_dir="d", well_known_domains_file="w", pebble_sync=True, minimiser_workers=2),
        {"cryptopan-key": "other"},
        {},
    )
    changes = diff(old, new)
    assert changes.reloadable == ("cryptopan-key", "well-known-domains-file", "pebble-sync")
    assert changes.restart == ("minimiser-workers", "data-dir")
    assert old != new


SECRET = "Tr0ub4dor&3"


def test_secrets_never_show(tmp_path: Path) -> None:
    cfg = load(write(tmp_path, cryptopan_key=SECRET), {}, {"DNSTAPIR_EDM_CRYPTOPAN_KEY_SALT": SECRET})
    assert isinstance(cfg, Config)
    assert cfg.cryptopan_key == SECRET
    for text in (repr(cfg), str(cfg), f"{cfg}", repr(cfg.shown()), repr(cfg.warnings), repr(cfg.origins)):
        assert SECRET not in text


def test_secrets_never_show_in_errors(tmp_path: Path) -> None:
    for raw in (
        f"cryptopan-key = ['{SECRET}']\n",
        f"cryptopan-kee = '{SECRET}'\n",
        f"cryptopan-key = '{SECRET}\n",
        f"cryptopan-key = '{SECRET}'\ncryptopan-key = '{SECRET}'\n",
        f"cryptopan-key = {SECRET}\n",
        f"cryptopan-key = '{SECRET}'\ncryptopan-key-salt = '{SECRET[:7]}'\n",
    ):
        path = write(tmp_path, base=False, raw=raw)
        assert SECRET[:7] not in " ".join(violations(path))


@pytest.mark.parametrize(
    "secret",
    ["mysecret", "key1", "<secret>", "CHANGE-ME", "your_secret_here", "short", "å" * 4, "a" * 40, "abc" * 6],
)
def test_a_secret_that_is_easy_to_guess_is_warned_about(tmp_path: Path, secret: str) -> None:
    (warning,) = load(write(tmp_path, cryptopan_key=secret), {}, {}).warnings
    assert "whoever guesses it can undo all pseudonyms" in warning
    assert secret not in warning


@pytest.mark.parametrize("secret", ["sixteen letters!", "0123456789abcdef", "mysecret but with much more"])
def test_other_secrets_are_not_warned_about(tmp_path: Path, secret: str) -> None:
    assert load(write(tmp_path, cryptopan_key=secret), {}, {}).warnings == ()
