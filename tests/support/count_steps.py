"""Counts the lines of the DNS kernels that run for a message: ``python -m support.count_steps NAME SIZE``.

To be run with ``NUMBA_DISABLE_JIT=1``: the kernels are plain Python then, and their steps can be counted. Prints the
lines of the walk, those of collecting the questions, the names collected, and the bytes of the message.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np

from edm.kernel.columns import (
    HAS_RESPONSE_MESSAGE,
    PENDING,
    PRESENT,
    RESPONSE_MESSAGE_LEN,
    Columns,
)
from edm.kernel.jit import JIT_DISABLED
from edm.stages.dns.name import new_memo
from edm.stages.dns.questions import BEGIN, MoreQuestions, collect_questions
from edm.stages.dns.walk import walk_messages
from support.costly_messages import MESSAGES, ordinary


def lines(work: Callable[[], object], within: str = "edm/") -> int:
    """Return how many lines run of the modules whose path holds ``within``."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        if within not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def count_steps(message: bytes) -> tuple[int, int, int]:
    """Return the lines run by the walk and by collecting, and how many names are collected."""
    buf = np.frombuffer(bytearray(message + bytes(255)), np.uint8)
    columns = Columns(1)
    columns.u32[RESPONSE_MESSAGE_LEN, 0] = len(message)
    columns.u32[PRESENT, 0] = HAS_RESPONSE_MESSAGE
    memo, room = new_memo(), MoreQuestions.of(64)
    walked = lines(lambda: walk_messages(buf, len(message), columns.u32, columns.fate, 1, memo))
    assert columns.fate[0] == PENDING, "the message is not valid"
    collected = 0

    def collect() -> None:
        nonlocal collected
        place = BEGIN
        while place[0] < 1:
            count, place = collect_questions(buf, columns.u32, columns.fate, 1, place, room)
            collected += count

    return walked, lines(collect), collected


if __name__ == "__main__":
    assert JIT_DISABLED
    made = {"ordinary": ordinary, **MESSAGES}[sys.argv[1]](int(sys.argv[2]))
    print(*count_steps(made), len(made))
