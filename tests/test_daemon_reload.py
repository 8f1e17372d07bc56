"""Reloads of a real daemon that fail and work, as the operator and the service manager see them; and permissions."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import support.daemon
from edm.cli.main import main
from edm.kernel.jit import JIT_DISABLED
from edm.stages.framestream.protocol import CONTENT_TYPE, READY, encode_control
from support import golden
from support.daemon import Daemon
from support.kernels import environment, warm_copy
from support.pki import Authority
from support.processes import find, free_port, start_child, wait_until

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="the daemon is tested with JIT")

NOBODY = 65534
LISTED = ("well_known", "client_ignored", "question_ignored")


@pytest.fixture(scope="module")
def frames() -> list[bytes]:
    return golden.frames("unbound")[:3000]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[queue.Queue[str]]:
    """What the service manager hears, in order; it always listens, as the socket holds only a few messages."""
    messages: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        while message := sock.recv(4096):
            messages.put(message.decode())

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        thread = threading.Thread(target=listen)
        thread.start()
        yield messages
        sock.shutdown(socket.SHUT_RD)
        thread.join()


def heard(manager: queue.Queue[str], but: str = "WATCHDOG=1") -> list[str]:
    """Return what the service manager hears next, other than ``but``."""
    while (message := manager.get(timeout=60)) == but:
        pass
    return message.split("\n")


def fates(daemon: Daemon, frames: list[bytes]) -> dict[str, float]:
    """Send frames; return how many of them were found in each list."""
    before = {fate: daemon.metric("edm_frames_total", fate=fate) for fate in LISTED}
    daemon.send(frames)
    return {fate: daemon.metric("edm_frames_total", fate=fate) - before[fate] for fate in LISTED}


class Lists:
    """Copies of the lists that may be damaged."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.known = folder / "known.dawg"
        self.ignored = folder / "ignored.dawg"
        self.clients = folder / "clients"
        self.put()

    def put(self) -> None:
        for path in (self.known, self.ignored, self.clients):
            if path.is_dir():
                path.rmdir()
            path.unlink(missing_ok=True)
        shutil.copy(golden.LISTS / "well-known.dawg", self.known)
        shutil.copy(golden.LISTS / "ignored-names.dawg", self.ignored)
        self.clients.write_text("192.0.2.0/24\n")

    def settings(self) -> dict[str, object]:
        return {
            "well_known_domains_file": self.known,
            "ignored_question_names_file": self.ignored,
            "ignored_client_ips_file": self.clients,
        }


def reload(daemon: Daemon, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    """Run ``edm reload``; return its exit code and what it printed."""
    capsys.readouterr()
    code = main(["reload", "--config-file", str(daemon.config), *flags])
    out, err = capsys.readouterr()
    # The captures were made with a secret that is known: that is not what these tests are about.
    return (
        code,
        out,
        "".join(line for line in err.splitlines(True) if ": warning: cryptopan-key " not in line),
    )


def test_failed_reloads_are_told_and_harm_nothing(
    tmp_path: Path,
    frames: list[bytes],
    manager: queue.Queue[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["edm"])
    lists = Lists(tmp_path / "lists")
    environment = {
        **os.environ,
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "2000000",
    }
    settings = {**lists.settings(), "input_unix": tmp_path / "dnstap.sock"}
    with Daemon(tmp_path, environment=environment, **settings) as daemon:
        assert heard(manager) == ["READY=1", "STATUS=receiving dnstap"]
        before = fates(daemon, frames)
        assert before["well_known"] > 0

        # Overwritten in place while in use: no answer changes.
        for path in (lists.known, lists.ignored, lists.clients):
            for content in (b"\xff" * path.stat().st_size, b""):
                with path.open("r+b") as file:
                    file.write(content)
                    file.truncate(len(content))
        assert fates(daemon, frames) == before

        # What cannot work is not even tried ...
        lists.put()
        lists.known.write_bytes(lists.known.read_bytes()[:1000])
        lists.ignored.unlink()
        os.mkfifo(lists.ignored)
        code, out, err = reload(daemon, capsys)
        assert (code, out) == (1, "")
        assert len(err.splitlines()) == 2
        assert f"{lists.known}: not a valid DAWG file" in err
        assert f"{lists.ignored}: not a regular file" in err
        assert daemon.metric("edm_snapshot_generation") == 1

        # ... unless one insists: then the other parts are reloaded.
        lists.clients.write_text("127.0.0.0/8\n::1/128\n")
        code, out, err = reload(daemon, capsys, "--force")
        assert code == 1
        assert err.splitlines()[-1].endswith("be reloaded: ignored_question_names, well_known_domains")
        assert "ignored_client_ips       reloaded\n" in out
        assert f"{lists.known}: not a valid DAWG file" in out
        kind, _, status = heard(manager)
        assert (kind, status) == ("RELOADING=1", "STATUS=reloading")
        status = "STATUS=reload failed: ignored_question_names, well_known_domains"
        assert heard(manager) == ["READY=1", status]
        entries = daemon.messages("reload failed, keeping the old state")
        assert [entry["part"] for entry in entries] == ["ignored_question_names", "well_known_domains"]
        assert "exception" not in str(daemon.log)
        for part, ok in (("ignored_client_ips", 1), ("well_known_domains", 0), ("ignored_question_names", 0)):
            assert daemon.metric("edm_reloads_total", part=part, result="ok") == ok
            assert daemon.metric("edm_reloads_total", part=part, result="error") == 1 - ok
        assert fates(daemon, frames)["client_ignored"] > before["client_ignored"]

        # Repaired, everything is as before.
        lists.put()
        code, out, err = reload(daemon, capsys)
        assert (code, err) == (0, "")
        assert "FAILED" not in out
        assert [heard(manager)[0], heard(manager)[0]] == ["RELOADING=1", "READY=1"]
        daemon.rotate()
        assert fates(daemon, frames) == before
        success = daemon.metric("edm_reload_last_success_timestamp_seconds", part="well_known_domains")
        failure = daemon.metric("edm_reload_last_failure_timestamp_seconds", part="well_known_domains")
        assert success > failure > 0

        # Signs of life, from the main loop.
        assert heard(manager, but="") == ["WATCHDOG=1"]
        assert daemon.stop() == 0
        assert heard(manager)[0] == "STOPPING=1"


def test_a_broken_configuration_is_told_by_the_command_and_by_the_daemon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["edm"])
    settings = {**golden.LIST_SETTINGS, "input_unix": tmp_path / "dnstap.sock"}
    with Daemon(tmp_path, **settings) as daemon:
        text = daemon.config.read_text()
        daemon.config.write_text(text + "no-such-key = 1\n")
        code, out, err = reload(daemon, capsys)
        assert (code, out) == (1, "")
        assert "unknown key no-such-key" in err
        for fault in ("unknown key no-such-key", "Too many levels of symbolic links"):
            done = len(daemon.messages("reload failed, keeping the old configuration"))
            daemon.process.send_signal(signal.SIGHUP)
            entry = daemon.wait_for_log("reload failed, keeping the old configuration", count=done + 1)
            assert fault in entry["reason"]
            assert str(daemon.config) in entry["reason"]
            daemon.config.unlink()
            daemon.config.symlink_to(daemon.config)
        assert daemon.metric("edm_snapshot_generation") == 1
        daemon.config.unlink()
        daemon.config.touch(0o600)
        daemon.config.write_text(text)
        assert reload(daemon, capsys)[0] == 0
        assert daemon.stop() == 0


def test_a_reload_asked_for_during_the_start_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The lock is taken long before the daemon can take signals itself.
    def and_reload(command: list[str | Path], **options: object) -> subprocess.Popen[bytes]:
        process = start_child(command, **options)
        lock = tmp_path / "data" / "seen-names" / "lock"
        wait_until(lambda: lock.exists() or process.poll() is not None, "it starts", support.daemon.START)
        process.send_signal(signal.SIGHUP)
        return process

    monkeypatch.setattr(support.daemon, "start_child", and_reload)
    with Daemon(tmp_path, **golden.LIST_SETTINGS, input_unix=tmp_path / "dnstap.sock") as daemon:
        daemon.wait_for_log("reloaded")
        assert [entry["msg"] for entry in daemon.log if entry["msg"] in ("receiving dnstap", "reloaded")] == [
            "receiving dnstap",
            "reloaded",
        ]
        assert daemon.stop() == 0


# Permissions


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}


def test_nothing_is_readable_for_everybody_whatever_the_umask(tmp_path: Path, frames: list[bytes]) -> None:
    old = os.umask(0)
    try:
        daemon = Daemon(
            tmp_path,
            **golden.LIST_SETTINGS,
            input_unix=tmp_path / "dnstap.sock",
            input_unix_mode="0620",
            debug_dnstap_filename=tmp_path / "data" / "frames.json",
        )
        (tmp_path / "data").mkdir(0o750)
        with daemon:
            fates(daemon, frames)
            daemon.rotate()
            assert (tmp_path / "dnstap.sock").stat().st_mode & 0o777 == 0o620
            assert daemon.stop() == 0
    finally:
        os.umask(old)
    found = modes(daemon.data)
    assert {mode for path, mode in found.items() if (daemon.data / path).is_dir()} == {0o750}
    assert len([path for path in found if path.endswith(".parquet")]) >= 2
    for path, mode in found.items():
        if not (daemon.data / path).is_dir():
            shared = path.endswith(".parquet") or path == "reload.json"
            assert mode == (0o640 if shared else 0o600), path


def as_nobody(command: list[str | Path], **options: object) -> subprocess.Popen[bytes]:
    identity = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    powers = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    return start_child(["setpriv", *identity, *powers, *command], **options)


@pytest.mark.slow
def test_it_needs_no_privilege(
    frames: list[bytes], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0 or find("setpriv") is None:
        pytest.skip("only root can become somebody else; and needs setpriv for it")
    probe = as_nobody([sys.executable, "-c", "import edm, numba"], stderr=subprocess.DEVNULL)
    if probe.wait() != 0:
        pytest.skip("this Python, its packages or the sources cannot be read by user nobody")
    monkeypatch.setattr(sys, "argv", ["edm"])
    monkeypatch.setattr(support.daemon, "start_child", as_nobody)
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is closed to others
        folder = Path(name)
        cache = folder / "cache"
        warm_copy(cache)
        lists = Lists(folder / "lists")
        daemon = Daemon(
            folder, environment=environment(cache), **lists.settings(), input_unix=folder / "dnstap.sock"
        )
        daemon.config.touch(0o600)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        with daemon:
            status = Path(f"/proc/{daemon.process.pid}/status").read_text()
            assert f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}" in status
            assert "CapBnd:\t0000000000000000" in status
            assert "CapEff:\t0000000000000000" in status
            assert not daemon.messages("kernels are compiled"), daemon.tail()
            assert fates(daemon, frames)["well_known"] > 0
            daemon.rotate()
            assert reload(daemon, capsys)[0] == 0
            assert daemon.files(support.daemon.SESSIONS)
            assert {path.stat().st_uid for path in daemon.data.rglob("*")} == {NOBODY}
            assert daemon.stop() == 0
            assert daemon.errors() == []


def test_no_renewal_of_the_tls_input_needs_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["edm"])
    authority, other = Authority(tmp_path / "pki"), Authority(tmp_path / "other", "other")
    cert, key, clients = (tmp_path / name for name in ("cert.pem", "key.pem", "clients.pem"))
    port = free_port()

    def renew() -> int:
        pair = authority.server()
        shutil.copy(pair.key, key)
        shutil.copy(pair.cert, cert)
        return pair.serial

    def shown(of: Authority) -> int:
        """Shake hands as a sender of ``of`` does; return the serial number of the certificate shown."""
        context = ssl.create_default_context(cafile=str(authority.ca))
        pair = of.client()
        context.load_cert_chain(pair.cert, pair.key)
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as sock,
        ):
            sock.sendall(encode_control(READY, (CONTENT_TYPE,)))
            assert sock.recv(1)  # in TLS 1.3 this is where a refused client hears of it
            found = sock.getpeercert()
            assert found is not None
            return int(str(found["serialNumber"]), 16)

    first = renew()
    shutil.copy(authority.ca, clients)
    settings = {
        "well_known_domains_file": golden.LISTS / "well-known.dawg",
        "input_tls": f"127.0.0.1:{port}",
        "input_tls_cert_file": cert,
        "input_tls_key_file": key,
        "input_tls_client_ca_file": clients,
    }
    with Daemon(tmp_path, **settings) as daemon:
        assert shown(authority) == first
        second = renew()
        assert shown(authority) == second
        assert daemon.messages("renewed on disk, taken up")[-1]["part"] == "input_tls_certificate"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            shown(other)
        # From another place, by a reload.
        daemon.config.write_text(daemon.config.read_text().replace(str(clients), str(other.ca)))
        code, out, _ = reload(daemon, capsys)
        assert code == 0
        assert "input_tls_certificate" in out
        assert shown(other) == second
        # A broken key keeps what is in use, and says so; the authorities are taken up all the same.
        key.write_text("broken")
        daemon.config.write_text(daemon.config.read_text().replace(str(other.ca), str(clients)))
        code, out, _ = reload(daemon, capsys, "--force")
        assert code != 0
        assert "input-tls-key-file" in out
        assert shown(authority) == second
        assert daemon.stop() == 0


def test_a_debug_file_that_was_rotated_is_opened_anew(tmp_path: Path, frames: list[bytes]) -> None:
    path = tmp_path / "frames.json"
    settings = {"input_unix": tmp_path / "dnstap.sock", "debug_dnstap_filename": path}
    with Daemon(tmp_path, **golden.LIST_SETTINGS, **settings) as daemon:
        daemon.send(frames[:100])
        daemon.rotate()
        path.rename(tmp_path / "frames.json.1")
        daemon.reload()
        assert path.is_file()
        daemon.send(frames[100:250])
        daemon.rotate()
        path.rename(tmp_path / "frames.json.2")
        path.mkdir()
        daemon.process.send_signal(signal.SIGHUP)
        told = daemon.wait_for_log("reload failed, keeping the old state")
        assert told["part"] == "debug_file"
        assert told["reason"] == f"debug-dnstap-filename: {path}: Is a directory"
        daemon.wait_for_log("reloaded in part")
        daemon.send(frames[250:300])
        path.rmdir()
        assert daemon.stop() == 0
    # What waited in memory when the file was renamed is in the new one.
    counts = [len((tmp_path / f"frames.json.{k}").read_text().splitlines()) for k in (1, 2)]
    assert sum(counts) == 300
    assert counts[1] >= 200
