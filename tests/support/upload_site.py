"""A site that uploads: keys, certificates, settings, and files in the outbox."""

from __future__ import annotations

import dataclasses
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edm.config import Settings
from edm.output.paths import DataDirectory
from edm.tapir.keys.jwk import load_signing_key
from edm.tapir.upload.post import Limits
from edm.tapir.upload.upload import Timing
from support.pki import Authority, signing_jwk, write_jwk

KID = "site-7"
BEGIN = datetime(2023, 11, 29, 13, 50, tzinfo=UTC)

QUICK = Timing(
    scan=0.02,
    clean=0.02,
    retry=0.02,
    retry_longest=0.1,
    pace=0.01,
    pace_longest=0.05,
    outage=0.02,
    outage_longest=0.1,
    limits=Limits(connect=5.0, tls=5.0, send=5.0, answer=5.0),
)
"""Waits that let a test see many tries."""


class Site:
    """Everything below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "pki")
        server = self.authority.server()
        self.write("ca.pem", self.authority.ca.read_bytes())
        self.write("server-key.pem", server.key.read_bytes())
        self.write("server.pem", server.cert.read_bytes())
        self.renew_client()
        members = signing_jwk(KID)
        write_jwk(folder / "signer.jwk", members)
        write_jwk(folder / "signer.pub", {name: members[name] for name in members if name != "d"})
        self.data = DataDirectory(folder / "data")

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def renew_client(self, authority: Authority | None = None, days: float = 90) -> int:
        """Put a new client certificate with its key in place; return its serial number."""
        pair = (authority or self.authority).client("site", lifetime=timedelta(days=days))
        self.write("client-key.pem", pair.key.read_bytes())
        self.write("client.pem", pair.cert.read_bytes())
        return pair.serial

    @property
    def public_keys(self) -> dict[str, Ed25519PublicKey]:
        key = load_signing_key("test", self.folder / "signer.pub").public
        assert isinstance(key, Ed25519PublicKey)
        return {KID: key}

    def settings(self, url: str, **more: object) -> Settings:
        settings = Settings(
            http_url=url,
            http_signing_key_file=str(self.folder / "signer.jwk"),
            http_client_key_file=str(self.folder / "client-key.pem"),
            http_client_cert_file=str(self.folder / "client.pem"),
            http_ca_file=str(self.folder / "ca.pem"),
        )
        return dataclasses.replace(settings, **more)  # type: ignore[arg-type]

    def fill(self, count: int, size: int = 1000, first: int = 0) -> dict[str, bytes]:
        """Put files of different content and size, a minute each, into the outbox; return them by interval."""
        contents = {}
        for i in range(first, first + count):
            start = BEGIN + timedelta(minutes=i)
            content = random.Random(i).randbytes(size + i)
            self.path(i).write_bytes(content)
            contents[f"{start:%Y-%m-%dT%H:%M:%SZ}/PT1M"] = content
        return contents

    def path(self, i: int, folder: Path | None = None) -> Path:
        """Return where file number ``i`` lies in the outbox, or would lie in another folder."""
        start, stop = (f"{BEGIN + timedelta(minutes=n):%Y-%m-%dT%H-%M-%SZ}" for n in (i, i + 1))
        return (folder or self.data.outbox) / f"dns_histogram-{start}_{stop}.parquet"


def names(folder: Path) -> list[str]:
    """Return the names of the files in ``folder``, none if there is no such folder."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
