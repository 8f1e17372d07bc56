"""Loading or compiling all kernels before the first frame comes, by running them on made-up frames."""

from __future__ import annotations

import subprocess
import sys
import time

import structlog

from edm.config import Config
from edm.config.cpus import usable_cpus
from edm.kernel.cache import store
from edm.kernel.jit import JIT_DISABLED
from edm.startup.sample import KernelError, run_sample, sample_frame


def warm_up(config: Config | None = None) -> None:
    """Load every kernel and run it on made-up frames; compile those that are not in the cache, and log that.

    A kernel that cannot be loaded from the cache is compiled again. If the cache cannot be written, each process
    compiles all kernels, and that is logged as a warning.

    Parameters
    ----------
    config : Config, optional
        Decides which pseudonyms are made; the default configuration if not given.

    Raises
    ------
    KernelError
        The kernels do not work; then the cache is emptied.
    """
    if JIT_DISABLED:
        return
    kept = store()
    kept.sweep()
    log = structlog.get_logger()
    began = time.monotonic()
    cold = not kept.warm
    process = None
    if cold:
        log.info("compiling kernels, once for this version on this machine; this takes about 20 seconds")
        process = _start_precompiling() if kept.writable else None
    try:
        run_sample(config)
    except Exception as error:
        kept.clear()  # a damaged kernel may be the cause
        if isinstance(error, KernelError):
            raise
        raise KernelError(f"the kernels do not work: {type(error).__name__}: {error}") from error
    finally:
        if process is not None:
            process.kill()  # this process has compiled the rest by now
            process.wait()
    kept.mark_warm()
    if cold or kept.compiled:
        log.info("kernels are compiled", seconds=round(time.monotonic() - began, 1))
    _warn(log)


def _warn(log: structlog.stdlib.BoundLogger) -> None:
    kept = store()
    if kept.dropped:
        log.warning(
            "kept kernels could not be used and were compiled again",
            count=len(kept.dropped),
            reason=kept.dropped[0],
        )
    if kept.unsaved:
        log.warning(
            "kernels cannot be kept: every start compiles them unless EDM_KERNEL_CACHE names a folder that only "
            "this user can write to",
            reason="; ".join([kept.unsaved, *kept.refused]),
        )
    elif kept.refused:
        log.warning("a folder for kernels is not used", reason="; ".join(kept.refused), used=str(kept.folder))


def _start_precompiling() -> subprocess.Popen[bytes] | None:
    if usable_cpus() < 2:
        return None
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "edm.startup.precompile"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:  # the second process only saves time
        return None


__all__ = ["sample_frame", "warm_up"]
