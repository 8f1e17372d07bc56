"""Parts that change many times: read and checked at once, made at their own pace, and never forgotten."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edm.kernel.jit import JIT_DISABLED
from edm.reload import reload as module
from edm.reload.pace import BURST, LONGEST
from edm.stages.domains import write_dawg
from support.daemon import to_toml
from support.reload_world import WORDS, World

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="an engine in plain Python takes too long")

CRYPTOPAN = "cryptopan"
WELL_KNOWN = "well_known_domains"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("waiting"), reload_at_once=False)
    yield world
    world.engine.stop()


@pytest.fixture
def world(made: World) -> World:
    """The world, when it has rested long enough."""
    made.now += 1000.0
    if made.reloader.waiting:
        made.reloader.take_up()
    assert made.reloader.due is None
    made.now += 1000.0
    return made


def set_key(world: World, key: str) -> str:
    """Reload with another key; return what became of it."""
    world.settings["cryptopan_key"] = key
    world.good["edm.toml"] = to_toml(world.settings).encode()
    world.repair("edm.toml")
    assert world.reloader.reload()
    return world.reloader.outcome.parts[CRYPTOPAN].result


def pseudonymiser(world: World) -> object:
    return world.engine.cell.current.pseudonyms


def use_up(world: World) -> None:
    """Change the key as often as is possible at once."""
    for number in range(BURST):
        assert set_key(world, f"{world.now} {number}") == "reloaded"


def test_a_key_changed_again_and_again_waits_and_is_taken_up(world: World) -> None:
    use_up(world)
    before = pseudonymiser(world)
    with capture_logs() as logs:
        assert set_key(world, "one more") == "waiting"
    assert [entry["waiting"] for entry in logs if entry["event"] == "reloaded"] == [[CRYPTOPAN]]
    assert pseudonymiser(world) is before
    outcome = world.reloader.outcome
    assert outcome.waiting == (CRYPTOPAN,)
    assert not outcome.failed
    assert world.reloader.waiting == 1
    assert outcome.parts[CRYPTOPAN].reasons == ("changed several times just now, taken up in 10.0 seconds",)
    assert world.reloader.due == pytest.approx(LONGEST)

    world.now += LONGEST - 0.001
    world.reloader.take_up()
    assert pseudonymiser(world) is before
    world.now += 0.002
    assert world.reloader.due == 0
    with capture_logs() as logs:
        world.reloader.take_up()
    assert [entry["parts"] for entry in logs if entry["event"] == "took up what had to wait"] == [[CRYPTOPAN]]
    assert pseudonymiser(world) is not before
    assert world.reloader.due is None
    after = world.reloader.outcome
    assert after.parts[CRYPTOPAN].result == "reloaded"
    assert (after.serial, after.began_us) == (outcome.serial, outcome.began_us)
    assert set_key(world, "one more") == "unchanged"


def test_of_many_keys_that_wait_the_last_one_is_taken_up(world: World) -> None:
    use_up(world)
    for key in ("a", "b", "c"):
        assert set_key(world, key) == "waiting"
    world.now += LONGEST
    generation = world.engine.cell.current.generation
    world.reloader.take_up()
    assert world.engine.cell.current.generation == generation + 1
    assert set_key(world, "c") == "unchanged"


def test_a_key_changed_back_waits_no_longer(world: World) -> None:
    use_up(world)
    before = pseudonymiser(world)
    in_force = str(world.settings["cryptopan_key"])
    assert set_key(world, "a mistake") == "waiting"
    assert set_key(world, in_force) == "unchanged"
    assert world.reloader.due is None
    assert pseudonymiser(world) is before


def test_what_waits_is_taken_up_although_a_later_reload_fails(world: World) -> None:
    use_up(world)
    before = pseudonymiser(world)
    assert set_key(world, "good") == "waiting"
    (world.folder / "edm.toml").write_text("broken\n")
    assert not world.reloader.reload()
    world.now += LONGEST
    world.reloader.take_up()
    assert pseudonymiser(world) is not before
    world.repair("edm.toml")
    assert world.reloader.reload()
    assert world.reloader.outcome.parts[CRYPTOPAN].result == "unchanged"


def test_a_key_that_cannot_be_made_after_all_is_a_failure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(config: object) -> object:
        raise MemoryError

    use_up(world)
    before = pseudonymiser(world)
    assert set_key(world, "too much") == "waiting"
    errors = world.metric("s_total", CRYPTOPAN, result="error")
    world.now += LONGEST
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_pseudonyms", no_memory)
        world.reloader.take_up()
    assert world.reloader.outcome.failed == (CRYPTOPAN,)
    assert world.metric("s_total", CRYPTOPAN, result="error") == errors + 1
    assert pseudonymiser(world) is before
    assert world.reloader.due is None


def test_a_fault_while_taking_up_ends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**parts: object) -> None:
        raise RuntimeError("no snapshot today")

    use_up(world)
    before = pseudonymiser(world)
    assert set_key(world, "unlucky") == "waiting"
    world.now += LONGEST
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(world.engine, "publish", broken)
        world.reloader.take_up()
    assert [entry["event"] for entry in logs if entry.get("exc_info")] == [
        "reload failed, keeping the old state"
    ]
    assert "config" in world.reloader.outcome.failed
    assert pseudonymiser(world) is before
    world.now += LONGEST
    assert set_key(world, "unlucky") == "reloaded"
    assert pseudonymiser(world) is not before


def test_while_a_key_waits_all_else_is_reloaded(world: World) -> None:
    use_up(world)
    before = world.parts()
    world.turn()
    assert set_key(world, "later") == "waiting"
    after = world.parts()
    assert all(after[part] is not before[part] for part in before)


def test_at_once_if_the_operator_wants_it(world: World) -> None:
    use_up(world)
    assert set_key(world, "first later") == "waiting"
    world.settings["reload_at_once"] = True
    try:
        for number in range(2 * BURST):
            assert set_key(world, f"now {number}") == "reloaded"
    finally:
        world.settings["reload_at_once"] = False
    assert world.reloader.due is None
    world.now += 1000.0
    set_key(world, "in turn again")


def change_list(world: World, number: int) -> str:
    """Reload with another list of well-known domains; return what became of it."""
    world.good["known.dawg"] = bytes(write_dawg([*WORDS, f"number{number}.example."]))
    world.repair("known.dawg")
    assert world.reloader.reload()
    return world.reloader.outcome.parts[WELL_KNOWN].result


def test_a_list_waits_in_proportion_to_what_it_costs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(100))
    monkeypatch.setattr(module.time, "thread_time", lambda: next(seconds) * 0.004)
    for number in range(BURST):
        assert change_list(world, number) == "reloaded"
    assert change_list(world, 50) == "waiting"
    assert world.reloader.due == pytest.approx(0.8)
    # Nothing new to be read, and yet it still waits.
    assert world.reloader.reload()
    assert world.reloader.outcome.waiting == (WELL_KNOWN,)
    assert world.engine.latest_well_known.match("number2.example.")[1]
    world.now += 0.9
    world.reloader.take_up()
    assert world.engine.latest_well_known.match("number50.example.")[1]
    assert not world.engine.latest_well_known.match("number2.example.")[1]


def test_a_list_that_waits_is_read_when_it_is_taken_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(100))
    monkeypatch.setattr(module.time, "thread_time", lambda: next(seconds) * 0.004)
    for number in range(BURST):
        change_list(world, 100 + number)
    assert change_list(world, 150) == "waiting"
    (world.folder / "known.dawg").write_bytes(b"<!doctype html>")
    world.now += 0.9
    world.reloader.take_up()
    assert world.reloader.outcome.failed == (WELL_KNOWN,)
    assert world.engine.latest_well_known.match("number102.example.")[1]
    assert world.reloader.due is None
    world.now += 0.9
    assert change_list(world, 160) == "reloaded"
    assert world.engine.latest_well_known.match("number160.example.")[1]


def test_an_unchanged_list_is_not_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # The pace's clock stands still: what loading really costs, much on a busy machine, must not be charged to it.
    monkeypatch.setattr(module.time, "thread_time", lambda: 0.0)
    world.now += 1000.0
    assert change_list(world, 200) == "reloaded"
    reads = []
    read = module.open_well_known
    monkeypatch.setattr(module, "open_well_known", lambda config: reads.append(1) or read(config))
    assert world.reloader.reload()  # at the first read it may have been too young for a stamp
    del reads[:]
    for _ in range(3):
        assert world.reloader.reload()
    assert not reads
    assert world.reloader.outcome.parts[WELL_KNOWN].result == "unchanged"
    # The same number of bytes, in place, and the time of the last write put back.
    path: Path = world.folder / "known.dawg"
    times = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert world.reloader.reload()
    assert reads
