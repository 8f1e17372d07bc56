"""The daemon's socket file and folders, as other users of the machine see them."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from edm.captures.replay import Sender, connect
from edm.kernel.jit import JIT_DISABLED
from support import golden
from support.daemon import Daemon
from support.golden import daemon_settings as settings

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="the daemon is tested with JIT")


def test_probes_a_removed_socket_and_another_instance(tmp_path: Path) -> None:
    path = tmp_path / "dnstap.sock"
    with Daemon(tmp_path / "one", **settings(tmp_path)) as one:
        assert "Max core file size        0 " in Path(f"/proc/{one.process.pid}/limits").read_text()
        assert not stat.S_IMODE(path.lstat().st_mode) & 0o007
        for _ in range(200):
            connect(unix=str(path)).close()
        one.wait_for_metric("edm_connections_total", 200, result="probe")
        assert one.errors() == []
        assert one.messages("dnstap connection opened") == []
        with connect(unix=str(path)) as bad:
            bad.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert bad.recv(100) == b""
        one.wait_for_log("dnstap connection closed with an error")
        with connect(unix=str(path)) as sock:
            sender = Sender(sock)
            one.wait_for_log("dnstap connection opened")
            path.unlink()
            one.wait_for_log("the socket's file was gone and was made again")
            one.wait_for_metric("edm_socket_file_made_again_total", 1)
            one.send(golden.frames("unbound")[:10])
            sender.send(golden.frames("unbound")[10])
            sender.finish()
        one.wait_for_metric("edm_processed_dnstap_total", 11)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(tmp_path / "other.sock"))
            other.listen()
            (tmp_path / "other.sock").rename(path)
            assert "in use by another process" in one.wait_for_log(LOST)["reason"]
            assert one.stop() == 0
            assert path.is_socket()


LOST = "the socket's file is gone and cannot be made again"


def test_a_shared_data_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    daemon = Daemon(tmp_path / "run", **settings(tmp_path, data_dir=shared / "data"))
    daemon.start(wait=False)
    assert daemon.wait() == 1
    (error,) = daemon.errors()
    assert error["startup_error"].startswith(f"data-dir: every user can write to {shared}, ")
