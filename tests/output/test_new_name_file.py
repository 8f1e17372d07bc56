"""Files of new names: intervals, unfinished files, disks that refuse writes."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edm.config import Config
from edm.errors import OutputError
from edm.observe.metrics import Metrics
from edm.output import new_name_file
from edm.output.new_name_file import NewNameFiles, rescue
from edm.output.new_name_sink import NewNamesToFiles
from edm.output.paths import DataDirectory
from edm.stages.new_qname.events import EventBlock, end_of_interval
from edm.stages.new_qname.queue import EventQueue
from edm.stages.new_qname.seen.unsaved import Unsaved
from support.events import block_of, payloads
from support.processes import wait_until
from support.small_disk import read_only, small_disk

MINUTE = 60_000_000
START = 1_700_000_000_000_000
FIRST = "new_qname-2023-11-14T22-13-20Z_2023-11-14T22-14-20Z.jsonl"
SECOND = "new_qname-2023-11-14T22-14-20Z_2023-11-14T22-15-20Z.jsonl"


@dataclass
class Names(Unsaved):
    """Notes how many lines were in files, finished or not, when the names were saved."""

    data: DataDirectory | None = None
    found: list[int] = field(default_factory=list)

    def save(self, *, at_once: bool = True) -> None:
        assert self.data is not None
        paths = [*self.data.new_names.glob("*.jsonl"), *self.data.unfinished.glob(".new_qname*")]
        self.found.append(sum(path.read_bytes().count(b"\n") for path in paths))


class Site:
    """A data directory with files of new names."""

    def __init__(self, root: Path, limit: int = 1 << 20) -> None:
        self.data = DataDirectory(root)
        self.metrics = Metrics()
        self.files = NewNameFiles(self.data, self.metrics, limit, START)

    def block(self, first: int, stop: int) -> tuple[EventBlock, Names]:
        names = Names(b"", [], bool, self.data)
        return replace(block_of(payloads(first, stop)), unsaved=names), names

    def write(self, first: int, stop: int) -> Names:
        block, names = self.block(first, stop)
        self.files.write([block], save=True)
        return names

    def end(self, number: int = 0) -> None:
        start = START + number * MINUTE
        self.files.write([end_of_interval(start, start + MINUTE)], save=True)

    @property
    def finished(self) -> dict[str, list[bytes]]:
        folder = self.data.new_names
        return {path.name: path.read_bytes().splitlines() for path in folder.glob("*") if path.is_file()}

    @property
    def unfinished(self) -> list[Path]:
        return [path for path in self.data.unfinished.iterdir() if "new_qname" in path.name]

    def value(self, name: str) -> float | None:
        return self.metrics.value(f"edm_new_qname_lines_{name}")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "data")


def test_a_file_for_each_interval_that_had_any(site: Site) -> None:
    site.write(0, 3)
    names = site.write(3, 5)
    assert names.found == [5]  # on disk before they are saved
    assert not site.finished
    (path,) = site.unfinished
    assert path.name.startswith(".")
    assert path.stat().st_mode & 0o777 == 0o640 & ~umask()
    site.end(0)
    assert site.finished == {FIRST: payloads(0, 5)}
    site.end(1)  # no new names
    site.end(2)
    assert len(site.finished) == 1
    assert not site.unfinished
    assert (site.value("written_total"), site.value("lost_total"), site.value("held")) == (5, 0, 0)
    assert site.metrics.value("edm_files_written_total", kind="new_qname", result="ok") == 1


def umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_blocks_and_ends_of_intervals_in_one_go(site: Site) -> None:
    marks = [end_of_interval(START + n * MINUTE, START + (n + 1) * MINUTE) for n in range(3)]
    blocks = [site.block(first, first + 2)[0] for first in (0, 2, 4)]
    site.files.write([blocks[0], marks[0], marks[1], blocks[1], blocks[2], marks[2]], save=True)
    third = "new_qname-2023-11-14T22-15-20Z_2023-11-14T22-16-20Z.jsonl"
    assert site.finished == {FIRST: payloads(0, 2), third: payloads(2, 6)}


def test_two_files_never_have_one_name(site: Site) -> None:
    for number in range(2):
        site.write(number, number + 1)
        site.end(0)
    assert sorted(site.finished) == [FIRST, FIRST.replace("14-20Z.jsonl", "14-21Z.jsonl")]


def test_names_are_not_saved_where_somebody_else_does(site: Site) -> None:
    block, names = site.block(0, 2)
    site.files.write([block], save=False)
    assert names.found == []
    assert site.value("written_total") == 2


@pytest.mark.parametrize("half", [b"", b'{"flags":1,"qcl'])
def test_what_a_killed_process_leaves_becomes_a_file(tmp_path: Path, half: bytes) -> None:
    before = Site(tmp_path / "data")
    before.write(0, 4)
    (path,) = before.unfinished
    with path.open("ab") as file:
        file.write(half)
    os.utime(path, (START / 1e6 + 60, START / 1e6 + 60))
    after = Site(tmp_path / "data")
    with capture_logs() as logs:
        after.data.clean()
        rescue(after.data)
    assert after.finished == {FIRST: payloads(0, 4)}
    assert not after.unfinished
    assert [line["event"] for line in logs] == ["finished a file of new names of an earlier run"]
    after.write(4, 5)
    after.end()
    assert len(after.finished) == 2
    rescue(after.data)
    assert len(after.finished) == 2


def test_leftovers_without_a_whole_line_or_with_a_name_already_are_removed(site: Site) -> None:
    site.data.new_names.mkdir()
    half, twice = (site.data.unfinished / f".new_qname-2023-11-14T22-13-20Z-{n}.jsonl.tmp" for n in (1, 2))
    half.write_bytes(b'{"flags":1')
    (site.data.new_names / FIRST).write_bytes(b"{}\n")
    twice.hardlink_to(site.data.new_names / FIRST)
    (site.data.unfinished / ".new_qname-x.jsonl.tmp").symlink_to(site.data.new_names / FIRST)
    with capture_logs() as logs:
        rescue(site.data)
    assert site.finished == {FIRST: [b"{}"]}
    assert [path.name for path in site.unfinished] == [".new_qname-x.jsonl.tmp"]  # not ours, not followed
    assert [line["log_level"] for line in logs] == ["warning"]


def test_an_interval_that_was_not_ended_is_finished_by_the_next_start(site: Site) -> None:
    site.write(0, 2)
    site.files.close()
    rescue(site.data)
    assert list(site.finished.values()) == [payloads(0, 2)]


def test_a_full_disk_costs_nothing_within_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_name_file, "RETRY", 0.0)
    with small_disk(tmp_path / "disk", 1 << 20) as disk, capture_logs() as logs:
        site = Site(disk.data)
        site.write(0, 10)
        disk.fill(0)
        names = site.write(10, 200)  # some of it would fit into the last page
        site.end(0)
        site.write(200, 210)
        assert names.found == []
        assert site.value("held") == 200
        assert not site.finished
        disk.clear()
        site.end(1)
        assert site.finished == {FIRST: payloads(0, 200), SECOND: payloads(200, 210)}
        assert names.found == [200]
        assert site.value("written_total") == 210
        assert not site.metrics.faults
    assert {(line["event"], line["reason"]) for line in logs} == {
        ("new names cannot be written, they are held in memory", "No space left on device")
    }
    assert len(logs) <= 3  # one for each try


def test_beyond_the_bound_the_oldest_are_lost_and_counted_and_their_names_not_saved(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk, capture_logs() as logs:
        site = Site(disk.data, limit=len(block_of(payloads(100, 300)).lines()))
        disk.fill(0)
        names = [site.write(first, first + 100) for first in (0, 100, 200)]
        assert (site.value("held"), site.value("lost_total")) == (200, 100)
        assert site.metrics.faults.counts() == {"events_lost": 100}
        disk.clear()
        site.end(0)  # waits for the next try
        site.files.close()
        assert site.finished == {FIRST: payloads(100, 300)}
        assert [name.found for name in names] == [[], [200], [200]]
    (lost,) = [line for line in logs if line["event"] == "new names lost"]
    assert (lost["count"], lost["reason"]) == (100, "too much is held in memory while writing fails")


def test_what_cannot_be_written_at_the_end_is_lost_and_counted(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        site = Site(disk.data)
        site.write(0, 5)
        disk.fill(0)
        names = site.write(5, 300)
        site.end(0)
        site.files.close()
        assert site.value("lost_total") == 295
        assert names.found == []
        disk.clear()
        rescue(site.data)
        assert list(site.finished.values()) == [payloads(0, 5)]


def test_what_the_disk_lost_is_written_again_and_stands_there_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write(0, 5)
    errors = [OSError(errno.EIO, "Input/output error")]
    sync = os.fdatasync

    def fail_once(descriptor: int) -> None:
        if errors:
            raise errors.pop()
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", fail_once)
    names = site.write(5, 10)
    assert (names.found, site.value("held")) == ([], 5)
    site.files.hurry()
    site.end(0)
    assert names.found == [10]
    assert site.finished == {FIRST: payloads(0, 10)}


def test_a_folder_that_becomes_read_only_holds_files_up(tmp_path: Path) -> None:
    site = Site(tmp_path / "data")
    site.files.check()
    with small_disk(tmp_path / "probe", 1 << 16), read_only(site.data.root):
        names = site.write(0, 5)
        assert site.value("held") == 5
        with pytest.raises(OutputError, match=r"^data-dir: .*new_qname: Read-only file system$"):
            site.files.check()
    site.end(0)
    site.files.close()
    assert site.finished == {FIRST: payloads(0, 5)}
    assert names.found == [5]


def test_a_removed_unfinished_file_is_counted(site: Site) -> None:
    site.write(0, 5)
    site.unfinished[0].unlink()
    site.end(0)
    assert site.value("lost_total") == 5
    site.write(5, 6)
    site.end(1)
    assert site.finished == {SECOND: payloads(5, 6)}


def through(sink: NewNamesToFiles, queue: EventQueue, blocks: Sequence[EventBlock]) -> None:
    for block in blocks:
        assert sink.put(block) == (len(block), 0)


def test_the_sink_writes_what_workers_put(tmp_path: Path) -> None:
    site = Site(tmp_path / "data")
    queue = EventQueue(1000)
    sink = NewNamesToFiles(queue, site.files, site.metrics)
    sink.start()
    through(sink, queue, [site.block(0, 5)[0], site.block(5, 9)[0]])
    queue.end_interval(START, START + MINUTE)
    through(sink, queue, [site.block(9, 12)[0]])
    wait_until(lambda: FIRST in site.finished, "the interval has its file")
    queue.end_interval(START + MINUTE, START + 2 * MINUTE)
    sink.reload(Config())
    queue.close()
    queue.end_interval(START, START)  # ignored: nobody would fetch it
    sink.stop(0.0)
    assert site.finished == {FIRST: payloads(0, 9), SECOND: payloads(9, 12)}


def test_a_sink_that_was_not_started_can_be_stopped(site: Site) -> None:
    NewNamesToFiles(EventQueue(1), site.files, site.metrics).stop(0.0)
    site.data.new_names.touch()
    sink = NewNamesToFiles(EventQueue(1), site.files, site.metrics)
    with pytest.raises(OutputError, match="new_qname"):
        sink.start()
    sink.stop(0.0)
