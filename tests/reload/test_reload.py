"""Reloads that fail: each part with each fault. The old part stays, the others are reloaded, all is reported."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edm.config import Config
from edm.files import reading
from edm.kernel.jit import JIT_DISABLED
from edm.reload import reload as module
from edm.reload.outcome import ReloadOutcome
from edm.stages.domains import DomainTable, write_dawg
from support.daemon import to_toml
from support.reload_world import FILES, World

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="an engine in plain Python takes too long")

ENORMOUS = 100 << 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "DOUBT", 0.05)
        made = World(tmp_path_factory.mktemp("reload"))
        yield made
        made.engine.stop()


# The faults; each changes a file for the worse.


def half_written(path: Path) -> None:
    # In a value, a number, a node, a block of base64; never at the end of a line.
    data = path.read_bytes()
    cut = len(data) // 2 if path.name != "clients" else data.rindex(b"/24") + 1
    path.write_bytes(data[:cut] if data[cut - 1 : cut] != b"\n" else data[: cut - 1])


def corrupt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for i in range(len(data) // 3, len(data), 7):
        data[i] ^= 0xA5
    path.write_bytes(data)


def other_kind(path: Path) -> None:
    path.write_bytes(b"<!doctype html><title>404 Not Found</title>\n")


def enormous(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(ENORMOUS)


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def fault(path: Path) -> None:
        path.unlink()
        make(path)

    return fault


FAULTS: dict[str, Callable[[Path], object]] = {
    "half written": half_written,
    "corrupt": corrupt,
    "of another kind": other_kind,
    "empty": lambda path: path.write_bytes(b""),
    "enormous": enormous,
    "deleted": Path.unlink,
    "a directory": instead(Path.mkdir),
    "a pipe": instead(os.mkfifo),
    "an endless device": instead(lambda path: path.symlink_to("/dev/zero")),
    "a dangling link": instead(lambda path: path.symlink_to("nowhere")),
    "a link to itself": instead(lambda path: path.symlink_to(path.name)),
    "a read error": instead(lambda path: path.symlink_to("/proc/self/mem")),
}

MEANT_SO = {("clients", "empty"), ("ignored.dawg", "empty")}
"""An empty list is a list: nothing is ignored."""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FILES)
def test_a_fault_keeps_the_old_part_and_no_other(world: World, name: str, fault: str) -> None:
    part = FILES[name]
    before = world.parts()
    errors = world.metric("s_total", part, result="error")
    failure = world.metric("_last_failure_timestamp_seconds", part)
    success = world.metric("_last_success_timestamp_seconds", part)
    world.turn()
    FAULTS[fault](world.folder / name)
    began = time.monotonic()
    with capture_logs() as logs:
        worked = world.reloader.reload()
    assert time.monotonic() - began < 5
    after = world.parts()
    changed = {p for p in before if after[p] is not before[p]}
    outcome = world.reloader.outcome

    if (name, fault) in MEANT_SO:
        assert worked
        assert not after[part]
        assert changed == set(before)
    else:
        assert not worked
        assert changed == (set() if part == "config" else set(before) - {part})
        assert outcome.failed == (part,)
        lines = [entry for entry in logs if entry["log_level"] == "error"]
        assert lines
        assert not any("exc_info" in entry for entry in logs)
        reasons = outcome.parts[part].reasons
        assert [entry["reason"] for entry in lines] == list(reasons)
        if (name, fault) != ("edm.toml", "empty"):  # then it is the keys that are missing
            assert all(str(world.folder / name) in reason for reason in reasons)
        assert not any("\n" in reason or "Error" in reason for reason in reasons)
        assert world.metric("s_total", part, result="error") == errors + 1
        assert world.metric("_last_failure_timestamp_seconds", part) > failure
        assert world.metric("_last_success_timestamp_seconds", part) == success > 0

    world.repair(name)
    with capture_logs() as logs:
        assert world.reloader.reload()
    assert not [entry for entry in logs if entry["log_level"] == "error"]
    assert world.metric("_last_success_timestamp_seconds", part) > success
    assert world.parts()[part] is not before[part]


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("key.pem")])
def test_a_file_that_is_replaced_while_it_is_read(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.turn()
    path = world.folder / name
    done: list[bool] = []
    preadv = os.preadv

    def replace_half_way(descriptor: int, rooms: list[memoryview], offset: int) -> int:
        if os.path.samestat(os.fstat(descriptor), path.stat()) and not done:
            done.append(True)
            count = preadv(descriptor, [rooms[0][: len(rooms[0]) // 2]], offset)
            # In place and, for the worst, with the same number of bytes: nothing to be seen but the times.
            with path.open("r+b") as file:
                file.write(b"\n" * len(world.good[name]))
                file.seek(0)
                file.write(world.good[name])
            return count
        return preadv(descriptor, rooms, offset)

    monkeypatch.setattr(reading.os, "preadv", replace_half_way)
    assert world.reloader.reload()
    assert done


def test_all_parts_fail_and_recover_together(world: World) -> None:
    before = world.parts()
    world.turn()
    for name in FILES:
        if name != "edm.toml" and not name.endswith("key.pem"):
            (world.folder / name).unlink()
    assert not world.reloader.reload()
    assert set(world.reloader.outcome.failed) == set(before) - {"config"}
    after = world.parts()
    assert [part for part in before if after[part] is not before[part]] == ["config"]
    for name in FILES:
        world.repair(name)
    assert world.reloader.reload()
    now = world.parts()
    assert all(now[part] is not before[part] for part in before)


def test_a_list_file_above_the_bound(world: World) -> None:
    size = len(world.good["known.dawg"])
    assert size > 1024 > len(world.good["ignored.dawg"])
    (world.folder / "edm.toml").write_text(to_toml({**world.settings, "list_file_bytes": 1024}))
    assert not world.reloader.reload()
    (reason,) = world.reloader.outcome.parts["well_known_domains"].reasons
    assert reason == (
        f"{world.folder}/known.dawg: {size:,} bytes are more than the 1,024 allowed (list-file-bytes)"
    )
    assert world.reloader.outcome.failed == ("well_known_domains",)
    world.repair("edm.toml")
    assert world.reloader.reload()


def test_a_key_that_could_not_be_taken_up_is_taken_up_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world.engine.cell.current.pseudonyms

    def no_memory(config: Config) -> object:
        raise MemoryError

    (world.folder / "edm.toml").write_text(to_toml({**world.settings, "cryptopan_key": "another"}))
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_pseudonyms", no_memory)
        assert not world.reloader.reload()
        assert world.reloader.outcome.parts["cryptopan"].reasons == ("there is not enough memory for it",)
    assert world.engine.cell.current.pseudonyms is before
    # The configuration is the same as at the reload before, the key in use is not.
    assert world.reloader.reload()
    assert world.engine.cell.current.pseudonyms is not before
    assert world.reloader.outcome.parts["cryptopan"].result == "reloaded"
    world.repair("edm.toml")
    assert world.reloader.reload()
    assert world.reloader.reload()
    assert world.reloader.outcome.parts["cryptopan"].result == "unchanged"


def test_a_fault_in_the_program_costs_one_part(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.parts()

    def broken(config: Config) -> object:
        raise ZeroDivisionError("192.0.2.1")

    monkeypatch.setattr(module, "load_clients", broken)
    world.turn()
    with capture_logs() as logs:
        assert not world.reloader.reload()
    assert [entry.get("exc_info") for entry in logs if entry["log_level"] == "error"] == [True]
    after = world.parts()
    assert [part for part in before if after[part] is before[part]] == ["ignored_client_ips"]
    (reason,) = world.reloader.outcome.parts["ignored_client_ips"].reasons
    assert "ZeroDivisionError" in reason
    assert "192.0.2.1" not in reason


def test_reloading_itself_never_fails_unseen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**parts: object) -> None:
        raise RuntimeError("no snapshot today")

    monkeypatch.setattr(world.engine, "publish", broken)
    with capture_logs() as logs:
        assert not world.reloader.reload()
    assert [entry["event"] for entry in logs if entry.get("exc_info")] == [
        "reload failed, keeping the old state"
    ]
    assert "config" in world.reloader.outcome.failed
    monkeypatch.undo()
    assert world.reloader.reload()


# What is left behind


def test_the_outcome_is_a_file_of_its_own(world: World, tmp_path: Path) -> None:
    serial = world.reloader.outcome.serial
    (world.folder / "clients").write_text("10.0.0.0/8\n192.0.2.7\n")
    assert not world.reloader.reload()
    outcome = world.reloader.outcome
    assert outcome.serial == serial + 1
    assert 0 < outcome.began_us <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    old = os.umask(0)
    try:
        outcome.write(tmp_path)
        outcome.write(tmp_path)
    finally:
        os.umask(old)
    assert [path.name for path in tmp_path.iterdir()] == ["reload.json"]
    assert (tmp_path / "reload.json").stat().st_mode & 0o777 == 0o640
    assert ReloadOutcome.read(tmp_path) == outcome
    text = (tmp_path / "reload.json").read_text()
    assert "line 2" in text
    assert "192.0.2" not in text
    assert "a secret" not in text
    world.repair("clients")
    assert world.reloader.reload()


# In use


def test_overwriting_a_list_in_place_changes_no_answer(tmp_path: Path) -> None:
    words = [f"name{i}.example.com." for i in range(1000)] + [f".sub{i}.example.org." for i in range(1000)]
    path = tmp_path / "known.dawg"
    path.write_bytes(write_dawg(words))
    table = DomainTable.open(path)
    names = [word if word[0] != "." else f"www{word}" for word in words] + ["example.com.", "other.example."]
    answers = [table.match(name) for name in names]
    assert sum(index >= 0 for index, _ in answers) == len(words)
    texts = [table.word(index) for index, _ in answers if index >= 0]
    inode = path.stat().st_ino
    for content in (bytes(path.stat().st_size), b"\xff" * path.stat().st_size, b"short", b""):
        with path.open("r+b") as file:
            file.write(content)
            file.truncate()
        assert path.stat().st_ino == inode
        assert [table.match(name) for name in names] == answers
        assert [table.word(index) for index, _ in answers if index >= 0] == texts


def test_parts_without_use_are_not_configured(tmp_path: Path) -> None:
    def outcome(world: World) -> dict[str, str]:
        assert world.reloader.reload()
        return {name: part.result for name, part in world.reloader.outcome.parts.items()}

    world = World(tmp_path)
    try:
        parts = outcome(world)
        assert (parts["ignored_client_ips"], parts["http_client_certificate"]) == ("reloaded", "reloaded")
        off = {
            "ignored_client_ips_file": "",
            "ignored_question_names_file": "",
            "disable_histogram_sender": True,
        }
        (tmp_path / "edm.toml").write_text(to_toml({**world.settings, **off}))
        parts = outcome(world)  # now they are taken out of use
        assert (parts["ignored_client_ips"], parts["ignored_question_names"]) == ("reloaded", "reloaded")
        assert parts["http_client_certificate"] == "not configured"
        parts = outcome(world)
        assert (parts["ignored_client_ips"], parts["ignored_question_names"]) == ("not configured",) * 2
        assert parts["config"] == "reloaded"
    finally:
        world.engine.stop()
