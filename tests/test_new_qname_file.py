"""``new-qname-file`` with the daemon: the same events as ``edm minimise``, each once, none lost to a kill."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from edm.kernel.jit import JIT_DISABLED
from support import golden
from support.daemon import Daemon
from support.processes import wait_until
from support.small_disk import small_disk

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="60,000 frames take minutes without JIT")

EXPECTED = (golden.CAPTURES / "unbound" / "new_qname.jsonl").read_text().splitlines()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, **golden.daemon_settings(tmp_path, new_qname_file=True)) as made:
        yield made


def files(daemon: Daemon) -> list[Path]:
    return sorted((daemon.data / "new_qname").glob("new_qname-*_*.jsonl"))


def lines(daemon: Daemon) -> list[str]:
    return [line for path in files(daemon) for line in path.read_text().splitlines()]


def names(found: list[str]) -> Counter[str]:
    return Counter(json.loads(line)["qname"].lower() for line in found)


def test_the_events_of_minimise_each_once_over_rotations_and_a_restart(daemon: Daemon) -> None:
    frames = golden.frames("unbound")
    third = len(frames) // 3
    for number, first in enumerate(range(0, len(frames), third), 1):
        daemon.send(frames[first : first + third])
        daemon.rotate()
        wait_until(lambda number=number: len(files(daemon)) == number, "the interval has its file")  # type: ignore[misc]
    assert lines(daemon) == EXPECTED
    assert daemon.metric("edm_new_qname_queued_total") == len(EXPECTED)
    assert daemon.metric("edm_new_qname_lines_written_total") == len(EXPECTED)
    assert daemon.metric("edm_new_qname_discarded_total") == 0
    assert daemon.stop() == 0
    daemon.start()
    daemon.send(frames)  # nothing is new any more
    assert daemon.stop() == 0
    assert lines(daemon) == EXPECTED
    assert daemon.errors() == []
    assert not list((daemon.data / "unfinished").iterdir())


def test_a_kill_loses_no_name(daemon: Daemon) -> None:
    frames = golden.frames("unbound")
    half = len(frames) // 2
    daemon.send(frames[:half])
    daemon.wait_for_metric("edm_new_qname_lines_written_total", 1)
    daemon.kill()
    assert files(daemon) == []  # no reader sees half a file
    daemon.start()
    assert len(files(daemon)) == 1  # what was written before the kill
    daemon.send(frames)
    assert daemon.stop() == 0
    counted = names(lines(daemon))
    assert set(counted) == set(names(EXPECTED))
    assert set(lines(daemon)) >= set(EXPECTED[: len(lines(daemon)) // 2])
    again = counted.total() - len(counted)
    assert again <= len(EXPECTED) // 2  # those of the last moment before the kill


def test_a_full_disk_holds_nothing_up(tmp_path: Path) -> None:
    frames = golden.frames("unbound")
    with small_disk(tmp_path / "disk", 64 << 20) as disk:
        settings = golden.daemon_settings(
            tmp_path, new_qname_file=True, data_dir=disk.data, disk_min_free_bytes=0
        )
        with Daemon(tmp_path, **settings) as daemon:
            disk.fill(0)
            daemon.send(frames)
            daemon.wait_for_log("new names cannot be written, they are held in memory")
            assert daemon.metric("edm_new_qname_lines_lost_total") == 0
            assert daemon.metric("edm_new_qname_lines_held") == len(EXPECTED)
            disk.clear()
            daemon.process.send_signal(signal.SIGHUP)  # makes another try at once
            daemon.wait_for_metric("edm_new_qname_lines_written_total", len(EXPECTED))
            assert daemon.stop() == 0
        assert lines(daemon) == EXPECTED


def test_a_folder_that_cannot_be_written_ends_the_start_in_one_line(tmp_path: Path) -> None:
    settings = golden.daemon_settings(tmp_path, new_qname_file=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "new_qname").touch()
    daemon = Daemon(tmp_path, **settings)
    daemon.start(wait=False)
    assert daemon.wait() == 1
    (line,) = daemon.errors()
    assert "new_qname: File exists" in line["startup_error"]


def test_without_the_key_there_is_no_file(tmp_path: Path) -> None:
    with Daemon(tmp_path, **golden.daemon_settings(tmp_path)) as daemon:
        daemon.send(golden.frames("unbound")[:2000])
        assert daemon.stop() == 0
    assert not (daemon.data / "new_qname").exists()
