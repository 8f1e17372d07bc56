"""A broker to publish new names to: mosquitto on a loopback port, with keys made for the occasion."""

from __future__ import annotations

import getpass
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import Child, free_port, wait_for

BROKER = "mosquitto"


def broker_program() -> str | None:
    """Return the path of ``mosquitto`` if it is installed."""
    return shutil.which(BROKER, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


@contextmanager
def broker() -> Iterator[Mapping[str, object]]:
    """Run a broker; yields the settings with which a daemon signs and publishes to it."""
    program = broker_program()
    if program is None:
        raise FileNotFoundError(BROKER)
    with tempfile.TemporaryDirectory(prefix="edm-bench-") as name:
        folder = Path(name)
        port = free_port()
        keys = folder / "keys"
        _keygen("--test-ca", str(keys))
        _keygen("signing", "--kid", "benchmark", "--out", str(keys / "signing.jwk"))
        config = folder / "mosquitto.conf"
        config.write_text(_config(port, keys))
        with Child([program, "-c", str(config)]) as child:
            wait_for(lambda: _listens(port), f"the start of {BROKER}")
            yield {
                "disable_mqtt": False,
                "mqtt_server": f"tls://localhost:{port}",
                "mqtt_ca_file": str(keys / "ca.pem"),
                "mqtt_signing_key_file": str(keys / "signing.jwk"),
                "mqtt_client_key_file": str(keys / "client-key.pem"),
                "mqtt_client_cert_file": str(keys / "client.pem"),
            }
            child.stop(signal.SIGTERM)


def _keygen(*arguments: str) -> None:
    command = [sys.executable, "-m", "edm.cli.main", "keygen", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _config(port: int, keys: Path) -> str:
    lines = (
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        f"user {getpass.getuser()}",
        f"cafile {keys / 'ca.pem'}",
        f"certfile {keys / 'server.pem'}",
        f"keyfile {keys / 'server-key.pem'}",
        "require_certificate true",
        "tls_version tlsv1.3",
        "log_dest none",
    )
    return "\n".join(lines) + "\n"


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
