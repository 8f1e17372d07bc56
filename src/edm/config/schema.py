"""The one declaration of every configuration key.

:class:`Settings` declares each key once, as a typed attribute. From it come the TOML schema, the command line
flags, the names in the environment, the defaults, the help texts, the marks of reloadable keys, the checks on single
values, and the table in ``docs/configuration.md``. Rules that concern several keys are in
:mod:`edm.config.validate`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from edm.config import groups as group
from edm.config.address import parse_address
from edm.config.cpus import usable_cpus
from edm.config.key import Key
from edm.config.message_types import parse_message_types
from edm.config.values import parse_mode, parse_names, parse_owner
from edm.files.reading import LIST_FILE_BYTES

SALT_MIN = 8
"""Shortest salt in bytes that Argon2 allows (RFC 9106, 3.1)."""
SEEN_STORE_DEFAULT = 100_000_000
"""Bound on the stored names when ``qname-seen-store-entries`` is 0."""

_KIB = 1 << 10
_MIB = 1 << 20


@cache
def _cpus() -> int:
    return usable_cpus()  # once: the answer may change while a process runs, but not how many workers it has


@dataclasses.dataclass(frozen=True, repr=False)
class Settings:
    """The value of every key. Attributes are named like the keys, with ``_`` for ``-``."""

    cryptopan_key: str = group.privacy(
        "",
        "Secret from which the key of the address pseudonyms (Crypto-PAn) is derived. Better in the file or "
        "the environment than on the command line, which every user of the machine can read.",
        secret=True,
        reload="reload",
    )
    cryptopan_key_salt: str = group.privacy(
        "edm-kdf-salt-val",
        f"Salt for deriving that key, at least {SALT_MIN} bytes.",
        secret=True,
        reload="reload",
    )
    cryptopan_address_entries: int = group.privacy(
        10_000_000,
        "Addresses whose pseudonym each worker remembers at most; 0 remembers none. See cryptopan-cache-bytes.",
        minimum=0,
    )
    cryptopan_cache_bytes: int = group.privacy(
        160 * _MIB,
        "Memory that each worker may use for remembered pseudonyms, even if more entries are allowed. The default is "
        "enough for 1.5 million IPv6 and 3.1 million IPv4 addresses; half of it is enough for half as many.",
        unit="bytes",
        minimum=64 * _KIB,
    )

    well_known_domains_file: str = group.lists(
        "well-known-domains.dawg",
        "DAWG file (a word graph, made by edm dawg) of the well-known domains, whose queries are only counted in "
        "histograms.",
        reload="rotation",
    )
    ignored_client_ips_file: str = group.lists(
        "",
        "File of address prefixes, one a line, of clients whose queries are ignored; empty for none.",
        reload="reload",
    )
    ignored_question_names_file: str = group.lists(
        "", "DAWG file of the question names that are ignored; empty for none.", reload="reload"
    )
    reload_at_once: bool = group.lists(
        False,
        "Reload every change at once. Otherwise, after three changes within seconds, a new key waits up to 10 seconds, "
        "a domain list up to 200 times as long as loading it takes, and reloads in quick succession become one.",
        reload="reload",
    )
    list_file_bytes: int = group.lists(
        LIST_FILE_BYTES,
        "Largest list file that is read; a larger one is an error.",
        unit="bytes",
        minimum=_KIB,
        maximum=0xFFFFFFFF,
        reload="reload",
    )

    input_unix: str = group.input("", "Path of the Unix socket on which dnstap is received.")
    input_tcp: str = group.input("", "HOST:PORT on which dnstap is received over TCP.", check=parse_address)
    input_tls: str = group.input(
        "", "HOST:PORT on which dnstap is received over TLS 1.3.", check=parse_address
    )
    input_tls_cert_file: str = group.input("", "Certificate (PEM) of the TLS input.", reload="reload")
    input_tls_key_file: str = group.input("", "Private key (PEM) of the TLS input.", reload="reload")
    input_tls_client_ca_file: str = group.input(
        "",
        "Authorities (PEM) that must have signed the senders' certificates; empty demands none.",
        reload="reload",
    )
    input_unix_mode: str = group.input(
        "",
        'File mode of the Unix socket in octal digits, such as "0660"; empty is 0660 less the umask.',
        check=parse_mode,
    )
    input_unix_owner: str = group.input(
        "",
        "Owner of the Unix socket as USER:GROUP, USER or :GROUP; empty leaves it unchanged.",
        check=parse_owner,
    )
    input_max_connections: int = group.input(
        1024,
        "Most connections at the same time. One more replaces the connection that has been in its handshake for the "
        "longest time; if there is none, the new one is closed at once.",
        minimum=1,
        maximum=65536,
    )
    input_handshake_timeout: int = group.input(
        5,
        "Longest wait for each read and write of a connection's handshake, for the whole TLS handshake, and for "
        "writing FINISH.",
        unit="seconds",
        minimum=1,
        maximum=3600,
    )
    input_handshake_deadline: int = group.input(
        30,
        "Longest time for a connection's handshake as a whole.",
        unit="seconds",
        minimum=1,
        maximum=3600,
    )
    input_idle_timeout: int = group.input(
        0,
        "How long a sender may be silent after its handshake before its connection is closed; 0 is without limit.",
        unit="seconds",
        minimum=0,
        maximum=604_800,
    )
    input_linger: int = group.input(
        30,
        "How long the frames of a light sender are collected before they are processed; with more than 8 "
        "connections, longer in proportion, up to 250.",
        unit="milliseconds",
        minimum=0,
        maximum=10_000,
    )
    input_message_types: str = group.input(
        "",
        "Types of answers that are taken, separated by commas, such as CLIENT_RESPONSE; others are dropped and "
        "counted. Empty takes all, as the Go daemon does.",
        check=parse_message_types,
    )
    max_frame_size: int = group.input(
        262_144,
        "Largest dnstap frame accepted; larger ones are skipped and counted.",
        unit="bytes",
        minimum=_KIB,
        maximum=16 * _MIB,
    )

    minimiser_workers: int = group.work(
        1,
        "Worker threads; 0 is one for each CPU that system and control group allow.",
        minimum=0,
        maximum=1024,
    )
    block_size: int = group.work(
        _MIB,
        "Size of the buffers that connections are read into.",
        unit="bytes",
        minimum=64 * _KIB,
        maximum=256 * _MIB,
    )
    qname_seen_entries: int = group.work(
        10_000_000,
        "Accepted for compatibility; has no effect, since all names are recognised in memory.",
        minimum=1,
    )
    qname_seen_store_entries: int = group.work(
        0,
        f"Most seen names kept on disk; 0 is the built-in limit, {SEEN_STORE_DEFAULT}. At the limit a new generation "
        "begins, and the full one is kept beside it, at 10.7 bytes of memory for each name.",
        minimum=0,
    )
    newqname_buffer: int = group.work(
        1000,
        "Most new names that wait in memory for the queue, at least 262144; further ones are discarded and counted.",
        minimum=0,
    )
    histogram_hll_explicit_threshold: int = group.work(
        20,
        "Number of clients of a name up to which they are counted exactly (explicit form of the HyperLogLog sketch).",
        minimum=1,
        maximum=131_072,
    )
    histogram_pending_bytes: int = group.work(
        256 * _MIB,
        "Memory for the histograms of intervals that could not be written to disk.",
        unit="bytes",
        minimum=0,
    )

    data_dir: str = group.output("/var/lib/dnstapir/edm", "Directory for everything that is stored.")
    allow_shared_folders: bool = group.output(
        False,
        "Use a data directory, or a folder of the Unix socket, that every user of the machine can write to.",
    )
    disk_budget_bytes: int = group.output(
        0,
        "Limit for all data stored below data-dir. When it is reached, the oldest session files are removed first. "
        "0 is no limit.",
        unit="bytes",
        minimum=0,
        reload="reload",
    )
    disk_min_free_bytes: int = group.output(
        128 * _MIB,
        "Free space to keep on the file systems of data-dir. Below it the oldest session files are removed, below "
        "half of it other data as well. 0 is none.",
        unit="bytes",
        minimum=0,
        reload="reload",
    )
    disable_session_files: bool = group.output(
        False, "Do not write session files (names that are not well known).", reload="reload"
    )
    new_qname_file: bool = group.output(
        False, "Write a file of new names for each interval (JSON, one a line)."
    )
    enable_manual_parquet_rotation: bool = group.output(
        False, "Offer POST /debug/rotate-parquet at the metrics address, which writes the files at once."
    )
    pebble_sync: bool = group.output(
        False,
        "Make each batch of seen names safe against a power cut (fsync) before going on.",
        reload="reload",
    )

    disable_mqtt: bool = group.mqtt(False, "Do not send new names.")
    disable_mqtt_filequeue: bool = group.mqtt(False, "Do not keep unsent new names on disk.")
    mqtt_signing_key_file: str = group.mqtt(
        "edm-mqtt-signer-key.pem",
        "Private key (JWK) that signs new names; its key ID names this site.",
        reload="reload",
    )
    mqtt_client_key_file: str = group.mqtt(
        "edm-mqtt-client-key.pem", "Private key (PEM) of the client certificate.", reload="reload"
    )
    mqtt_client_cert_file: str = group.mqtt(
        "edm-mqtt-client.pem", "Client certificate (PEM) for the connection to the broker.", reload="reload"
    )
    mqtt_server: str = group.mqtt(
        "127.0.0.1:8883",
        "The broker: HOST:PORT (TLS) or an URL such as tls://HOST:PORT. Without PORT it is 8883, without TLS 1883.",
    )
    mqtt_ca_file: str = group.mqtt(
        "", "Authorities (PEM) trusted for the broker; empty trusts the system's.", reload="reload"
    )
    mqtt_keepalive: int = group.mqtt(
        30, "Keep-alive interval of the connection.", unit="seconds", kind="uint16"
    )
    mqtt_sign_workers: int = group.mqtt(
        0, "Threads that sign new names; 0 is one for each CPU.", minimum=0, maximum=1024, toml_only=True
    )
    mqtt_qos: int = group.mqtt(
        0,
        "Quality of service of the messages: 0 or 1. At 0, EDM cannot see whether the broker refuses a message.",
        minimum=0,
        maximum=1,
    )
    mqtt_queue_bytes: int = group.mqtt(
        1024 * _MIB,
        "Disk space for unsent new names; when it is full the oldest are dropped and counted.",
        unit="bytes",
        minimum=64 * _KIB,
    )

    disable_histogram_sender: bool = group.http(
        False, "Do not upload histogram files; they stay in the outbox.", reload="reload"
    )
    http_url: str = group.http("https://127.0.0.1:8443", "Base URL of the service that takes the histograms.")
    http_signing_key_file: str = group.http(
        "edm-http-signer-key.pem", "Private key (JWK, Ed25519) that signs uploads.", reload="reload"
    )
    http_client_key_file: str = group.http(
        "edm-http-client-key.pem", "Private key (PEM) of the client certificate.", reload="reload"
    )
    http_client_cert_file: str = group.http(
        "edm-http-client.pem", "Client certificate (PEM) for uploads.", reload="reload"
    )
    http_ca_file: str = group.http(
        "", "Authorities (PEM) trusted for the service; empty trusts the system's.", reload="reload"
    )
    http_retry_limit: int = group.http(
        10, "Tries before a file that the service refuses because of its content is set aside.", minimum=1
    )
    shutdown_upload_grace: int = group.http(
        5,
        "Time at shutdown for uploading the files in the outbox; 0 does not try.",
        unit="seconds",
        minimum=0,
        maximum=3600,
    )

    metrics_address: str = group.observe(
        "127.0.0.1:2112", "HOST:PORT of the metrics; empty switches them off.", check=parse_address
    )
    metrics_tls_cert_file: str = group.observe(
        "",
        "Certificate (PEM) with which the metrics address is served over TLS 1.3. Needed, as is one of the two ways to "
        "tell who asks, for an address that is not on loopback.",
    )
    metrics_tls_key_file: str = group.observe("", "Private key (PEM) of that certificate.")
    metrics_tls_client_ca_file: str = group.observe(
        "", "Authorities (PEM); who asks must show a client certificate from one of them."
    )
    metrics_token_file: str = group.observe(
        "",
        "File with a bearer token of at least 16 characters, which who asks must send, except for /livez and /readyz.",
    )
    debug_address: str = group.observe(
        "127.0.0.1:6060",
        "HOST:PORT of the profiles, on loopback; empty switches them off.",
        check=parse_address,
    )
    http_names: str = group.observe(
        "",
        "Host names, separated by commas, that requests for metrics and profiles may use besides IP addresses, "
        "localhost, the name of this machine, and the one in metrics-address or debug-address; * allows any.",
        check=parse_names,
    )
    control_socket: bool = group.observe(
        True, "Answer edm explain and edm reload --preview over a Unix socket in the data directory."
    )
    log_format: str = group.observe(
        "auto",
        "Form of log lines; auto is text on a terminal and JSON elsewhere.",
        choices=("auto", "json", "text"),
        empty_ok=False,
    )
    core_files: bool = group.observe(
        False,
        "Let the system write a core file if the process crashes; it holds keys and clients' addresses.",
    )
    debug: bool = group.observe(False, "Log more details, for finding faults.")
    debug_dnstap_filename: str = group.observe(
        "", "File to which every frame is appended as JSON, with the true addresses; empty for none."
    )
    debug_enable_blockprofiling: bool = group.observe(False, "Accepted for compatibility; has no effect.")
    debug_enable_mutexprofiling: bool = group.observe(False, "Accepted for compatibility; has no effect.")

    def __repr__(self) -> str:
        shown = (f"{k.attribute}={k.show(getattr(self, k.attribute))}" for k in KEYS.values())
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    def workers(self) -> int:
        """``minimiser-workers``, with 0 resolved to the number of usable CPUs."""
        return self.minimiser_workers or _cpus()

    @property
    def sign_workers(self) -> int:
        """``mqtt-sign-workers``, with 0 resolved to the number of usable CPUs."""
        return self.mqtt_sign_workers or _cpus()

    @property
    def seen_store_entries(self) -> int:
        """``qname-seen-store-entries``, with 0 resolved to the built-in bound."""
        return self.qname_seen_store_entries or SEEN_STORE_DEFAULT


def _collect() -> Mapping[str, Key]:
    defaults: dict[str, Any] = vars(Settings())
    keys = (
        Key(name=field.name.replace("_", "-"), default=defaults[field.name], **field.metadata)
        for field in dataclasses.fields(Settings)
    )
    return MappingProxyType({key.name: key for key in keys})


KEYS: Mapping[str, Key] = _collect()
"""Every key by name, in the order of declaration."""

FLAG_KEYS: Mapping[str, Key] = MappingProxyType({n: k for n, k in KEYS.items() if not k.toml_only})
"""The keys that have a flag and a name in the environment."""

__all__ = ["FLAG_KEYS", "KEYS", "SALT_MIN", "SEEN_STORE_DEFAULT", "Settings"]
