"""``edm run``: run the daemon."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import cast

from edm.cli.arguments import Arguments, Spec
from edm.config import Config, load
from edm.observe import logs
from edm.startup.safety import forbid_core_files

SPEC = Spec(
    about="Receive dnstap on the configured socket and minimise it until SIGTERM or SIGINT. SIGHUP reloads "
    "the configuration, keys and lists without losing a frame."
)


def run(args: Arguments) -> int:
    """Run the daemon; return 0 after a clean stop, 1 after an error."""

    def read_config() -> Config:
        # Every reload uses the flags and the environment of the start.
        return load(args.config_file, args.flags, environ)

    # From here on a SIGHUP must not be lost, nor end the process, which is its default action.
    reload_wanted = threading.Event()
    signal.signal(signal.SIGHUP, lambda _number, _frame: reload_wanted.set())
    environ = dict(os.environ)
    config = read_config()
    forbid_core_files(config)
    logs.configure(cast(logs.Format, config.log_format), config.debug, background=True)
    try:
        return _run(config, read_config, reload_wanted)
    finally:
        logs.flush(logs.FLUSH_SECONDS)


def _run(config: Config, read_config: Callable[[], Config], reload_wanted: threading.Event) -> int:
    # Imported here, because loading the kernels' compiler takes longer than finding an error in the configuration.
    from edm.daemon import run_daemon
    from edm.startup.warmup import warm_up

    warm_up(config)
    return run_daemon(config, read_config, reload_wanted)
