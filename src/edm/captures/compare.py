"""Two configurations tried on capture files: which frames would meet another fate."""

from __future__ import annotations

from collections.abc import Sequence

from edm.captures.reading import CaptureReader, open_all
from edm.config import Config
from edm.errors import EdmError, InputError
from edm.input.blocks import Intake
from edm.input.reader import FrameReader
from edm.trial.compare import Comparison, State


def compare(before: Config, after: Config, files: Sequence[str]) -> tuple[Comparison, list[str]]:
    """Run all frames of ``files`` through the states of both configurations; write nothing.

    Returns the comparison, and a line for each file that was damaged or cut off; its whole frames were compared.

    Raises
    ------
    EdmError
        A list or a file cannot be opened.
    """
    readers = open_all(files)
    try:
        comparison = Comparison(State.load(before), State.load(after))
        largest = max(before.max_frame_size, after.max_frame_size)
        intake = Intake(blocks=2, block_size=max(before.block_size, 2 * largest + 8192), linger=0.0)
        problems = [line for reader in readers for line in _read(reader, largest, intake, comparison)]
    finally:
        for reader in readers:
            reader.close()
    return comparison, problems


def _read(capture: CaptureReader, largest: int, intake: Intake, comparison: Comparison) -> list[str]:
    frames = FrameReader(intake, largest, until_stop=False)
    try:
        more = True
        while more:
            try:
                more = frames.pump_block(capture.readinto) > 0
            finally:
                _take(intake, comparison)
        capture.check_end(frames.unconsumed)
    except InputError as error:
        return [str(error)]
    except EdmError as error:
        return [f"{capture.name}: {error}"]
    return []


def _take(intake: Intake, comparison: Comparison) -> None:
    while intake.depth:
        block = intake.get()
        assert block is not None
        try:
            comparison.add(block)
        finally:
            intake.release(block)


__all__ = ["compare"]
