"""The daemon with a log that is not read: it continues to work, and it can be stopped."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from pathlib import Path

import pytest

from edm.captures.replay import Sender, connect
from edm.errors import InputError
from edm.kernel.jit import JIT_DISABLED
from support.daemon import START, Daemon, to_toml
from support.golden import daemon_settings as settings
from support.golden import frames
from support.processes import end_child, start_child, wait_until

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="the daemon is tested with JIT")


def full_pipe() -> tuple[int, int]:
    """Return both ends of a pipe that has no room left."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    return reading, writing


def answers(sock: Path) -> bool:
    try:
        connect(unix=str(sock)).close()
    except InputError:
        return False
    return True


def test_a_log_that_nobody_reads_holds_up_neither_senders_nor_the_end(tmp_path: Path) -> None:
    # The class is used for its configuration and its metrics only: it would read the log.
    daemon = Daemon(tmp_path / "run", **settings(tmp_path), log_format="json", debug=True)
    daemon.config.touch(0o600)
    daemon.config.write_text(to_toml(daemon.settings))
    reading, writing = full_pipe()
    command = [sys.executable, "-m", "edm.cli.main", "run", "--config-file", str(daemon.config)]
    process = start_child(command, stdout=writing, stderr=writing)
    os.close(writing)
    sock = tmp_path / "dnstap.sock"
    try:
        wait_until(sock.exists, "the socket", patience=START)
        wait_until(lambda: answers(sock), "the first handshake", patience=START)
        for _ in range(200):
            # The handshake is answered, and so is STOP after the frame.
            with connect(unix=str(sock)) as connection:
                sender = Sender(connection)
                sender.send(frames("unbound")[0])
                sender.finish()
        wait_until(lambda: daemon.metric("edm_processed_dnstap_total") == 200, "all frames")
        daemon.rotate(settle=False)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not sock.exists()
    finally:
        end_child(process)
        os.close(reading)
