"""Folders and files that other users can change, and the warnings of a start."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest

from edm.config import Config
from edm.errors import ConfigError, OutputError, StoreError
from edm.files.own import make_new, open_own, shared_reason
from edm.observe.metrics import Metrics
from edm.output.debug_file import DebugFile
from edm.output.paths import DataDirectory
from edm.reload.outcome import ReloadOutcome
from edm.stages.new_qname.seen.folder import LOCK_NAME
from edm.stages.new_qname.seen.store import SeenStore
from edm.startup.safety import exposures, forbid_core_files, refuse_shared_folders, shared_folders
from edm.tapir.events.queue_database import DiskError, open_database
from edm.tapir.upload.post import PostError, open_content

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def config(folder: Path, **more: object) -> Config:
    settings: dict[str, object] = {
        "data_dir": str(folder / "data"),
        "input_unix": str(folder / "run" / "s"),
        "disable_mqtt": True,
        "disable_histogram_sender": True,
        **more,
    }
    return Config(**settings)  # type: ignore[arg-type]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for folder in ("data", "run"):
        (tmp_path / folder).mkdir(0o750)
    return tmp_path


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(b"precious")
    path.chmod(0o600)
    return path


def unharmed(victim: Path) -> bool:
    return victim.read_bytes() == b"precious" and stat.S_IMODE(victim.stat().st_mode) == 0o600


def test_folders_of_ones_own_are_in_order(site: Path) -> None:
    assert list(shared_folders(config(site))) == []
    assert list(exposures(config(site))) == []
    (site / "data").chmod(0o770)  # for the service's own group
    assert list(shared_folders(config(site))) == []


@pytest.mark.parametrize(("folder", "key"), [("data", "data-dir"), ("run", "input-unix")])
def test_a_folder_that_everybody_can_write_to_is_refused_unless_allowed(
    site: Path, folder: str, key: str
) -> None:
    (site / folder).chmod(0o777)
    with pytest.raises(ConfigError) as caught:
        refuse_shared_folders(config(site))
    (line,) = caught.value.violations
    assert line.startswith(f"{key}: every user can write to {site / folder}")
    assert "allow-shared-folders" in line
    refuse_shared_folders(config(site, allow_shared_folders=True))


def test_a_folder_on_the_way_or_below_counts_as_well(site: Path) -> None:
    (site / "data" / "mqtt").mkdir()
    (site / "data" / "mqtt").chmod(0o777)
    assert len(list(shared_folders(config(site)))) == 1
    (site / "data" / "mqtt").chmod(0o750)
    (site / "run").chmod(0o777)
    (site / "run" / "deep").mkdir(0o750)
    assert shared_reason(site / "run" / "deep" / "not-yet") == f"every user can write to {site / 'run'}"


def test_links_in_a_circle_are_for_who_uses_them(site: Path) -> None:
    (site / "circle").symlink_to("circle")
    assert shared_reason(site / "circle" / "below") is None


def test_a_sticky_folder_of_ones_own_is_in_order(site: Path) -> None:
    (site / "data").chmod(0o1777)
    assert list(shared_folders(config(site))) == []


@needs_root
def test_a_sticky_folder_of_somebody_else_is_not(site: Path) -> None:
    (site / "data").chmod(0o1777)
    os.chown(site / "data", 12345, -1)
    assert len(list(shared_folders(config(site)))) == 1


@needs_root
def test_other_owners_and_groups_are_warned_of(site: Path) -> None:
    os.chown(site / "run", 12345, -1)
    (site / "data").chmod(0o770)
    os.chown(site / "data", -1, 54321)
    lines = list(exposures(config(site)))
    assert any("belongs to another user (12345)" in line for line in lines)
    assert any("a group that EDM is not in (54321)" in line for line in lines)


def test_links_are_not_followed(tmp_path: Path, victim: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        open_own(link, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.close(make_new(link, 0o600))
    assert not link.is_symlink()
    assert unharmed(victim)


def test_planted_links_in_the_data_directory(site: Path, victim: Path) -> None:
    data = site / "data"
    (data / ".write-test.tmp").symlink_to(victim)
    DataDirectory(data)
    (data / ".reload.json.tmp").symlink_to(victim)
    ReloadOutcome(0, 1, 2, 3.0).write(data)
    assert not (data / "reload.json").is_symlink()
    (data / "seen-names").mkdir()
    (data / "seen-names" / LOCK_NAME).symlink_to(victim)
    with pytest.raises(StoreError, match=r"seen-names: .*symbolic link"):
        SeenStore.open(data / "seen-names", limit_entries=100, sync=False)
    (data / "seen-names" / LOCK_NAME).unlink()
    (data / "seen-names" / "names-00000001.log").symlink_to(victim)
    assert unharmed(victim)


@pytest.mark.parametrize("suffix", ["", "-wal", "-journal", "-shm"])
def test_planted_links_beside_the_queue(tmp_path: Path, victim: Path, suffix: str) -> None:
    (tmp_path / f"queue.sqlite3{suffix}").symlink_to(victim)
    with pytest.raises(DiskError, match="symbolic link"):
        open_database(tmp_path / "queue.sqlite3")
    assert unharmed(victim)


def test_a_planted_link_is_not_uploaded(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "dns_histogram-x.parquet").symlink_to(victim)
    with pytest.raises(PostError, match="symbolic link"):
        open_content(tmp_path / "dns_histogram-x.parquet")


def test_the_debug_file(tmp_path: Path, victim: Path) -> None:
    link = tmp_path / "debug"
    link.symlink_to(victim)
    with pytest.raises(OutputError, match=r"debug-dnstap-filename: .*symbolic link"):
        DebugFile(link, Metrics())
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    os.link(victim, shared / "debug")
    with pytest.raises(OutputError, match="belongs to another user"):
        DebugFile(shared / "debug", Metrics())
    assert unharmed(victim)
    DebugFile(Path("/dev/stderr"), Metrics()).close()


def test_keys_that_others_can_read_and_connections_without_tls_are_warned_of(site: Path) -> None:
    key = site / "key.pem"
    key.touch(0o644)
    key.chmod(0o644)
    cfg = config(
        site,
        disable_mqtt=False,
        disable_histogram_sender=False,
        mqtt_server="mqtt://127.0.0.1:1883",
        http_url="http://127.0.0.1",
        mqtt_client_key_file=str(key),
        http_signing_key_file=str(key),
        mqtt_signing_key_file=str(site / "none"),
        http_client_key_file=str(site / "none"),
    )
    lines = list(exposures(cfg))
    assert [line.partition(":")[0] for line in lines] == [
        "mqtt-client-key-file", "http-signing-key-file", "mqtt-server", "http-url",
    ]  # fmt: skip
    key.chmod(0o640)
    assert [line.partition(":")[0] for line in exposures(cfg)] == ["mqtt-server", "http-url"]


def test_no_core_files(site: Path) -> None:
    pid = os.fork()
    if pid == 0:
        forbid_core_files(config(site, core_files=True))
        before = resource.getrlimit(resource.RLIMIT_CORE)
        forbid_core_files(config(site))
        os._exit(0 if resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) and before is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
