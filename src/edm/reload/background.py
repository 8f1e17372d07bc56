"""Runs work at low priority, so that it does not slow down the workers."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

NICE = 10
"""How much lower the priority is (``nice``): of a core that is wanted elsewhere such a thread gets about a tenth, of
one that is not, all. Lower still would cost the workers less, but on a busy machine a new key would take seconds."""


def at_low_priority(work: Callable[[], T]) -> T:
    """Do ``work`` in a thread of low priority and wait for it; return its result or raise its exception.

    Only for work that keeps the interpreter lock released nearly all the time: a thread that has it and does not get a
    core would hold up everybody. The thread ends with the work because no unprivileged thread may raise its
    priority again. Threads that it starts are of the same priority.
    """
    result: Future[T] = Future()

    def run() -> None:
        if sys.platform == "linux":  # elsewhere threads have no priority of their own
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=run, name="edm-reload-derive", daemon=True)
    thread.start()
    thread.join()
    return result.result()
