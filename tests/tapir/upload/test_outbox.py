"""The outbox: which files are uploaded, and where they are moved afterwards."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from edm.output.paths import DataDirectory
from edm.tapir.upload.outbox import KEEP_SENT, Outbox, interval_of
from support.upload_site import names

NAME = "dns_histogram-2023-11-29T13-50-00Z_2023-11-29T13-51-00Z.parquet"
LATER = "dns_histogram-2023-11-29T13-51-00Z_2023-11-29T13-52-00Z.parquet"


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(DataDirectory(tmp_path))


def test_oldest_first_and_only_whole_histograms(outbox: Outbox) -> None:
    (outbox.folder / LATER).write_bytes(b"later")
    (outbox.folder / NAME).write_bytes(b"first!")
    for other in (NAME + ".tmp", "dns_session_block-" + NAME[14:], "x" + NAME, "." + NAME, "notes.parquet"):
        (outbox.folder / other).write_bytes(b"")
    (outbox.folder / NAME.replace("13-50", "12-50")).mkdir()
    (outbox.folder / NAME.replace("13-50", "11-50")).symlink_to(outbox.folder / NAME)
    found = outbox.scan()
    assert [file.path.name for file in found] == [NAME, LATER]
    assert [file.size for file in found] == [6, 5]
    assert found[0].start == datetime(2023, 11, 29, 13, 50, tzinfo=UTC)
    assert found[0].stop == datetime(2023, 11, 29, 13, 51, tzinfo=UTC)


def test_a_name_without_times_is_logged_once(outbox: Outbox) -> None:
    strange = [
        "dns_histogram-.parquet",
        "dns_histogram-2023-11-29T13-50-00Z.parquet",
        "dns_histogram-2023-13-29T13-50-00Z_2023-11-29T13-51-00Z.parquet",
        "dns_histogram-2023-11-29T13:50:00Z_2023-11-29T13:51:00Z.parquet",
        NAME.replace(".parquet", "\n.parquet"),
        NAME.replace("2023", "２０２３", 1),
    ]
    for name in strange:
        with pytest.raises(ValueError):
            interval_of(name)
        (outbox.folder / name).write_bytes(b"")
    (outbox.folder / NAME).write_bytes(b"")
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            assert [file.path.name for file in outbox.scan()] == [NAME]
    assert sorted(line["filename"] for line in lines) == sorted(str(outbox.folder / name) for name in strange)
    assert set(strange) < set(names(outbox.folder))


def test_move_to_sent(outbox: Outbox) -> None:
    path = outbox.folder / NAME
    path.write_bytes(b"content")
    os.utime(path, (1, 1))
    (file,) = outbox.scan()
    assert not outbox.sent.exists()
    assert outbox.move_to_sent(file) == outbox.sent / NAME
    assert (outbox.sent / NAME).read_bytes() == b"content"
    assert (outbox.sent / NAME).stat().st_mtime == 1
    assert outbox.scan() == []
    with pytest.raises(FileNotFoundError):
        outbox.move_to_sent(file)
    assert names(outbox.sent) == [NAME]


def test_nothing_is_overwritten(outbox: Outbox) -> None:
    numbered = [NAME.replace(".parquet", f"~{n}.parquet") for n in (2, 3)]
    for content in (b"one", b"two", b"three"):
        (outbox.folder / NAME).write_bytes(content)
        (file,) = outbox.scan()
        outbox.set_aside(file)
    contents = [(outbox.refused / name).read_bytes() for name in (NAME, *numbered)]
    assert contents == [b"one", b"two", b"three"]
    # An operator moves one back, under the name that it has there.
    (outbox.refused / numbered[1]).rename(outbox.folder / numbered[1])
    (file,) = outbox.scan()
    assert (file.start, file.stop) == interval_of(NAME)
    assert outbox.set_aside(file) == outbox.refused / numbered[1]


def test_clean_removes_only_old_sent_histograms(outbox: Outbox) -> None:
    now = 2_000_000_000.0
    assert outbox.clean(now) == 0
    outbox.sent.mkdir()
    for folder in (outbox.folder, outbox.sent):
        for name, age in ((NAME, KEEP_SENT + 1), (LATER, KEEP_SENT - 1), ("notes.parquet", KEEP_SENT * 9)):
            (folder / name).write_bytes(b"")
            os.utime(folder / name, (now - age, now - age))
    assert outbox.clean(now) == 1
    assert names(outbox.sent) == [LATER, "notes.parquet"]
    assert names(outbox.folder) == [NAME, LATER, "notes.parquet"]
    assert outbox.clean(now + 2) == 1
    assert names(outbox.sent) == ["notes.parquet"]
