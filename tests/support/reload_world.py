"""An engine to reload, with every kind of file that a reload reads."""

from __future__ import annotations

from pathlib import Path

from edm.config import Config, load
from edm.engine import Engine
from edm.observe.metrics import Metrics
from edm.reload.reload import Reloader
from edm.stages.domains import write_dawg
from edm.tapir.keys.certificates import ClientCertificate
from edm.tapir.upload.upload import Uploader
from support.daemon import to_toml
from support.upload_site import Site

WORDS = [f"{i * i * 7919:x}.example{i % 7}.com." for i in range(300)]
"""What all versions of the well-known domains have in common."""

FILES = {
    "edm.toml": "config",
    "clients": "ignored_client_ips",
    "ignored.dawg": "ignored_question_names",
    "known.dawg": "well_known_domains",
    "client.pem": "http_client_certificate",
    "client-key.pem": "http_client_certificate",
    "mqtt.pem": "mqtt_client_certificate",
    "mqtt-key.pem": "mqtt_client_certificate",
}
"""Each file that a reload reads, and the part that needs it."""


class World:
    """An engine with its reloader, and good files of all kinds.

    Attributes
    ----------
    now : float
        The reloader's clock, seconds; it stands still unless it is set.
    """

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.now = 0.0
        self.site = Site(folder)
        mqtt = self.site.authority.client("mqtt")
        self.versions = [
            {
                "ignored.dawg": bytes(write_dawg([*WORDS[:20], more])),
                "known.dawg": bytes(write_dawg([*WORDS, more])),
            }
            for more in ("one.example.", "another.example.")
        ]
        self.settings: dict[str, object] = {
            "cryptopan_key": "a secret",
            "data_dir": folder / "data",
            "input_unix": folder / "dnstap.sock",
            "disable_mqtt": True,
            "ignored_client_ips_file": folder / "clients",
            "ignored_question_names_file": folder / "ignored.dawg",
            "well_known_domains_file": folder / "known.dawg",
            "mqtt_client_cert_file": folder / "mqtt.pem",
            "mqtt_client_key_file": folder / "mqtt-key.pem",
            "http_url": "https://core.example:8443",
            "http_signing_key_file": folder / "signer.jwk",
            "http_client_cert_file": folder / "client.pem",
            "http_client_key_file": folder / "client-key.pem",
            "http_ca_file": folder / "ca.pem",
            "reload_at_once": True,
            **settings,
        }
        self.good = {
            "edm.toml": to_toml(self.settings).encode(),
            "clients": b"10.0.0.0/8\n192.0.2.0/24\n",
            **self.versions[0],
            "client.pem": (folder / "client.pem").read_bytes(),
            "client-key.pem": (folder / "client-key.pem").read_bytes(),
            "mqtt.pem": mqtt.cert.read_bytes(),
            "mqtt-key.pem": mqtt.key.read_bytes(),
        }
        for name in FILES:
            self.repair(name)
        config = self.read_config()
        self.metrics = Metrics()
        self.engine = Engine(config, self.metrics, events=False)
        self.uploader = Uploader(config, self.engine.data, self.metrics)
        self.uploader.reload(config)
        self.certificate = ClientCertificate("mqtt", config)
        self.reloader = Reloader(
            self.engine,
            self.read_config,
            {
                "http_client_certificate": self.uploader.reload,
                "mqtt_client_certificate": self.certificate.reload,
            },
            lambda: self.now,
        )
        self.engine.start()

    def read_config(self) -> Config:
        return load(self.folder / "edm.toml", {}, {})

    def repair(self, name: str) -> None:
        path = self.folder / name
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_bytes(self.good[name])

    def turn(self) -> None:
        """Put another version of each domain list in place: what is the same may stay the same object."""
        self.versions.reverse()
        self.good.update(self.versions[0])
        for name in self.versions[0]:
            self.repair(name)

    def parts(self) -> dict[str, object]:
        """Return the object that stands for each part; after a reload of something new it is a new one."""
        self.engine.rotate()  # brings the well-known list into use
        snapshot = self.engine.cell.current
        assert self.uploader.service is not None
        return {
            "config": snapshot.config,
            "ignored_client_ips": snapshot.clients,
            "ignored_question_names": snapshot.ignored_names,
            "well_known_domains": snapshot.well_known,
            "http_client_certificate": self.uploader.service.certificate.context,
            "mqtt_client_certificate": self.certificate.context,
        }

    def metric(self, name: str, part: str, **labels: str) -> float:
        return self.metrics.value(f"edm_reload{name}", part=part, **labels) or 0.0
