"""Running work at low priority, so that it does not slow down the workers."""

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
"""Value of ``nice`` for such work.

On a core that other threads want, such a thread gets about a tenth of the time; on an idle core, all of it. A higher
value would cost the workers less, but on a busy machine a new key would take seconds.
"""


def at_low_priority(work: Callable[[], T]) -> T:
    """Do ``work`` in a thread of low priority and wait for it; return its result or raise its exception.

    Only for work that releases the interpreter lock nearly all the time. A thread that holds the lock and gets no core
    would delay all other threads. The thread ends with the work, because an unprivileged thread cannot raise its
    priority again. Threads that it starts have the same priority.
    """
    result: Future[T] = Future()

    def run() -> None:
        if sys.platform == "linux":  # only Linux has a priority for each thread
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
