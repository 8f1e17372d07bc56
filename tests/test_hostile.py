"""A daemon with hostile senders: an ordinary sender loses nothing and is not delayed for long.

``EDM_HOSTILE_SECONDS`` says how long each kind of mischief lasts; 2 if it is not set.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from edm.captures.replay import Sender, connect
from edm.kernel.jit import JIT_DISABLED
from edm.startup.warmup import sample_frame
from support import golden
from support.daemon import Daemon
from support.hostile import mischief, open_socket
from support.processes import free_port, wait_until

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="the daemon is tested with JIT")

SECONDS = float(os.environ.get("EDM_HOSTILE_SECONDS", "2"))
RATE = 500
"""Frames per second of the ordinary sender."""

HELD_UP = 30.0
"""Seconds within which the ordinary sender must be rid of its frames and have them counted. Measured values are
below 2, also with a thousand senders at full speed; on a busy machine everything takes longer."""

WELL_KNOWN = sample_frame(b"\x0anorhubtata\x03com\x00", bytes([192, 0, 2, 1]))
"""A frame about a name of the list."""
GOOD = sample_frame(b"\x04good\x07example\x00", bytes([192, 0, 2, 1]))


@dataclass
class Served:
    """How the ordinary sender fared: frames sent, longest wait in sending one, time until all were counted."""

    frames: int
    stall: float
    behind: float


def ordinary(daemon: Daemon, target: str, frame: bytes = GOOD, fate: str = "session") -> Served:
    """Send at :data:`RATE` for a while; return when all frames have been counted. No other frame has this fate."""
    stall = 0.0
    sent = 0
    with open_socket(target) as sock:
        sender = Sender(sock)
        began = time.monotonic()
        while (passed := time.monotonic() - began) < SECONDS:
            while sent < passed * RATE:
                before = time.monotonic()
                sender.send(len(frame).to_bytes(4, "big") + frame)
                stall = max(stall, time.monotonic() - before)
                sent += 1
            time.sleep(0.005)  # the pace of this sender
        ended = time.monotonic()
        sock.settimeout(HELD_UP)
        sender.finish()
        daemon.wait_for_metric("edm_frames_total", sent, fate=fate, patience=HELD_UP)
    return Served(sent, stall, time.monotonic() - ended)


def settings(tmp_path: Path, **more: object) -> dict[str, object]:
    return {**golden.LIST_SETTINGS, "ignored_client_ips_file": "", "input_unix": tmp_path / "s", **more}


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("garbage", 1),
        ("garbage", 300),
        ("tiny", 20),
        ("oversized", 20),
        ("control", 5),
        ("trickle", 50),
        ("stall", 2000),
        ("churn", 1),
        ("chorus", 300),
    ],
)
def test_an_ordinary_sender_beside_hostile_ones(kind: str, count: int, tmp_path: Path) -> None:
    with Daemon(tmp_path, **settings(tmp_path)) as daemon:
        with mischief(kind, tmp_path / "s", count):
            served = ordinary(daemon, str(tmp_path / "s"))
        assert served.frames >= RATE * SECONDS * 0.1
        assert served.stall < HELD_UP
        assert daemon.metric("edm_frames_total", fate="session") == served.frames
        # The bound is loose because the hostile process may have half of this machine.
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 30
    assert len(daemon.log) < 1000, "a flood of log lines"
    assert not [entry for entry in daemon.log if "Traceback" in str(entry)]


class Delays(NamedTuple):
    """Seconds, beside hostile senders, for: one frame of an ordinary sender to be taken, all of them to be counted, a
    rotation, the stop."""

    stall: float
    behind: float
    rotation: float
    stop: float


def delays(folder: Path, kind: str, **more: object) -> Delays:
    """Return how long things take beside eight senders of a kind of mischief."""
    folder.mkdir()
    with Daemon(folder, **settings(folder, **more)) as daemon:
        with mischief(kind, folder / "s", 8):
            served = ordinary(daemon, str(folder / "s"), WELL_KNOWN, "well_known")
            done = daemon.metric("edm_rotations_total", result="ok")
            began = time.monotonic()
            daemon.rotate(settle=False)
            daemon.wait_for_metric("edm_rotations_total", done + 1, result="ok")
            rotation = time.monotonic() - began
            began = time.monotonic()
            assert daemon.stop() == 0
            stop = time.monotonic() - began
        assert not daemon.messages("ledger of the interval does not balance")
        assert not daemon.messages("DNS message cannot be parsed"), "all frames are valid"
    return Delays(served.stall, served.behind, rotation, stop)


@pytest.mark.parametrize("debug", [False, True])
def test_costly_frames_delay_nobody(tmp_path: Path, debug: bool) -> None:
    """Frames made to cost work hold up no more than ordinary ones of the same size: by less than a second."""
    more = {"debug_dnstap_filename": tmp_path / "debug.jsonl"} if debug else {}
    # Other work on this machine can only make it slower, so one good attempt of three tells what the program does.
    late: list[tuple[Delays, Delays]] = []
    for attempt in range(3):
        plain = delays(tmp_path / f"plain-{attempt}", "plain", **more)
        costly = delays(tmp_path / f"costly-{attempt}", "costly", **more)
        if all(hostile < usual + 1 for hostile, usual in zip(costly, plain, strict=True)):
            return
        late.append((plain, costly))
    pytest.fail(f"delays beside ordinary and costly frames: {late}")


def test_resets_over_tcp_beside_an_ordinary_sender(tmp_path: Path) -> None:
    target = f"127.0.0.1:{free_port()}"
    with Daemon(tmp_path, **settings(tmp_path, input_unix="", input_tcp=target)) as daemon:
        with mischief("reset", target, 1):
            served = ordinary(daemon, target)
        assert daemon.metric("edm_frames_total", fate="session") == served.frames
        resets = daemon.metric("edm_connections_total", result="error")
        assert resets > 10
        # Each of them sent one whole frame before it vanished; a reset that comes before the system was asked for
        # the frame throws it away.
        assert daemon.metric("edm_frames_total", fate="undecodable") >= resets / 2
        (line, *_) = daemon.messages("dnstap connection closed with an error")
        assert line["reason"] == "Connection reset by peer"
        assert daemon.stop() == 0
    assert "127.0.0.1" not in str([entry for entry in daemon.log if "address" not in entry])


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident(pid: int) -> int:
    """Return the resident memory in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_a_thousand_connections_and_more(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    good = len(GOOD).to_bytes(4, "big") + GOOD
    with Daemon(tmp_path, **settings(tmp_path, input_max_connections=1000)) as daemon:
        pid = daemon.process.pid
        before = threads(pid), descriptors(pid)
        memory = resident(pid)
        with contextlib.ExitStack() as stack:
            senders = []
            for _ in range(1000):
                senders.append(Sender(stack.enter_context(connect(unix=path))))
            daemon.wait_for_metric("edm_open_connections", 1000)
            for sender in senders:
                sender.send(good + good[:50])
            daemon.wait_for_metric("edm_frames_total", 1000, fate="session")
            # Measured: 20 KiB each. The bound is for gross mistakes, such as a block for each.
            assert resident(pid) - memory < 1000 * 200
            for _ in range(20):
                one_too_many = stack.enter_context(connect(unix=path))
                one_too_many.settimeout(20)
                assert one_too_many.recv(1) == b""
            daemon.wait_for_metric("edm_connections_total", 20, result="refused")
            for sender in senders:  # those that were there are served as before
                sender.send(good[50:])
            daemon.wait_for_metric("edm_frames_total", 2000, fate="session")
            daemon.rotate()
        wait_until(
            lambda: threads(pid) <= before[0] + 2, lambda: f"{threads(pid)} threads, before {before[0]}"
        )
        wait_until(
            lambda: descriptors(pid) <= before[1] + 2, lambda: f"{descriptors(pid)} files, before {before[1]}"
        )
        assert daemon.metric("edm_connections_total", result="closed") == 1000
        assert daemon.stop() == 0
        assert not daemon.errors()


def test_no_more_open_files(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    good = len(GOOD).to_bytes(4, "big") + GOOD
    with Daemon(tmp_path, **settings(tmp_path)) as daemon:
        pid = daemon.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connect(unix=path))]
            first = Sender(socks[0])
            first.send(good)
            daemon.wait_for_metric("edm_frames_total", 1, fate="session")
            # As if everything else had taken up what was meant for connections.
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, limits[1]))
            # The file for the second is taken already, by the waiting for it.
            socks += [stack.enter_context(connect(unix=path)) for _ in range(2)]
            daemon.wait_for_log("dnstap connection refused")
            assert daemon.messages("dnstap connection refused")[0]["reason"] == "Too many open files"
            first.send(good)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            for sock in socks[1:]:
                Sender(sock).send(good)  # the last was only kept waiting
            daemon.wait_for_metric("edm_frames_total", 4, fate="session")
        assert daemon.stop() == 0


def test_the_limit_of_open_files_bounds_the_connections(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("the limit here is low already")
    daemon = Daemon(tmp_path, **settings(tmp_path, input_max_connections=65536))
    with daemon:
        most = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)[0]
        lines = daemon.messages(
            "fewer connections than input-max-connections: the limit of open files is too low"
        )
        if most < 65536 + 256:
            assert [line["most"] for line in lines] == [most - 256]
        else:
            assert lines == []
        assert most >= soft
        assert daemon.stop() == 0


def test_a_stop_among_hostile_senders(tmp_path: Path) -> None:
    target = f"127.0.0.1:{free_port()}"
    with Daemon(tmp_path, **settings(tmp_path, input_unix="", input_tcp=target)) as daemon:
        with mischief("garbage", target, 20), mischief("stall", target, 50), contextlib.ExitStack() as stack:
            for _ in range(20):
                Sender(stack.enter_context(socket.create_connection(target.split(":")))).send(
                    b"\0\0\0\x09half"
                )  # type: ignore[arg-type]
            daemon.wait_for_metric("edm_open_connections", 40)
            began = time.monotonic()
            assert daemon.stop() == 0
            # Reading is over in 5 seconds at most; the rest is for the work that had been taken in.
            assert time.monotonic() - began < 20
        (stopped,) = daemon.messages("stopped")
        assert stopped["seconds"] < 20
    assert not daemon.messages("ledger of the interval does not balance")
