"""The number of usable CPUs, with control groups as the system shows them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest

from edm.config import cpus, schema
from edm.config.cpus import available_cpus, usable_cpus
from edm.config.schema import Settings

V2 = "30 23 0:26 {root} {place} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 24 0:29 {root} {place} rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
OTHERS = [
    "24 1 0:5 / / rw - ext4 /dev/vda rw",
    "34 24 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
    "not a line of this file",
]

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "available_cpus", lambda: 8)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a tree of groups and what the system tells of the process; return the latter's folder."""

    def make(
        groups: str, files: Mapping[str, str], mount: str = V2, root: str = "/", place: str = "groups"
    ) -> Path:
        folder = tmp_path / place
        folder.mkdir()
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        proc = tmp_path / "self"
        proc.mkdir()
        proc.joinpath("cgroup").write_text(groups)
        line = mount.format(root=root, place=str(folder).replace(" ", "\\040"))
        proc.joinpath("mountinfo").write_text("\n".join([*OTHERS, line, ""]))
        return proc

    return make


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("50000 100000", 1),
        ("1000 1000000", 1),
        ("100000 100000", 1),
        ("150000 100000", 2),
        ("300000 100000", 3),
        ("3000000 100000", 8),
        ("max 100000", 8),
        ("", 8),
        ("nonsense", 8),
        ("1 0", 8),
        ("0 100000", 8),
        ("٣ 1", 8),
    ],
)
def test_the_quota_of_its_own_group(make: Make, quota: str, expected: int) -> None:
    assert (
        usable_cpus(make("0::/system.slice/edm.service\n", {"system.slice/edm.service/cpu.max": quota}))
        == expected
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a/cpu.max": "200000 100000", "a/b/c/cpu.max": "max 100000"}, 2),
        ({"a/cpu.max": "400000 100000", "a/b/c/cpu.max": "300000 100000"}, 3),
        ({"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000", "a/b/c/cpu.max": "600000 100000"}, 1),
        ({"cpu.max": "200000 100000", "a/b/c/cgroup.procs": ""}, 2),
        ({"other/cpu.max": "100000 100000", "a/b/c/d/cpu.max": "100000 100000"}, 8),
    ],
)
def test_the_least_of_all_groups_above_counts(make: Make, files: dict[str, str], expected: int) -> None:
    assert usable_cpus(make("0::/a/b/c\n", files)) == expected


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [("50000", "100000", 1), ("250000", "100000", 3), ("-1", "100000", 8), ("100000", "", 8)],
)
def test_version_1(make: Make, quota: str, period: str, expected: int) -> None:
    files = {"docker/abc/cpu.cfs_quota_us": quota + "\n", "docker/abc/cpu.cfs_period_us": period + "\n"}
    groups = "5:memory:/docker/other\n4:cpu,cpuacct:/docker/abc\n3:cpuset:/\n0::/\n"
    assert usable_cpus(make(groups, files, V1)) == expected


def test_version_1_looks_at_the_groups_above(make: Make) -> None:
    files = {"pod/cpu.cfs_quota_us": "200000", "pod/cpu.cfs_period_us": "100000"}
    files |= {"pod/one/cpu.cfs_quota_us": "-1", "pod/one/cpu.cfs_period_us": "100000"}
    assert usable_cpus(make("4:cpuacct,cpu:/pod/one\n", files, V1)) == 2


@pytest.mark.parametrize("path", ["/docker/abc", "/", "/../../other", "/elsewhere"])
def test_in_a_container_the_root_is_what_can_be_seen(make: Make, path: str) -> None:
    proc = make(f"0::{path}\n", {"cpu.max": "200000 100000"}, root="/docker/abc")
    assert usable_cpus(proc) == 2


def test_a_mount_whose_path_has_a_blank(make: Make) -> None:
    assert usable_cpus(make("0::/\n", {"cpu.max": "200000 100000"}, place="control groups")) == 2


def test_without_control_groups(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path / "nothing") == 8


def test_what_the_keys_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edm.config.schema.usable_cpus", lambda: 3)
    monkeypatch.setattr("edm.config.schema._cpus", cache(schema._cpus.__wrapped__))
    assert Settings(minimiser_workers=0).workers == 3
    assert Settings(minimiser_workers=5).workers == 5
    assert Settings(mqtt_sign_workers=0).sign_workers == 3
    assert Settings(mqtt_sign_workers=1).sign_workers == 1


def test_the_process_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    count = available_cpus()
    assert count >= 1
    if not hasattr(os, "process_cpu_count"):
        assert count == len(os.sched_getaffinity(0))
    assert usable_cpus() >= 1
