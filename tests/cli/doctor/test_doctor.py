"""``edm doctor`` on sound and on broken installations: its findings, their order, and the exit code."""

from __future__ import annotations

import json
import os
import pwd
import re
import resource
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edm.cli.doctor import peers, site
from edm.cli.doctor import running as running_checks
from edm.cli.doctor.catalogue import CATALOGUE, Found, render
from edm.cli.main import main
from edm.cli.status_client import Daemon as Asked
from edm.config import load
from edm.kernel.jit import JIT_DISABLED
from support import golden
from support.daemon import Daemon, running, to_toml
from support.golden import daemon_settings as settings
from support.pki import Authority, signing_jwk, write_jwk
from support.processes import free_port, wait_until

ROOT = Path(__file__).resolve().parents[3]


def configuration(folder: Path, **more: object) -> Path:
    path = folder / "edm.toml"
    basic: dict[str, object] = {
        "cryptopan_key": "a secret of more than enough length",
        "data_dir": folder / "data",
        "disable_mqtt": True,
        "disable_histogram_sender": True,
        **settings(folder),
    }
    path.write_text(to_toml({**basic, **more}))
    path.chmod(0o600)
    return path


def codes(found: Iterator[Found]) -> list[str]:
    return [each.code for each in found]


def examine(capsys: pytest.CaptureFixture[str], path: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--config-file", str(path), "--json", *flags])
    return code, json.loads(capsys.readouterr().out)


# The catalogue


def test_every_code_is_explained_and_every_explanation_is_a_code() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text()
    assert page.endswith("\n\n" + render())
    assert all(re.fullmatch(r"EDM\d{3}", code) for code in CATALOGUE)
    folder = ROOT / "src" / "edm" / "cli" / "doctor"
    used = {
        code
        for source in folder.glob("*.py")
        if source.name != "catalogue.py"
        for code in re.findall(r"EDM\d{3}", source.read_text())
    }
    assert used == set(CATALOGUE)


# The machine


def test_what_is_wrong_comes_worst_first_and_decides_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configuration(tmp_path, well_known_domains_file=tmp_path / "none.dawg")
    code, answer = examine(capsys, path, "--offline")
    assert code == answer["exit"] == 2
    assert answer["findings"][0]["code"] == "EDM002"
    assert "none.dawg" in answer["findings"][0]["text"]
    order = [("error", "warning", "info").index(each["severity"]) for each in answer["findings"]]
    assert order == sorted(order)


def test_an_invalid_configuration_is_a_finding_and_not_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configuration(tmp_path, mqtt_qos=7)
    code, answer = examine(capsys, path)
    assert code == 2
    assert [each["code"] for each in answer["findings"]] == ["EDM001"]
    assert "mqtt-qos" in answer["findings"][0]["text"]


def test_the_text_form_names_code_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = configuration(tmp_path, data_dir=tmp_path / "edm.toml")
    assert main(["doctor", "--config-file", str(path), "--offline"]) == 2
    printed = capsys.readouterr().out
    assert printed.startswith(
        "EDM002 error: a file, folder or address that a start needs cannot be used\n    "
    )
    assert CATALOGUE["EDM002"].advice in printed


@pytest.mark.parametrize(
    ("mode", "folder_mode", "reached"), [(0o666, 0o755, True), (0o660, 0o755, False), (0o666, 0o750, False)]
)
def test_whether_another_user_reaches_the_socket(
    monkeypatch: pytest.MonkeyPatch, mode: int, folder_mode: int, reached: bool
) -> None:
    try:
        pwd.getpwnam("nobody")
    except KeyError:
        pytest.skip("there is no user nobody here")
    import tempfile

    # Not below pytest's folder, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="edm-doctor-") as name, socket.socket(socket.AF_UNIX) as sock:
        path = Path(name) / "s"
        sock.bind(str(path))
        path.chmod(mode)
        path.parent.chmod(folder_mode)
        assert (site.unreachable(path, "nobody") == "") is reached
        monkeypatch.setattr(site, "DNS_USERS", ("nobody",))
        config = load(configuration(Path(name), input_unix=path), {}, {})
        assert ("EDM010" in codes(site._socket(config))) is not reached


def test_little_room_and_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(configuration(tmp_path), {}, {})
    assert "EDM015" not in codes(site._disk(config)) or os.statvfs(tmp_path).f_bavail < 1 << 20
    monkeypatch.setattr(site, "DISK_LEAST", 1 << 62)
    assert codes(site._disk(config)) == ["EDM015"]
    monkeypatch.setattr(site, "MEMORY_LEAST", 1 << 62)
    assert codes(site._memory()) == ["EDM013"]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    assert codes(site._limits(config)) == ["EDM012"]


# Core


@contextmanager
def tls_server(context: ssl.SSLContext) -> Iterator[int]:
    """Serve handshakes; whoever has passed one is read from until he goes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(sock, server_side=True) as secure:
                    secure.settimeout(10)
                    received.append(secure.recv(1))
            except OSError:
                continue

    received: list[bytes] = []
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(20)
        assert not any(received), "something was sent"


def server_context(authority: Authority, clients: Authority) -> ssl.SSLContext:
    pair = authority.server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    context.load_verify_locations(clients.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def core_settings(folder: Path, trusted: Authority, client: Any, port: int) -> dict[str, object]:
    write_jwk(folder / "key.jwk", signing_jwk())
    return {
        "disable_mqtt": False,
        "mqtt_server": f"mqtts://localhost:{port}",
        "mqtt_signing_key_file": folder / "key.jwk",
        "mqtt_client_cert_file": client.cert,
        "mqtt_client_key_file": client.key,
        "mqtt_ca_file": trusted.ca,
    }


def test_connections_to_core(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "a", "ours"), Authority(tmp_path / "b", "theirs")
    client, stranger = ours.client(), theirs.client()
    with tls_server(server_context(ours, ours)) as port:

        def found(trusted: Authority, pair: Any, at: int = port) -> list[Found]:
            path = configuration(tmp_path, **core_settings(tmp_path, trusted, pair, at))
            return list(peers.look(load(path, {}, {})))

        peers.VERDICT, kept = 0.5, peers.VERDICT
        try:
            assert found(ours, client) == []
            (refused,) = found(ours, stranger)
            assert refused.code == "EDM020"
            (distrusted,) = found(theirs, client)
            assert distrusted.code == "EDM020"
            assert "is not trusted" in distrusted.text
            (nobody,) = found(ours, client, free_port())
            assert nobody.text.endswith("Connection refused")
        finally:
            peers.VERDICT = kept


def test_certificates_that_end(tmp_path: Path) -> None:
    from datetime import timedelta

    authority = Authority(tmp_path / "a")
    for days, code in ((5, "EDM022"), (-1, "EDM023")):
        pair = authority.client(f"client{days}", lifetime=timedelta(days=days))
        path = configuration(tmp_path, **core_settings(tmp_path, authority, pair, free_port()))
        assert code in codes(peers.look(load(path, {}, {})))


# The daemon


@pytest.mark.skipif(JIT_DISABLED, reason="the daemon is tested with JIT")
def test_a_running_daemon_is_asked(tmp_path: Path) -> None:
    with running(tmp_path / "run", **settings(tmp_path)) as daemon:
        asked = Asked(f"127.0.0.1:{daemon.metrics_port}")
        assert codes(running_checks.look(asked)) == ["EDM040"]
        daemon.send(golden.frames("unbound")[:4000])
        wait_until(lambda: not codes(running_checks.look(asked)), "all is well")
    assert codes(running_checks.look(asked)) == ["EDM030"]


@pytest.mark.skipif(JIT_DISABLED, reason="the daemon is tested with JIT")
def test_queries_only_and_unusable_frames(tmp_path: Path) -> None:
    from edm.stages.dnstap.json_line import frame_to_json

    queries = [f for f in golden.frames("unbound")[:9000] if "CLIENT_QUERY" in str(frame_to_json(f[4:]))]
    assert len(queries) > 1000
    with Daemon(tmp_path / "run", **settings(tmp_path)) as daemon:
        asked = Asked(f"127.0.0.1:{daemon.metrics_port}")
        daemon.send(queries[:2000])
        wait_until(lambda: "EDM041" in codes(running_checks.look(asked)), "it is found")
        daemon.send([b"\x00\x00\x00\x03abc"] * 2000)
        wait_until(lambda: "EDM044" in codes(running_checks.look(asked)), "it is found")


def test_a_status_with_missing_parts_is_a_finding() -> None:
    assert [f.code for f in _judged({})] == ["EDM031"]


def _judged(status: dict[str, Any]) -> list[Found]:
    class Odd(Asked):
        def status(self) -> dict[str, Any]:
            return status

    return list(running_checks.look(Odd("x:1")))
