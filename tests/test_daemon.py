"""The daemon as an operator sees it: errors at start, reloads, rotation, and kills."""

from __future__ import annotations

import random
import shutil
import socket
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from edm.captures.reading import CaptureReader
from edm.captures.replay import Sender, connect, replay
from edm.errors import InputError
from edm.kernel.jit import JIT_DISABLED
from support import golden
from support.daemon import HISTOGRAMS, SESSIONS, Daemon
from support.golden import daemon_settings as settings
from support.processes import free_port, wait_until

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="the daemon is tested with JIT")


@pytest.fixture(scope="module")
def frames() -> list[bytes]:
    return golden.frames("unbound")


def fails_to_start(tmp_path: Path, **more: object) -> str:
    """Start with ``settings``; return the one line that says why it did not work."""
    daemon = Daemon(tmp_path / "run", **settings(tmp_path, **more))
    daemon.start(wait=False)
    assert daemon.wait() == 1
    text = " ".join(str(entry.get("startup_error") or entry.get("text", "")) for entry in daemon.errors())
    assert "Traceback" not in "".join(str(entry) for entry in daemon.log)
    assert len(daemon.errors()) == 1, daemon.tail()
    return text


# What an operator can get wrong


def test_missing_list(tmp_path: Path) -> None:
    line = fails_to_start(tmp_path, well_known_domains_file=tmp_path / "no.dawg")
    assert str(tmp_path / "no.dawg") in line
    assert "No such file" in line


def test_empty_list(tmp_path: Path) -> None:
    (tmp_path / "empty.dawg").touch()
    line = fails_to_start(tmp_path, well_known_domains_file=tmp_path / "empty.dawg")
    assert "empty.dawg" in line
    assert "empty" in line.replace("empty.dawg", "")


def test_corrupt_list(tmp_path: Path) -> None:
    data = bytearray((golden.LISTS / "well-known.dawg").read_bytes())
    data[5000:5050] = bytes(50)
    (tmp_path / "bad.dawg").write_bytes(data)
    line = fails_to_start(tmp_path, ignored_question_names_file=tmp_path / "bad.dawg")
    assert "bad.dawg" in line


def test_bad_prefix_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "clients").write_text("# ours\n10.0.0.0/8\n192.0.2.1\n")
    line = fails_to_start(tmp_path, ignored_client_ips_file=tmp_path / "clients")
    assert "clients" in line
    assert "3" in line


def test_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    line = fails_to_start(tmp_path, data_dir=tmp_path / "file" / "data")
    assert str(tmp_path / "file") in line


def test_socket_path_too_long(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120)
    line = fails_to_start(tmp_path, input_unix=path)
    assert str(path) in line
    assert "107" in line


def test_socket_path_in_use_by_a_living_process(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "dnstap.sock"))
        other.listen()
        line = fails_to_start(tmp_path)
    assert "in use" in line
    assert (tmp_path / "dnstap.sock").exists()


def test_socket_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "dnstap.sock").write_text("precious")
    assert "not a socket" in fails_to_start(tmp_path)
    assert (tmp_path / "dnstap.sock").read_text() == "precious"


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        line = fails_to_start(tmp_path, input_unix="", input_tcp=address)
    assert address in line
    assert "in use" in line


def test_data_directory_in_use_by_another_daemon(tmp_path: Path) -> None:
    with Daemon(tmp_path / "first", **settings(tmp_path, data_dir=tmp_path / "data")) as first:
        line = fails_to_start(tmp_path, data_dir=tmp_path / "data", input_unix=tmp_path / "other.sock")
        assert "in use" in line
        assert str(first.process.pid) in line


def test_metrics_port_in_use_is_only_logged(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with Daemon(tmp_path, **settings(tmp_path, metrics_address=address)) as daemon:
            (entry,) = daemon.errors()
            assert entry["address"] == address
            assert daemon.stop() == 0


# Starting


def test_a_stale_socket_file_is_taken_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dnstap.sock"))
    with Daemon(tmp_path, **settings(tmp_path)) as daemon:
        assert daemon.stop() == 0
    assert not (tmp_path / "dnstap.sock").exists()


def test_log_lines_have_the_fields_of_the_go_daemon_and_no_client_address(
    tmp_path: Path, frames: list[bytes]
) -> None:
    with Daemon(tmp_path, **settings(tmp_path)) as daemon:
        with (
            CaptureReader(golden.capture("mutated")) as capture,
            connect(unix=str(tmp_path / "dnstap.sock")) as sock,
        ):
            replay([capture], sock)
        assert daemon.stop() == 0
    for entry in daemon.log:
        assert {"time", "level", "msg", "service", "hostname", "go_version", "version"} <= entry.keys()
    errors = daemon.errors()
    assert errors
    assert len(errors) < 60  # thousands of bad frames, but no flood of lines
    text = "".join(str(entry) for entry in daemon.log)
    assert "100.64." not in text
    assert "2001:db8:" not in text


# Reload


def test_reload_keeps_what_is_broken_and_takes_the_rest(tmp_path: Path, frames: list[bytes]) -> None:
    clients = tmp_path / "clients"
    clients.write_text("192.0.2.0/24\n")
    names = tmp_path / "ignored.dawg"
    shutil.copy(golden.LISTS / "ignored-names.dawg", names)
    more = {"ignored_client_ips_file": clients, "ignored_question_names_file": names}
    with Daemon(tmp_path, **settings(tmp_path, **more)) as daemon:
        daemon.send(frames[:1000])
        assert daemon.metric("edm_ignored_client_ip_total") == 0
        responses = 1000 - daemon.metric("edm_frames_total", fate="query")
        clients.write_text("127.0.0.0/8\n::1/128\n")
        names.write_bytes(b"not a dawg file at all")
        daemon.process.send_signal(1)
        entry = daemon.wait_for_log("reload failed, keeping the old state")
        assert entry["part"] == "ignored_question_names"
        assert str(names) in entry["reason"]
        daemon.wait_for_log("reloaded in part")
        assert daemon.metric("edm_reloads_total", part="ignored_question_names", result="error") == 1
        assert daemon.metric("edm_reloads_total", part="ignored_client_ips", result="ok") == 1
        daemon.send(frames[1000:2000])
        queries = daemon.metric("edm_frames_total", fate="query")
        assert daemon.metric("edm_ignored_client_ip_total") == 2000 - queries - responses
        assert daemon.stop() == 0


def test_an_invalid_configuration_changes_nothing_at_reload(tmp_path: Path, frames: list[bytes]) -> None:
    with Daemon(tmp_path, **settings(tmp_path)) as daemon:
        daemon.config.write_text(daemon.config.read_text() + "no-such-key = 1\n")
        daemon.process.send_signal(1)
        entry = daemon.wait_for_log("reload failed, keeping the old configuration")
        assert "no-such-key" in entry["reason"]
        assert daemon.metric("edm_snapshot_generation") == 1
        assert daemon.stop() == 0


def test_changed_domain_list_path_takes_effect_at_the_next_rotation(
    tmp_path: Path, frames: list[bytes]
) -> None:
    with Daemon(
        tmp_path, **settings(tmp_path, well_known_domains_file=golden.LISTS / "ignored-names.dawg")
    ) as daemon:
        daemon.send(frames[:2000])
        before = daemon.metric("edm_frames_total", fate="well_known")
        daemon.reload(well_known_domains_file=golden.LISTS / "well-known.dawg")
        daemon.send(frames[2000:4000])
        assert daemon.metric("edm_frames_total", fate="well_known") == before
        daemon.rotate()
        daemon.send(frames[4000:6000])
        assert daemon.metric("edm_frames_total", fate="well_known") > before + 400
        assert daemon.stop() == 0


def test_a_new_key_gives_new_pseudonyms_and_never_both_in_one_row(
    tmp_path: Path, frames: list[bytes]
) -> None:
    with Daemon(tmp_path, **settings(tmp_path)) as daemon:
        daemon.send(frames[:2000])
        daemon.rotate()
        old = {row["source_ipv4"] for row in pq.read_table(daemon.files(SESSIONS)[0]).to_pylist()}
        known = set(daemon.files(SESSIONS))
        daemon.reload(cryptopan_key="another key altogether")
        daemon.send(frames[2000:4000])
        daemon.rotate()
        new: set[object] = set()
        for path in set(daemon.files(SESSIONS)) - known:
            new |= {row["source_ipv4"] for row in pq.read_table(path).to_pylist()}
        assert daemon.stop() == 0
    assert new - {None}
    assert not (old & new) - {None}


# Rotation and shutdown


def test_rotations_within_a_second_never_overwrite_a_file(tmp_path: Path, frames: list[bytes]) -> None:
    with Daemon(tmp_path, **settings(tmp_path)) as daemon:
        for part in range(6):
            daemon.send(frames[part * 500 : part * 500 + 500])
            daemon.rotate(settle=False)
        assert daemon.stop() == 0
    rows = sum(pq.read_metadata(path).num_rows for path in daemon.files(SESSIONS))
    metadata = [pq.read_metadata(path).metadata for path in daemon.files(HISTOGRAMS)]
    received = sum(int(entry[b"edm.ledger.frames_received"]) for entry in metadata)
    assert received == 3000
    assert rows == sum(int(entry[b"edm.ledger.session"]) for entry in metadata)


def test_shutdown_drains_what_was_read(tmp_path: Path, frames: list[bytes]) -> None:
    with (
        Daemon(tmp_path, **settings(tmp_path)) as daemon,
        connect(unix=str(tmp_path / "dnstap.sock")) as sock,
    ):
        sender = Sender(sock)
        sender.send(b"".join(frames[:20000]))
        daemon.wait_for_metric("edm_processed_dnstap_total", 1)
        assert daemon.stop() == 0
    metadata = [pq.read_metadata(path).metadata for path in daemon.files(HISTOGRAMS)]
    assert sum(int(entry[b"edm.ledger.frames_received"]) for entry in metadata) == 20000


def test_rotation_needs_its_switch(tmp_path: Path) -> None:
    with Daemon(tmp_path, **settings(tmp_path, enable_manual_parquet_rotation=False)) as daemon:
        assert daemon.http("POST", "/debug/rotate-parquet")[0] == 404
        assert daemon.stop() == 0


# Being killed


def test_kill_leaves_whole_files(tmp_path: Path, frames: list[bytes]) -> None:
    rng = random.Random(7)
    whole = frames * 4
    for round_number in range(6):
        with Daemon(tmp_path, **settings(tmp_path)) as daemon:
            assert not list(daemon.data.rglob("*.parquet.tmp"))
            with connect(unix=str(tmp_path / "dnstap.sock")) as sock:
                sender = Sender(sock)
                start = rng.randrange(len(whole) // 2)
                sender.send(b"".join(whole[start : start + rng.randrange(1, 40000)]))
                daemon.wait_for_metric("edm_processed_dnstap_total", 1)
                if round_number % 2:
                    daemon.rotate(settle=False)
                daemon.kill()
        for path in [*daemon.files(SESSIONS), *daemon.files(HISTOGRAMS)]:
            table = pq.read_table(path)
            assert table.num_rows > 0
    with Daemon(tmp_path, **settings(tmp_path)) as daemon:
        assert not list(daemon.data.rglob("*.parquet.tmp"))
        daemon.send(frames)
        daemon.rotate()
        total = daemon.metric("edm_seen_names")
        daemon.send(frames)
        assert daemon.metric("edm_seen_names") == total
        assert daemon.stop() == 0


# Peers


def test_a_bad_connection_is_closed_alone_with_its_reason(tmp_path: Path, frames: list[bytes]) -> None:
    with Daemon(tmp_path, **settings(tmp_path)) as daemon:
        path = str(tmp_path / "dnstap.sock")
        with connect(unix=path) as good:
            sender = Sender(good)
            sender.send(b"".join(frames[:100]))
            with connect(unix=path) as bad:
                bad.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert bad.recv(100) == b""
            entry = daemon.wait_for_log("dnstap connection closed with an error")
            assert "control frame" in entry["reason"]
            sender.send(b"".join(frames[100:200]))
            sender.finish()
        daemon.wait_for_metric("edm_processed_dnstap_total", 200)
        assert daemon.metric("edm_connections_total", result="handshake_error") == 1
        assert daemon.stop() == 0


def test_connections_beyond_the_limit_are_refused(tmp_path: Path, frames: list[bytes]) -> None:
    with Daemon(tmp_path, **settings(tmp_path, input_max_connections=2)) as daemon:
        path = str(tmp_path / "dnstap.sock")
        with connect(unix=path) as one, connect(unix=path) as two:
            senders = [Sender(one), Sender(two)]
            for sender in senders:
                sender.send(frames[0])
            daemon.wait_for_metric("edm_processed_dnstap_total", 2)  # so both are past the handshake
            with connect(unix=path) as three, pytest.raises((InputError, OSError, Exception)):
                Sender(three)
            daemon.wait_for_metric("edm_connections_total", 1, result="refused")
            for sender in senders:
                sender.finish()
        with connect(unix=path) as again:
            wait_until(lambda: daemon.metric("edm_open_connections") <= 1, "a place is free")
            Sender(again).finish()
        assert daemon.stop() == 0


def test_tcp_input(tmp_path: Path, frames: list[bytes]) -> None:
    address = f"127.0.0.1:{free_port()}"
    with Daemon(tmp_path, **settings(tmp_path, input_unix="", input_tcp=address)) as daemon:
        with connect(tcp=address) as sock:
            sender = Sender(sock)
            for frame in frames[:50]:
                sender.send(frame[:7])
                sender.send(frame[7:])
            sender.finish()
        daemon.wait_for_metric("edm_processed_dnstap_total", 50)
        assert daemon.stop() == 0


def test_warm_start_is_quick(tmp_path: Path) -> None:
    with Daemon(tmp_path, **settings(tmp_path)) as daemon:
        assert daemon.stop() == 0
        began = time.monotonic()
        daemon.start()
        # A bound against gross mistakes only (say, compiling anew at each start); timings belong to benchmarks.
        assert time.monotonic() - began < 20
        assert not daemon.messages("kernels are compiled")
        assert daemon.stop() == 0


def test_a_changed_number_of_workers_waits_for_the_restart(tmp_path: Path, frames: list[bytes]) -> None:
    with Daemon(tmp_path, **settings(tmp_path, minimiser_workers=2)) as daemon:
        for workers in (1, 4):
            daemon.reload(minimiser_workers=workers)
            (entry, *_) = daemon.messages("changed settings require restart")
            assert entry["settings"] == ["minimiser-workers"]
            daemon.rotate()
            daemon.send(frames[:4000])
        daemon.rotate()
        assert daemon.metric("edm_ledger_intervals_total", result="imbalance") == 0
        assert daemon.errors() == []
        assert daemon.stop() == 0
    rows = sum(pq.read_metadata(path).num_rows for path in daemon.files(SESSIONS))
    assert rows == sum(
        int(pq.read_metadata(p).metadata[b"edm.ledger.session"]) for p in daemon.files(SESSIONS)
    )
    assert rows > 0
