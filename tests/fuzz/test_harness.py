"""The fuzzers find known defects, and save an input that reproduces each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from fuzz import mutation, run
from fuzz.batches import pack, unpack
from fuzz.campaign import Campaign
from fuzz.guarded import Guarded, OutOfBoundsError
from fuzz.target import Target
from fuzz.targets import TARGETS
from oracles import (
    configuration,
    dawg_validity,
    dns_message,
    dnstap_frame,
    domain_match,
    frame_receiver,
    prefix_file,
)

ROOT = Path(__file__).resolve().parents[2]


class Planted(Target):
    """A program that cannot bear the bytes 0xC0 0x0C behind the third place."""

    name = "planted"
    batch = 100
    longest = 200

    def corpus(self) -> list[bytes]:
        return [bytes(40)]

    def generate(self, rng: Random) -> bytes:
        return rng.randbytes(rng.randrange(60))

    def check(self, inputs: Sequence[bytes]) -> list[bool]:
        if any(b"\xc0\x0c" in data[3:] for data in inputs):
            raise IndexError("out of bounds")
        return [True] * len(inputs)


class Together(Planted):
    """A program that fails on a whole batch only."""

    def check(self, inputs: Sequence[bytes]) -> list[bool]:
        if len(inputs) > 1:
            raise IndexError("out of bounds")
        return [True]


def test_a_fault_is_found_made_small_and_kept(tmp_path: Path) -> None:
    result = Campaign(Planted(), 1, tmp_path).run(100_000)
    assert result.failure == "IndexError: out of bounds"
    assert result.file is not None
    data = result.file.read_bytes()
    assert len(data) == 5
    assert data[3:] == b"\xc0\x0c"
    assert list(tmp_path.iterdir()) == [result.file]


def test_a_fault_of_a_whole_batch_is_kept_as_such(tmp_path: Path) -> None:
    result = Campaign(Together(), 1, tmp_path).run(1000)
    assert result.file is not None
    assert len(unpack(result.file.read_bytes())) == 100
    with pytest.raises(IndexError):
        Together().check(unpack(result.file.read_bytes()))


def misses_short_names(words: dict[str, int], name: str, match: Any = domain_match.match) -> tuple[int, int]:
    return match(words, name) if len(name) != 5 else (-1, 0)


# One small change in what an oracle says, as a fault in the program would be.
WRONG_ORACLES = {
    "dns": (dns_message.GRAMMAR, 33, ["2", "2", "n"]),
    "dnstap": (dnstap_frame.VARINT_FIELDS, 7, "port"),
    "dawg": (dawg_validity, "_check_characters", lambda node: None),
    "framestream": (frame_receiver, "START", 5),
    "names": (domain_match, "match", misses_short_names),
    "prefixes": (prefix_file, "holds", lambda networks, address: len(address) == 4 and networks != []),
    "configuration": (configuration.TYPES, "uint16", bool),
}


@pytest.mark.parametrize("name", sorted(WRONG_ORACLES))
def test_a_small_disagreement_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, what, wrong = WRONG_ORACLES[name]
    if isinstance(where, dict):
        monkeypatch.setitem(where, what, wrong)
    else:
        monkeypatch.setattr(where, what, wrong)
    result = Campaign(TARGETS[name](), 5, tmp_path).run(20_000)
    assert result.file is not None
    data = unpack(result.file.read_bytes())
    with pytest.raises(AssertionError):
        TARGETS[name]().check(data)
    monkeypatch.undo()
    TARGETS[name]().check(data)


def test_batches_are_read_back() -> None:
    inputs = [b"", b"a", bytes(300)]
    assert unpack(pack(inputs)) == inputs
    assert unpack(b"alone") == [b"alone"]


@pytest.mark.parametrize("operation", sorted(set(mutation.OPERATIONS), key=lambda f: f.__name__))
def test_every_mutation_changes_something_and_bears_any_input(operation: mutation.Operation) -> None:
    changed = 0
    for k in range(200):
        rng = Random(k)
        before = rng.randbytes(rng.randrange(1, 40))
        data = bytearray(before)
        operation(rng, data, rng.randbytes(k % 30))
        changed += data != before
    assert changed > 100


def test_mutated_inputs_keep_their_bound() -> None:
    rng = Random(1)
    sizes = [len(mutation.mutate(rng, bytes(rng.randrange(50)), bytes(100), 60)) for _ in range(2000)]
    assert max(sizes) == 60
    assert min(sizes) == 0


@pytest.mark.parametrize(("name", "checksum"), [("packets", 1), ("seen_log", 40)])
def test_a_checksum_is_put_right(name: str, checksum: int) -> None:
    target = TARGETS[name]()
    mended = 0
    for data in target.corpus():
        broken = bytearray(data)
        broken[checksum] ^= 1
        if target.check([data]) == [True] and target.mended(bytes(broken)) != broken:
            assert target.check([bytes(broken)]) == [False]
            assert target.mended(bytes(broken)) == data
            mended += 1
    assert mended > 3
    assert target.mended(b"\x80") == b"\x80"


def test_guarded_arrays_refuse_what_numpy_takes() -> None:
    flat, table = Guarded(np.arange(10)), Guarded(np.zeros((3, 4)))
    table[2, 3] = 7
    assert (flat[np.uint64(9)], table[2, 3], table[1].size, len(flat), table.shape) == (9, 7, 4, 10, (3, 4))
    assert flat[2:5].array.tolist() == [2, 3, 4]
    for array, index in (
        (flat, -1),
        (flat, 10),
        (table, (0, -1)),
        (table, (3, 0)),
        (flat, slice(5, 11)),
        (table[0], 4),
    ):
        with pytest.raises(OutOfBoundsError):
            array[index]
        with pytest.raises(OutOfBoundsError):
            array[index] = 1


def test_guarded_arrays_refuse_to_read_what_was_not_written() -> None:
    array = Guarded(np.zeros(10, np.uint8), initialised=4)
    assert array[3] == 0
    with pytest.raises(OutOfBoundsError, match="before it was written"):
        array[4]
    array[4] = 5
    assert array[4] == 5


HANGING = """
from pathlib import Path
import sys
from fuzz.campaign import Campaign
from fuzz.test_harness import Planted

class Hanging(Planted):
    def check(self, inputs):
        while True:
            pass

Campaign(Hanging(), 1, Path(sys.argv[1]), hang_seconds=0.2).run(100)
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests")))
    environ = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(
        [sys.executable, *arguments], env=environ, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_hang_ends_the_process_and_leaves_its_inputs(tmp_path: Path) -> None:
    ended = python("-c", HANGING, str(tmp_path))
    assert ended.returncode == 70
    assert "HANG" in ended.stderr
    (file,) = tmp_path.iterdir()
    assert len(unpack(file.read_bytes())) == 100
    assert str(file) in ended.stderr


def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TARGETS, "planted", Planted)
    monkeypatch.setattr(
        sys, "argv", ["fuzz.run", "--target", "planted", "--inputs", "100000", "--folder", str(tmp_path)]
    )
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", os.environ.get("NUMBA_BOUNDSCHECK", "0"))
    assert run.main() == 1
    (file,) = tmp_path.iterdir()
    assert f"--target planted --replay {file}" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["fuzz.run", "--target", "planted", "--replay", str(file)])
    assert run.main() == 1
    file.write_bytes(b"harmless")
    assert run.main() == 0
    assert "agrees, 1 of 1 accepted" in capsys.readouterr().out
    monkeypatch.setattr(
        sys, "argv", ["fuzz.run", "--target", "planted", "--inputs", "200", "--folder", str(tmp_path)]
    )
    monkeypatch.setattr(Planted, "check", lambda self, inputs: [False] * len(inputs))
    assert run.main() == 0
    assert "200 inputs, 0 targets with a finding" in capsys.readouterr().out
